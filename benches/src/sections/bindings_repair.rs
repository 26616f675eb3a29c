//! Copies of bindings compared: where they are the same, and where they differ in a few.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_engine::{BindingWrite, Engine, Options};
use mesh_net::client::RepairReport;
use mesh_ring::binding::Binding;
use mesh_ring::name::BindingKey;

use super::Run;
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Samples, median};
use crate::traffic::{Traffic, key};
use crate::{Result, say};

const BINDINGS: u64 = 1_000_000;
const VALUE_BYTES: usize = 100;
const DIFFERENCES: u64 = 100;
const PARTITIONS: usize = 64;
/// Nodes with a copy of everything. The bars are those of two.
const NODES: RangeInclusive<usize> = 2..=3;
/// Bytes that the stores of one cluster may come to, with what compaction needs.
const BYTES: u64 = 4 << 30;

/// Bindings that wait for the disks while the stores are filled.
const FILLING: usize = 4_096;
/// How long it may take until nodes that have just started compare everything with everyone.
const PATIENCE: Duration = Duration::from_secs(120);
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// Longest round.
const ROUND: Duration = Duration::from_secs(120);
/// Rounds that begin anew because a node had not heard of another one yet.
const TRIES: u64 = 5;

/// What comparing everything with everyone came to.
#[derive(Clone, Debug, Default)]
struct Compared {
    /// Of one partition with one other copy, the most of any node, in bytes.
    each: f64,
    bytes: u64,
    healed: u64,
    differing_leaves: u64,
    /// Whether every copy was compared with every other one.
    is_whole: bool,
    took: Duration,
}

/// The rounds of one cluster.
struct Rounds {
    nodes: usize,
    in_sync: Vec<Compared>,
    differing: Vec<Compared>,
    /// Leaves that still differ after a round.
    left: u64,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    run.place.need(run.sized(BYTES))?;
    let bindings = run.sized(BINDINGS).max(100 * DIFFERENCES);
    let mut clusters = Vec::new();
    for nodes in NODES {
        let dir = run.place.fresh();
        clusters.push(measure(run, &dir, nodes, bindings)?);
        run.place.clear(&dir)?;
    }
    findings(bindings, &clusters)
}

fn measure(run: &Run<'_>, dir: &Path, nodes: usize, bindings: u64) -> Result<Rounds> {
    let mut mesh = Mesh::start_without_rounds(dir, nodes)?;
    mesh.stop_all()?;
    let folders = mesh.folders();
    fill(&folders, 0..bindings, 0)?;
    run.place.settle()?;
    let mut rounds = Rounds {
        nodes,
        in_sync: Vec::new(),
        differing: Vec::new(),
        left: 0,
    };
    let step = bindings / DIFFERENCES;
    for number in 0..run.few_rounds() as u64 + TRIES {
        if rounds.differing.len() == run.few_rounds() {
            break;
        }
        mesh.serve_all()?;
        let in_sync = compare_all(&mesh, nodes)?;
        if (in_sync.healed, in_sync.differing_leaves) != (0, 0) {
            return Err(format!("the copies are not in sync: {in_sync:?}").into());
        }
        rounds.in_sync.push(in_sync);
        mesh.stop_all()?;
        // The last one lacks what the others have.
        let differing = (0..DIFFERENCES).map(|at| at * step + number);
        fill(&folders[..nodes - 1], differing, number + 1)?;
        mesh.serve_all()?;
        let healing = compare(&mesh, nodes)?;
        let again = compare_all(&mesh, nodes)?;
        mesh.stop_all()?;
        if !healing.is_whole {
            continue;
        }
        if healing.healed != DIFFERENCES {
            return Err(format!("{DIFFERENCES} bindings differ: {healing:?}").into());
        }
        rounds.left += again.differing_leaves;
        rounds.differing.push(healing);
    }
    if rounds.differing.len() < run.few_rounds() {
        return Err("nodes that have started do not hear of each other in time".into());
    }
    say(&format!(
        "  {nodes} nodes: {:.0} bytes for two copies in sync; {:.0} in all to heal {DIFFERENCES} bindings",
        rounds.each(),
        median(rounds.differing.iter().map(|c| c.bytes as f64).collect()),
    ));
    Ok(rounds)
}

impl Rounds {
    /// Bytes for two copies of a partition that are in sync.
    fn each(&self) -> f64 {
        median(self.in_sync.iter().map(|compared| compared.each).collect())
    }

    fn samples(&self, of: fn(&Compared) -> f64) -> [Samples; 2] {
        let nodes = self.nodes;
        [
            (format!("meshctl, {nodes} nodes, in sync"), &self.in_sync),
            (
                format!("meshctl, {nodes} nodes, {DIFFERENCES} differences"),
                &self.differing,
            ),
        ]
        .map(|(name, compared)| Samples {
            name,
            values: compared.iter().map(of).collect(),
        })
    }
}

