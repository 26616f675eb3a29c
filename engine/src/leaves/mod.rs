//! The Merkle leaves, and the index of the keys under them, without a row to search a place for with every write.
//!
//! All sums of a partition that is in use lie in memory. What a group changes of sums and keys is one row of the batch that
//! has its bindings ("row of changes", numbered): after a crash, leaves and bindings agree. Pages of sums and rows
//! of the index are brought up to memory one partition at a time, that which waits longest first, as the rows of changes
//! grow ("fold"): what is written so is half of the changes themselves. Rows of changes that every partition has
//! folded are removed; the others are read again when the store is opened after a crash. A clean stop folds all.
//! Where they cannot be read, or the log was cut where families were ahead of it, all is made anew from the bindings.
//!
//! Readers see what is durable: sums are shown after the write, not when they are staged.

mod changes;
mod digests;
mod partition;
mod rebuild;
mod replay;
mod row;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum};
use rocksdb::WriteBatch;

use crate::error::ReadError;
use crate::keys::{self, family};
use crate::store::Store;
use changes::At;
pub(crate) use changes::Changes;
pub(crate) use digests::Digests;
use partition::{Partition, Sums, in_order};
pub(crate) use partition::{leaves_of, page_of};
use row::Entry;
pub(crate) use row::{decode_page, entries};

/// Partitions whose sums are kept in memory, at most, at 128 KiB each. Beyond it those are forgotten that their pages
/// are up to, and read again when they are needed.
const PARTITIONS_KEPT_MAX: usize = 1_024;

/// Bytes of keys that the index has not taken in, of all partitions together.
const KEYS_BYTES_MAX: usize = 8 << 20;

/// What a fold counts beside its pages, in bytes: a leaf that changes all the time is not folded all the time.
const FOLD_BYTES: u64 = 4 << 10;

/// Bytes of changes for each byte of pages that a fold may write. With 64 partitions in use, rows of changes come to at most
/// 16 MiB so.
const CHANGES_A_FOLD: u64 = 2;

/// What a row of changes counts beside its entries, in bytes: where groups are small, rows are not too many either.
const ROW_BYTES: u64 = 256;

/// Rows of changes that are removed at once: each removal is a range that reads have to step over.
const ROWS_REMOVED_MIN: u64 = 1_024;

/// The leaves of all partitions.
#[derive(Default)]
pub(crate) struct Leaves {
    /// Held while a group is written and shown: whoever holds it sees bindings, index and leaves of one moment.
    moment: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By number; those that are in memory.
    partitions: Vec<Option<Partition>>,
    kept: usize,
    /// Partitions with something to fold, that which waits longest first, each with the row of changes it waits since.
    waiting: VecDeque<(u64, PartitionId)>,
    /// Bytes of their keys.
    keys_bytes: usize,
    /// The number of the next row of changes.
    next: u64,
    /// Those below are removed.
    removed: u64,
    /// What folds may write by now, in bytes.
    credit: u64,
}

/// What a group made of its changes: to be shown when it is durable.
#[derive(Default)]
pub(crate) struct Settled {
    row: u64,
    wiped: Vec<PartitionId>,
    folded: Vec<PartitionId>,
    sums: Vec<(At, LeafSum)>,
    keys: Vec<u8>,
}

/// What pages and index of a partition lack.
#[derive(Default)]
pub(crate) struct Lacking {
    /// Sums of leaves, those of whole pages.
    pub(crate) sums: Vec<(LeafId, LeafSum)>,
    keys: Vec<u8>,
}

impl Lacking {
    /// Keys that the index lacks, or has too many, and whether they are bound.
    pub(crate) fn keys(&self) -> BTreeMap<(LeafId, &[u8]), bool> {
        let keys = in_order(&self.keys).into_iter();
        keys.map(|(leaf, key, is_bound)| ((leaf, key), is_bound))
            .collect()
    }
}

impl Leaves {
    /// No group is written and shown while the guard lives.
    pub(crate) fn moment(&self) -> MutexGuard<'_, ()> {
        self.moment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sums of all leaves of a partition, as of one moment.
    ///
    /// # Errors
    /// Some cannot be read.
    pub(crate) fn sums(&self, store: &Store, id: PartitionId) -> Result<Box<Sums>, ReadError> {
        let mut state = self.state();
        if state.get(id).is_none() && state.kept >= PARTITIONS_KEPT_MAX {
            // What is not in memory has nothing to fold: its pages are all there is.
            let loaded = Partition::load(store, id)?;
            loaded.check_all(store, id)?;
            return Ok(loaded.sums);
        }
        let partition = state.loaded(store, id)?;
        partition.check_all(store, id)?;
        Ok(partition.sums.clone())
    }

