//! Durable publishing to three nodes, beside one node and beside NATS JetStream with three replicas.

use super::Run;
use crate::Result;
use crate::mesh::Mesh;
use crate::nats::Nats;
use crate::node::Measured;
use crate::outcome::{Comparison, Findings};
use crate::rounds::{Contender, alternate};
use crate::say;

/// Records of one turn.
const RECORDS: u64 = 200_000;
/// Records published one after the other.
const RECORDS_ONE_BY_ONE: u64 = 4_000;
/// Records of one turn of NATS with 200 streams, where it is slow.
const RECORDS_OF_STREAMS: u64 = 20_000;
/// Rounds are long: each turn has a new cluster.
const ROUNDS_MAX: usize = 5;

const THREE: &str = "meshctl, three nodes";
const ONE: &str = "meshctl, one node";
const NATS: &str = "NATS JetStream, three replicas";

/// A load, in the words of `meshctl bench publish` and of `nats-load`.
struct Load {
    title: &'static str,
    arguments: &'static [&'static str],
    records: u64,
    records_of_nats: u64,
    figure: fn(&Measured) -> f64,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(
        "Three `meshctl serve` and one `meshctl bench` as processes of one machine, over mutual-TLS QUIC on the loopback; \
         every turn has a new cluster. A record is acknowledged when two of three nodes have it fsynced."
            .to_owned(),
    );
    let nats = Nats::find();
    findings.notes.push(match &nats {
        Some(nats) => format!(
            "NATS JetStream ({}): three servers with file storage and `sync_interval: always`, every stream with three \
             replicas, plain TCP without TLS, driven by async-nats (`benches/nats`).",
            nats.version()?
        ),
        None => "NATS JetStream was not compared: its server and load were not found. `make bench-nats-tools` installs them."
            .to_owned(),
    });
    if nats.is_none() {
        say("  NATS was not found: nothing is compared with it");
    }
    in_flight(run, nats.as_ref(), &mut findings)?;
    one_by_one(run, nats.as_ref(), &mut findings)?;
    topics(run, nats.as_ref(), &mut findings)?;
    Ok(findings)
}

fn in_flight(run: &Run<'_>, nats: Option<&Nats>, findings: &mut Findings) -> Result<()> {
    let load = Load {
        title: "publish, 1 KiB, 256 in flight",
        arguments: &["--inflight", "256"],
        records: run.sized(RECORDS),
        records_of_nats: run.sized(RECORDS),
        figure: |measured| measured.records_per_second,
    };
    let mut contenders = vec![of_nodes(run, THREE, 3, &load), of_nodes(run, ONE, 1, &load)];
    contenders.extend(nats.map(|nats| of_nats(run, nats, &load)));
    let samples = alternate(load.title, run.rounds.min(ROUNDS_MAX), contenders)?;
    findings.bar_ratio("ring-publish", &samples, THREE, ONE, "records/s")?;
    if nats.is_some() {
        findings.bar_ratio("ring-nats", &samples, THREE, NATS, "records/s")?;
    }
    let comparison = Comparison::new(load.title, "records/s", true, ONE, &samples)?;
    findings.comparisons.push(comparison);
    Ok(())
}

fn one_by_one(run: &Run<'_>, nats: Option<&Nats>, findings: &mut Findings) -> Result<()> {
    let load = Load {
        title: "publish, 1 KiB, one in flight, median latency",
        arguments: &["--inflight", "1"],
        records: run.sized(RECORDS_ONE_BY_ONE),
        records_of_nats: run.sized(RECORDS_ONE_BY_ONE),
        figure: |measured| measured.latency_ms.p50,
    };
    let mut contenders = vec![of_nodes(run, THREE, 3, &load), of_nodes(run, ONE, 1, &load)];
    contenders.extend(nats.map(|nats| of_nats(run, nats, &load)));
    let samples = alternate(load.title, run.rounds.min(ROUNDS_MAX), contenders)?;
    if nats.is_some() {
        findings.bar_ratio("ring-nats-latency", &samples, THREE, NATS, "ms")?;
    }
    let comparison = Comparison::new(load.title, "ms", false, ONE, &samples)?;
    findings.comparisons.push(comparison);
    Ok(())
}

fn topics(run: &Run<'_>, nats: Option<&Nats>, findings: &mut Findings) -> Result<()> {
    let load = Load {
        title: "publish, 1 KiB, 256 in flight, over 200 topics",
        arguments: &["--inflight", "256", "--topics", "200"],
        records: run.sized(RECORDS).max(1_000),
        records_of_nats: run.sized(RECORDS_OF_STREAMS).max(1_000),
        figure: |measured| measured.records_per_second,
    };
    let mut contenders = vec![of_nodes(run, THREE, 3, &load), of_nodes(run, ONE, 1, &load)];
    contenders.extend(nats.map(|nats| of_nats(run, nats, &load)));
    let samples = alternate(load.title, run.few_rounds(), contenders)?;
    if nats.is_some() {
        findings.bar_ratio("ring-nats-topics", &samples, THREE, NATS, "records/s")?;
    }
    let comparison = Comparison::new(load.title, "records/s", true, ONE, &samples)?;
    findings.comparisons.push(comparison);
    Ok(())
}

fn of_nodes<'a>(
    run: &'a Run<'_>,
    name: &'static str,
    nodes: usize,
    load: &'a Load,
) -> Contender<'a> {
    Contender::new(name, move || {
        let dir = run.place.fresh();
        let mesh = Mesh::start(&dir, nodes)?;
        let records = load.records.to_string();
        let arguments = [&["publish", "--records", &records], load.arguments].concat();
        let figure = (load.figure)(&mesh.bench(&arguments)?);
        drop(mesh);
        run.place.clear(&dir)?;
        Ok(figure)
    })
}

fn of_nats<'a>(run: &'a Run<'_>, nats: &'a Nats, load: &'a Load) -> Contender<'a> {
    Contender::new(NATS, move || {
        let dir = run.place.fresh();
        let records = load.records_of_nats.to_string();
        let arguments = [&["--records", &records], load.arguments].concat();
        let figure = (load.figure)(&nats.publish(&dir, &arguments)?);
        run.place.clear(&dir)?;
        Ok(figure)
    })
}
