//! The leaves of one partition in memory.

use std::collections::{BTreeMap, BTreeSet};

use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES};
use rocksdb::WriteBatch;

use super::row::{Entry, PAGE_BYTES, PAGE_LEAVES, decode_page, encode_page, entries};
use crate::error::{Damage, ReadError};
use crate::keys::{self, family};
use crate::read::undecodable;
use crate::store::Store;

pub(super) const PAGES: usize = MERKLE_LEAVES as usize / PAGE_LEAVES;

pub(super) type Sums = [LeafSum; MERKLE_LEAVES as usize];

/// A set of pages.
#[derive(Clone, Copy, Default)]
pub(super) struct PageSet([u64; PAGES / 64]);

impl PageSet {
    pub(super) fn insert(&mut self, page: u8) {
        self.0[usize::from(page) / 64] |= 1 << (page % 64);
    }

    pub(super) fn remove(&mut self, page: u8) {
        self.0[usize::from(page) / 64] &= !(1 << (page % 64));
    }

    pub(super) fn contains(&self, page: u8) -> bool {
        self.0[usize::from(page) / 64] & 1 << (page % 64) != 0
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |page| self.contains(*page))
    }
}

/// The page that a leaf's sum lies in.
pub(crate) fn page_of(leaf: LeafId) -> u8 {
    // There are as many pages as a byte has values.
    (usize::from(leaf.0) / PAGE_LEAVES) as u8
}

/// The leaves that are summed in a page.
pub(crate) fn leaves_of(page: u8) -> impl Iterator<Item = LeafId> {
    let first = u16::from(page) * PAGE_LEAVES as u16;
    (first..first + PAGE_LEAVES as u16).map(LeafId)
}

pub(super) struct Partition {
    pub(super) sums: Box<Sums>,
    /// Pages of which the rows are older than the sums.
    pub(super) changed: PageSet,
    /// Pages whose rows cannot be read, and that were not summed anew yet.
    pub(super) unreadable: PageSet,
    /// Leaves of unreadable pages that were summed anew.
    anew: BTreeSet<LeafId>,
    /// Entries of keys that the index has not taken in.
    pub(super) keys: Vec<u8>,
    /// The first row of changes that pages and index lack something of.
    pub(super) since: Option<u64>,
}

impl Partition {
    pub(super) fn empty() -> Partition {
        Partition {
            sums: Box::new([LeafSum::ZERO; MERKLE_LEAVES as usize]),
            changed: PageSet::default(),
            unreadable: PageSet::default(),
            anew: BTreeSet::new(),
            keys: Vec::new(),
            since: None,
        }
    }

