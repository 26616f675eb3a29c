//! Staging what replaces the rows of a whole partition: removal, and a copy that comes in.

use mesh_ring::ids::{Offset, PartitionId, TopicKey};

use super::group::Group;
use crate::error::ReadError;
use crate::keys::{self, family, prefix_end};
use crate::read::undecodable;
use crate::reclaim::WHOLE_PARTITION;
use crate::transfer::{ReplaceOp, Replacement, take_row};

/// Families whose keys begin with the partition.
const OF_PARTITIONS: [&str; 7] = [
    family::LOG,
    family::JOURNAL,
    family::TOPICS,
    family::PRODUCERS,
    family::CURSORS,
    family::BINDINGS,
    family::MERKLE,
];

impl Group<'_> {
    pub(super) fn replace(&mut self, op: ReplaceOp) -> Result<(), ReadError> {
        let partition = op.partition;
        self.complete(op.completion, op.done, ());
        match op.replacement {
            Replacement::Nothing => self.clear(partition),
            Replacement::Rows { rows, expiry } => {
                let mut rows = &rows[..];
                while !rows.is_empty() {
                    let row = take_row(&mut rows)
                        .map_err(|error| undecodable("a chunk that was checked", &error))?;
                    self.put(row.family, row.key, row.value);
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
        Ok(())
    }

    /// Removes every row of the partition. Due times of its bindings stay: whoever looks finds nothing.
    fn clear(&mut self, partition: PartitionId) {
        self.settle_log();
        let prefix = partition.0.to_be_bytes();
        // No cluster has so many partitions that the last prefix were in use.
        let end = prefix_end(&prefix).unwrap_or_else(|| vec![u8::MAX; 3]);
        for name in OF_PARTITIONS {
            self.delete_range(name, &prefix, &end);
        }
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
        self.bindings.retain(|(of, _), _| *of != partition);
        self.leaves.retain(|(of, _), _| *of != partition);
    }
}
