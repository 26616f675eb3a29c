//! Durable publishing to three nodes, beside one node and beside NATS JetStream with three replicas.

use bench_drive::{Job, Publish};

use super::Run;
use crate::Result;
use crate::mesh::Mesh;
use crate::nats::{Layout, Nats};
use crate::outcome::{Comparison, Findings};
use crate::rounds::{Contender, alternate};
use crate::say;

/// Records of one turn.
const RECORDS: u64 = 200_000;
/// Records published one after the other.
const RECORDS_ONE_BY_ONE: u64 = 4_000;
/// Rounds are long: each turn has a new cluster.
const ROUNDS_MAX: usize = 5;

const THREE: &str = "meshctl, three nodes";
const ONE: &str = "meshctl, one node";
const NATS: &str = "NATS JetStream, three replicas";

/// A load.
struct Load {
    title: &'static str,
    in_flight: usize,
    topics: usize,
    /// Of `meshctl bench publish`; NATS is loaded for a time.
    records: u64,
    figure: Figure,
}

/// What of a load is compared.
#[derive(Clone, Copy)]
enum Figure {
    RecordsPerSecond,
    MedianLatency,
}

impl Figure {
    fn of(self, records_per_second: f64, p50_ms: f64) -> f64 {
        match self {
            Figure::RecordsPerSecond => records_per_second,
            Figure::MedianLatency => p50_ms,
        }
    }
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
        in_flight: 256,
        topics: 1,
        records: run.sized(RECORDS),
        figure: Figure::RecordsPerSecond,
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
        in_flight: 1,
        topics: 1,
        records: run.sized(RECORDS_ONE_BY_ONE),
        figure: Figure::MedianLatency,
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
        in_flight: 256,
        topics: 200,
        records: run.sized(RECORDS).max(1_000),
        figure: Figure::RecordsPerSecond,
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
        let numbers = [load.records, load.in_flight as u64, load.topics as u64];
        let [records, in_flight, topics] = numbers.map(|number| number.to_string());
        let measured = mesh.bench(&[
            "publish",
            "--records",
            &records,
            "--inflight",
            &in_flight,
            "--topics",
            &topics,
        ])?;
        let figure = load
            .figure
            .of(measured.records_per_second, measured.latency_ms.p50);
        drop(mesh);
        run.place.clear(&dir)?;
        Ok(figure)
    })
}

fn of_nats<'a>(run: &'a Run<'_>, nats: &'a Nats, load: &'a Load) -> Contender<'a> {
    Contender::new(NATS, move || {
        let dir = run.place.fresh();
        let job = Job::Publish(Publish {
            in_flight: load.in_flight,
            topics: load.topics,
            warm_up_ms: run.turn.as_millis() as u64 / 2,
            time_ms: 2 * run.turn.as_millis() as u64,
            ..Publish::default()
        });
        let done = nats.run(&dir, 3, Layout::Streams, &job)?.figures();
        run.place.clear(&dir)?;
        Ok(load.figure.of(done[0], done[1]))
    })
}
