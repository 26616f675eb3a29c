//! Bytes written to the disk for each byte of payload, and the rate that a store sustains while it writes them.

use super::Run;
use crate::Result;
use crate::children::{Filled, filled, setting};
use crate::outcome::{Comparison, Findings};
use crate::rounds::Samples;
use crate::say;
use crate::stores::Kind;
use crate::work::Appending;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let bytes = run.sized(setting("MESHLOG_BENCH_SPACE_MIB", 10 << 10)? << 20);
    run.place.need(bytes * 5 / 2)?;
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{:.2} GiB of 1 KiB records appended 256 a batch, one batch in flight, then closed: `write_bytes` of `/proc/self/io`, \
         which is the write-ahead log, the flushes and the compactions; the rate is that of the appends alone.",
        bytes as f64 / f64::from(1 << 30),
    ));
    let contenders = [
        ("Meshlog", Kind::Meshlog, 1),
        ("Meshlog, 1,000 topics", Kind::Meshlog, 1000),
        ("bare RocksDB", Kind::RocksDb, 1),
        ("bare RocksDB, 1,000 topics", Kind::RocksDb, 1000),
        ("fjall", Kind::Fjall, 1),
    ];
    let (mut written, mut rates) = (Vec::new(), Vec::new());
    for (name, kind, topics) in contenders {
        let dir = run.place.fresh();
        let Filled {
            payload_bytes,
            disk_bytes,
            seconds,
        } = filled(kind, &dir, bytes, Appending { batch: 256, topics })?;
        run.place.clear(&dir)?;
        let (times, rate) = (
            disk_bytes as f64 / payload_bytes as f64,
            (payload_bytes >> 10) as f64 / seconds,
        );
        say(&format!(
            "  {name}: {times:.2} times the payload, {rate:.0} records/s"
        ));
        if written.is_empty() {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            findings.bar(
                "space",
                times,
                format!(
                    "{:.2} GiB for {:.2} GiB",
                    gib(disk_bytes),
                    gib(payload_bytes)
                ),
            );
        }
        written.push(Samples {
            name: name.to_owned(),
            values: vec![times],
        });
        rates.push(Samples {
            name: name.to_owned(),
            values: vec![rate],
        });
    }
    let base = "bare RocksDB";
    findings.comparisons.push(Comparison::new(
        "bytes written / payload",
        "times",
        false,
        base,
        &written,
    )?);
    findings.comparisons.push(Comparison::new(
        "sustained append",
        "records/s",
        true,
        base,
        &rates,
    )?);
    Ok(findings)
}
