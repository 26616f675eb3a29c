//! Bindings, and what is derived from them: the Merkle leaves that they are summed in, and the index by which a repair
//! finds them.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum, binding_digest, leaf_of};
use rocksdb::DBRawIterator;

use super::walk::Span;
use super::{Findings, Scrub, values};
use crate::error::{Damage, ReadError};
use crate::keys::{self, family};
use crate::leaves::{self, Lacking};
use crate::read;

/// Most leaves that one report tells of; anti-entropy finds the others, or the next scrub does.
const LEAVES_MAX: usize = 100_000;

/// What was found under the leaves of a partition.
#[derive(Default)]
struct Under {
    sums: HashMap<LeafId, LeafSum>,
    /// Hashes of the keys of bindings less those of index rows, summed by leaf: nothing where they are the same.
    unmatched: HashMap<LeafId, LeafSum>,
    stored: HashMap<LeafId, LeafSum>,
    /// Leaves with a binding that can be read and does not decode.
    damaged: BTreeSet<LeafId>,
}

impl<'a> Scrub<'a> {
    /// Reads the bindings, leaves and index of `partition`, and compares them where all could be read.
    pub(super) fn bindings(&mut self, partition: PartitionId) -> ControlFlow<()> {
        let spans = [family::BINDINGS, family::MERKLE, family::BINDING_INDEX]
            .map(|name| Span::of_partition(name, partition));
        let ([by_binding, by_page, by_index], lacking) = self.together(partition, &spans);
        let unindexed = lacking.keys();
        let [bindings, pages, index] = &spans;
        let mut under = Under::default();
        let bindings_read =
            self.walk_at_once(bindings, by_binding, &mut |findings, key, value| {
                findings.report.bindings += 1;
                let name = key.get(2..).unwrap_or_default();
                let leaf = leaf_of(name);
                if let Err(detail) = values::check(family::BINDINGS, key, value) {
                    findings.value_damaged(family::BINDINGS, key, detail);
                    under.damaged.insert(leaf);
                }
                let sum = under.sums.entry(leaf).or_default();
                *sum = sum.add(binding_digest(name, value));
                let unmatched = under.unmatched.entry(leaf).or_default();
                *unmatched = unmatched.add(binding_digest(name, &[]));
            })?;
        let leaves_read = self.walk_at_once(pages, by_page, &mut |findings, key, value| {
            findings.report.others += 1;
            if let Err(detail) = values::check(family::MERKLE, key, value) {
                findings.value_damaged(family::MERKLE, key, detail);
            }
            let page = keys::parse_merkle_page_key(partition, key);
            if let (Some(page), Ok(sums)) = (page, leaves::decode_page(value)) {
                under.stored.extend(leaves::leaves_of(page).zip(sums));
            }
        })?;
        under.stored.extend(lacking.sums.iter().copied());
        under.stored.retain(|_, sum| *sum != LeafSum::ZERO);
        let index_read = self.walk_at_once(index, by_index, &mut |findings, key, value| {
            findings.report.others += 1;
            if let Err(detail) = values::check(family::BINDING_INDEX, key, value) {
                findings.value_damaged(family::BINDING_INDEX, key, detail);
            }
            if let Some((leaf, name)) = keys::parse_under_leaf_key(partition, key)
                && !unindexed.contains_key(&(leaf, name))
            {
                let unmatched = under.unmatched.entry(leaf).or_default();
                *unmatched = unmatched.sub(binding_digest(name, &[]));
            }
        })?;
        for ((leaf, name), _) in unindexed.iter().filter(|(_, is_bound)| **is_bound) {
            let unmatched = under.unmatched.entry(*leaf).or_default();
            *unmatched = unmatched.sub(binding_digest(name, &[]));
        }
        if !bindings_read {
            for (leaf, name) in unindexed.keys() {
                self.findings
                    .look_up(partition, *leaf, name, &mut under.damaged);
            }
            self.damaged_leaves(index, partition, &mut under.damaged)?;
        }
        if bindings_read && leaves_read {
            let wrong = self.findings.compare_sums(partition, &mut under);
            under.damaged.extend(wrong);
        }
        if bindings_read && index_read {
            self.findings.compare_index(partition, &under);
        }
        let room = LEAVES_MAX.saturating_sub(self.findings.report.leaves.len());
        let leaves = under.damaged.into_iter().take(room);
        self.findings
            .report
            .leaves
            .extend(leaves.map(|leaf| (partition, leaf)));
        ControlFlow::Continue(())
    }

    /// Iterators over three spans and what pages and index lack, of one moment, so that what is derived is compared with the
    /// bindings that it was made of.
    ///
    /// A snapshot would do as well, but its end makes RocksDB rewrite files, and stop all writes if one is damaged.
    fn together(
        &self,
        partition: PartitionId,
        spans: &[Span; 3],
    ) -> ([DBRawIterator<'a>; 3], Lacking) {
        let store = self.findings.store;
        let _moment = self.leaves.moment();
        let lacking = self.leaves.lacking(partition);
        (spans.each_ref().map(|span| span.iterator(store)), lacking)
    }

    /// Looks up every binding that the index knows of, to learn under which leaves there are some that cannot be read.
    fn damaged_leaves(
        &mut self,
        index: &Span,
        partition: PartitionId,
        damaged: &mut BTreeSet<LeafId>,
    ) -> ControlFlow<()> {
        self.walk(index, &mut |findings, key, _| {
            let Some((leaf, name)) = keys::parse_under_leaf_key(partition, key) else {
                return;
            };
            findings.look_up(partition, leaf, name, damaged);
        })?;
        ControlFlow::Continue(())
    }
}

impl Findings<'_> {
    fn look_up(
        &self,
        partition: PartitionId,
        leaf: LeafId,
        name: &[u8],
        damaged: &mut BTreeSet<LeafId>,
    ) {
        if let Err(ReadError::Damaged(_)) = read::binding(self.store, partition, name) {
            damaged.insert(leaf);
        }
    }

    /// Reports leaves that are not the sum of what is under them, and returns them.
    fn compare_sums(&mut self, partition: PartitionId, under: &mut Under) -> Vec<LeafId> {
        let (sums, stored) = (&mut under.sums, &under.stored);
        sums.retain(|_, sum| *sum != LeafSum::ZERO);
        let mut differing: Vec<LeafId> = sums
            .keys()
            .chain(stored.keys())
            .copied()
            .filter(|leaf| sums.get(leaf) != stored.get(leaf))
            .collect();
        differing.sort_unstable();
        differing.dedup();
        for leaf in &differing {
            let key = keys::merkle_page_key(partition, leaves::page_of(*leaf));
            self.push(Damage {
                what: format!("Merkle leaf {leaf} of partition {partition}"),
                topic: None,
                offset: None,
                files: self.store.files_of(family::MERKLE, &key),
                detail: "it is not the sum of the bindings under it".to_owned(),
            });
        }
        differing
    }

    fn compare_index(&mut self, partition: PartitionId, under: &Under) {
        let wrong = under
            .unmatched
            .iter()
            .filter(|(_, sum)| **sum != LeafSum::ZERO);
        let mut wrong: Vec<LeafId> = wrong.map(|(leaf, _)| *leaf).collect();
        wrong.sort_unstable();
        for leaf in wrong {
            let key = keys::under_leaf_prefix(partition, leaf);
            self.push(Damage {
                what: format!("the index of Merkle leaf {leaf} of partition {partition}"),
                topic: None,
                offset: None,
                files: self.store.files_of(family::BINDING_INDEX, &key),
                detail: "it does not name the bindings under the leaf".to_owned(),
            });
        }
    }
}
