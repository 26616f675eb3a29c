//! A large store that was killed while it was written to, opened again.

use std::path::Path;
use std::time::Instant;

use super::Run;
use crate::Result;
use crate::children::{Child, setting};
use crate::outcome::{Comparison, Findings};
use crate::place::{bytes_of, forget_cached};
use crate::rounds::{Samples, median};
use crate::say;
use crate::stores::{Meshlog, Store as _};

/// Payload that a killed writer had appended since it was opened, the first time aside.
const GROWTH_BYTES: u64 = 256 << 20;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let large = run
        .sized(setting("MESHLOG_BENCH_CRASH_MIB", 5 << 10)? << 20)
        .next_multiple_of(1 << 18);
    let small = (large / 10).next_multiple_of(1 << 18);
    run.place.need(large * 5 / 4 + 8 * GROWTH_BYTES)?;
    let mut findings = Findings::default();
    findings.notes.push(
        "A process that appends 256 records a batch without pause is killed (SIGKILL) when the store has reached its size; \
         then the store is opened, with the page cache emptied first. Each further round kills it again some 256 MiB later."
            .to_owned(),
    );
    let mut samples = Vec::new();
    for (id, bytes) in [("crash-small", small), ("crash-large", large)] {
        let name = format!("Meshlog, {:.2} GiB", bytes as f64 / f64::from(1 << 30));
        let (seconds, wal) = kill_and_open(run, bytes)?;
        let measured = format!("{:.0} MiB of log to replay", wal / f64::from(1 << 20));
        say(&format!("  {name}: {seconds:.3?} s, {measured}"));
        findings.bar(id, median(seconds.clone()), measured);
        samples.push(Samples {
            name,
            values: seconds,
        });
    }
    let baseline = samples[0].name.clone();
    findings.comparisons.push(Comparison::new(
        "open after kill -9",
        "s",
        false,
        &baseline,
        &samples,
    )?);
    Ok(findings)
}

/// Seconds of each open, and the median bytes of write-ahead log that it found.
fn kill_and_open(run: &Run<'_>, bytes: u64) -> Result<(Vec<f64>, f64)> {
    let dir = run.place.fresh();
    let (mut seconds, mut wals) = (Vec::new(), Vec::new());
    for round in 0..run.few_rounds() {
        let grow = if round == 0 {
            bytes
        } else {
            run.sized(GROWTH_BYTES).next_multiple_of(1 << 18)
        };
        kill_when_grown(&dir, grow)?;
        wals.push(bytes_of(&dir, ".log")? as f64);
        forget_cached(&dir)?;
        let began = Instant::now();
        let store = Meshlog::open(&dir, 1)?;
        seconds.push(began.elapsed().as_secs_f64());
        Box::new(store).close()?;
    }
    run.place.clear(&dir)?;
    Ok((seconds, median(wals)))
}

fn kill_when_grown(dir: &Path, bytes: u64) -> Result<()> {
    let dir = dir.to_str().ok_or("the folder's name is not UTF-8")?;
    let mut child = Child::start("grow", &[dir, &bytes.to_string(), "1"])?;
    child.line()?;
    child.kill()
}
