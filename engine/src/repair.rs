//! What replicas compare of their bindings, and how they bring each other's to the same.
//!
//! A leaf is compared by its sum; where sums differ, the bindings under the leaf are found by an index, so that a repair
//! reads no others. What cannot be read is told of, is not served, and is replaced by another replica's copy.

use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES, binding_digest};
use mesh_ring::name::BindingKey;

use crate::engine::{Answer, Engine};
use crate::error::{BindingError, ReadError};
use crate::keys::{self, family};
use crate::read;
use crate::writer::{BindingMerge, CollectOp, Op};

/// What an op weighs in the queue beside its values, in bytes.
const OP_BYTES: usize = 512;

/// A binding under a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafBinding {
    /// Its key.
    pub key: Vec<u8>,
    /// What it adds to the leaf; `None` where it cannot be read: it is to be replaced, see [`Engine::submit_heal`].
    pub digest: Option<LeafSum>,
}

/// A binding that is only tombstones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldTombstone {
    /// Timestamp of the youngest, in unix milliseconds.
    pub since_ms: u64,
    /// Its key.
    pub key: Vec<u8>,
}

impl Engine {
    /// The sums of all leaves of a partition, in their order, as of one moment; see [`mesh_ring::merkle::root`].
    ///
    /// # Errors
    /// A leaf cannot be read: see [`Engine::recount_leaf`].
    pub fn leaf_sums(
        &self,
        partition: PartitionId,
    ) -> Result<Box<[LeafSum; MERKLE_LEAVES as usize]>, ReadError> {
        self.leaves().sums(self.store(), partition)
    }

    /// Bindings under a leaf with keys behind `after`, in order, at most `max`.
    ///
    /// # Errors
    /// The index cannot be read. A binding that cannot be is told of in its place.
    pub fn leaf_bindings(
        &self,
        partition: PartitionId,
        leaf: LeafId,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<LeafBinding>, ReadError> {
        // Asked first: what the index takes in meanwhile is in both.
        let unindexed = self.leaves().keys_of(partition, leaf);
        let is_behind = |key: &Vec<u8>| after.is_none_or(|after| after < &key[..]);
        let mut unindexed = unindexed.into_keys().filter(is_behind).peekable();
        let prefix = keys::under_leaf_prefix(partition, leaf);
        let mut iterator = self.store().iterate(family::BINDING_INDEX, &prefix);
        match after {
            None => iterator.seek_to_first(),
            Some(after) => iterator.seek([&prefix[..], after, &[0]].concat()),
        }
        let mut found = Vec::new();
        while found.len() < max {
            let indexed = iterator
                .key()
                .map(|row| row.get(prefix.len()..).unwrap_or_default());
            let key = match (indexed, unindexed.peek()) {
                (None, None) => break,
                (Some(indexed), Some(other)) => indexed.min(other).to_vec(),
                (Some(indexed), None) => indexed.to_vec(),
                (None, Some(other)) => other.clone(),
            };
            if indexed == Some(&key[..]) {
                iterator.next();
            }
            unindexed.next_if(|other| *other == key);
            match self.encoded(partition, &key) {
                Ok(Some(encoded)) => found.push(LeafBinding {
                    digest: Some(binding_digest(&key, &encoded)),
                    key,
                }),
                // It was removed since the iterator was made, or the index does not know yet.
                Ok(None) => {}
                Err(ReadError::Damaged(_)) => found.push(LeafBinding { key, digest: None }),
                Err(error) => return Err(error),
            }
        }
        iterator.status().map_err(|error| {
            self.store()
                .read_error(family::BINDING_INDEX, &prefix, &error)
        })?;
        Ok(found)
    }

    /// A binding as it is stored: what [`Binding::decode`] reads, and what digests are made of.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn binding_encoded(&self, key: &BindingKey) -> Result<Option<Bytes>, ReadError> {
        self.encoded(self.partition_of(key.as_bytes()), key.as_bytes())
    }

    fn encoded(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let stored_key = keys::binding_key(partition, key);
        let Some(value) = self.store().get(family::BINDINGS, &stored_key)? else {
            return Ok(None);
        };
        read::decoded(self.store(), partition, key, &value)?;
        Ok(Some(Bytes::copy_from_slice(&value)))
    }

