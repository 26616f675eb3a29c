//! Durable publishing to one server, by the size of a record.

use bench_drive::{Job, Publish};

use super::{BARE, NATS, Peers, RATE_AND_P99, REDIS, Run, Shown, of_bare, publishing, show};
use crate::Result;
use crate::outcome::Findings;
use crate::rounds::alternate_several;

/// Bytes of a value.
const SIZES: [(usize, &str); 3] = [
    (100, "100 bytes, 256 in flight"),
    (1 << 10, "1 KiB, 256 in flight"),
    (16 << 10, "16 KiB, 256 in flight"),
];

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    for (value_bytes, title) in SIZES {
        let job = Job::Publish(Publish {
            value_bytes,
            ..publishing(run)
        });
        let mut contenders = peers.with_ours(run, &job, RATE_AND_P99);
        contenders.push(of_bare(run, value_bytes));
        let all = alternate_several(title, run.few_rounds(), &["records/s"], contenders)?;
        let shown = Shown {
            title,
            unit: "records/s",
            more_is_better: true,
        };
        show(&mut findings, &all, &[shown], &[REDIS, NATS, BARE])?;
    }
    Ok(findings)
}
