//! Staging writes of bindings: read, decide with the pure rules of `mesh_ring::binding`, and write.

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::PartitionId;
use mesh_ring::limits::BINDING_VALUE_BYTES_MAX;
use mesh_ring::merkle::{LeafId, leaf_of, place_of};

use super::group::Group;
use super::state::State;
use super::stored::Held;
use super::{BindingMerge, BindingWrite, Decided, Written};
use crate::error::{BindingError, ReadError};
use crate::keys::{self, family};

impl State {
    pub(super) fn write(
        &mut self,
        group: &mut Group<'_>,
        write: BindingWrite,
        decided: Option<Decided>,
    ) -> Result<Written, BindingError> {
        if write.value.is_some() {
            check_space(group)?;
        }
        let key = write.key.clone();
        let place = place_of(key.as_bytes(), self.partition_count);
        let partition = place.0;
        let held = group.held(partition, key.as_bytes())?;
        let none = Binding::default();
        let copy = held.as_ref().map_or(&none, |held| &held.binding);
        let known = self.with_hints(group, partition, key.as_bytes(), copy)?;
        let (after, written) = self.decide(group, partition, &known, write)?;
        group.store_binding(place, key.as_bytes(), held.as_ref(), Some(&after))?;
        if let Some(decided) = decided {
            decided(&after, &written);
        }
        Ok(written)
    }

    /// Makes a write over what is known of its key. Returns what the key is then.
    pub(super) fn decide(
        &mut self,
        group: &mut Group<'_>,
        partition: PartitionId,
        known: &Binding,
        write: BindingWrite,
    ) -> Result<(Binding, Written), BindingError> {
        let BindingWrite {
            value,
            context,
            expires_ms,
            ..
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
        let version = Version {
            dot: self.mint(group, partition)?,
            hlc: self.tick(group.now_ms),
            expires_ms: expires_ms.filter(|_| value.is_some()),
            content: value.map_or(Content::Tombstone, Content::Value),
        };
        let (dot, hlc) = (version.dot, version.hlc);
        let expired = known.expire(group.now_ms);
        let after = expired
            .as_ref()
            .unwrap_or(known)
            .write(context.as_ref(), version)
            .map_err(BindingError::Refused)?;
        let context = after.context_after(context.as_ref(), dot);
        Ok((after, Written { dot, hlc, context }))
    }

    /// Takes another node's copy of a binding in. What either side has superseded goes, nothing else does.
    pub(super) fn merge(
        &mut self,
        group: &mut Group<'_>,
        merge: &BindingMerge,
    ) -> Result<(), BindingError> {
        check_space(group)?;
        let key = merge.key.as_bytes();
        let place = place_of(key, self.partition_count);
        let held = group.held(place.0, key)?;
        let latest = group.merged(place, key, held.as_ref(), &merge.theirs)?;
        self.observe(latest, group.now_ms);
        Ok(())
    }

    /// Looks at a binding whose time has come: expired values become tombstones. Returns whether any did.
    pub(super) fn sweep(
        &mut self,
        group: &mut Group<'_>,
        now_ms: u64,
        due_ms: u64,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<bool, BindingError> {
        let held = group.held(partition, key)?;
        let expired = held.as_ref().and_then(|held| held.binding.expire(now_ms));
        group.delete(family::EXPIRY, keys::expiry_key(due_ms, partition, key));
        let Some(expired) = expired else {
            return Ok(false);
        };
        group.store_binding(
            (partition, leaf_of(key)),
            key,
            held.as_ref(),
            Some(&expired),
        )?;
        Ok(true)
    }
}

/// Refuses what adds to the disk where its reserve is reached.
pub(super) fn check_space(group: &Group<'_>) -> Result<(), BindingError> {
    match &group.space {
        Ok(()) => Ok(()),
        Err(shortage) => Err(BindingError::DiskFull {
            free: shortage.free,
            reserve: shortage.reserve,
        }),
    }
}

impl Group<'_> {
    /// Takes in a binding of a copy of a whole partition: what is written meanwhile, or was before, stays beside it. One
    /// that cannot be read is replaced. Returns the latest timestamp that it brings.
    pub(super) fn merge_row(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        theirs: &Binding,
    ) -> Result<Hlc, ReadError> {
        match self.held(partition, key) {
            Ok(held) => self.merged((partition, leaf_of(key)), key, held.as_ref(), theirs),
            Err(ReadError::Damaged(_)) => self.replace_damaged(partition, key, theirs),
            Err(error) => Err(error),
        }
    }

    /// Writes what both come to together. Returns the latest timestamp that is new here.
    pub(super) fn merged(
        &mut self,
        place: (PartitionId, LeafId),
        key: &[u8],
        held: Option<&Held>,
        theirs: &Binding,
    ) -> Result<Hlc, ReadError> {
        let none = Binding::default();
        let ours = held.map_or(&none, |held| &held.binding);
        let after = ours.merge(theirs);
        if after == *ours {
            return Ok(Hlc::default());
        }
        self.store_binding(place, key, held, Some(&after))?;
        let news = after.versions().iter();
        let news = news.filter(|version| !ours.versions().contains(version));
        Ok(news.map(|version| version.hlc).max().unwrap_or_default())
    }
}
