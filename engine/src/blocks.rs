//! Blocks of a topic's offsets: what replicas compare of their logs, and how a block that cannot be read here comes back
//! from another replica.
//!
//! A block is made of the batches that hold any of its offsets; batches are stored verbatim everywhere, so equal blocks
//! have equal digests. Only rows that are missing or cannot be read are ever written.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_ring::command::Command;
use mesh_ring::ids::{Index, Offset, PartitionId, TopicId, TopicKey};

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, verify_stored};
use crate::catalogue::TopicExtent;
use crate::engine::{Answer, Engine};
use crate::error::{HealError, ReadError};
use crate::keys::{self, family};
use crate::read::undecodable;
use crate::replica::entries_from;
use crate::writer::Op;

/// Offsets of a block: block `n` has the offsets from `n * BLOCK_OFFSETS` on.
pub const BLOCK_OFFSETS: u64 = 1_024;

/// Bytes of batches that a digest reads at a time.
const READ_BYTES: usize = 1 << 20;

/// What a healing op weighs in the queue beside its batches, in bytes.
const OP_BYTES: usize = 512;

/// What a block is, for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDigest {
    /// Equal where the batches are.
    pub digest: [u8; 32],
    /// Bytes of batches that were read for it.
    pub bytes: u64,
}

impl TopicExtent {
    /// The blocks of which every offset is here and committed.
    #[must_use]
    pub const fn full_blocks(&self) -> Range<u64> {
        let first = self.first.div_ceil(BLOCK_OFFSETS);
        first..self.next / BLOCK_OFFSETS
    }

    /// The blocks of which some offset is.
    #[must_use]
    pub const fn blocks(&self) -> Range<u64> {
        self.first / BLOCK_OFFSETS..self.next.div_ceil(BLOCK_OFFSETS)
    }
}

/// What healing a block did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Healed {
    /// Batches that were missing or could not be read, and are written.
    pub written: u64,
    /// Batches that are here as they came.
    pub present: u64,
    /// Batches that were trimmed here.
    pub trimmed: u64,
}

/// Checked batches of a topic that follow each other.
#[derive(Debug)]
pub(crate) struct HealOp {
    pub(crate) topic: TopicKey,
    pub(crate) batches: Vec<(BatchHeader, Bytes)>,
}

impl HealOp {
    pub(crate) fn bytes(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch.len()).sum()
    }
}

