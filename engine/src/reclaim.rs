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

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_ring::ids::{Offset, PartitionId, TopicId, TopicKey};
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use crate::codec::only_u64;
use crate::engine::Engine;
use crate::keys::{self, family};
use crate::store::Store;
use crate::writer::Op;

/// Trimmed bytes that are worth a compaction of their ranges.
const TRIMMED_BYTES_MIN: u64 = 32 << 20;

/// Blob bytes below which garbage is left alone.
const BLOB_BYTES_MIN: u64 = 32 << 20;

/// Share of dead blob bytes above which live ones are moved, so that their files can go.
pub const GARBAGE_RATIO_MAX: f64 = 0.4;

/// How often live payloads are moved at most.
const MOVE_EVERY: Duration = Duration::from_secs(600);

/// The topic id under which garbage of a partition is noted that was removed as a whole: no topic has it.
pub(crate) const WHOLE_PARTITION: TopicId = TopicId(0);

/// Most ranges that are compacted one by one; beyond it the whole family is.
const RANGES_MAX: usize = 64;

/// Whether a reclaim is worth it. Which topics have garbage is in the store, so that a restart forgets none.
#[derive(Debug)]
pub(crate) struct Garbage {
    due: Mutex<Due>,
    /// One reclaim at a time.
    running: Mutex<()>,
}

#[derive(Debug)]
struct Due {
    trimmed_bytes: u64,
    /// A topic was deleted, or what is left from before the start is not known.
    now: bool,
    /// When live payloads may be moved again.
    move_after: Option<Instant>,
}

impl Default for Garbage {
    fn default() -> Self {
        let due = Due {
            trimmed_bytes: 0,
            now: true,
            move_after: None,
        };
        Garbage {
            due: Mutex::new(due),
            running: Mutex::new(()),
        }
    }
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
    pub(crate) fn note(&self, trimmed: &[(TopicKey, Offset, u64)], deleted: bool) {
        if trimmed.is_empty() && !deleted {
            return;
        }
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.trimmed_bytes += trimmed.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        due.now |= deleted;
    }

    fn take_due(&self) -> bool {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = due.now || due.trimmed_bytes >= TRIMMED_BYTES_MIN;
        if is_due {
            due.trimmed_bytes = 0;
            due.now = false;
        }
        is_due
    }
}

impl Engine {
    /// Gives back the disk space of trimmed and deleted records, where there is enough of it to be worth it; with `now`
    /// also where there is little. Runs as long as compaction takes; reads and writes go on meanwhile. What a crash
    /// interrupts is taken up after the next start.
    pub fn reclaim(&self, now: bool) -> Reclaimed {
        let store = self.store();
        let garbage = self.garbage();
        let _running = garbage
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = blob_bytes(store);
        if (garbage.take_due() || now)
            && let Err(error) = self.compact_garbage()
        {
            tracing::warn!(error, "garbage keeps its disk space until the next start");
        }
        let moved = is_mostly_garbage(store) && self.move_live_if_it_fits(now);
        Reclaimed {
            blob_bytes_before: before,
            blob_bytes_after: blob_bytes(store),
            moved,
        }
    }

    /// Compacts what was trimmed, and only then forgets that it is there.
    fn compact_garbage(&self) -> Result<(), String> {
        let store = self.store();
        let topics = topics_with_garbage(store, self.identity().partitions);
        if topics.is_empty() {
            return Ok(());
        }
        // A write-ahead log lives as long as one family has not flushed what is in it.
        store.flush_all().map_err(|error| error.to_string())?;
        compact_ranges(store, &topics);
        self.ask(|done| Op::Reclaimed { topics, done })
            .wait()
            .map_err(|error| error.to_string())
    }

    /// Moves live payloads unless the copy would eat into the reserve, and not more often than every
    /// [`MOVE_EVERY`] (unless `now`): a move that could not help should not be made again at once.
    fn move_live_if_it_fits(&self, now: bool) -> bool {
        let (store, garbage) = (self.store(), self.garbage());
        {
            let mut due = garbage.due.lock().unwrap_or_else(PoisonError::into_inner);
            if !now && due.move_after.is_some_and(|after| Instant::now() < after) {
                return false;
            }
            due.move_after = Some(Instant::now() + MOVE_EVERY);
        }
        let live = blob_bytes(store).saturating_sub(garbage_bytes(store));
        if let Err(shortage) = self.space().check_for(live) {
            tracing::warn!(
                free = shortage.free,
                needed = shortage.reserve,
                "dead records keep their disk space: moving the live ones out needs more than is free"
            );
            return false;
        }
        move_live(store)
    }
}

/// Topics with garbage, and up to which offset.
fn topics_with_garbage(store: &Store, partitions: u16) -> Vec<(TopicKey, Offset)> {
    let mut topics = Vec::new();
    for partition in (0..partitions).map(PartitionId) {
        let mut iterator = store.iterate(family::TOPICS, &keys::garbage_prefix(partition));
        iterator.seek_to_first();
        while let Some((key, upto)) = iterator.item() {
            topics.extend(keys::parse_garbage_key(key).zip(only_u64(upto).ok()));
            iterator.next();
        }
        if let Err(error) = iterator.status() {
            tracing::error!(%partition, %error, "reclaim cannot read which topics have garbage");
        }
    }
    topics
}

fn compact_ranges(store: &Store, topics: &[(TopicKey, Offset)]) {
    let handle = store.family(family::LOG);
    if topics.len() > RANGES_MAX {
        store
            .db()
            .compact_range_cf(handle, None::<&[u8]>, None::<&[u8]>);
        return;
    }
    for (topic, _) in topics {
        if topic.id == WHOLE_PARTITION {
            let prefix = topic.partition.0.to_be_bytes();
            let end = keys::prefix_end(&prefix);
            store
                .db()
                .compact_range_cf(handle, Some(&prefix[..]), end.as_deref());
            continue;
        }
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
    total >= BLOB_BYTES_MIN && garbage_bytes(store) as f64 > GARBAGE_RATIO_MAX * total as f64
}

fn garbage_bytes(store: &Store) -> u64 {
    property(store, "rocksdb.live-blob-file-garbage-size")
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