    /// Queues that `theirs` takes the place of a binding here that cannot be read, or is merged into one that can. `done`
    /// is called on the writer's thread when that is durable, and must not block; it is told whether the binding could
    /// not be read.
    ///
    /// # Errors
    /// `done` is told: the disk's reserve is reached, the index or leaf cannot be read, or the store stopped.
    pub fn submit_heal(
        &self,
        key: BindingKey,
        theirs: Binding,
        done: impl FnOnce(Result<bool, BindingError>) + Send + 'static,
    ) {
        let bytes = theirs.encode().len() + key.as_bytes().len() + OP_BYTES;
        let merge = BindingMerge { key, theirs, bytes };
        self.queue().push(Op::Heal(merge, Box::new(done)), bytes);
    }

    /// As [`Engine::submit_heal`], and waits.
    ///
    /// # Errors
    /// As there.
    pub fn heal_binding(&self, key: BindingKey, theirs: Binding) -> Result<bool, BindingError> {
        let (sender, receiver) = sync_channel(1);
        self.submit_heal(key, theirs, move |result| {
            let _ = sender.send(result);
        });
        Answer::of(receiver).wait()
    }

    /// Sums a leaf anew over what of its bindings can be read, and returns how many cannot. Durable when it returns. So a
    /// leaf with damage under it differs from that of replicas without, and they find it.
    ///
    /// # Errors
    /// The index of the leaf cannot be read, or the store stopped.
    pub fn recount_leaf(&self, partition: PartitionId, leaf: LeafId) -> Result<u64, BindingError> {
        self.ask(|done| Op::Recount(partition, leaf, done)).wait()
    }

    /// Bindings of a partition that are only tombstones, of which the youngest was written before `before_ms` (unix
    /// milliseconds): the oldest first, behind `after`, at most `max`. Reads no others.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn old_tombstones(
        &self,
        partition: PartitionId,
        before_ms: u64,
        after: Option<&OldTombstone>,
        max: usize,
    ) -> Result<Vec<OldTombstone>, ReadError> {
        let prefix = keys::tombstone_prefix(partition);
        let mut iterator = self.store().iterate(family::BINDING_INDEX, &prefix);
        match after {
            None => iterator.seek_to_first(),
            Some(after) => {
                let mut behind = keys::tombstone_key(partition, after.since_ms, &after.key);
                behind.push(0);
                iterator.seek(behind);
            }
        }
        let mut found = Vec::new();
        while found.len() < max
            && let Some(index) = iterator.key()
            && let Some((since_ms, key)) = keys::parse_tombstone_key(partition, index)
            && since_ms < before_ms
        {
            found.push(OldTombstone {
                since_ms,
                key: key.to_vec(),
            });
            iterator.next();
        }
        iterator.status().map_err(|error| {
            self.store()
                .read_error(family::BINDING_INDEX, &prefix, &error)
        })?;
        Ok(found)
    }

    /// Queues that tombstones go, context and all: those of the given keys that still have exactly the given
    /// [digest](binding_digest), and no value. `done` is called on the writer's thread when that is durable, with how many
    /// went, and must not block. Whether they may go is for the caller to know.
    ///
    /// # Errors
    /// `done` is told: a leaf cannot be read, or the store stopped. Some of them may be gone.
    pub fn submit_collect(
        &self,
        partition: PartitionId,
        bindings: Vec<(Vec<u8>, LeafSum)>,
        done: impl FnOnce(Result<u64, BindingError>) + Send + 'static,
    ) {
        let keys: usize = bindings.iter().map(|(key, _)| key.len() + OP_BYTES).sum();
        let op = CollectOp {
            partition,
            bindings,
        };
        self.queue()
            .push(Op::Collect(Box::new(op), Box::new(done)), keys);
    }

    /// Removes all bindings of a partition with their leaves and due times: an old copy, before a new one comes. Durable
    /// when it returns; hints for other nodes stay.
    ///
    /// # Errors
    /// The store stopped. All of it is gone or nothing.
    pub fn wipe_bindings(&self, partition: PartitionId) -> Result<(), BindingError> {
        let (sender, receiver) = sync_channel(1);
        let done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        // Behind what was queued before it, which is part of the old copy.
        self.queue()
            .push(Op::WipeBindings(partition, done), OP_BYTES);
        Answer::of(receiver).wait()
    }
}
