//! Bindings, and the Merkle leaves that are made of them.

use std::collections::HashMap;
use std::ops::ControlFlow;

use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum, binding_digest, leaf_of};
use rocksdb::DBRawIterator;

use super::walk::Span;
use super::{Findings, Scrub, values};
use crate::error::Damage;
use crate::keys::{self, family};
use crate::store::Store;

/// Most tries to look at bindings and leaves between two writes, which are far longer apart. Beyond it the comparison is
/// left to the next scrub.
const TOGETHER_TRIES_MAX: u32 = 1_000;

impl Scrub<'_> {
    /// Reads the bindings and leaves of `partition`, and compares them where all could be read.
    pub(super) fn bindings(&mut self, partition: PartitionId) -> ControlFlow<()> {
        let bindings = Span::of_partition(family::BINDINGS, partition);
        let leaves = Span::of_partition(family::MERKLE, partition);
        let (by_binding, by_leaf, same_time) = together(self.findings.store, &bindings, &leaves);
        let mut sums: HashMap<LeafId, LeafSum> = HashMap::new();
        let bindings_read =
            self.walk_at_once(&bindings, by_binding, &mut |findings, key, value| {
                findings.report.bindings += 1;
                if let Err(detail) = values::check(family::BINDINGS, key, value) {
                    findings.value_damaged(family::BINDINGS, key, detail);
                }
                let name = key.get(2..).unwrap_or_default();
                let sum = sums.entry(leaf_of(name)).or_default();
                *sum = sum.add(binding_digest(name, value));
            })?;
        let mut stored: HashMap<LeafId, LeafSum> = HashMap::new();
        let leaves_read = self.walk_at_once(&leaves, by_leaf, &mut |findings, key, value| {
            findings.report.others += 1;
            match (<[u8; 4]>::try_from(key), <[u8; 32]>::try_from(value)) {
                (Ok([_, _, high, low]), Ok(sum)) => {
                    let leaf = LeafId(u16::from_be_bytes([high, low]));
                    stored.insert(leaf, LeafSum::from_bytes(sum));
                }
                _ => {
                    let detail = "not the size of a leaf".to_owned();
                    findings.value_damaged(family::MERKLE, key, detail);
                }
            }
        })?;
        if same_time && bindings_read && leaves_read {
            self.findings.compare(partition, sums, &stored);
        }
        ControlFlow::Continue(())
    }
}

/// Iterators over two spans, and whether they see the same moment, so that leaves are compared with the bindings they
/// were made of.
///
/// A snapshot would do as well, but its end makes RocksDB rewrite files, and stop all writes if one is damaged.
fn together<'s>(
    store: &'s Store,
    one: &Span,
    other: &Span,
) -> (DBRawIterator<'s>, DBRawIterator<'s>, bool) {
    let db = store.db();
    let mut tries = 0;
    loop {
        let before = db.latest_sequence_number();
        let (first, second) = (one.iterator(store), other.iterator(store));
        tries += 1;
        let same_time = db.latest_sequence_number() == before;
        if same_time || tries == TOGETHER_TRIES_MAX {
            return (first, second, same_time);
        }
    }
}

impl Findings<'_> {
    fn compare(
        &mut self,
        partition: PartitionId,
        mut sums: HashMap<LeafId, LeafSum>,
        stored: &HashMap<LeafId, LeafSum>,
    ) {
        sums.retain(|_, sum| *sum != LeafSum::default());
        let mut differing: Vec<LeafId> = sums
            .keys()
            .chain(stored.keys())
            .copied()
            .filter(|leaf| sums.get(leaf) != stored.get(leaf))
            .collect();
        differing.sort_unstable();
        differing.dedup();
        for leaf in differing {
            let key = keys::merkle_key(partition, leaf);
            self.push(Damage {
                what: format!("Merkle leaf {} of partition {partition}", leaf.0),
                topic: None,
                offset: None,
                files: self.store.files_of(family::MERKLE, &key),
                detail: "it is not the sum of the bindings under it".to_owned(),
            });
        }
    }
}
