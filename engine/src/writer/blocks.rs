//! Staging batches of another replica where this one's cannot be read.

use bytes::Bytes;
use mesh_ring::ids::{Offset, TopicKey};
use rocksdb::DBRawIterator;

use super::group::Group;
use crate::batch::BatchHeader;
use crate::blocks::{HealOp, Healed};
use crate::error::{HealError, ReadError};
use crate::keys::{self, family};
use crate::read;

impl Group<'_> {
    /// Writes what is missing or cannot be read, all or nothing.
    pub(super) fn heal_block(&mut self, op: &HealOp) -> Result<Healed, HealError> {
        if let Err(shortage) = &self.space {
            return Err(HealError::DiskFull {
                free: shortage.free,
                reserve: shortage.reserve,
            });
        }
        let extent = match self.extents.get(&op.topic) {
            Some(extent) => Some(*extent),
            None if self.deleted.contains(&op.topic) => None,
            None => read::load_extent(self.store, op.topic)?,
        };
        let first = extent.ok_or(ReadError::TopicDeleted)?.first;
        let mut healed = Healed::default();
        let mut lost = Vec::new();
        for (header, batch) in &op.batches {
            if header.next_offset() <= first {
                healed.trimmed += 1;
            } else if self.is_lost(op.topic, header, batch)? {
                lost.push((keys::log_key(op.topic, header.last_offset()), batch.clone()));
            } else {
                healed.present += 1;
            }
        }
        healed.written = lost.len() as u64;
        for (key, batch) in lost {
            self.put_log(key, batch);
        }
        Ok(healed)
    }

    /// Whether the batch is missing here or cannot be read; a valid one that is another is never written over.
    fn is_lost(
        &self,
        topic: TopicKey,
        header: &BatchHeader,
        batch: &Bytes,
    ) -> Result<bool, HealError> {
        let key = keys::log_key(topic, header.last_offset());
        match self.store.get(family::LOG, &key) {
            Ok(Some(ours)) if ours[..] == batch[..] => return Ok(false),
            Ok(Some(ours)) => {
                if let Ok(held) = read::checked(self.store, topic, &key, &ours) {
                    return Err(conflict(topic, (&held, &ours), (header, batch)));
                }
            }
            Ok(None) | Err(ReadError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.check_neighbours(topic, header, batch)?;
        Ok(true)
    }

    /// What can be read beside the batch must end where it begins, and begin where it ends.
    fn check_neighbours(
        &self,
        topic: TopicKey,
        header: &BatchHeader,
        batch: &Bytes,
    ) -> Result<(), HealError> {
        let (base, next) = (header.leader.base_offset, header.next_offset());
        let mut iterator = self.store.iterate(family::LOG, &keys::topic_prefix(topic));
        if let Some(before) = base.checked_sub(1) {
            iterator.seek_for_prev(keys::log_key(topic, before));
            if let Some(before) = self.readable(topic, &iterator)
                && before.next_offset() == base
                && before.next_position() != header.leader.base_position
            {
                return Err(misplaced(header, before.last_offset()));
            }
        }
        // The first that ends at or behind its beginning: itself, where it is there and damaged, or one that overlaps it.
        iterator.seek(keys::log_key(topic, base));
        if let Some(after) = self.readable(topic, &iterator)
            && after.leader.base_offset < next
            && after.last_offset() != header.last_offset()
        {
            let ours = iterator.value().unwrap_or_default();
            return Err(conflict(topic, (&after, ours), (header, batch)));
        }
        iterator.seek(keys::log_key(topic, next));
        if let Some(after) = self.readable(topic, &iterator) {
            if after.leader.base_offset < next {
                let ours = iterator.value().unwrap_or_default();
                return Err(conflict(topic, (&after, ours), (header, batch)));
            }
            if after.leader.base_offset == next
                && after.leader.base_position != header.next_position()
            {
                return Err(misplaced(header, after.leader.base_offset));
            }
        }
        Ok(())
    }

    fn readable(&self, topic: TopicKey, iterator: &DBRawIterator<'_>) -> Option<BatchHeader> {
        let (key, batch) = iterator.item()?;
        read::checked(self.store, topic, key, batch).ok()
    }
}

fn conflict(
    topic: TopicKey,
    ours: (&BatchHeader, &[u8]),
    theirs: (&BatchHeader, &[u8]),
) -> HealError {
    HealError::Conflict {
        topic,
        ours: in_words(ours),
        theirs: in_words(theirs),
    }
}

fn in_words((header, batch): (&BatchHeader, &[u8])) -> String {
    // Two that differ in nothing but what producers wrote are told apart by it.
    let hash = blake3::hash(batch).to_hex();
    format!(
        "offsets {} to {} of epoch {}, appended at {}, {} bytes, hash {}",
        header.leader.base_offset,
        header.last_offset(),
        header.leader.epoch,
        header.leader.append_time_ms,
        header.batch_bytes(),
        &hash[..16]
    )
}

fn misplaced(header: &BatchHeader, beside: Offset) -> HealError {
    HealError::Invalid(format!(
        "the batch at offset {} does not fit the one at {beside} by its byte position",
        header.leader.base_offset
    ))
}
