//! Giving disk space back after trims and deletions.
//!
//! A trim writes a range tombstone; the payloads lie in blob files that hold many topics' batches. Space comes back in
//! two steps, both in the background:
//!
//! 1. Once enough was trimmed, the trimmed ranges are compacted. That rewrites only small table files (keys and blob
//!    references), drops the trimmed references, and with them every blob file that none is left to.
//! 2. What is left is files that mix dead and live batches: one eternal topic among many expiring ones. RocksDB's blob
//!    collection moves the live ones out, but while it is on every compaction moves live payloads of old files, which
//!    costs plain appends 30–50 % more bytes written. So it is off, and turned on here only while garbage is more than
//!    [`GARBAGE_RATIO_MAX`] of all blob bytes: each byte moved frees at least a comparable amount.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use mesh_ring::ids::{Offset, TopicId, TopicKey};
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use crate::keys::{self, family};
use crate::store::Store;

/// Trimmed bytes that are worth a compaction of their ranges.
const TRIMMED_BYTES_MIN: u64 = 32 << 20;

/// Blob bytes below which garbage is left alone.
const BLOB_BYTES_MIN: u64 = 32 << 20;

/// Share of dead blob bytes above which live ones are moved, so that their files can go.
pub const GARBAGE_RATIO_MAX: f64 = 0.4;

/// Most ranges that are compacted one by one; beyond it the whole family is.
const RANGES_MAX: usize = 64;

/// What trims and deletions have left behind since the last reclaim.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    state: Mutex<State>,
    /// One reclaim at a time.
    running: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashSet<TopicKey>,
    trimmed_bytes: u64,
    deleted: bool,
}

/// What a reclaim did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Blob bytes on disk before.
    pub blob_bytes_before: u64,
    /// Blob bytes on disk after.
    pub blob_bytes_after: u64,
    /// Whether live payloads were moved.
    pub moved: bool,
}

impl Garbage {
    pub(crate) fn note(&self, trimmed: &[(TopicKey, Offset, u64)], deleted: &HashSet<TopicKey>) {
        if trimmed.is_empty() && deleted.is_empty() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.trimmed_bytes += trimmed.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        state
            .topics
            .extend(trimmed.iter().map(|(topic, _, _)| *topic));
        state.topics.extend(deleted);
        state.deleted |= !deleted.is_empty();
    }

    /// Compacts what was trimmed, if that is worth it (or if `now`), then moves live payloads out of mostly dead files.
    ///
    /// Runs as long as compaction takes; reads and writes go on meanwhile.
    pub(crate) fn reclaim(&self, store: &Store, now: bool) -> Reclaimed {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = blob_bytes(store);
        if let Some(topics) = self.take(now) {
            // A write-ahead log lives as long as one family has not flushed what is in it.
            if let Err(error) = store.flush_all() {
                tracing::warn!(%error, "reclaim could not flush");
            }
            compact_ranges(store, &topics);
        }
        let moved = is_mostly_garbage(store) && move_live(store);
        Reclaimed {
            blob_bytes_before: before,
            blob_bytes_after: blob_bytes(store),
            moved,
        }
    }

    fn take(&self, now: bool) -> Option<HashSet<TopicKey>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now || state.deleted || state.trimmed_bytes >= TRIMMED_BYTES_MIN;
        (due && !state.topics.is_empty()).then(|| std::mem::take(&mut *state).topics)
    }
}

fn compact_ranges(store: &Store, topics: &HashSet<TopicKey>) {
    let handle = store.family(family::LOG);
    if topics.len() > RANGES_MAX {
        store
            .db()
            .compact_range_cf(handle, None::<&[u8]>, None::<&[u8]>);
        return;
    }
    for topic in topics {
        let end = TopicKey {
            id: TopicId(topic.id.0 + 1),
            ..*topic
        };
        store.db().compact_range_cf(
            handle,
            Some(keys::topic_prefix(*topic)),
            Some(keys::topic_prefix(end)),
        );
    }
}

/// Moves live payloads out of every blob file that has garbage, by one compaction with collection turned on.
fn move_live(store: &Store) -> bool {
    let handle = store.family(family::LOG);
    let on = [
        ("enable_blob_garbage_collection", "true"),
        ("blob_garbage_collection_age_cutoff", "1.0"),
    ];
    if let Err(error) = store.db().set_options_cf(handle, &on) {
        tracing::warn!(%error, "blob collection could not be turned on; disk space stays in use");
        return false;
    }
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
    store
        .db()
        .compact_range_cf_opt(handle, None::<&[u8]>, None::<&[u8]>, &options);
    if let Err(error) = store
        .db()
        .set_options_cf(handle, &[("enable_blob_garbage_collection", "false")])
    {
        tracing::warn!(%error, "blob collection could not be turned off again; appends write more until a restart");
    }
    true
}

fn is_mostly_garbage(store: &Store) -> bool {
    let total = blob_bytes(store);
    let garbage = property(store, "rocksdb.live-blob-file-garbage-size");
    total >= BLOB_BYTES_MIN && garbage as f64 > GARBAGE_RATIO_MAX * total as f64
}

fn blob_bytes(store: &Store) -> u64 {
    property(store, "rocksdb.live-blob-file-size")
}

fn property(store: &Store, name: &str) -> u64 {
    store
        .db()
        .property_int_value_cf(store.family(family::LOG), name)
        .ok()
        .flatten()
        .unwrap_or(0)
}
