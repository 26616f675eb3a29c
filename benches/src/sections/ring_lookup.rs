//! Questions to any one of very many nodes: the map, and a binding.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_net::client::{Client, ClusterView, NodeState, WriteOptions};
use mesh_ring::hash::partition_of;

use super::Run;
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
/// How long all nodes may take to be one cluster.
const PATIENCE: Duration = Duration::from_secs(180);
/// What they do by themselves in the beginning is over by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    runtime.block_on(introduce(&clients, keys))?;
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

/// A client at each node, and the node's address.
type Asker = (Client, String);

/// Nodes that all shake hands with each other at once answer late, or not yet.
async fn connect(fleet: &Fleet, began: Instant) -> Result<Vec<Asker>> {
    let mut askers = Vec::new();
    for config in fleet.clients() {
        let address = config.nodes.concat();
        let client = loop {
            match Client::connect(config.clone()).await {
                Ok(client) => break client,
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        askers.push((client, address));
    }
    Ok(askers)
}

/// Waits until every node's map says that all are up and every partition is led.
async fn until_whole(askers: &[Asker], began: Instant) -> Result<()> {
    for (client, address) in askers {
        loop {
            let view = match client.cluster().await {
                Ok(view) => view,
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            let up = view
                .nodes
                .iter()
                .filter(|node| node.state == NodeState::Up)
                .count();
            let led = view
                .partitions
                .iter()
                .filter(|partition| partition.active)
                .count();
            if up == askers.len() && led == view.partitions.len() {
                break;
            }
            if began.elapsed() > PATIENCE {
                let all = (askers.len(), view.partitions.len());
                let so = format!(
                    "{up} of {} nodes up, {led} of {} partitions led",
                    all.0, all.1
                );
                return Err(format!("by {address} {so} after {PATIENCE:?}").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

fn key(number: u64) -> String {
    format!("user:{number}")
}

async fn put_all(askers: &[Asker], keys: u64) -> Result<()> {
    for number in 0..keys {
        let (client, _) = &askers[number as usize % askers.len()];
        let value = number.to_be_bytes().to_vec();
        client
            .put(
                key(number).as_bytes(),
                value.into(),
                WriteOptions::default(),
            )
            .await?;
    }
    Ok(())
}

/// Lets every node meet all others that keep a key, so that no question waits for a handshake.
async fn introduce(askers: &[Asker], keys: u64) -> Result<()> {
    let view = askers[0].0.cluster().await?;
    for (client, _) in askers {
        let mut met = BTreeSet::new();
        for number in 0..keys {
            let key = key(number);
            let partition = partition_of(key.as_bytes(), PARTITIONS);
            let replicas = &view.partitions[usize::from(partition.0)].replicas;
            if replicas.iter().any(|node| !met.contains(node)) {
                met.extend(replicas.iter().copied());
                client.get(key.as_bytes(), Some(1)).await?;
            }
        }
    }
    Ok(())
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
