//! Batches appended one after the other, each durable before the next.

use std::time::Duration;

use super::Run;
use crate::Result;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Contender, Samples, alternate};
use crate::stores::Kind;
use crate::work::{Appending, RECORD_BYTES, append_latency, append_rate};

const WARM_UP: Duration = Duration::from_millis(200);

/// Records of a batch and topics, the one with bars first.
const WORKS: [Appending; 4] = [
    Appending {
        batch: 256,
        topics: 1,
    },
    Appending {
        batch: 256,
        topics: 1000,
    },
    Appending {
        batch: 16,
        topics: 1,
    },
    Appending {
        batch: 1,
        topics: 1,
    },
];

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Each turn begins with an empty store and lasts {} s, or half of that where no bar depends on \
         it. One batch is in flight: encoded, written, fsynced, then the next. With 1,000 topics, each \
         batch goes to the next topic.",
        run.turn.as_secs_f64(),
    ));
    for (number, work) in WORKS.into_iter().enumerate() {
        let (rounds, turn) = if number == 0 {
            (run.rounds, run.turn)
        } else {
            (run.few_rounds(), run.short_turn())
        };
        let samples = rates(run, work, rounds, turn)?;
        if number == 0 {
            for (id, kind) in [
                ("append-rocksdb", Kind::RocksDb),
                ("append-fjall", Kind::Fjall),
                ("append-redb", Kind::Redb),
            ] {
                findings.bar_ratio(id, &samples, Kind::Meshlog.name(), kind.name(), "records/s")?;
            }
        }
        let topics = if work.topics == 1 {
            "1 topic"
        } else {
            "1,000 topics"
        };
        let title = format!("batches of {} × 1 KiB, {topics}", work.batch);
        findings.comparisons.push(Comparison::new(
            &title,
            "records/s",
            true,
            Kind::RocksDb.name(),
            &samples,
        )?);
    }
    let samples = latencies(run)?;
    let title = "one record of 1 KiB in flight, median latency";
    findings.comparisons.push(Comparison::new(
        title,
        "ms",
        false,
        Kind::RocksDb.name(),
        &samples,
    )?);
    Ok(findings)
}

fn rates(run: &Run<'_>, work: Appending, rounds: usize, turn: Duration) -> Result<Vec<Samples>> {
    let payload = Payload::new(RECORD_BYTES);
    let contender = |kind: Kind| {
        let payload = &payload;
        Contender::new(kind.name(), move || {
            run.with_new(kind, work.topics, |store| {
                append_rate(store, payload, work, WARM_UP)?;
                append_rate(store, payload, work, turn)
            })
        })
    };
    alternate(
        &format!("append {} × {}", work.batch, work.topics),
        rounds,
        Kind::ALL.map(contender).into(),
    )
}

fn latencies(run: &Run<'_>) -> Result<Vec<Samples>> {
    let payload = Payload::new(RECORD_BYTES);
    let contender = |kind: Kind| {
        let payload = &payload;
        Contender::new(kind.name(), move || {
            run.with_new(kind, 1, |store| {
                append_latency(store, payload, WARM_UP)?;
                append_latency(store, payload, run.short_turn())
            })
        })
    };
    alternate(
        "append latency",
        run.few_rounds(),
        Kind::ALL.map(contender).into(),
    )
}
