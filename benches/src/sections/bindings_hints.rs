//! Hints that wait for a node that was away, and clients' puts while it is given them.

use std::time::{Duration, Instant};

use mesh_engine::{Engine, Options};
use mesh_net::client::{Client, ClusterView};
use mesh_ring::hash::partition_of;
use mesh_ring::name::BindingKey;

use super::Run;
use crate::load::Pace;
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::rounds::{Samples, median, quantile};
use crate::traffic::{Puts, Traffic, key};
use crate::{Result, say};

const HINTS: u64 = 100_000;
const VALUE_BYTES: usize = 100;
/// One more than there are copies, so that somebody can stand in.
const NODES: usize = 4;
const AWAY: &str = "n4";
const IN_FLIGHT: usize = 256;

/// What clients put all the time: some 1,000 puts a second, over keys that are none of those with hints.
const PACE: Pace = Pace {
    in_flight: 16,
    pause: Duration::from_millis(12),
};
const FOREGROUND_FROM: u64 = 1 << 40;
const FOREGROUND_KEYS: u64 = 10_000;

/// How long puts are watched while nothing else goes on, and how long after something big before that.
const WATCHED: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(3);
/// How often the nodes are asked what they still keep.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(120);

const BEFORE: &str = "meshctl, all nodes there, no hints";
const WHILE_AWAY: &str = "meshctl, a node away, its hints kept";
const MEANWHILE: &str = "meshctl, the node back, given its hints";

/// A round: seconds, and milliseconds of puts.
#[derive(Default)]
struct Round {
    hints: u64,
    /// From the start of the returned node's process until nobody kept anything for it.
    from_start: f64,
    /// From when it said that it serves.
    from_ready: f64,
    before: Vec<f64>,
    away: Vec<f64>,
    meanwhile: Vec<f64>,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let dir = run.place.fresh();
    let mut mesh = Mesh::start_without_rounds(&dir, NODES)?;
    let traffic = Traffic::connect(mesh.client_config()?, VALUE_BYTES)?;
    let foreground = FOREGROUND_FROM..FOREGROUND_FROM + FOREGROUND_KEYS;
    let puts = traffic.start(foreground, PACE);
    let hinted = keys_of_the_absent(&traffic, run.sized(HINTS))?;
    let watched = if run.is_quick() {
        WATCHED / 10
    } else {
        WATCHED
    };
    let mut rounds = Vec::new();
    for _ in 0..run.few_rounds() {
        let round = measure(run, &mut mesh, &traffic, &puts, &hinted, watched)?;
        say(&format!(
            "  {} hints in {:.2} s; p99 {:.2} ms before, {:.2} meanwhile",
            round.hints,
            round.from_start,
            quantile(&round.before, 0.99),
            quantile(&round.meanwhile, 0.99),
        ));
        rounds.push(round);
    }
    puts.finish()?;
    mesh.stop_all()?;
    check_delivered(&mesh, &hinted)?;
    drop(mesh);
    run.place.clear(&dir)?;
    findings(&rounds)
}

