//! Staging what replaces the rows of a whole partition: removal, and a copy that comes in.

use mesh_ring::binding::Binding;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{Offset, PartitionId, TopicKey};

use super::group::Group;
use crate::error::ReadError;
use crate::keys::{self, family, prefix_end};
use crate::read::undecodable;
use crate::reclaim::WHOLE_PARTITION;
use crate::transfer::{ReplaceOp, Replacement, Stale, take_row};

/// Families whose keys begin with the partition: what the journal makes beside the log and the catalogue.
const OF_JOURNALS: [&str; 3] = [family::JOURNAL, family::PRODUCERS, family::CURSORS];

impl Group<'_> {
    /// Returns the latest timestamp of the bindings that came.
    pub(super) fn replace(&mut self, op: ReplaceOp) -> Result<Hlc, ReadError> {
        let partition = op.partition;
        let mut latest = Hlc::default();
        self.complete(op.completion, op.done, ());
        match op.replacement {
            Replacement::OnlyBindings => self.clear_journal(partition),
            Replacement::OnlyLogAndBindings => self.clear_all_but_log(partition),
            Replacement::Nothing => {
                self.clear_journal(partition);
                self.wipe_bindings(partition);
            }
            Replacement::Rows { rows, stale } => {
                self.clear_stale(stale);
                let mut rows = &rows[..];
                while !rows.is_empty() {
                    let row = take_row(&mut rows)
                        .map_err(|error| undecodable("a chunk that was checked", &error))?;
                    match row.family {
                        // What was acknowledged here may be in no other copy.
                        family::BINDINGS => {
                            let theirs = Binding::decode(row.value)
                                .map_err(|error| undecodable("a binding of a copy", &error))?;
                            let key = row.key.get(2..).unwrap_or_default();
                            latest = latest.max(self.merge_row(partition, key, &theirs)?);
                        }
                        name => self.put(name, row.key, row.value),
                    }
                }
            }
            Replacement::Whole { epochs, stale } => {
                self.clear_stale(stale);
                for (epoch, index) in epochs {
                    let key = keys::epoch_key(partition, epoch);
                    self.put(family::REPLICAS, key, index.0.to_be_bytes());
                }
            }
        }
        let progress = keys::import_key(partition);
        match op.progress {
            Some(value) => self.put(family::REPLICAS, progress, value),
            None => self.delete(family::REPLICAS, progress),
        }
        self.put_record(partition, op.record);
        Ok(latest)
    }

    fn clear_families(&mut self, partition: PartitionId, families: &[&str]) {
        let (prefix, end) = bounds(partition);
        for name in families {
            self.delete_range(name, &prefix, &end);
        }
    }

    /// Removes the partition's journal and everything that it made.
    fn clear_journal(&mut self, partition: PartitionId) {
        self.clear_all_but_log(partition);
        self.clear_families(partition, &[family::LOG]);
        let all = TopicKey {
            partition,
            id: WHOLE_PARTITION,
        };
        self.note_garbage(all, Offset::MAX);
        self.deleted.insert(all);
    }

    /// The same, without the log. What takes disk space of records that are gone stays noted.
    fn clear_all_but_log(&mut self, partition: PartitionId) {
        self.settle_log();
        self.clear_families(partition, &OF_JOURNALS);
        let (prefix, _) = bounds(partition);
        let garbage = keys::garbage_prefix(partition);
        self.delete_range(family::TOPICS, &prefix, &garbage);
        let epochs = keys::epoch_prefix(partition);
        if let Some(end) = prefix_end(&epochs) {
            self.delete_range(family::REPLICAS, &epochs, &end);
        }
    }

    /// Removes log rows of records that were trimmed or deleted where the copy comes from.
    fn clear_stale(&mut self, stale: Vec<Stale>) {
        if !stale.is_empty() {
            self.settle_log();
        }
        for (topic, before) in stale {
            let from = keys::topic_prefix(topic);
            if before == Offset::MAX {
                let end = prefix_end(&from).unwrap_or_default();
                self.delete_range(family::LOG, &from, &end);
                self.deleted.insert(topic);
            } else {
                self.delete_range(family::LOG, &from, &keys::log_key(topic, before));
                self.trimmed.push((topic, before, 0));
            }
            self.note_garbage(topic, before);
        }
    }

    fn note_garbage(&mut self, topic: TopicKey, before: Offset) {
        let garbage = keys::garbage_key(topic);
        self.put(family::TOPICS, garbage, before.to_be_bytes());
    }
}

/// The first key of a partition in a family, and one behind the last.
fn bounds(partition: PartitionId) -> ([u8; 2], Vec<u8>) {
    let prefix = partition.0.to_be_bytes();
    // No cluster has so many partitions that the last prefix were in use.
    let end = prefix_end(&prefix).unwrap_or_else(|| vec![u8::MAX; 3]);
    (prefix, end)
}
