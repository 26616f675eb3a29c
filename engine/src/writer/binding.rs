//! Staging writes of bindings: read, decide with the pure rules of `mesh_ring::binding`, write, and keep the leaf true.

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hash::partition_of;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::PartitionId;
use mesh_ring::limits::BINDING_VALUE_BYTES_MAX;
use mesh_ring::merkle::{LeafSum, binding_digest, leaf_of};

use super::group::Group;
use super::state::State;
use super::{BindingMerge, BindingWrite, Written};
use crate::error::{BindingError, ReadError};
use crate::keys::{self, family};
use crate::read;

impl State {
    pub(super) fn write(
        &mut self,
        group: &mut Group<'_>,
        write: BindingWrite,
        tombstone_age_ms: u64,
    ) -> Result<Written, BindingError> {
        let BindingWrite {
            key,
            value,
            context,
            expires_ms,
        } = write;
        if let Some(bytes) = value
            .as_ref()
            .map(Bytes::len)
            .filter(|bytes| *bytes > BINDING_VALUE_BYTES_MAX)
        {
            return Err(BindingError::ValueTooLarge {
                bytes,
                max: BINDING_VALUE_BYTES_MAX,
            });
        }
        if let (Some(_), Err(shortage)) = (&value, &group.space) {
            return Err(BindingError::DiskFull {
                free: shortage.free,
                reserve: shortage.reserve,
            });
        }
        let partition = partition_of(key.as_bytes(), self.partition_count);
        let held = current(group, partition, key.as_bytes())?;
        let version = Version {
            dot: self.mint(),
            hlc: self.tick(group.now_ms),
            expires_ms: expires_ms.filter(|_| value.is_some()),
            content: value.map_or(Content::Tombstone, Content::Value),
        };
        let (dot, hlc) = (version.dot, version.hlc);
        let due_ms = match (&version.content, version.expires_ms) {
            (Content::Tombstone, _) => Some(group.now_ms.saturating_add(tombstone_age_ms)),
            (Content::Value(_), expires) => expires,
        };
        let before = held.as_ref().map(Binding::encode);
        let held = held.unwrap_or_default();
        let held = held.expire(group.now_ms).unwrap_or(held);
        let after = held
            .write(context.as_ref(), version)
            .map_err(BindingError::Refused)?;
        let context = after.context_after(context.as_ref(), dot);
        store_binding(
            group,
            partition,
            key.as_bytes(),
            before.as_deref(),
            Some(&after),
        )?;
        if let Some(due_ms) = due_ms {
            group.put(
                family::EXPIRY,
                keys::expiry_key(due_ms, partition, key.as_bytes()),
                [],
            );
        }
        Ok(Written { dot, hlc, context })
    }

    /// Takes another node's copy of a binding in. What either side has superseded goes, nothing else does.
    pub(super) fn merge(
        &mut self,
        group: &mut Group<'_>,
        merge: &BindingMerge,
        tombstone_age_ms: u64,
    ) -> Result<(), BindingError> {
        if let Err(shortage) = &group.space {
            return Err(BindingError::DiskFull {
                free: shortage.free,
                reserve: shortage.reserve,
            });
        }
        let key = merge.key.as_bytes();
        let partition = partition_of(key, self.partition_count);
        let held = current(group, partition, key)?;
        let Some(news) = merged(group, partition, key, held.as_ref(), &merge.theirs)? else {
            return Ok(());
        };
        for version in &news {
            self.observe(version.hlc, group.now_ms);
            let due_ms = match &version.content {
                Content::Tombstone => Some(version.hlc.millis().saturating_add(tombstone_age_ms)),
                Content::Value(_) => version.expires_ms,
            };
            if let Some(due_ms) = due_ms {
                let due = keys::expiry_key(due_ms, partition, key);
                group.put(family::EXPIRY, due, []);
            }
        }
        Ok(())
    }