fn findings(rounds: &[Round]) -> Result<Findings> {
    let mut findings = Findings::default();
    let of = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    let hints = of(&|round| round.hints as f64);
    findings.notes.push(format!(
        "{NODES} nodes, three copies of each binding; anti-entropy only when asked for. {AWAY} is killed; {IN_FLIGHT} puts in \
         flight at W=2 give bindings that it is a home of a new value of {VALUE_BYTES} bytes, so that others keep {hints:.0} \
         hints for it. It is started again, and has them when no node keeps any: {:.2} s after the start of its process, {:.2} s \
         after it said that it serves. In the end they are looked for on its disk. All the time {} lanes put bindings with a rest of \
         {} ms each.",
        of(&|round| round.from_start),
        of(&|round| round.from_ready),
        PACE.in_flight,
        PACE.pause.as_millis(),
    ));
    let delivered = of(&|round| round.from_start);
    findings.bar("hints-delivered", delivered, format!("{hints:.0} hints"));
    let p99 = |of: fn(&Round) -> &Vec<f64>| -> Vec<f64> {
        rounds
            .iter()
            .map(|round| quantile(of(round), 0.99))
            .collect()
    };
    let (before, meanwhile) = (p99(|round| &round.before), p99(|round| &round.meanwhile));
    let ratios = meanwhile.iter().zip(&before).map(|(a, b)| a / b).collect();
    let measured = format!(
        "p99 {:.2} against {:.2} ms",
        median(meanwhile),
        median(before)
    );
    findings.bar("hints-latency", median(ratios), measured);
    for (title, part) in [("put, median", 0.5), ("put, p99", 0.99)] {
        let samples = |name: &str, of: fn(&Round) -> &Vec<f64>| Samples {
            name: name.to_owned(),
            values: rounds
                .iter()
                .map(|round| quantile(of(round), part))
                .collect(),
        };
        let samples = [
            samples(BEFORE, |round| &round.before),
            samples(WHILE_AWAY, |round| &round.away),
            samples(MEANWHILE, |round| &round.meanwhile),
        ];
        let comparison = Comparison::new(title, "ms", false, BEFORE, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

/// Keys of which the node that will be away is a home.
fn keys_of_the_absent(traffic: &Traffic, count: u64) -> Result<Vec<u64>> {
    let view = view(traffic)?;
    let id = view.named(AWAY).ok_or("the node is missing")?.id;
    let partitions = u16::try_from(view.partitions.len())?;
    let is_home = |number: &u64| {
        let partition = partition_of(key(*number).as_bytes(), partitions);
        let held = &view.partitions[usize::from(partition.0)];
        held.replicas.contains(&id)
    };
    Ok((0..FOREGROUND_FROM)
        .filter(is_home)
        .take(count as usize)
        .collect())
}

fn view(traffic: &Traffic) -> Result<ClusterView> {
    let (runtime, client) = traffic.client();
    Ok(runtime.block_on(client.cluster())?)
}

fn measure(
    run: &Run<'_>,
    mesh: &mut Mesh,
    traffic: &Traffic,
    puts: &Puts<'_>,
    hinted: &[u64],
    watched: Duration,
) -> Result<Round> {
    run.place.settle()?;
    std::thread::sleep(REST);
    let mut round = Round::default();
    let began = Instant::now();
    std::thread::sleep(watched);
    round.before = puts.latencies(began, Instant::now());

    mesh.kill(AWAY)?;
    traffic.wait_until_down(AWAY)?;
    traffic.put_all(hinted.to_vec(), IN_FLIGHT)?;
    run.place.settle()?;
    std::thread::sleep(REST);
    let keepers = keepers(mesh, traffic)?;
    let began = Instant::now();
    std::thread::sleep(watched);
    round.away = puts.latencies(began, Instant::now());
    round.hints = pending(traffic, &keepers)?;
    if round.hints < hinted.len() as u64 {
        let (kept, all) = (round.hints, hinted.len());
        return Err(format!("of {all} hints {kept} are kept").into());
    }

    let began = Instant::now();
    mesh.serve(AWAY)?;
    let ready = Instant::now();
    loop {
        puts.check()?;
        // What is kept is found out before the clock is read: it may have been less by then.
        let left = pending(traffic, &keepers)?;
        if left == 0 {
            break;
        }
        if ready.elapsed() > PATIENCE {
            return Err(format!("{left} hints are not delivered after {PATIENCE:?}").into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    round.from_start = began.elapsed().as_secs_f64();
    round.from_ready = ready.elapsed().as_secs_f64();
    round.meanwhile = puts.latencies(began, Instant::now());
    let (runtime, _) = traffic.client();
    for keeper in keepers {
        runtime.block_on(keeper.close());
    }
    mesh.wait_until_whole()?;
    Ok(round)
}

/// A client of each node that may keep hints, which asks that node alone.
fn keepers(mesh: &Mesh, traffic: &Traffic) -> Result<Vec<Client>> {
    let (runtime, _) = traffic.client();
    let (view, mut keepers) = (view(traffic)?, Vec::new());
    for node in view.nodes.iter().filter(|node| node.name != AWAY) {
        let mut config = mesh.client_config()?;
        config.nodes = vec![node.address.clone()];
        keepers.push(runtime.block_on(Client::connect(config))?);
    }
    Ok(keepers)
}

fn pending(traffic: &Traffic, keepers: &[Client]) -> Result<u64> {
    let (runtime, _) = traffic.client();
    let mut hints = 0;
    for keeper in keepers {
        let status = runtime.block_on(keeper.node_status())?;
        hints += u64::from(status.pending_hints);
    }
    Ok(hints)
}

/// What was put while the node was away is on its disk, as another home has it.
fn check_delivered(mesh: &Mesh, hinted: &[u64]) -> Result<()> {
    let open = |folder: &std::path::PathBuf| Engine::open(folder.join("data"), Options::default());
    let engines: Vec<Engine> = mesh
        .folders()
        .iter()
        .map(open)
        .collect::<std::result::Result<_, _>>()?;
    let (returned, others) = engines.split_last().ok_or("there is no node")?;
    for number in hinted {
        let name = BindingKey::new(key(*number).as_bytes())?;
        let held = returned.binding(&name)?;
        let mut copies = 0;
        for other in others {
            copies += usize::from(held.is_some() && other.binding(&name)? == held);
        }
        if copies != NODES - 2 {
            return Err(format!("{AWAY} has not what others have of {}", key(*number)).into());
        }
    }
    Ok(())
}
