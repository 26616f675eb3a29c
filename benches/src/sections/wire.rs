//! One client and one node over mutual-TLS QUIC on the loopback, as real processes.

use super::Run;
use crate::Result;
use crate::bulk::{self, Path};
use crate::node::{Cluster, Measured};
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Contender, alternate};
use crate::stores::Kind;
use crate::work::{Appending, RECORD_BYTES, append_latency, append_rate};

/// Records of one run of `meshctl bench publish`.
const RECORDS: u64 = 400_000;
/// Records published one after the other.
const RECORDS_ONE_BY_ONE: u64 = 5_000;
/// Records that are replayed.
const RECORDS_REPLAYED: u64 = 1_000_000;

const BARE: &str = "bare RocksDB, 256 a commit";
const IN_FLIGHT: &str = "meshctl, 256 in flight";
const BATCH: &str = "meshctl, --batch 256";
const TOPICS: &str = "meshctl, 256 in flight, 1,000 topics";

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(
        "Over loopback Meshlog's endpoints find datagrams of up to 16,000 bytes; quinn by itself looks for 1,452. The replay \
         bar is against quinn as it comes; beside it stands the same transfer with Meshlog's datagrams, which is the limit \
         of this transport here."
            .to_owned(),
    );
    findings.notes.push(
        "`meshctl serve` and `meshctl bench` as two processes on one machine; every turn has a new node. Bare RocksDB runs \
         alone in one process, without a network, and shares no CPU with a client."
            .to_owned(),
    );
    publish(run, &mut findings)?;
    latency(run, &mut findings)?;
    replay(run, &mut findings)?;
    Ok(findings)
}

fn publish(run: &Run<'_>, findings: &mut Findings) -> Result<()> {
    let records = run.sized(RECORDS).to_string();
    let meshctl = |name: &'static str, more: &'static [&'static str]| {
        let records = &records;
        Contender::new(name, move || {
            let arguments = [
                &["publish", "--records", records, "--inflight", "256"],
                more,
            ]
            .concat();
            Ok(bench(run, &arguments)?.records_per_second)
        })
    };
    let contenders = vec![
        meshctl(IN_FLIGHT, &[]),
        Contender::new(BARE, || bare_rate(run)),
        meshctl(BATCH, &["--batch", "256"]),
        meshctl(TOPICS, &["--topics", "1000"]),
    ];
    let samples = alternate("publish", run.rounds, contenders)?;
    findings.bar_ratio("publish", &samples, IN_FLIGHT, BARE, "records/s")?;
    findings.bar_ratio("publish-batch", &samples, BATCH, BARE, "records/s")?;
    findings.comparisons.push(Comparison::new(
        "publish, records of 1 KiB",
        "records/s",
        true,
        BARE,
        &samples,
    )?);
    Ok(())
}

fn latency(run: &Run<'_>, findings: &mut Findings) -> Result<()> {
    const ONE: &str = "meshctl, one in flight";
    const PUT: &str = "bare RocksDB, synced put";
    let (payload, records) = (
        Payload::new(RECORD_BYTES),
        run.sized(RECORDS_ONE_BY_ONE).to_string(),
    );
    let meshctl = Contender::new(ONE, || {
        Ok(
            bench(run, &["publish", "--records", &records, "--inflight", "1"])?
                .latency_ms
                .p50,
        )
    });
    let bare = Contender::new(PUT, || {
        run.with_new(Kind::RocksDb, 1, |store| {
            append_latency(store, &payload, run.turn / 5)?;
            append_latency(store, &payload, run.turn)
        })
    });
    let samples = alternate("publish latency", run.rounds, vec![meshctl, bare])?;
    findings.bar_ratio("publish-latency", &samples, ONE, PUT, "ms")?;
    let title = "one record of 1 KiB in flight, median latency";
    findings
        .comparisons
        .push(Comparison::new(title, "ms", false, PUT, &samples)?);
    Ok(())
}

fn replay(run: &Run<'_>, findings: &mut Findings) -> Result<()> {
    const REPLAY: &str = "meshctl, replay";
    const BULK: &str = "quinn's bulk transfer, its own datagram size";
    const TUNED: &str = "quinn's bulk transfer, Meshlog's datagram size";
    let records = run.sized(RECORDS_REPLAYED);
    let text = records.to_string();
    let dir = run.place.fresh();
    let cluster = Cluster::init(&dir)?;
    let contenders = vec![
        Contender::new(REPLAY, || {
            Ok(bench(run, &["replay", "--records", &text])?.mib_per_second)
        }),
        Contender::new(BULK, || bulk(&cluster, Path::AsQuinnComes, records)),
        Contender::new(TUNED, || bulk(&cluster, Path::AsMeshlogHasIt, records)),
    ];
    let samples = alternate("replay over the wire", run.rounds, contenders)?;
    findings.bar_ratio("wire-replay", &samples, REPLAY, BULK, "MiB/s")?;
    let title = "replay of 1 KiB records, every record decoded by the client";
    findings
        .comparisons
        .push(Comparison::new(title, "MiB/s", true, BULK, &samples)?);
    run.place.clear(&dir)
}

fn bulk(cluster: &Cluster, path: Path, records: u64) -> Result<f64> {
    let bytes = records * RECORD_BYTES as u64;
    bulk::rate(
        &cluster.node_identity(),
        &cluster.client_identity(),
        path,
        bytes,
        1,
    )
}

/// One run of `meshctl bench` against a node of its own.
fn bench(run: &Run<'_>, arguments: &[&str]) -> Result<Measured> {
    let dir = run.place.fresh();
    let cluster = Cluster::init(&dir)?;
    let node = cluster.serve()?;
    let measured = node.bench(arguments)?;
    node.stop()?;
    run.place.clear(&dir)?;
    Ok(measured)
}

fn bare_rate(run: &Run<'_>) -> Result<f64> {
    let (payload, work) = (
        Payload::new(RECORD_BYTES),
        Appending {
            batch: 256,
            topics: 1,
        },
    );
    run.with_new(Kind::RocksDb, 1, |store| {
        append_rate(store, &payload, work, run.turn / 5)?;
        append_rate(store, &payload, work, run.turn)
    })
}