    /// Keys under a leaf that the index does not know of yet, and those that it still has, with whether they are bound.
    /// To be asked before the index is: what is taken in meanwhile is in both.
    pub(crate) fn keys_of(&self, id: PartitionId, leaf: LeafId) -> BTreeMap<Vec<u8>, bool> {
        let state = self.state();
        let partition = state.get(id);
        partition
            .map(|found| found.latest_keys_of(leaf))
            .unwrap_or_default()
    }

    /// What pages and index of a partition lack.
    pub(crate) fn lacking(&self, id: PartitionId) -> Lacking {
        let state = self.state();
        let Some(partition) = state.get(id) else {
            return Lacking::default();
        };
        let leaves = partition.changed.iter().flat_map(leaves_of);
        Lacking {
            sums: leaves.map(|leaf| (leaf, partition.sum(leaf))).collect(),
            keys: partition.keys.clone(),
        }
    }

    /// Makes sure that a leaf's sum is at hand until the group of the caller, the writer, is shown.
    ///
    /// # Errors
    /// The sum cannot be read: all of [`Leaves::beside`] are to be summed anew.
    pub(crate) fn check(
        &self,
        store: &Store,
        id: PartitionId,
        leaf: LeafId,
    ) -> Result<(), ReadError> {
        self.state().loaded(store, id)?.check(store, id, leaf)
    }

    /// The leaves whose sums lie in one row with that of `leaf`, itself included.
    pub(crate) fn beside(leaf: LeafId) -> impl Iterator<Item = LeafId> {
        leaves_of(page_of(leaf))
    }

    /// Stages what a group changed, and as much folding as is due.
    ///
    /// # Errors
    /// What a leaf was cannot be read, which [`Leaves::check`] would have told. Nothing is staged.
    pub(crate) fn settle(
        &self,
        store: &Store,
        mut changes: Changes,
        batch: &mut WriteBatch,
    ) -> Result<Settled, ReadError> {
        if changes.is_empty() {
            return Ok(Settled::default());
        }
        let mut state = self.state();
        // What is wiped need not be known.
        let known = |id: &PartitionId| !changes.wiped.contains(id);
        for id in changes.partitions().filter(known) {
            state.loaded(store, id)?;
        }
        let sums = changes.sums(|(id, leaf)| {
            state
                .get(id)
                .map(|found| found.sum(leaf))
                .unwrap_or_default()
        });
        let mut row = Vec::with_capacity(sums.len() * 37 + changes.keys.len());
        for id in &changes.wiped {
            Entry::Wiped(*id).put(&mut row);
        }
        for ((id, leaf), sum) in &sums {
            Entry::Sum(*id, *leaf, *sum).put(&mut row);
        }
        row.extend_from_slice(&changes.keys);
        let number = state.next;
        state.next += 1;
        state.credit += (row.len() as u64 + ROW_BYTES) / CHANGES_A_FOLD;
        batch.put_cf(
            store.family(family::MERKLE),
            keys::merkle_changes_key(number),
            row,
        );
        // What is wiped must not come back by a fold of what it was.
        let folded = match changes.wiped.is_empty() {
            true => state.fold_due(store, batch),
            false => Vec::new(),
        };
        state.remove_folded(store, batch, number, ROWS_REMOVED_MIN);
        Ok(Settled {
            row: number,
            wiped: changes.wiped.into_iter().collect(),
            folded,
            sums,
            keys: changes.keys,
        })
    }

    /// Shows what a group made of its changes, which is durable.
    pub(crate) fn show(&self, settled: Settled) {
        let mut state = self.state();
        for id in settled.folded {
            state.clear_waiting(id);
        }
        for id in settled.wiped {
            state.clear_waiting(id);
            state.waiting.retain(|(_, waiting)| *waiting != id);
            state.put(id, Partition::empty());
        }
        for ((id, leaf), sum) in settled.sums {
            if let Some(partition) = state.changed(id, settled.row) {
                partition.set(leaf, sum);
            }
        }
        state.add_keys(&settled.keys, settled.row);
        state.forget();
    }

