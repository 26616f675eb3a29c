//! The journal of a partition as one of its replicas keeps it: the doors through which a driver of the replication
//! protocol (`mesh_ring::replica`) makes its effects durable, and reads back what it needs.
//!
//! The engine decides nothing. Entries are stored, shown to readers when they are committed, and applied to the
//! catalogue then, in one batch with how far they are applied. The calls for one partition take effect in the order in
//! which they were made: one caller at a time a partition.
//!
//! `slot` what memory holds of a partition, `record` and `load` what is stored of it, `visible` what readers are not
//! shown, `persist` and `commit` the changing doors, `entries`, `held` and `source` the reading
//! ones.

mod commit;
mod entries;
mod held;
mod load;
mod persist;
mod record;
mod slot;
mod source;
#[cfg(test)]
mod tests;
mod visible;

use bytes::Bytes;
use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, PartitionId};
use mesh_ring::ledger::Checkpointed;
use mesh_ring::replica::Durable;

use crate::engine::Engine;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::undecodable;

pub(crate) use commit::{CheckpointOp, CommitOp};
pub use held::Held;
pub(crate) use load::{entries as entries_from, first_and_last, record as load_record};
pub(crate) use persist::PersistOp;
pub(crate) use record::{RECORD_BYTES, Record, decode_checkpoint, encode_checkpoint};
pub(crate) use slot::{Journal, Removal, Slots};
pub use source::PartitionSource;
pub(crate) use visible::{End, Visible};

/// Entries that a partition's journal keeps at least, and twice of which it keeps at most, once they are checkpointed.
pub const JOURNAL_ENTRIES_KEPT: u64 = 16_384;

/// Most bytes of one partition's journal.
pub const JOURNAL_BYTES_MAX: u64 =
    2 * JOURNAL_ENTRIES_KEPT * crate::journal::ENTRY_BYTES_MAX as u64;

/// One entry of a partition's journal, with what it points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number in the journal.
    pub index: Index,
    /// The epoch of the leader that wrote it.
    pub epoch: Epoch,
    /// What it does.
    pub command: Command,
    /// Of an append: the stamped record batch. `None` where it was trimmed away at the sender, and for all others.
    pub batch: Option<Bytes>,
}

/// What is to be made durable of a replica, all or nothing.
#[derive(Debug, Clone)]
pub struct Persist {
    /// Of which partition.
    pub partition: PartitionId,
    /// A higher epoch that is promised.
    pub promise: Option<Epoch>,
    /// Whether the replica is suspect from now on.
    pub suspect: Option<bool>,
    /// Entries at and after this go, with their batches, before `entries` come.
    pub truncate: Option<Index>,
    /// The next entries, in order.
    pub entries: Vec<JournalEntry>,
}

impl Persist {
    /// Nothing but these entries.
    pub fn entries(partition: PartitionId, entries: Vec<JournalEntry>) -> Persist {
        Persist {
            partition,
            promise: None,
            suspect: None,
            truncate: None,
            entries,
        }
    }
}

impl Engine {
    /// What is durable of this node's replica of a partition. To be asked before anything is submitted for it: later it
    /// includes what is on its way.
    ///
    /// # Errors
    /// [`ReadError::Incomplete`] while a copy of the partition comes in, or its journal cannot be read.
    pub fn replica(&self, partition: PartitionId) -> Result<Durable, ReadError> {
        self.with_journal(partition, |journal| {
            if journal.record.incomplete {
                return Err(ReadError::Incomplete);
            }
            Ok(Durable {
                boot: self.boot(),
                promised: journal.record.promised,
                suspect: journal.record.suspect,
                first: journal.record.first,
                before: mesh_ring::replica::Position {
                    epoch: journal.record.before,
                    index: Index(journal.record.first.0 - 1),
                },
                last: journal.last,
                epochs: journal.kept_epochs(),
                commit: journal.record.commit,
            })
        })?
    }

    /// The last checkpoint of the partition's producer windows: what [`mesh_ring::ledger::Ledger::new`] begins with.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn checkpointed(&self, partition: PartitionId) -> Result<Checkpointed, ReadError> {
        match self
            .store()
            .get(family::TOPICS, &keys::checkpoint_key(partition))?
        {
            None => Ok(Checkpointed::default()),
            Some(value) => {
                decode_checkpoint(&value).map_err(|error| undecodable("a checkpoint", &error))
            }
        }
    }

    /// What is stored of a partition, for the ledger to decide by. It shows batches that are not committed.
    pub fn source(&self, partition: PartitionId) -> PartitionSource<'_> {
        PartitionSource::new(self.store(), partition)
    }

    /// Calls `with` under the partition's lock.
    pub(crate) fn with_journal<T>(
        &self,
        partition: PartitionId,
        with: impl FnOnce(&mut Journal) -> T,
    ) -> Result<T, ReadError> {
        let mut slot = self
            .slots()
            .lock(partition)
            .ok_or_else(|| ReadError::Store(format!("there is no partition {partition}")))?;
        Ok(with(slot.journal(self.store(), partition)?))
    }
}