fn findings(bindings: u64, clusters: &[Rounds]) -> Result<Findings> {
    let two = clusters.first().ok_or("nothing was measured")?;
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{bindings} bindings of {VALUE_BYTES} bytes in {PARTITIONS} partitions, on each of two nodes and on each of three; in one \
         round every node compares its copy of every partition with those of all others: {} and {} comparisons. For the \
         differences, {DIFFERENCES} bindings all over have got another value at all nodes but one. Bytes are those of the \
         nodes' frames, both ways, of all comparisons of the round, also of those that find nothing. The bars are those of \
         two replicas.",
        2 * PARTITIONS,
        6 * PARTITIONS,
    ));
    let each = two.each();
    let measured = format!("{each:.0} bytes, {bindings} bindings");
    findings.bar("repair-in-sync", each / 1024.0, measured);
    let [_, all] = two.samples(|compared| compared.bytes as f64);
    let three = clusters.last().map(|of| of.samples(|c| c.bytes as f64));
    let three = three.map_or(0.0, |[_, all]| all.median());
    findings.bar(
        "repair-differing",
        all.median() / 1024.0,
        format!(
            "{:.0} bytes; {three:.0} where three nodes all compare",
            all.median()
        ),
    );
    let left: u64 = clusters.iter().map(|of| of.left).sum();
    let rounds: usize = clusters.iter().map(|of| of.differing.len()).sum();
    let measured = format!("leaves that differ after any of {rounds} rounds");
    findings.bar("repair-left", left as f64, measured);
    type Figure = fn(&Compared) -> f64;
    let kib: Figure = |compared| compared.bytes as f64 / 1024.0;
    let ms: Figure = |compared| compared.took.as_secs_f64() * 1e3;
    for (title, unit, of) in [
        ("all copies compared, bytes on the wire", "KiB", kib),
        ("all copies compared, time", "ms", ms),
    ] {
        let samples: Vec<Samples> = clusters
            .iter()
            .flat_map(|cluster| cluster.samples(of))
            .collect();
        let baseline = samples[0].name.clone();
        let comparison = Comparison::new(title, unit, false, &baseline, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

/// Has everything compared with everyone, once.
fn compare(mesh: &Mesh, nodes: usize) -> Result<Compared> {
    let mut config = mesh.client_config()?;
    config.timeout = ROUND;
    let traffic = Traffic::connect(config, VALUE_BYTES)?;
    let (runtime, client) = traffic.client();
    let began = Instant::now();
    let report = runtime.block_on(client.repair(None))?;
    let mut compared = of_report(&report, nodes);
    compared.took = began.elapsed();
    Ok(compared)
}

/// The same, again where a node had not heard of another one yet: the last round, which had, with what all have found.
fn compare_all(mesh: &Mesh, nodes: usize) -> Result<Compared> {
    let (began, mut healed, mut leaves) = (Instant::now(), 0, 0);
    while began.elapsed() < PATIENCE {
        let compared = compare(mesh, nodes)?;
        healed += compared.healed;
        leaves += compared.differing_leaves;
        if compared.is_whole {
            return Ok(Compared {
                healed,
                differing_leaves: leaves,
                ..compared
            });
        }
        std::thread::sleep(TRY_AGAIN);
    }
    Err(format!("not every copy can be compared within {PATIENCE:?}").into())
}

fn of_report(report: &RepairReport, nodes: usize) -> Compared {
    let mut all = Compared {
        is_whole: report.silent.is_empty()
            && report.missed.is_empty()
            && report.nodes.len() == nodes,
        ..Compared::default()
    };
    for node in &report.nodes {
        let comparisons = f64::from(node.partitions) * (nodes - 1) as f64;
        all.each = all.each.max(node.bytes as f64 / comparisons);
        all.bytes += node.bytes;
        all.healed += node.sent + node.received;
        all.differing_leaves += node.differing_leaves;
    }
    all
}

/// Something that has happened to a binding on its way to all disks.
enum Filled {
    /// The first store has decided what it is.
    Decided(BindingKey, Binding),
    /// A store has it durably.
    Stored,
    Failed(String),
}

/// Gives these bindings a value in the stores of nodes that nobody serves: the first decides, the others are given copies.
/// Other versions have other values.
fn fill(folders: &[PathBuf], numbers: impl Iterator<Item = u64>, version: u64) -> Result<()> {
    let open = |folder: &PathBuf| Engine::open(folder.join("data"), Options::default());
    let engines: Vec<Engine> = folders
        .iter()
        .map(open)
        .collect::<std::result::Result<_, _>>()?;
    let (first, others) = engines.split_first().ok_or("there is no node")?;
    let payload = Payload::new(VALUE_BYTES);
    // Never more in it than these bindings and their answers.
    let (sender, events) = sync_channel((FILLING + 1) * (engines.len() + 1));
    let mut filling = Filling {
        others,
        sender: &sender,
        events,
        waiting: 0,
    };
    for number in numbers {
        filling.wait_for(FILLING * engines.len())?;
        let name = BindingKey::new(key(number).as_bytes())?;
        let write = BindingWrite {
            key: name.clone(),
            value: Some(Bytes::copy_from_slice(payload.value(number + version))),
            context: None,
            expires_ms: None,
        };
        let (decided, stored) = (sender.clone(), sender.clone());
        filling.waiting += engines.len();
        // The receiver is gone only where the run has failed.
        first.submit_write_early(
            write,
            move |binding, _| _ = decided.send(Filled::Decided(name, binding.clone())),
            move |result| _ = stored.send(stored_or(result.map(drop))),
        );
    }
    filling.wait_for(0)?;
    for engine in &engines {
        engine.close()?;
    }
    Ok(())
}

fn stored_or<E: ToString>(result: std::result::Result<(), E>) -> Filled {
    match result {
        Ok(()) => Filled::Stored,
        Err(error) => Filled::Failed(error.to_string()),
    }
}

struct Filling<'a> {
    others: &'a [Engine],
    sender: &'a SyncSender<Filled>,
    events: Receiver<Filled>,
    /// Stores that have still to say that they have a binding, over all bindings.
    waiting: usize,
}

impl Filling<'_> {
    fn wait_for(&mut self, most: usize) -> Result<()> {
        while self.waiting > most {
            match self.events.recv()? {
                Filled::Decided(key, binding) => {
                    for other in self.others {
                        let stored = self.sender.clone();
                        other.submit_merge(key.clone(), binding.clone(), move |result| {
                            _ = stored.send(stored_or(result));
                        });
                    }
                }
                Filled::Stored => self.waiting -= 1,
                Filled::Failed(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
