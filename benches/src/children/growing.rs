//! Stores that are written to until they are killed, or used for a while and then left alone.

use std::path::Path;

use super::{die_with_parent, tell, wait_for_end_of_stdin};
use crate::Result;
use crate::payload::{Payload, mix};
use crate::stores::{Meshlog, Store as _};
use crate::work::{Appending, RECORD_BYTES, append_one};

/// Records of each batch that is appended.
const BATCH: usize = 256;
/// What a store that is exercised does: records read, and bytes appended.
const READS: u64 = 20_000;
const APPENDED_BYTES: u64 = 32 << 20;

/// Appends batches for ever, says when the records' values come to `bytes`, and dies with its parent.
pub(super) fn grow(dir: &Path, bytes: u64, topics: usize) -> Result<()> {
    die_with_parent()?;
    let (mut store, payload) = (open_or_create(dir, topics)?, Payload::new(RECORD_BYTES));
    let work = Appending {
        batch: BATCH,
        topics,
    };
    for number in 0.. {
        append_one(&mut store, &payload, work, number)?;
        if (number + 1) * (work.batch * RECORD_BYTES) as u64 == bytes {
            tell("grown")?;
        }
    }
    Ok(())
}

fn open_or_create(dir: &Path, topics: usize) -> Result<Meshlog> {
    if dir.exists() {
        Meshlog::open(dir, topics)
    } else {
        Meshlog::create(dir, topics)
    }
}

/// Opens a store with so many records in each of its topics, reads all over it, appends, says so, and stays until its stdin
/// closes.
pub(super) fn exercise(dir: &Path, records: u64, topics: usize) -> Result<()> {
    let (mut store, payload) = (Meshlog::open(dir, topics)?, Payload::new(RECORD_BYTES));
    let (mut random, mut bytes) = (1, 0);
    for _ in 0..READS {
        let topic = mix(&mut random) % topics as u64;
        let offset = mix(&mut random) % records;
        store.read(topic as usize, offset, &mut |value| bytes += value.len())?;
    }
    std::hint::black_box(bytes);
    let work = Appending {
        batch: BATCH,
        topics,
    };
    for number in 0..APPENDED_BYTES / (BATCH * RECORD_BYTES) as u64 {
        append_one(&mut store, &payload, work, number)?;
    }
    tell("ready")?;
    wait_for_end_of_stdin()?;
    Box::new(store).close()
}