    /// Stages all folding, so that no row of changes is left.
    pub(crate) fn fold_all(&self, store: &Store, batch: &mut WriteBatch) {
        let mut state = self.state();
        while let Some((_, id)) = state.waiting.pop_front() {
            if let Some(partition) = state.get(id) {
                partition.fold(store, id, batch);
            }
            state.clear_waiting(id);
        }
        let next = state.next;
        state.remove_folded(store, batch, next, 1);
    }
}

impl State {
    fn get(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(usize::from(id.0))?.as_ref()
    }

    fn put(&mut self, id: PartitionId, partition: Partition) -> &mut Partition {
        let at = usize::from(id.0);
        if self.partitions.len() <= at {
            self.partitions.resize_with(at + 1, || None);
        }
        self.kept += usize::from(self.partitions[at].is_none());
        self.partitions[at].insert(partition)
    }

    fn loaded(&mut self, store: &Store, id: PartitionId) -> Result<&mut Partition, ReadError> {
        if self.get(id).is_none() {
            let loaded = Partition::load(store, id)?;
            return Ok(self.put(id, loaded));
        }
        Ok(self.partitions[usize::from(id.0)].get_or_insert_with(Partition::empty))
    }

    /// A partition that the row of changes `row` has something of: it was loaded, or wiped, before.
    fn changed(&mut self, id: PartitionId, row: u64) -> Option<&mut Partition> {
        let partition = self.partitions.get_mut(usize::from(id.0))?.as_mut()?;
        if partition.since.is_none() {
            partition.since = Some(row);
            self.waiting.push_back((row, id));
        }
        Some(partition)
    }

    fn add_keys(&mut self, keys: &[u8], row: u64) {
        for (entry, bytes) in entries(keys).flatten() {
            if let Entry::Bound(id, ..) | Entry::Gone(id, ..) = entry
                && let Some(partition) = self.changed(id, row)
            {
                partition.keys.extend_from_slice(bytes);
                self.keys_bytes += bytes.len();
            }
        }
    }

    /// Pages and index are up to the partition.
    fn clear_waiting(&mut self, id: PartitionId) {
        if let Some(Some(partition)) = self.partitions.get_mut(usize::from(id.0)) {
            self.keys_bytes -= partition.keys.len();
            partition.keys.clear();
            partition.changed = partition::PageSet::default();
            partition.since = None;
        }
    }

    /// Folds partitions for what the rows of changes have grown by, and more where memory asks for it.
    fn fold_due(&mut self, store: &Store, batch: &mut WriteBatch) -> Vec<PartitionId> {
        let (mut folded, mut keys_bytes) = (Vec::new(), self.keys_bytes);
        while let Some((_, id)) = self.waiting.front().copied() {
            if let Some(partition) = self.get(id) {
                let bytes = partition.fold_bytes() + FOLD_BYTES;
                let is_due = self.credit >= bytes
                    || keys_bytes > KEYS_BYTES_MAX
                    || self.waiting.len() > PARTITIONS_KEPT_MAX / 2;
                if !is_due {
                    break;
                }
                partition.fold(store, id, batch);
                keys_bytes -= partition.keys.len();
                self.credit = self.credit.saturating_sub(bytes);
                folded.push(id);
            }
            self.waiting.pop_front();
        }
        folded
    }

    /// Stages the removal of rows of changes before `end` that all partitions have folded, if they are at least `least`.
    fn remove_folded(&mut self, store: &Store, batch: &mut WriteBatch, end: u64, least: u64) {
        let floor = self.waiting.front().map_or(end, |(since, _)| *since);
        if floor < self.removed + least {
            return;
        }
        batch.delete_range_cf(
            store.family(family::MERKLE),
            keys::merkle_changes_key(self.removed),
            keys::merkle_changes_key(floor),
        );
        self.removed = floor;
    }

    /// Forgets what can be read again, where too much is in memory.
    fn forget(&mut self) {
        if self.kept <= PARTITIONS_KEPT_MAX {
            return;
        }
        for slot in &mut self.partitions {
            if slot
                .as_ref()
                .is_some_and(|partition| partition.since.is_none())
            {
                *slot = None;
                self.kept -= 1;
            }
        }
    }
}
