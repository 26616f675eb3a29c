//! Copies of bindings compared: where they are the same, and where they differ in a few.

use std::sync::mpsc::{Receiver, Sender, channel};
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
/// Nodes with a copy of everything. Each compares its own with those of all others.
const NODES: usize = 3;
/// Bytes that the stores may come to, with what compaction needs.
const BYTES: u64 = 4 << 30;

/// Bindings that wait for the disks while the stores are filled.
const FILLING: usize = 4_096;
/// How long it may take until nodes that have just started compare everything with everyone.
const PATIENCE: Duration = Duration::from_secs(120);
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// Longest round.
const ROUND: Duration = Duration::from_secs(120);

const IN_SYNC: &str = "meshctl, in sync";
const DIFFERING: &str = "meshctl, 100 differences";

/// What comparing everything with everyone came to.
#[derive(Clone, Debug, Default)]
struct Compared {
    /// Of one partition with one other copy, the most of any node, in bytes.
    each: f64,
    bytes: u64,
    healed: u64,
    differing_leaves: u64,
    took: Duration,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    run.place.need(run.sized(BYTES))?;
    let dir = run.place.fresh();
    let mut mesh = Mesh::start_without_rounds(&dir, NODES)?;
    mesh.stop_all()?;
    let bindings = run.sized(BINDINGS).max(10 * DIFFERENCES);
    fill(&mesh, bindings)?;
    run.place.settle()?;
    mesh.serve_all()?;

    let (mut in_sync, mut differing, mut left) = (Vec::new(), Vec::new(), 0);
    for round in 0..run.few_rounds() {
        in_sync.push(repaired_in_sync(&mesh)?);
        differ(&mut mesh, round as u64, bindings)?;
        let healing = repaired(&mesh)?;
        if healing.healed != DIFFERENCES {
            let healed = healing.healed;
            return Err(format!("{DIFFERENCES} bindings differ, but {healed} were healed").into());
        }
        differing.push(healing);
        left += repaired(&mesh)?.differing_leaves;
    }
    drop(mesh);
    run.place.clear(&dir)?;
    findings(bindings, &in_sync, &differing, left)
}

