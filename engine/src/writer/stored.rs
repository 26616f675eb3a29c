//! What is stored of a binding: its row, the leaf that it is summed in, and the rows by which it is found. All of them
//! change in one batch, by the difference between what was held and what comes.

use bytes::Bytes;
use mesh_ring::binding::{Binding, Version};
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::LeafId;

use super::group::Group;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read;

/// A binding as a group sees it, with its stored bytes.
pub(super) struct Held {
    pub(super) binding: Binding,
    pub(super) encoded: Bytes,
}

impl Group<'_> {
    /// The binding as the group sees it so far.
    pub(super) fn held(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<Held>, ReadError> {
        let stored_key = keys::binding_key(partition, key);
        let encoded = match self.bindings.get(&stored_key) {
            Some(staged) => staged.clone(),
            None if self.wiped.contains(&partition) => None,
            None => {
                let stored = self.store.get(family::BINDINGS, &stored_key)?;
                stored.map(|value| Bytes::copy_from_slice(&value))
            }
        };
        let Some(encoded) = encoded else {
            return Ok(None);
        };
        let binding = Binding::decode_shared(&encoded)
            .map_err(|error| read::damaged_binding(self.store, partition, key, &error))?;
        Ok(Some(Held { binding, encoded }))
    }

    /// Writes the binding, or removes it. `held`: what stood there.
    pub(super) fn store_binding(
        &mut self,
        (partition, leaf): (PartitionId, LeafId),
        key: &[u8],
        held: Option<&Held>,
        after: Option<&Binding>,
    ) -> Result<(), ReadError> {
        let encoded = after.map(|after| Bytes::from(after.encode()));
        if self.with_leaves {
            if !self.summed_anew.contains(&(partition, leaf)) {
                self.leaves.check(self.store, partition, leaf)?;
            }
            let before = held.map(|held| &held.encoded);
            self.changes
                .change(partition, leaf, key, before, encoded.as_ref());
            match (held, after) {
                (None, Some(_)) => self.changes.bound(partition, leaf, key),
                (Some(_), None) => self.changes.gone(partition, leaf, key),
                _ => {}
            }
        }
        self.find_by_time(partition, key, held.map(|held| &held.binding), after);
        self.put_binding(partition, key, encoded);
        Ok(())
    }

    /// Sets the row of a binding alone. It is written when the group is sealed.
    pub(super) fn put_binding(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        encoded: Option<Bytes>,
    ) {
        let row = keys::binding_key(partition, key);
        self.bindings.insert(row, encoded);
    }

    /// Puts the bindings as the group leaves them: once, and in order, so that what has its neighbour in the
    /// memtable before it is inserted with a shorter search.
    pub(super) fn settle_bindings(&mut self) {
        let store = self.store;
        let bindings = store.family(family::BINDINGS);
        let mut changed: Vec<_> = self.bindings.iter().collect();
        changed.sort_unstable();
        for (row, encoded) in changed {
            match encoded {
                Some(encoded) => self.batch.put_cf(bindings, row, encoded),
                None => self.batch.delete_cf(bindings, row),
            }
        }
    }

    /// Moves the rows by which a binding is found when a time has come: one for each value that expires, one where there
    /// is nothing but tombstones.
    pub(super) fn find_by_time(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        before: Option<&Binding>,
        after: Option<&Binding>,
    ) {
        let (old, new) = (due_times(before), due_times(after));
        for due_ms in old.iter().filter(|due_ms| !new.contains(due_ms)) {
            self.delete(family::EXPIRY, keys::expiry_key(*due_ms, partition, key));
        }
        for due_ms in new.iter().filter(|due_ms| !old.contains(due_ms)) {
            self.put(
                family::EXPIRY,
                keys::expiry_key(*due_ms, partition, key),
                [],
            );
        }
        let (old, new) = (
            before.and_then(tombstone_since),
            after.and_then(tombstone_since),
        );
        if old == new {
            return;
        }
        if let Some(since_ms) = old {
            let index = keys::tombstone_key(partition, since_ms, key);
            self.delete(family::BINDING_INDEX, index);
        }
        if let Some(since_ms) = new {
            let index = keys::tombstone_key(partition, since_ms, key);
            self.put(family::BINDING_INDEX, index, []);
        }
    }
}

fn due_times(binding: Option<&Binding>) -> Vec<u64> {
    let versions = binding.map(Binding::versions).unwrap_or_default();
    versions
        .iter()
        .filter_map(|version| version.expires_ms)
        .collect()
}

/// Since when there is nothing but tombstones, by the youngest; `None` where there is a value.
pub(crate) fn tombstone_since(binding: &Binding) -> Option<u64> {
    let millis = |version: &Version| version.hlc.millis();
    let youngest = binding.versions().iter().map(millis).max().unwrap_or(0);
    binding.is_collectable().then_some(youngest)
}
