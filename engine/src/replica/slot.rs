//! What memory holds of each partition that is in use: its journal as it was submitted, and what is durable of it.
//!
//! Everything is decided when it is submitted, under the partition's lock and in the order of the calls; the writer only
//! carries it out, in the same order. The lock is never held while anything is written or waited for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicId};
use mesh_ring::replica::Position;

use super::load;
use super::record::{RECORD_BYTES, Record};
use super::visible::{End, Visible};
use crate::error::ReadError;
use crate::store::Store;

/// Entries that may be committed without the stored record saying so.
const UNRECORDED_ENTRIES_MAX: u64 = 256;

/// Bytes of batches that may be written without the record: a start reads them.
const UNRECORDED_BYTES_MAX: usize = 1 << 20;

/// Every partition of the store. One that was never used costs nothing.
pub(crate) struct Slots {
    slots: Box<[Mutex<Slot>]>,
}

#[derive(Default)]
pub(crate) struct Slot {
    journal: Option<Box<Journal>>,
    /// Ops of the partition in the bulk lane: none may overtake them.
    pub(crate) bulk: u32,
    /// Nobody else has a copy: what is found durable is committed.
    alone: bool,
    /// The generation of what readers are shown, of a journal that is read anew.
    generation: u64,
}

/// A partition's journal.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) record: Record,
    /// Where each epoch begins; the first may begin before the first entry that is kept.
    pub(crate) epochs: Vec<(Epoch, Index)>,
    /// The last entry that was submitted.
    pub(crate) last: Position,
    /// The last entry that is durable.
    pub(crate) durable: Index,
    /// How far the stored record says that the journal is committed.
    pub(crate) recorded: Index,
    /// Bytes of batches that were submitted since.
    pub(crate) unrecorded_bytes: usize,
    /// The last entry that is known to be committed and is applied: what readers are shown.
    pub(crate) shown: Index,
    /// Commits on their way through the writer: later ones come after them.
    pub(crate) commits: u32,
    /// Removals so far.
    pub(crate) removals: u64,
    pub(crate) visible: Visible,
}

/// A removal of entries from the end of a journal.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) number: u64,
    pub(crate) from: Index,
    pub(crate) last: Index,
    /// Keys of their batches in the log.
    pub(crate) log: Vec<[u8; 18]>,
    /// Epochs that are gone with them.
    pub(crate) epochs: Vec<Epoch>,
}

impl Slots {
    pub(crate) fn new(partitions: u16) -> Slots {
        Slots {
            slots: (0..partitions).map(|_| Mutex::default()).collect(),
        }
    }

    /// From now on what is found durable is committed.
    pub(crate) fn be_alone(&self) {
        for slot in &self.slots {
            slot.lock().unwrap_or_else(PoisonError::into_inner).alone = true;
        }
    }