fn findings(
    bindings: u64,
    in_sync: &[Compared],
    differing: &[Compared],
    left: u64,
) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{bindings} bindings of {VALUE_BYTES} bytes in 64 partitions, on each of {NODES} nodes, and every node compares its copy \
         of every partition with both others: {} comparisons. Then n3 is killed, {DIFFERENCES} bindings all over the others get \
         another value, and n3 returns; nothing is healed until all are compared again. Bytes are those of the nodes' frames, \
         both ways; in all means of all comparisons, of which those between n1 and n2 find nothing.",
        64 * NODES * (NODES - 1),
    ));
    let kib = |bytes: f64| bytes / 1024.0;
    let of = |compared: &[Compared], of: fn(&Compared) -> f64| -> Vec<f64> {
        compared.iter().map(of).collect()
    };
    let each = median(of(in_sync, |compared| compared.each));
    let measured = format!("{each:.0} bytes, {bindings} bindings");
    say(&format!("  in sync: {measured}"));
    findings.bar("repair-in-sync", kib(each), measured);
    let all = median(of(differing, |compared| compared.bytes as f64));
    let leaves = median(of(differing, |compared| compared.differing_leaves as f64));
    let measured = format!("{all:.0} bytes, {DIFFERENCES} bindings in {leaves:.0} leaves healed");
    say(&format!("  {DIFFERENCES} differences: {measured}"));
    findings.bar("repair-differing", kib(all), measured);
    let measured = format!(
        "leaves that differ, after each of {} rounds",
        differing.len()
    );
    findings.bar("repair-left", left as f64, measured);

    let samples = |of: fn(&Compared) -> f64| {
        [(IN_SYNC, in_sync), (DIFFERING, differing)].map(|(name, compared)| Samples {
            name: name.to_owned(),
            values: compared.iter().map(of).collect(),
        })
    };
    for (title, unit, samples) in [
        (
            "all copies compared, bytes on the wire",
            "KiB",
            samples(|compared| compared.bytes as f64 / 1024.0),
        ),
        (
            "all copies compared, time",
            "ms",
            samples(|compared| compared.took.as_secs_f64() * 1e3),
        ),
    ] {
        let comparison = Comparison::new(title, unit, false, IN_SYNC, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

/// Has everything compared with everyone. Where a node does not know yet that another one is back, it is done again; what
/// all attempts came to counts, but only the time of the last.
fn repaired(mesh: &Mesh) -> Result<Compared> {
    let mut config = mesh.client_config()?;
    config.timeout = ROUND;
    let traffic = Traffic::connect(config, VALUE_BYTES)?;
    let (runtime, client) = traffic.client();
    let (began, mut all) = (Instant::now(), Compared::default());
    loop {
        let began_round = Instant::now();
        let report = runtime.block_on(client.repair(None))?;
        let done = add(&mut all, &report);
        all.took = began_round.elapsed();
        if done {
            return Ok(all);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("not every copy can be compared: {report:?}").into());
        }
        std::thread::sleep(TRY_AGAIN);
    }
}

/// Whether everything was compared.
fn add(all: &mut Compared, report: &RepairReport) -> bool {
    for node in &report.nodes {
        let comparisons = f64::from(node.partitions) * (NODES - 1) as f64;
        all.each = all.each.max(node.bytes as f64 / comparisons);
        all.bytes += node.bytes;
        all.healed += node.sent + node.received;
        all.differing_leaves += node.differing_leaves;
    }
    report.silent.is_empty() && report.missed.is_empty() && report.nodes.len() == NODES
}

fn repaired_in_sync(mesh: &Mesh) -> Result<Compared> {
    let compared = repaired(mesh)?;
    if (compared.healed, compared.differing_leaves) != (0, 0) {
        return Err(format!("the copies are not in sync: {compared:?}").into());
    }
    Ok(compared)
}

/// Gives bindings all over another value while n3 is away.
fn differ(mesh: &mut Mesh, round: u64, bindings: u64) -> Result<()> {
    let traffic = Traffic::connect(mesh.client_config()?, VALUE_BYTES)?;
    mesh.kill("n3")?;
    traffic.wait_until_down("n3")?;
    let step = bindings / DIFFERENCES;
    let numbers = (0..DIFFERENCES).map(|number| number * step + round);
    traffic.put_all(numbers.collect(), 1)?;
    mesh.serve("n3")?;
    mesh.wait_until_whole()?;
    Ok(())
}

/// Something that has happened to a binding on its way to all disks.
enum Filled {
    /// The first store has decided what it is.
    Decided(BindingKey, Binding),
    /// A store has it durably.
    Stored,
    Failed(String),
}

/// Puts the same bindings into all nodes' stores, which nobody serves: the first decides them, the others are given copies.
fn fill(mesh: &Mesh, bindings: u64) -> Result<()> {
    let open = |data: &std::path::PathBuf| Engine::open(&data.join("data"), Options::default());
    let engines: Vec<Engine> = mesh
        .folders()
        .iter()
        .map(open)
        .collect::<std::result::Result<_, _>>()?;
    let (first, others) = engines.split_first().ok_or("there is no node")?;
    let payload = Payload::new(VALUE_BYTES);
    let (sender, events) = channel();
    let mut filling = Filling {
        others,
        sender: &sender,
        events,
        waiting: 0,
    };
    for number in 0..bindings {
        filling.wait_for(FILLING * engines.len())?;
        let name = BindingKey::new(key(number).as_bytes())?;
        let write = BindingWrite {
            key: name.clone(),
            value: Some(Bytes::copy_from_slice(payload.value(number))),
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
    sender: &'a Sender<Filled>,
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
