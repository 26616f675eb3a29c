//! Bindings put and read on three nodes, beside etcd with three members.

use mesh_ring::hash::partition_of;

use super::Run;
use crate::etcd::Etcd;
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::rounds::{Contender, alternate};
use crate::traffic::{Rating, Traffic, Work, key};
use crate::{Result, say};

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 100;
const IN_FLIGHT: usize = 256;
/// Rounds are long: each turn has a new cluster.
const ROUNDS_MAX: usize = 5;
/// Fewer of the keys than this part are led by no node, or the load would be that of fewer nodes.
const SHARE_MIN: f64 = 0.15;

const THREE: &str = "meshctl, three nodes";
const ETCD: &str = "etcd, three members";

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let rating = Rating {
        keys: run.sized(KEYS),
        value_bytes: VALUE_BYTES,
        in_flight: IN_FLIGHT,
        warm_up: run.turn,
        time: 4 * run.turn,
    };
    findings.notes.push(format!(
        "Three `meshctl serve` as processes of one machine and one client of {IN_FLIGHT} requests in flight, over mutual-TLS \
         QUIC on the loopback; every turn has a new cluster with {} keys that all have a value. A put is acknowledged when two \
         of three nodes have it fsynced, a get when two have answered: the defaults. The client sends each request to the node \
         that leads the key's partition, as every client does.",
        rating.keys,
    ));
    let etcd = Etcd::find();
    findings.notes.push(match &etcd {
        Some(etcd) => format!(
            "{}: three members with default settings, every write fsynced, plain TCP without TLS, driven by `benches/etcd` \
             over two connections to each member: the same keys in the same order, linearizable gets.",
            etcd.version()?
        ),
        None => "etcd was not compared: its server and load were not found. `make bench-etcd-tools` installs them."
            .to_owned(),
    });
    if etcd.is_none() {
        say("  etcd was not found: nothing is compared with it");
    }
    for (work, title, unit, bar) in [
        (
            Work::Put,
            "put at W=2, 100-byte values, 256 in flight",
            "puts/s",
            "bindings-puts",
        ),
        (
            Work::Get,
            "get at R=2, 100-byte values, 256 in flight",
            "gets/s",
            "bindings-gets",
        ),
    ] {
        let mut contenders = vec![of_nodes(run, work, &rating)];
        contenders.extend(etcd.as_ref().map(|etcd| of_etcd(run, etcd, work, &rating)));
        let samples = alternate(title, run.rounds.min(ROUNDS_MAX), contenders)?;
        if etcd.is_some() {
            findings.bar_ratio(bar, &samples, THREE, ETCD, unit)?;
        }
        let baseline = if etcd.is_some() { ETCD } else { THREE };
        let comparison = Comparison::new(title, unit, true, baseline, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

fn of_nodes<'a>(run: &'a Run<'_>, work: Work, rating: &'a Rating) -> Contender<'a> {
    Contender::new(THREE, move || {
        let dir = run.place.fresh();
        let mesh = Mesh::start(&dir, 3)?;
        let traffic = Traffic::connect(mesh.client_config()?, rating.value_bytes)?;
        check_spread(&traffic, rating.keys)?;
        let rate = traffic.rate(work, rating)?;
        drop(mesh);
        run.place.clear(&dir)?;
        Ok(rate)
    })
}

fn of_etcd<'a>(run: &'a Run<'_>, etcd: &'a Etcd, work: Work, rating: &'a Rating) -> Contender<'a> {
    Contender::new(ETCD, move || {
        let dir = run.place.fresh();
        let rate = etcd.rate(&dir, work, rating)?;
        run.place.clear(&dir)?;
        Ok(rate)
    })
}

/// Each node leads its part of the keys.
fn check_spread(traffic: &Traffic, keys: u64) -> Result<()> {
    let (runtime, client) = traffic.client();
    let view = runtime.block_on(client.cluster())?;
    let partitions = u16::try_from(view.partitions.len())?;
    for node in &view.nodes {
        let leads = |number: &u64| {
            let partition = partition_of(key(*number).as_bytes(), partitions);
            view.partitions[usize::from(partition.0)].leader == Some(node.id)
        };
        let share = (0..keys).filter(leads).count() as f64 / keys as f64;
        if share < SHARE_MIN {
            let percent = 100.0 * share;
            return Err(format!("{} leads {percent:.0} % of the keys", node.name).into());
        }
    }
    Ok(())
}