impl Engine {
    /// Topics of a partition with ids above `after`, in the order of their ids; at most `max`.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn topics_of(
        &self,
        partition: PartitionId,
        after: Option<TopicId>,
        max: usize,
    ) -> Result<Vec<TopicKey>, ReadError> {
        let prefix = keys::topic_keys_prefix(partition);
        let mut iterator = self.store().iterate(family::TOPICS, &prefix);
        match after {
            None => iterator.seek_to_first(),
            Some(id) => {
                let next = TopicId(id.0.saturating_add(1));
                iterator.seek(keys::topic_key(TopicKey {
                    partition,
                    id: next,
                }));
            }
        }
        let mut topics = Vec::new();
        while topics.len() < max
            && let Some(key) = iterator.key()
        {
            let topic = keys::parse_topic_key(key)
                .ok_or_else(|| undecodable("a key of a topic", &"it is of a wrong length"))?;
            // The last id there can be has nothing behind it.
            if Some(topic.id) != after {
                topics.push(topic);
            }
            iterator.next();
        }
        match iterator.status() {
            Ok(()) => Ok(topics),
            Err(error) => Err(self.store().read_error(family::TOPICS, &prefix, &error)),
        }
    }

    /// The first offset of a block that should be here and cannot be read; `None` where there is none.
    ///
    /// # Errors
    /// [`ReadError::TopicDeleted`], [`ReadError::Store`].
    pub fn unreadable_in(&self, topic: TopicKey, block: u64) -> Result<Option<Offset>, ReadError> {
        let (mut next, end) = bounds(block);
        while next < end {
            let batches = match self.read_block(topic, block, next, READ_BYTES) {
                Err(ReadError::Damaged(_)) => return Ok(Some(next)),
                Err(ReadError::Trimmed { first, .. }) => {
                    next = first;
                    continue;
                }
                Err(ReadError::BeyondEnd { .. }) => return Ok(None),
                batches => batches?,
            };
            let Some(last) = batches.last() else {
                return Ok(None);
            };
            next = checked_header(last)?.next_offset();
        }
        Ok(None)
    }

    /// A digest of the committed batches that hold offsets of a block. Every batch is read and checked; the digest is of
    /// their headers, whose checksums cover the rest.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] where a batch is missing or cannot be read, [`ReadError::Trimmed`] where the block does not
    /// begin in what remains, [`ReadError::BeyondEnd`] where it is not full here, [`ReadError::TopicDeleted`].
    pub fn topic_block_digest(
        &self,
        topic: TopicKey,
        block: u64,
    ) -> Result<BlockDigest, ReadError> {
        let (from, end) = bounds(block);
        let mut hasher = blake3::Hasher::new();
        let (mut next, mut bytes) = (from, 0);
        while next < end {
            let batches = self.read_block(topic, block, next, READ_BYTES)?;
            if batches.is_empty() {
                return Err(ReadError::BeyondEnd { from: end, next });
            }
            for batch in batches {
                hasher.update(batch.get(..BATCH_HEADER_BYTES).unwrap_or_default());
                bytes += batch.len() as u64;
                next = checked_header(&batch)?.next_offset();
            }
        }
        Ok(BlockDigest {
            digest: hasher.finalize().into(),
            bytes,
        })
    }

    /// Whole committed batches, verbatim, that hold offsets of a block, from the one that contains `from` until `max_bytes`
    /// are reached; at least one if there is any, none where `from` is behind the block.
    ///
    /// # Errors
    /// As for [`Engine::read`]: what is damaged is no source of a repair.
    pub fn read_block(
        &self,
        topic: TopicKey,
        block: u64,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let (begin, end) = bounds(block);
        if from >= end {
            return Ok(Vec::new());
        }
        let mut batches = self.read(topic, from.max(begin), max_bytes)?;
        batches.retain(|batch| {
            BatchHeader::decode(batch).is_ok_and(|header| header.leader.base_offset < end)
        });
        Ok(batches)
    }

    /// Queues that batches of another replica's block are written where they are missing here or cannot be read; `done` is
    /// called on the writer's thread when that is durable, and must not block. They must follow each other, pass their
    /// checksums, be committed here, and fit what stands beside them.
    ///
    /// # Errors
    /// `done` is told; see [`HealError`]: nothing was written then.
    pub fn submit_heal_block(
        &self,
        topic: TopicKey,
        batches: Vec<Bytes>,
        done: impl FnOnce(Result<Healed, HealError>) + Send + 'static,
    ) {
        match self.checked_batches(topic, batches) {
            Ok(batches) => {
                let op = HealOp { topic, batches };
                let bytes = op.bytes() + OP_BYTES;
                self.queue()
                    .push(Op::HealBlock(Box::new(op), Box::new(done)), bytes);
            }
            Err(error) => done(Err(error)),
        }
    }

    /// As [`Engine::submit_heal_block`], and waits.
    ///
    /// # Errors
    /// As there.
    pub fn heal_block(&self, topic: TopicKey, batches: Vec<Bytes>) -> Result<Healed, HealError> {
        let (sender, receiver) = sync_channel(1);
        self.submit_heal_block(topic, batches, move |result| {
            let _ = sender.send(result);
        });
        Answer::of(receiver).wait()
    }

    fn checked_batches(
        &self,
        topic: TopicKey,
        batches: Vec<Bytes>,
    ) -> Result<Vec<(BatchHeader, Bytes)>, HealError> {
        let mut checked: Vec<(BatchHeader, Bytes)> = Vec::with_capacity(batches.len());
        for batch in batches {
            let header =
                verify_stored(&batch).map_err(|error| HealError::Invalid(error.to_string()))?;
            if let Some((before, _)) = checked.last()
                && (before.next_offset(), before.next_position())
                    != (header.leader.base_offset, header.leader.base_position)
            {
                return Err(HealError::Invalid(format!(
                    "the batch at offset {} does not follow the one at {}",
                    header.leader.base_offset, before.leader.base_offset
                )));
            }
            checked.push((header, batch));
        }
        if let Some((last, _)) = checked.last() {
            self.check_committed(topic, last)?;
        }
        Ok(checked)
    }

    /// Only what is committed here is healed: it changes no more, and only a trim takes it away.
    fn check_committed(&self, topic: TopicKey, last: &BatchHeader) -> Result<(), HealError> {
        let next = last.next_offset();
        let end = self.committed(topic, |end| Ok(end(topic.id)))?;
        let is_committed = match end {
            Some(end) => next <= end.next,
            // All that is stored is committed. What ends the log may be what is missing: then the journal knows it.
            None => self.is_followed(topic, next) || self.is_in_journal(topic, last)?,
        };
        if is_committed {
            Ok(())
        } else {
            Err(HealError::NotCommitted {
                offset: last.last_offset(),
            })
        }
    }

    /// Whether anything is stored at or behind `offset`, readable or not.
    fn is_followed(&self, topic: TopicKey, offset: Offset) -> bool {
        let prefix = keys::topic_prefix(topic);
        let mut iterator = self.store().iterate(family::LOG, &prefix);
        // The last row of the batch itself ends at `offset - 1`.
        iterator.seek(keys::log_key(topic, offset.saturating_sub(1)));
        iterator.valid() || iterator.status().is_err()
    }

    fn is_in_journal(&self, topic: TopicKey, batch: &BatchHeader) -> Result<bool, HealError> {
        let partition = topic.partition;
        let Some(replica) = self
            .replica(partition)
            .ok()
            .filter(|held| held.commit.0 > 0)
        else {
            return Ok(false);
        };
        let mut found = false;
        entries_from(self.store(), partition, Index(0), |index, entry| {
            if let Command::Append {
                topic: id,
                first,
                last,
                position,
                time_ms,
                ..
            } = entry.command
            {
                let theirs = (
                    batch.leader.base_offset,
                    batch.last_offset(),
                    batch.next_position(),
                    batch.leader.append_time_ms,
                );
                found |= id == topic.id
                    && index <= replica.commit
                    && (first, last, position, time_ms) == theirs;
            }
            !found
        })?;
        Ok(found)
    }
}

/// The header of a batch that has passed its checks.
fn checked_header(batch: &[u8]) -> Result<BatchHeader, ReadError> {
    BatchHeader::decode(batch).map_err(|error| undecodable("a batch that was checked", &error))
}

/// The first offset of a block, and the first behind it.
fn bounds(block: u64) -> (Offset, Offset) {
    let from = block.saturating_mul(BLOCK_OFFSETS);
    (from, from.saturating_add(BLOCK_OFFSETS))
}
