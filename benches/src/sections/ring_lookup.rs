//! Questions to any one of very many nodes: the map, and a binding.

use std::time::{Duration, Instant};

use mesh_net::client::ClusterView;
use mesh_ring::hash::partition_of;

use super::Run;
use crate::askers::{Asker, LOOK_EVERY, connect, introduce, key, put_all, until_whole};
use crate::children::setting;
use crate::fleet::{Fleet, PROBE_INTERVAL};
use crate::load::runtime;
use crate::outcome::{Comparison, Findings};
use crate::payload::mix;
use crate::process::{cpu_time, resident_bytes};
use crate::rounds::{Samples, median, quantile};
use crate::{Result, say};

/// The largest that comes up is measured.
const NODES: [usize; 4] = [100, 64, 32, 16];
const PARTITIONS: u16 = 256;
/// What they do by themselves in the beginning is over by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

const KEYS: u64 = 500;
/// Questions of each kind and round.
const QUESTIONS: u64 = 2_000;

const ROUTES: &str = "meshctl, routes: the cluster map";
const HERE: &str = "meshctl, get at R=1, a node that keeps the key";
const THERE: &str = "meshctl, get at R=1, passed on once";

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let largest = setting(
        "MESHLOG_BENCH_NODES",
        if run.is_quick() { 8 } else { NODES[0] },
    )?;
    let smaller = NODES.into_iter().filter(|nodes| *nodes < largest);
    let mut failed = Vec::new();
    for nodes in std::iter::once(largest).chain(smaller) {
        let dir = run.place.fresh();
        let measured = measure(run, nodes, &dir);
        run.place.clear(&dir)?;
        match measured {
            Ok(mut findings) => {
                findings.notes.extend(failed);
                return Ok(findings);
            }
            Err(error) => {
                say(&format!("  {nodes} nodes: {error}"));
                failed.push(format!("{nodes} nodes did not do here: {error}."));
            }
        }
    }
    Err(failed.join(" ").into())
}

/// Milliseconds of each question of a round.
#[derive(Default)]
struct Times {
    routes: Vec<f64>,
    here: Vec<f64>,
    there: Vec<f64>,
}

impl Times {
    fn gets(&self) -> Vec<f64> {
        [&self.here[..], &self.there[..]].concat()
    }
}

fn measure(run: &Run<'_>, nodes: usize, dir: &std::path::Path) -> Result<Findings> {
    let began = Instant::now();
    let runtime = runtime()?;
    let fleet = Fleet::start(dir, nodes, PARTITIONS)?;
    let clients = runtime.block_on(connect(&fleet, began))?;
    runtime.block_on(until_whole(&clients, began))?;
    let start = began.elapsed();
    std::thread::sleep(if run.is_quick() {
        LOOK_EVERY
    } else {
        SETTLES_WITHIN
    });
    let keys = run.sized(KEYS).max(50);
    runtime.block_on(put_all(&clients, keys))?;
    runtime.block_on(introduce(&clients, keys, PARTITIONS))?;
    let idle = idle_percent(&fleet)?;
    let mut rounds = Vec::new();
    for round in 0..run.few_rounds() as u64 {
        let questions = run.sized(QUESTIONS).max(100);
        rounds.push(runtime.block_on(ask(&clients, keys, questions, round))?);
    }
    let memory = resident_bytes(fleet.id())? >> 20;
    drop(fleet);
    let mut findings = findings(nodes, &rounds)?;
    findings.notes.push(format!(
        "{nodes} nodes with {PARTITIONS} partitions, three copies of each, in one process with small caches, up within {:.0} s; \
         idle it uses {idle:.0} % of one core and {memory} MiB. Nodes probe each other every {} s, by default 13 times as \
         often, which two cores do not allow {nodes} nodes. Questions come one at a time from another process, each to a \
         node chosen at random, over connections that are there. A node without the key asks one that keeps it, and that \
         one answers or refuses: what was passed on is not passed on again.",
        start.as_secs_f64(),
        PROBE_INTERVAL.as_secs(),
    ));
    Ok(findings)
}

fn findings(nodes: usize, rounds: &[Times]) -> Result<Findings> {
    let mut findings = Findings::default();
    let p99 = |of: &dyn Fn(&Times) -> Vec<f64>| {
        median(
            rounds
                .iter()
                .map(|times| quantile(&of(times), 0.99))
                .collect(),
        )
    };
    let (routes, gets) = (p99(&|times| times.routes.clone()), p99(&Times::gets));
    let passed: usize = rounds.iter().map(|times| times.there.len()).sum();
    let asked: usize = rounds.iter().map(|times| times.gets().len()).sum();
    say(&format!(
        "  lookup among {nodes} nodes: routes p99 {routes:.3} ms, get p99 {gets:.3} ms, {passed} of {asked} passed on"
    ));
    findings.bar("lookup-routes", routes, format!("{nodes} nodes"));
    findings.bar("lookup-get", gets, format!("{nodes} nodes"));
    findings.bar(
        "lookup-hops",
        f64::from(u8::from(passed > 0)),
        format!("{passed} of {asked} reads were passed on, once"),
    );
    for (title, part) in [("lookup, median", 0.5), ("lookup, p99", 0.99)] {
        let samples = |name: &str, of: fn(&Times) -> &Vec<f64>| Samples {
            name: name.to_owned(),
            values: rounds
                .iter()
                .map(|times| quantile(of(times), part))
                .collect(),
        };
        let samples = [
            samples(ROUTES, |times| &times.routes),
            samples(HERE, |times| &times.here),
            samples(THERE, |times| &times.there),
        ];
        let comparison = Comparison::new(title, "ms", false, HERE, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

async fn ask(askers: &[Asker], keys: u64, questions: u64, round: u64) -> Result<Times> {
    let mut times = Times::default();
    let mut random = round;
    let ms = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
    let view = askers[0].0.cluster().await?;
    for _ in 0..questions {
        let (client, _) = &askers[mix(&mut random) as usize % askers.len()];
        let began = Instant::now();
        client.cluster().await?;
        times.routes.push(ms(began));
    }
    for _ in 0..questions {
        let (client, address) = &askers[mix(&mut random) as usize % askers.len()];
        let number = mix(&mut random) % keys;
        let (key, began) = (key(number), Instant::now());
        let got = client.get(key.as_bytes(), Some(1)).await?;
        let took = ms(began);
        // One of three copies may not have it yet; then there is none, which is an answer, too.
        if let Some(got) = got
            && got.values[0].value != number.to_be_bytes()[..]
        {
            return Err(format!("{address} gives another value of {key}").into());
        }
        if keeps(&view, address, key.as_bytes()) {
            times.here.push(took);
        } else {
            times.there.push(took);
        }
    }
    Ok(times)
}

/// Whether the node at this address has a copy.
fn keeps(view: &ClusterView, address: &str, key: &[u8]) -> bool {
    let partition = partition_of(key, PARTITIONS);
    let mut replicas = view.partitions[usize::from(partition.0)].replicas.iter();
    replicas.any(|id| view.node(*id).is_some_and(|node| node.address == address))
}

/// Percent of one core that all nodes together use when nobody asks.
fn idle_percent(fleet: &Fleet) -> Result<f64> {
    const TIME: Duration = Duration::from_secs(3);
    let (before, began) = (cpu_time(fleet.id())?, Instant::now());
    std::thread::sleep(TIME);
    let used = cpu_time(fleet.id())? - before;
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}