    /// Looks at a binding whose time has come: expired values become tombstones, and tombstones that are old enough
    /// go, context and all. A cluster of one has no other replica that could bring them back. Returns whether the
    /// binding changed.
    pub(super) fn sweep(
        &mut self,
        group: &mut Group<'_>,
        now_ms: u64,
        due_ms: u64,
        partition: PartitionId,
        key: &[u8],
        tombstone_age_ms: u64,
    ) -> Result<bool, BindingError> {
        group.delete(family::EXPIRY, keys::expiry_key(due_ms, partition, key));
        let Some(held) = current(group, partition, key)? else {
            return Ok(false);
        };
        let before = held.encode();
        if let Some(expired) = held.expire(now_ms) {
            store_binding(group, partition, key, Some(&before), Some(&expired))?;
            let collect_ms = now_ms.saturating_add(tombstone_age_ms);
            group.put(
                family::EXPIRY,
                keys::expiry_key(collect_ms, partition, key),
                [],
            );
            return Ok(true);
        }
        let youngest = held
            .versions()
            .iter()
            .map(|version| version.hlc.millis())
            .max()
            .unwrap_or(0);
        if held.is_collectable() && youngest.saturating_add(tombstone_age_ms) <= now_ms {
            store_binding(group, partition, key, Some(&before), None)?;
            return Ok(true);
        }
        if held.is_collectable() {
            let collect_ms = youngest.saturating_add(tombstone_age_ms);
            group.put(
                family::EXPIRY,
                keys::expiry_key(collect_ms, partition, key),
                [],
            );
        }
        Ok(false)
    }
}

impl Group<'_> {
    /// Takes in a binding of a copy of a whole partition: what is written meanwhile, or was before, stays beside it.
    /// Returns the latest timestamp that it brings.
    pub(super) fn merge_row(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        theirs: &Binding,
    ) -> Result<Hlc, ReadError> {
        // One that cannot be read is replaced; the scrub finds that its leaf was of something else.
        let held = current(self, partition, key).unwrap_or_default();
        let news = merged(self, partition, key, held.as_ref(), theirs)?;
        let times = news.iter().flatten().map(|version| version.hlc);
        Ok(times.max().unwrap_or_default())
    }
}

/// Writes what both come to together. Returns the versions that are new here; `None` where nothing changes.
fn merged(
    group: &mut Group<'_>,
    partition: PartitionId,
    key: &[u8],
    held: Option<&Binding>,
    theirs: &Binding,
) -> Result<Option<Vec<Version>>, ReadError> {
    let empty = Binding::default();
    let ours = held.unwrap_or(&empty);
    let after = ours.merge(theirs);
    if after == *ours {
        return Ok(None);
    }
    let before = held.map(Binding::encode);
    store_binding(group, partition, key, before.as_deref(), Some(&after))?;
    let known = |version: &&Version| !ours.versions().contains(version);
    Ok(Some(
        after.versions().iter().filter(known).cloned().collect(),
    ))
}

/// The binding as the group sees it so far.
fn current(
    group: &Group<'_>,
    partition: PartitionId,
    key: &[u8],
) -> Result<Option<Binding>, ReadError> {
    match group.bindings.get(&(partition, key.to_vec())) {
        Some(None) => Ok(None),
        Some(Some(staged)) => Binding::decode(staged)
            .map(Some)
            .map_err(|error| read::undecodable("binding", &error)),
        None => read::binding(group.store, partition, key),
    }
}

/// Writes the binding (or removes it) and moves its Merkle leaf by the difference, in one batch.
fn store_binding(
    group: &mut Group<'_>,
    partition: PartitionId,
    key: &[u8],
    before: Option<&[u8]>,
    after: Option<&Binding>,
) -> Result<(), ReadError> {
    let leaf = leaf_of(key);
    let mut sum = match group.leaves.get(&(partition, leaf)) {
        Some(sum) => *sum,
        None => read::leaf(group.store, partition, leaf)?,
    };
    if let Some(before) = before {
        sum = sum.sub(binding_digest(key, before));
    }
    let stored_key = keys::binding_key(partition, key);
    let encoded = after.map(Binding::encode);
    match &encoded {
        Some(encoded) => {
            sum = sum.add(binding_digest(key, encoded));
            group.put(family::BINDINGS, stored_key, encoded);
        }
        None => group.delete(family::BINDINGS, stored_key),
    }
    if sum == LeafSum::default() {
        group.delete(family::MERKLE, keys::merkle_key(partition, leaf));
    } else {
        group.put(
            family::MERKLE,
            keys::merkle_key(partition, leaf),
            sum.to_bytes(),
        );
    }
    group.leaves.insert((partition, leaf), sum);
    group.bindings.insert((partition, key.to_vec()), encoded);
    Ok(())
}
