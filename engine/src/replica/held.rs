//! What a node has of a partition, before it takes part in it.

use mesh_ring::ids::{Index, PartitionId};
use mesh_ring::replica::Position;

use crate::engine::Engine;
use crate::error::ReadError;

/// What this node has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No entry was ever written, or all were dropped. It may have promised something.
    Nothing,
    /// A copy has begun to come in and is not whole: it can answer for nothing.
    Arriving,
    /// A journal.
    Journal,
}

impl Engine {
    /// What this node has of a partition, also after a crash in the middle of an import or a drop.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn held(&self, partition: PartitionId) -> Result<Held, ReadError> {
        self.with_journal(partition, |journal| match journal.last {
            _ if journal.record.incomplete => Held::Arriving,
            Position::ZERO => Held::Nothing,
            _ => Held::Journal,
        })
    }

    /// The entry at `index` of the partition's journal; `None` where it is not there, or no longer.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn position_at(
        &self,
        partition: PartitionId,
        index: Index,
    ) -> Result<Option<Position>, ReadError> {
        self.with_journal(partition, |journal| {
            let known = index.next() >= journal.record.first && index <= journal.last.index;
            let epoch = || journal.epoch_at(index);
            (known && index > Index(0)).then(|| Position {
                epoch: epoch(),
                index,
            })
        })
    }
}