    pub(crate) fn lock(&self, partition: PartitionId) -> Option<MutexGuard<'_, Slot>> {
        // Every path leaves the slot whole.
        let slot = self.slots.get(usize::from(partition.0))?;
        Some(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `each` with every partition in use.
    pub(crate) fn for_each(&self, mut each: impl FnMut(PartitionId, &mut Journal)) {
        for (number, slot) in (0..).zip(&self.slots) {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(journal) = &mut slot.journal {
                each(PartitionId(number), journal);
            }
        }
    }

    /// Calls `read` with a function that tells where a topic's committed part ends, until no removal came between.
    ///
    /// What `read` takes from the store, it must take before it asks.
    pub(crate) fn committed<T>(
        &self,
        store: &Store,
        partition: PartitionId,
        read: impl Fn(&dyn Fn(TopicId) -> Option<End>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let generation = || match self.lock(partition) {
            None => Err(ReadError::TopicDeleted),
            Some(mut slot) => {
                let journal = slot.journal(store, partition)?;
                if journal.record.incomplete {
                    return Err(ReadError::Incomplete);
                }
                Ok(journal.visible.generation)
            }
        };
        let end = |topic| {
            let slot = self.lock(partition)?;
            slot.journal.as_ref()?.visible.end(topic)
        };
        let mut before = generation()?;
        loop {
            let result = read(&end);
            let after = generation()?;
            if after == before {
                return result;
            }
            before = after;
        }
    }
}

impl Slot {
    /// The journal, read from the store where this is its first use.
    pub(crate) fn journal(
        &mut self,
        store: &Store,
        partition: PartitionId,
    ) -> Result<&mut Journal, ReadError> {
        let journal = match self.journal.take() {
            Some(journal) => journal,
            None => {
                let mut journal = Box::new(load::journal(store, partition, self.alone)?);
                journal.visible.generation = self.generation;
                journal
            }
        };
        Ok(self.journal.insert(journal))
    }

    /// The journal, if the partition is in use.
    pub(crate) fn loaded(&mut self) -> Option<&mut Journal> {
        self.journal.as_deref_mut()
    }

    /// Puts another journal in place: the partition's rows are being replaced.
    pub(crate) fn replace(&mut self, mut journal: Journal) {
        self.unload();
        journal.visible.generation = self.generation;
        self.journal = Some(Box::new(journal));
    }

    /// The next use reads the journal anew.
    pub(crate) fn unload(&mut self) {
        let before = self.journal.take();
        let generation = before.map_or(self.generation, |journal| journal.visible.generation);
        self.generation = generation + 1;
    }
}

impl Journal {
    pub(crate) fn new(
        record: Record,
        epochs: Vec<(Epoch, Index)>,
        last: Position,
        visible: Visible,
    ) -> Journal {
        Journal {
            record,
            epochs,
            last,
            durable: last.index,
            recorded: record.commit,
            unrecorded_bytes: 0,
            shown: record.commit,
            commits: 0,
            removals: 0,
            visible,
        }
    }

    /// Where each epoch begins among the entries that are kept.
    pub(crate) fn kept_epochs(&self) -> Vec<(Epoch, Index)> {
        let first = self.record.first;
        self.epochs
            .iter()
            .map(|(epoch, begin)| (*epoch, (*begin).max(first)))
            .collect()
    }

    /// The epoch of the entry at `index`, which is kept or just before those that are.
    pub(crate) fn epoch_at(&self, index: Index) -> Epoch {
        let after = self.epochs.partition_point(|(_, begin)| *begin <= index);
        match after.checked_sub(1).and_then(|at| self.epochs.get(at)) {
            Some((epoch, _)) => *epoch,
            None => self.record.before,
        }
    }

    /// Takes back the entries at and after `from`.
    pub(crate) fn remove(&mut self, partition: PartitionId, from: Index) -> Option<Removal> {
        assert!(
            from > self.record.commit,
            "entry {from} of partition {partition} is committed and stays; {} are",
            self.record.commit
        );
        if from > self.last.index {
            return None;
        }
        assert!(
            from >= self.record.first,
            "entry {from} was let go of before"
        );
        self.removals += 1;
        let kept = self.epochs.partition_point(|(_, begin)| *begin < from);
        let epochs = self.epochs.split_off(kept);
        let removal = Removal {
            number: self.removals,
            from,
            last: self.last.index,
            log: self.visible.remove(partition, from, self.removals),
            epochs: epochs.into_iter().map(|(epoch, _)| epoch).collect(),
        };
        let index = Index(from.0 - 1);
        self.last = Position {
            epoch: self.epoch_at(index),
            index,
        };
        self.durable = self.durable.min(index);
        Some(removal)
    }

    /// Notes the next entry. Returns whether its epoch begins with it.
    pub(crate) fn push(&mut self, partition: PartitionId, index: Index, epoch: Epoch) -> bool {
        assert_eq!(
            index,
            self.last.index.next(),
            "entries of partition {partition} come in order"
        );
        assert!(
            epoch >= self.last.epoch,
            "entry {index} of partition {partition} is of epoch {epoch}, behind one of {}",
            self.last.epoch
        );
        let begins = epoch > self.last.epoch || self.epochs.is_empty();
        self.last = Position { epoch, index };
        if begins {
            self.epochs.push((epoch, index));
        }
        begins
    }

    /// Notes that the entries up to `upto` are committed. Returns what they change beside the log.
    pub(crate) fn commit(&mut self, partition: PartitionId, upto: Index) -> Vec<(Index, Command)> {
        assert!(
            upto <= self.last.index,
            "entry {upto} of partition {partition} cannot be committed, the last is {}",
            self.last.index
        );
        self.record.commit = self.record.commit.max(upto);
        self.visible.take_changes(upto)
    }

    /// The record, to be written with what changes: always if more than how far the journal is committed has changed
    /// (`must`), and every so often otherwise.
    pub(crate) fn record_to_write(&mut self, must: bool) -> Option<[u8; RECORD_BYTES]> {
        let is_recent = self.record.commit.0 - self.recorded.0 < UNRECORDED_ENTRIES_MAX
            && self.unrecorded_bytes < UNRECORDED_BYTES_MAX;
        if !must && is_recent {
            return None;
        }
        self.recorded = self.record.commit;
        self.unrecorded_bytes = 0;
        Some(self.record.encode())
    }

    /// Shows the entries up to `upto`, with each topic and its next offset then.
    pub(crate) fn release(&mut self, upto: Index, shown: impl FnMut(TopicId, Offset)) {
        self.shown = self.shown.max(upto);
        self.visible.release(upto, shown);
    }
}
