//! Opening a copy of a directory that was taken while the store was alive: what a machine that died finds.

use std::path::Path;
use std::time::Instant;

use super::Run;
use crate::Result;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::place::copy_dir;
use crate::rounds::{Contender, alternate};
use crate::stores::Kind;
use crate::work::{RECORD_BYTES, fill};

/// Records in the store: 160 MiB, so that part of them is in files and part in the log.
const RECORDS: u64 = 160 << 10;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let records = run.sized(RECORDS).next_multiple_of(256);
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "A directory with {} MiB of records, 256 a batch, is copied while the store is open and nothing is under way; the \
         copy is opened.",
        (records * RECORD_BYTES as u64) >> 20,
    ));
    let payload = Payload::new(RECORD_BYTES);
    let mut dirs = Vec::new();
    for kind in Kind::ALL {
        let (live, image) = (run.place.fresh(), run.place.fresh());
        let mut store = kind.create(&live, 1)?;
        fill(store.as_mut(), &payload, records, 256)?;
        copy_dir(&live, &image)?;
        drop(store);
        run.place.clear(&live)?;
        dirs.push((kind, image));
    }
    let turn = |(kind, image): &(Kind, std::path::PathBuf)| {
        let (kind, image) = (*kind, image.clone());
        Contender::new(kind.name(), move || open_copy(run, kind, &image))
    };
    let samples = alternate("open", run.few_rounds(), dirs.iter().map(turn).collect())?;
    let title = "open after a crash";
    findings.comparisons.push(Comparison::new(
        title,
        "ms",
        false,
        Kind::RocksDb.name(),
        &samples,
    )?);
    for (_, dir) in dirs {
        run.place.clear(&dir)?;
    }
    Ok(findings)
}

fn open_copy(run: &Run<'_>, kind: Kind, image: &Path) -> Result<f64> {
    let dir = run.place.fresh();
    copy_dir(image, &dir)?;
    run.place.settle()?;
    let began = Instant::now();
    let store = kind.open(&dir, 1)?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    drop(store);
    run.place.clear(&dir)?;
    Ok(took)
}
