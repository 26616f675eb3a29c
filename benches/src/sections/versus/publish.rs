//! Durable publishing to one server, by what is in flight.

use bench_drive::{Job, Publish};

use super::{
    BARE, LATENCIES, NATS, OURS, Peers, RATE_AND_P99, REDIS, REDIS_SPREAD, ROUNDS_MAX, Run, Shown,
    bar_against, of_bare, publishing, show,
};
use crate::Result;
use crate::outcome::Findings;
use crate::payload::Payload;
use crate::rounds::{Contender, alternate_several};
use crate::stores::Kind;
use crate::work::{RECORD_BYTES, append_latency};

const PUT: &str = "bare RocksDB, synced put";

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    findings.notes.push(
        "Bare RocksDB is the limit of what the engine stands on: in one process, without a network, each commit synced. It \
         shares no CPU with a client."
            .to_owned(),
    );
    in_flight(run, &peers, &mut findings)?;
    one_by_one(run, &peers, &mut findings)?;
    many_in_flight(run, &peers, &mut findings)?;
    batches(run, &peers, &mut findings)?;
    Ok(findings)
}

fn in_flight(run: &Run<'_>, peers: &Peers, findings: &mut Findings) -> Result<()> {
    let job = Job::Publish(publishing(run));
    let mut contenders = peers.with_ours(run, &job, RATE_AND_P99);
    contenders.push(of_bare(run, RECORD_BYTES));
    let shown = [
        rate("256 in flight"),
        latency("256 in flight, p99 of a record"),
    ];
    let all = alternate_several(
        "256 in flight",
        run.rounds.min(ROUNDS_MAX),
        &["records/s", "p99"],
        contenders,
    )?;
    bar_against(findings, "versus-redis", &all[0], OURS, REDIS, "records/s")?;
    bar_against(
        findings,
        "versus-redis-spread",
        &all[0],
        OURS,
        REDIS_SPREAD,
        "records/s",
    )?;
    bar_against(findings, "versus-rocksdb", &all[0], OURS, BARE, "records/s")?;
    show(findings, &all, &shown, &[REDIS, NATS])
}

fn one_by_one(run: &Run<'_>, peers: &Peers, findings: &mut Findings) -> Result<()> {
    let job = Job::Publish(Publish {
        in_flight: 1,
        ..publishing(run)
    });
    let payload = Payload::new(RECORD_BYTES);
    let mut contenders = peers.with_ours(run, &job, LATENCIES);
    contenders.push(Contender::new(PUT, || {
        run.with_new(Kind::RocksDb, 1, |store| {
            append_latency(store, &payload, run.turn / 5)?;
            append_latency(store, &payload, run.turn)
        })
    }));
    let shown = [
        latency("one in flight, median"),
        latency("one in flight, p99"),
    ];
    let all = alternate_several(
        "one in flight",
        run.rounds.min(ROUNDS_MAX),
        &["p50", "p99"],
        contenders,
    )?;
    bar_against(findings, "versus-latency", &all[0], OURS, REDIS, "ms")?;
    show(findings, &all, &shown, &[REDIS, NATS])
}

fn many_in_flight(run: &Run<'_>, peers: &Peers, findings: &mut Findings) -> Result<()> {
    let job = Job::Publish(Publish {
        in_flight: 4_096,
        ..publishing(run)
    });
    let shown = [
        rate("4,096 in flight"),
        latency("4,096 in flight, p99 of a record"),
    ];
    let all = alternate_several(
        "4,096 in flight",
        run.few_rounds(),
        &["records/s", "p99"],
        peers.with_ours(run, &job, RATE_AND_P99),
    )?;
    show(findings, &all, &shown, &[REDIS, NATS])
}

fn batches(run: &Run<'_>, peers: &Peers, findings: &mut Findings) -> Result<()> {
    let job = Job::Publish(Publish {
        in_flight: 1,
        batch: 256,
        ..publishing(run)
    });
    let mut contenders = peers.with_ours(run, &job, &[0, 1]);
    contenders.push(of_bare(run, RECORD_BYTES));
    let shown = [
        rate("batches of 256, one in flight"),
        latency("batches of 256, one in flight, median of a batch"),
    ];
    let all = alternate_several(
        "batches of 256, one in flight",
        run.rounds.min(ROUNDS_MAX),
        &["records/s", "p50"],
        contenders,
    )?;
    bar_against(findings, "versus-batch", &all[0], OURS, BARE, "records/s")?;
    show(findings, &all, &shown, &[REDIS, NATS])
}

fn rate(title: &'static str) -> Shown<'static> {
    Shown {
        title,
        unit: "records/s",
        more_is_better: true,
    }
}

fn latency(title: &'static str) -> Shown<'static> {
    Shown {
        title,
        unit: "ms",
        more_is_better: false,
    }
}
