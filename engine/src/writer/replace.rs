//! Staging what replaces the rows of a whole partition: removal, and a copy that comes in.

use mesh_ring::binding::Binding;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{Offset, PartitionId, TopicKey};

use super::group::Group;
use crate::error::ReadError;
use crate::keys::{self, family, prefix_end};
use crate::read::undecodable;
use crate::reclaim::WHOLE_PARTITION;
use crate::transfer::{ReplaceOp, Replacement, take_row};

/// Families whose keys begin with the partition: what the journal makes, and the bindings.
const OF_JOURNALS: [&str; 5] = [
    family::LOG,
    family::JOURNAL,
    family::TOPICS,
    family::PRODUCERS,
    family::CURSORS,
];
const OF_BINDINGS: [&str; 2] = [family::BINDINGS, family::MERKLE];

impl Group<'_> {
    /// Returns the latest timestamp of the bindings that came.
    pub(super) fn replace(&mut self, op: ReplaceOp) -> Result<Hlc, ReadError> {
        let partition = op.partition;
        let mut latest = Hlc::default();
        self.complete(op.completion, op.done, ());
        match op.replacement {
            Replacement::OnlyBindings => self.clear_journal(partition),
            Replacement::Nothing => {
                self.clear_journal(partition);
                self.clear_bindings(partition);
            }
            Replacement::Rows { rows, expiry } => {
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
                        // The leaves are those of the bindings as they are here.
                        family::MERKLE => {}
                        name => self.put(name, row.key, row.value),
                    }
                }
                for key in expiry {
                    self.put(family::EXPIRY, key, []);
                }
            }
            Replacement::Whole { epochs } => {
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

    /// Removes the bindings of the partition. Their due times stay: whoever looks finds nothing.
    fn clear_bindings(&mut self, partition: PartitionId) {
        self.clear_families(partition, &OF_BINDINGS);
        self.bindings.retain(|(of, _), _| *of != partition);
        self.leaves.retain(|(of, _), _| *of != partition);
    }

    fn clear_families(&mut self, partition: PartitionId, families: &[&str]) {
        let prefix = partition.0.to_be_bytes();
        // No cluster has so many partitions that the last prefix were in use.
        let end = prefix_end(&prefix).unwrap_or_else(|| vec![u8::MAX; 3]);
        for name in families {
            self.delete_range(name, &prefix, &end);
        }
    }

    /// Removes the partition's journal and everything that it made.
    fn clear_journal(&mut self, partition: PartitionId) {
        self.settle_log();
        self.clear_families(partition, &OF_JOURNALS);
        let epochs = keys::epoch_prefix(partition);
        if let Some(end) = prefix_end(&epochs) {
            self.delete_range(family::REPLICAS, &epochs, &end);
        }
        let all = TopicKey {
            partition,
            id: WHOLE_PARTITION,
        };
        let garbage = keys::garbage_key(all);
        self.put(family::TOPICS, garbage, Offset::MAX.to_be_bytes());
        self.deleted.insert(all);
    }
}
