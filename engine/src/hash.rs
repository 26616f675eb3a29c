//! One number for what a topic's records are: what replicas compare to know that they hold the same.
//!
//! Batches are stored verbatim everywhere, so they are hashed as they are stored. Blocks of offsets are hashed by
//! themselves and the root over them, so that a difference can be narrowed down without hashing all again.

use std::ops::ControlFlow;

use mesh_ring::ids::{Offset, TopicKey};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::engine::Engine;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read;
use crate::scrub::{Gap, Pace};
use crate::store::Store;

/// Offsets of a block: a batch belongs to that of its last record.
const BLOCK_OFFSETS: u64 = 4_096;

/// Bytes after which an iterator is made anew, so that a slow hash does not keep files from being removed.
const ITERATOR_BYTES: u64 = 64 << 20;

/// The records of a topic, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicHash {
    /// blake3 over the hashes of the blocks. Means nothing where anything is damaged.
    pub root: [u8; 32],
    /// Records within the range that were hashed.
    pub records: u64,
    /// Batches within the range that cannot be read, at least.
    pub damaged: u64,
}

impl Engine {
    /// Reads the batches with the records `from..until` from the disk and hashes them. `pace` is asked after each batch;
    /// `None` where it wanted no more.
    ///
    /// # Errors
    /// [`ReadError::TopicDeleted`], [`ReadError::Trimmed`], [`ReadError::BeyondEnd`] where not all of it is committed here.
    pub fn hash_topic(
        &self,
        topic: TopicKey,
        from: Offset,
        until: Offset,
        pace: Pace<'_>,
    ) -> Result<Option<TopicHash>, ReadError> {
        // What is committed does not change, so that the rest needs no care.
        let committed = self.committed_offsets(topic)?;
        if from < committed.start {
            let first = committed.start;
            return Err(ReadError::Trimmed { from, first });
        }
        if until > committed.end {
            let (from, next) = (until, committed.end);
            return Err(ReadError::BeyondEnd { from, next });
        }
        let mut walk = Walk {
            store: self.store(),
            topic,
            from,
            until,
            next: from,
            hasher: blake3::Hasher::new(),
            block: None,
            records: 0,
            damaged: 0,
        };
        while walk.next < until {
            if walk.some(pace)?.is_break() {
                return Ok(None);
            }
        }
        walk.end_block();
        Ok(Some(TopicHash {
            root: walk.hasher.finalize().into(),
            records: walk.records,
            damaged: walk.damaged,
        }))
    }
}

struct Walk<'a> {
    store: &'a Store,
    topic: TopicKey,
    from: Offset,
    until: Offset,
    /// The next offset to look at.
    next: Offset,
    hasher: blake3::Hasher,
    block: Option<(u64, blake3::Hasher)>,
    records: u64,
    damaged: u64,
}

impl<'a> Walk<'a> {
    /// Hashes what one iterator shows.
    fn some(&mut self, pace: Pace<'_>) -> Result<ControlFlow<()>, ReadError> {
        let mut iterator = self.iterator();
        iterator.seek(keys::log_key(self.topic, self.next));
        let mut bytes = 0;
        while self.next < self.until && bytes < ITERATOR_BYTES {
            let Some((key, batch)) = iterator.item() else {
                break;
            };
            bytes += batch.len() as u64;
            self.batch(key, batch)?;
            if pace(batch.len() as u64).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            iterator.next();
        }
        if self.next < self.until && bytes < ITERATOR_BYTES {
            self.check_not_trimmed()?;
            let unreadable = iterator.status().is_err();
            self.damaged += 1;
            self.next = if unreadable {
                self.behind_gap()
            } else {
                self.until
            };
        }
        Ok(ControlFlow::Continue(()))
    }

    fn batch(&mut self, key: &[u8], batch: &[u8]) -> Result<(), ReadError> {
        let Some((_, last)) = keys::parse_log_key(key) else {
            return Err(read::undecodable(
                "a key of the log",
                &"it is of a wrong length",
            ));
        };
        let Ok(header) = read::checked(self.store, self.topic, key, batch) else {
            self.damaged += 1;
            self.next = last + 1;
            return Ok(());
        };
        let base = header.leader.base_offset;
        if base > self.next {
            self.check_not_trimmed()?;
            self.damaged += 1;
        }
        if base >= self.until {
            self.next = self.until;
            return Ok(());
        }
        let number = last / BLOCK_OFFSETS;
        if self
            .block
            .as_ref()
            .is_none_or(|(block, _)| *block != number)
        {
            self.end_block();
            self.block = Some((number, blake3::Hasher::new()));
        }
        if let Some((_, hasher)) = &mut self.block {
            hasher.update(batch);
        }
        self.records += (last + 1).min(self.until) - base.max(self.from);
        self.next = last + 1;
        Ok(())
    }

    fn end_block(&mut self) {
        if let Some((number, block)) = self.block.take() {
            self.hasher.update(&number.to_be_bytes());
            self.hasher.update(block.finalize().as_bytes());
        }
    }

    /// The first offset from where reading goes on.
    fn behind_gap(&self) -> Offset {
        let from = keys::log_key(self.topic, self.next);
        let end = keys::log_key(self.topic, self.until);
        let gap = Gap::find(&from, &end, Some(end.len()), |key| {
            let mut iterator = self.iterator();
            iterator.seek(key);
            iterator.status().is_err()
        });
        let resume = gap.resume.as_deref().and_then(keys::parse_log_key);
        resume.map_or(self.until, |(_, offset)| offset.max(self.next + 1))
    }

    /// A trim may have taken what is missing.
    fn check_not_trimmed(&self) -> Result<(), ReadError> {
        let extent = read::load_extent(self.store, self.topic)?.ok_or(ReadError::TopicDeleted)?;
        if self.next < extent.first {
            let (from, first) = (self.next, extent.first);
            return Err(ReadError::Trimmed { from, first });
        }
        Ok(())
    }

    fn iterator(&self) -> DBRawIterator<'a> {
        let prefix = keys::topic_prefix(self.topic);
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        options.set_readahead_size(2 << 20);
        options.set_iterate_lower_bound(prefix);
        if let Some(end) = keys::prefix_end(&prefix) {
            options.set_iterate_upper_bound(end);
        }
        let log = self.store.family(family::LOG);
        self.store.db().raw_iterator_cf_opt(log, options)
    }
}