    /// What the pages say. Those that are damaged are noted.
    pub(super) fn load(store: &Store, id: PartitionId) -> Result<Partition, ReadError> {
        let mut loaded = Partition::empty();
        let prefix = id.0.to_be_bytes();
        let mut iterator = store.iterate(family::MERKLE, &prefix);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            let page = keys::parse_merkle_page_key(id, key).ok_or_else(|| {
                undecodable("the sums of Merkle leaves", &"a key that is never written")
            })?;
            loaded.take_page(page, value);
            iterator.next();
        }
        match iterator.status() {
            Ok(()) => Ok(loaded),
            Err(_) => Partition::load_by_page(store, id),
        }
    }

    fn load_by_page(store: &Store, id: PartitionId) -> Result<Partition, ReadError> {
        let mut loaded = Partition::empty();
        for page in 0..=u8::MAX {
            match store.get(family::MERKLE, &keys::merkle_page_key(id, page)) {
                Ok(None) => {}
                Ok(Some(value)) => loaded.take_page(page, &value),
                Err(ReadError::Damaged(_)) => loaded.unreadable.insert(page),
                Err(error) => return Err(error),
            }
        }
        Ok(loaded)
    }

    fn take_page(&mut self, page: u8, value: &[u8]) {
        match decode_page(value) {
            Ok(sums) => self.page_mut(page).copy_from_slice(&sums),
            Err(_) => self.unreadable.insert(page),
        }
    }

    pub(super) fn page(&self, page: u8) -> &[LeafSum] {
        let first = usize::from(page) * PAGE_LEAVES;
        &self.sums[first..first + PAGE_LEAVES]
    }

    fn page_mut(&mut self, page: u8) -> &mut [LeafSum] {
        let first = usize::from(page) * PAGE_LEAVES;
        &mut self.sums[first..first + PAGE_LEAVES]
    }

    pub(super) fn set(&mut self, leaf: LeafId, sum: LeafSum) {
        let page = page_of(leaf);
        self.changed.insert(page);
        if self.unreadable.contains(page) {
            self.anew.insert(leaf);
            if leaves_of(page).all(|leaf| self.anew.contains(&leaf)) {
                self.unreadable.remove(page);
            }
        }
        if let Some(stored) = self.sums.get_mut(usize::from(leaf.0)) {
            *stored = sum;
        }
    }

    pub(super) fn sum(&self, leaf: LeafId) -> LeafSum {
        self.sums
            .get(usize::from(leaf.0))
            .copied()
            .unwrap_or_default()
    }

    /// Why a leaf cannot be told, if it cannot.
    pub(super) fn check(
        &self,
        store: &Store,
        id: PartitionId,
        leaf: LeafId,
    ) -> Result<(), ReadError> {
        let page = page_of(leaf);
        if self.unreadable.contains(page) {
            return Err(unreadable(store, id, page));
        }
        Ok(())
    }

    pub(super) fn check_all(&self, store: &Store, id: PartitionId) -> Result<(), ReadError> {
        match self.unreadable.iter().next() {
            Some(page) => Err(unreadable(store, id, page)),
            None => Ok(()),
        }
    }

    /// About what it takes to bring the pages up to the sums, in bytes.
    pub(super) fn fold_bytes(&self) -> u64 {
        (self.changed.len() * PAGE_BYTES) as u64
    }

    /// Stages the rows that bring pages and index up to what memory has.
    pub(super) fn fold(&self, store: &Store, id: PartitionId, batch: &mut WriteBatch) {
        let merkle = store.family(family::MERKLE);
        let readable = |page: &u8| !self.unreadable.contains(*page);
        for page in self.changed.iter().filter(readable) {
            let (key, sums) = (keys::merkle_page_key(id, page), self.page(page));
            match sums.iter().all(|sum| *sum == LeafSum::ZERO) {
                true => batch.delete_cf(merkle, key),
                false => batch.put_cf(merkle, key, encode_page(sums)),
            }
        }
        // In order, so that each has its neighbour in the memtable just before it: the search for its place is short.
        let index = store.family(family::BINDING_INDEX);
        for (leaf, key, is_bound) in in_order(&self.keys) {
            let row = keys::under_leaf_key(id, leaf, key);
            match is_bound {
                true => batch.put_cf(index, row, []),
                false => batch.delete_cf(index, row),
            }
        }
    }

    /// Those of one leaf.
    pub(super) fn latest_keys_of(&self, leaf: LeafId) -> BTreeMap<Vec<u8>, bool> {
        let mut found = BTreeMap::new();
        for (entry, _) in entries(&self.keys).flatten() {
            match entry {
                Entry::Bound(_, of, key) if of == leaf => found.insert(key.to_vec(), true),
                Entry::Gone(_, of, key) if of == leaf => found.insert(key.to_vec(), false),
                _ => None,
            };
        }
        found
    }
}

/// What entries of keys come to in the end, whether each is bound, by leaf and key.
pub(super) fn in_order(keys: &[u8]) -> Vec<(LeafId, &[u8], bool)> {
    let mut found: Vec<(LeafId, &[u8], bool)> = entries(keys)
        .flatten()
        .filter_map(|(entry, _)| match entry {
            Entry::Bound(_, leaf, key) => Some((leaf, key, true)),
            Entry::Gone(_, leaf, key) => Some((leaf, key, false)),
            Entry::Wiped(_) | Entry::Sum(..) => None,
        })
        .collect();
    // Stable: of several about one key the last is the last still, and moves to the place of the one before.
    found.sort_by_key(|(leaf, key, _)| (*leaf, *key));
    found.dedup_by(|later, kept| {
        let is_same = (later.0, later.1) == (kept.0, kept.1);
        if is_same {
            kept.2 = later.2;
        }
        is_same
    });
    found
}

fn unreadable(store: &Store, id: PartitionId, page: u8) -> ReadError {
    let key = keys::merkle_page_key(id, page);
    let first = usize::from(page) * PAGE_LEAVES;
    ReadError::Damaged(Damage {
        what: format!(
            "Merkle leaves {first} to {} of partition {id}",
            first + PAGE_LEAVES - 1
        ),
        topic: None,
        offset: None,
        files: store.files_of(family::MERKLE, &key),
        detail: "their sums cannot be read; a scrub has them summed anew".to_owned(),
    })
}
