//! Reading back: everything in order, and single records anywhere.

use std::path::PathBuf;

use super::Run;
use crate::Result;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::place::forget_cached;
use crate::rounds::{Contender, alternate};
use crate::stores::{Kind, Store};
use crate::work::{RECORD_BYTES, fill, read_rate, replay_rate};

/// Records that are replayed: 1 GiB.
const RECORDS: u64 = 1 << 20;

/// Records of the stores that are filled with smaller batches, for point reads.
const FEW_RECORDS: u64 = 1 << 17;

const BATCH: usize = 256;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let records = run.sized(RECORDS).next_multiple_of(BATCH as u64);
    // redb's file grows by doubling.
    run.place.need(6 * records * RECORD_BYTES as u64)?;
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{records} records of 1 KiB in one topic, appended {BATCH} a batch; each store was closed and opened again after its \
         background work was done. Every record is decoded and looked at, and every store checks its checksums. The page \
         cache holds the files, except where the title says that it was emptied first."
    ));
    let payload = Payload::new(RECORD_BYTES);
    let mut dirs: Vec<(Kind, PathBuf)> = Vec::new();
    for kind in Kind::ALL {
        let dir = run.place.fresh();
        run.fill(kind, &dir, |store| fill(store, &payload, records, BATCH))?;
        dirs.push((kind, dir));
    }
    replay_warm(run, &dirs, records, &mut findings)?;
    replay_cold(run, &dirs, records, &mut findings)?;
    points(run, &dirs, records, &payload, &mut findings)?;
    for (_, dir) in dirs {
        run.place.clear(&dir)?;
    }
    Ok(findings)
}

fn replay_warm(
    run: &Run<'_>,
    dirs: &[(Kind, PathBuf)],
    records: u64,
    findings: &mut Findings,
) -> Result<()> {
    let mut stores = Vec::new();
    for (kind, dir) in dirs {
        let mut store = kind.open(dir, 1)?;
        replay_rate(store.as_mut(), records)?;
        stores.push((kind, store));
    }
    let turn = |(kind, store): (&Kind, Box<dyn Store>)| {
        let mut store = store;
        Contender::new(kind.name(), move || replay_rate(store.as_mut(), records))
    };
    let samples = alternate("replay", run.rounds, stores.into_iter().map(turn).collect())?;
    findings.bar_ratio(
        "replay",
        &samples,
        Kind::Meshlog.name(),
        Kind::RocksDb.name(),
        "records/s",
    )?;
    let title = "replay, files in the page cache";
    findings.comparisons.push(Comparison::new(
        title,
        "records/s",
        true,
        Kind::RocksDb.name(),
        &samples,
    )?);
    Ok(())
}

fn replay_cold(
    run: &Run<'_>,
    dirs: &[(Kind, PathBuf)],
    records: u64,
    findings: &mut Findings,
) -> Result<()> {
    let turn = |(kind, dir): &(Kind, PathBuf)| {
        let (kind, dir) = (*kind, dir.clone());
        Contender::new(kind.name(), move || {
            let mut store = kind.open(&dir, 1)?;
            forget_cached(&dir)?;
            replay_rate(store.as_mut(), records)
        })
    };
    let samples = alternate(
        "replay from the disk",
        run.few_rounds(),
        dirs.iter().map(turn).collect(),
    )?;
    let title = "replay, page cache emptied first";
    findings.comparisons.push(Comparison::new(
        title,
        "records/s",
        true,
        Kind::RocksDb.name(),
        &samples,
    )?);
    Ok(())
}

fn points(
    run: &Run<'_>,
    dirs: &[(Kind, PathBuf)],
    records: u64,
    payload: &Payload,
    findings: &mut Findings,
) -> Result<()> {
    let mut contenders = Vec::new();
    let mut small = Vec::new();
    for batch in [1, 16] {
        let dir = run.place.fresh();
        let few = run.sized(FEW_RECORDS).next_multiple_of(16);
        run.fill(Kind::Meshlog, &dir, |store| {
            fill(store, payload, few, batch)
        })?;
        contenders.push(reader(
            run,
            format!("Meshlog, batches of {batch}"),
            Kind::Meshlog.open(&dir, 1)?,
            few,
        ));
        small.push(dir);
    }
    for (kind, dir) in dirs {
        let name = if *kind == Kind::Meshlog {
            format!("Meshlog, batches of {BATCH}")
        } else {
            kind.name().to_owned()
        };
        contenders.push(reader(run, name, kind.open(dir, 1)?, records));
    }
    let samples = alternate("point reads", run.few_rounds(), contenders)?;
    let title = "point read by offset, at random (a batch is read and checked whole)";
    findings.comparisons.push(Comparison::new(
        title,
        "reads/s",
        true,
        Kind::RocksDb.name(),
        &samples,
    )?);
    for dir in small {
        run.place.clear(&dir)?;
    }
    Ok(())
}

fn reader<'r>(
    run: &Run<'_>,
    name: String,
    mut store: Box<dyn Store + 'r>,
    records: u64,
) -> Contender<'r> {
    let turn = run.turn / 2;
    Contender::new(name, move || read_rate(store.as_mut(), records, turn))
}
