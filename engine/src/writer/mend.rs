//! Staging what repairs bindings: collecting tombstones, replacing what cannot be read, summing a leaf anew, and removing
//! all bindings of a partition.

use std::collections::BTreeSet;

use mesh_ring::binding::Binding;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum, binding_digest, leaf_of, place_of};

use super::binding::check_space;
use super::group::Group;
use super::state::State;
use super::{BindingMerge, CollectOp};
use crate::error::{BindingError, ReadError};
use crate::keys::{self, family, prefix_end};
use crate::leaves::Leaves;

/// Families of which a partition's bindings are made, beside a part of the index.
const OF_BINDINGS: [&str; 3] = [family::BINDINGS, family::EXPIRY, family::MERKLE];

impl State {
    /// Replaces a binding that cannot be read by another node's copy, or merges both where it can. Returns whether it
    /// could not.
    pub(super) fn heal(
        &mut self,
        group: &mut Group<'_>,
        merge: &BindingMerge,
    ) -> Result<bool, BindingError> {
        check_space(group)?;
        let key = merge.key.as_bytes();
        let place = place_of(key, self.partition_count);
        let partition = place.0;
        let (latest, was_damaged) = match group.held(partition, key) {
            Ok(held) => (
                group.merged(place, key, held.as_ref(), &merge.theirs)?,
                false,
            ),
            Err(ReadError::Damaged(_)) => {
                (group.replace_damaged(partition, key, &merge.theirs)?, true)
            }
            Err(error) => return Err(error.into()),
        };
        self.observe(latest, group.now_ms);
        Ok(was_damaged)
    }
}

impl Group<'_> {
    /// Removes the bindings that are still what they were when their removal was agreed on. Returns how many.
    pub(super) fn collect(&mut self, op: &CollectOp) -> Result<u64, BindingError> {
        let mut removed = 0;
        for (key, digest) in &op.bindings {
            let held = match self.held(op.partition, key) {
                Ok(Some(held)) => held,
                Ok(None) | Err(ReadError::Damaged(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            if !held.binding.is_collectable() || binding_digest(key, &held.encoded) != *digest {
                continue;
            }
            let place = (op.partition, leaf_of(key));
            self.store_binding(place, key, Some(&held), None)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Writes `theirs` over a row that cannot be read. What the leaf was a sum of is not known any more: it is summed
    /// anew.
    pub(super) fn replace_damaged(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        theirs: &Binding,
    ) -> Result<Hlc, ReadError> {
        let place = (partition, leaf_of(key));
        // Without the row: it is counted as one that comes.
        self.recount(partition, place.1)?;
        self.store_binding(place, key, None, Some(theirs))?;
        self.forgotten.push(partition);
        let times = theirs.versions().iter().map(|version| version.hlc);
        Ok(times.max().unwrap_or_default())
    }

    /// Makes a leaf the sum of the bindings under it that can be read, so that it differs from that of replicas which have
    /// the others. Returns how many cannot be read.
    pub(super) fn recount(
        &mut self,
        partition: PartitionId,
        leaf: LeafId,
    ) -> Result<u64, ReadError> {
        let leaves: Vec<LeafId> = match self.leaves.check(self.store, partition, leaf) {
            Ok(()) => vec![leaf],
            // They share a row.
            Err(ReadError::Damaged(_)) => Leaves::beside(leaf).collect(),
            Err(error) => return Err(error),
        };
        let mut damaged = 0;
        for leaf in leaves {
            damaged += self.sum_anew(partition, leaf)?;
        }
        Ok(damaged)
    }

    fn sum_anew(&mut self, partition: PartitionId, leaf: LeafId) -> Result<u64, ReadError> {
        let (mut sum, mut damaged) = (LeafSum::ZERO, 0);
        for key in self.under_leaf(partition, leaf)? {
            match self.held(partition, &key) {
                Ok(Some(held)) => sum = sum.add(binding_digest(&key, &held.encoded)),
                Ok(None) => {}
                Err(ReadError::Damaged(_)) => damaged += 1,
                Err(error) => return Err(error),
            }
        }
        self.changes.set(partition, leaf, sum);
        self.summed_anew.insert((partition, leaf));
        Ok(damaged)
    }

    /// Keys under a leaf, those of the group included; some of them may have been removed.
    fn under_leaf(
        &self,
        partition: PartitionId,
        leaf: LeafId,
    ) -> Result<BTreeSet<Vec<u8>>, ReadError> {
        let staged = self.bindings.keys();
        let mut found: BTreeSet<Vec<u8>> = staged
            .filter_map(|row| keys::parse_binding_key(row))
            .filter(|(of, key)| *of == partition && leaf_of(key) == leaf)
            .map(|(_, key)| key.to_vec())
            .collect();
        if self.wiped.contains(&partition) {
            return Ok(found);
        }
        found.extend(self.leaves.keys_of(partition, leaf).into_keys());
        let prefix = keys::under_leaf_prefix(partition, leaf);
        let mut iterator = self.store.iterate(family::BINDING_INDEX, &prefix);
        iterator.seek_to_first();
        while let Some(index) = iterator.key() {
            found.extend(keys::parse_under_leaf_key(partition, index).map(|(_, key)| key.to_vec()));
            iterator.next();
        }
        iterator.status().map_err(|error| {
            self.store
                .read_error(family::BINDING_INDEX, &prefix, &error)
        })?;
        Ok(found)
    }

    /// Removes the bindings of the partition, and all that is derived from them. Hints for other nodes stay.
    pub(super) fn wipe_bindings(&mut self, partition: PartitionId) {
        let prefix = partition.0.to_be_bytes();
        // No cluster has so many partitions that the last prefix were in use.
        let end = prefix_end(&prefix).unwrap_or_else(|| vec![u8::MAX; 3]);
        for name in OF_BINDINGS {
            self.delete_range(name, &prefix, &end);
        }
        let (from, to) = keys::binding_index_bounds(partition);
        self.delete_range(family::BINDING_INDEX, &from, &to);
        self.bindings.retain(|row, _| !row.starts_with(&prefix));
        self.changes.wipe(partition);
        self.summed_anew.retain(|(of, _)| *of != partition);
        self.wiped.insert(partition);
        self.forgotten.push(partition);
    }
}
