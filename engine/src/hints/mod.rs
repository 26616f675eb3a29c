//! Hints: writes of bindings that this node keeps, as a stand-in, for a home replica that is away.
//!
//! A hint goes through the same group commit as everything else, and stays until [`Engine::remove_hints`] says that a
//! home replica has acknowledged it. How much is kept is counted in the batch that changes it, so that nothing is
//! scanned: at the bound a hint is refused, and a refused hint is no acknowledgement.
//!
//! `row` is the stored value, `counts` what is counted; `writer::hints` changes them.

mod counts;
mod row;

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::hash::partition_of;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::name::BindingKey;

use crate::codec::only_u64;
use crate::engine::{Answer, Engine};
use crate::error::{HintError, ReadError};
use crate::keys::{self, family};
use crate::read::undecodable;
use crate::writer::{BindingWrite, Op, Written};
pub(crate) use counts::HintCounts;
pub use counts::HintStats;
pub(crate) use row::HintRow;

/// Hints that one step of [`Engine::reroute_hints`] moves: they share a group with what others write meanwhile.
const REROUTED_AT_ONCE: usize = 256;

/// What a hint weighs in the queue beside its binding, in bytes.
const HINT_BYTES: usize = 512;

/// A write that is kept for a home replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The partition of the key.
    pub partition: PartitionId,
    /// Its place among the hints of the partition: later ones have higher numbers, and none is ever given out twice. A
    /// hint that another one was merged into gets a new number.
    pub sequence: u64,
    /// The home replica that was away. Another node is to get the hint where it was rerouted.
    pub home: NodeId,
    /// The key.
    pub key: BindingKey,
    /// The binding as it was written, [encoded](Binding::encode).
    pub binding: Bytes,
    /// Timestamp of its oldest version, in unix milliseconds.
    pub oldest_ms: u64,
}

/// A hint to be stored.
#[derive(Debug)]
pub(crate) struct HintOp {
    pub(crate) target: NodeId,
    pub(crate) key: BindingKey,
    pub(crate) binding: Binding,
    /// About what it takes when it is stored.
    pub(crate) bytes: usize,
}

/// Hints that go to another node, or that have been delivered.
#[derive(Debug)]
pub(crate) struct SettleOp {
    pub(crate) target: NodeId,
    pub(crate) partition: PartitionId,
    pub(crate) sequences: Vec<u64>,
    /// `None`: they were delivered.
    pub(crate) next_target: Option<NodeId>,
}

impl Engine {
    /// Queues that `binding` is kept for `target`, a home replica that is away, together with what is kept of the key for it
    /// already; `done` is called on the writer's thread when that is durable or refused, and must not block. The call itself
    /// blocks only while more than [`crate::QUEUE_BYTES_MAX`] wait for the disk.
    ///
    /// # Errors
    /// `done` is told; see [`HintError`]. Refused is not acknowledged.
    pub fn submit_hint(
        &self,
        target: NodeId,
        key: BindingKey,
        binding: Binding,
        done: impl FnOnce(Result<(), HintError>) + Send + 'static,
    ) {
        let bytes = binding.encode().len() + key.as_bytes().len() + HINT_BYTES;
        let hint = HintOp {
            target,
            key,
            binding,
            bytes,
        };
        self.queue()
            .push(Op::Hint(Box::new(hint), Box::new(done)), bytes);
    }

    /// Queues a write that this node makes although it is no home replica of the key, because all of those are away: over
    /// all that is known of the key here, and kept for `target`. `decided` as for [`Engine::submit_write_early`], `done` as
    /// for [`Engine::submit_hint`].
    ///
    /// # Errors
    /// `done` is told; see [`HintError`].
    pub fn submit_hinted_write(
        &self,
        target: NodeId,
        write: BindingWrite,
        decided: impl FnOnce(&Binding, &Written) + Send + 'static,
        done: impl FnOnce(Result<Written, HintError>) + Send + 'static,
    ) {
        let value_bytes = write.value.as_ref().map_or(0, Bytes::len);
        let bytes = value_bytes + write.key.as_bytes().len() + HINT_BYTES;
        let op = Op::HintedWrite(target, write, Some(Box::new(decided)), Box::new(done));
        self.queue().push(op, bytes);
    }

    /// All that is known of a key here: the copy of this node, merged with what hints of it say. `None` where there is neither.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn known_binding(&self, key: &BindingKey) -> Result<Option<Binding>, ReadError> {
        let partition = self.partition_of(key.as_bytes());
        let targets: Vec<NodeId> = self.kept_hints().targets(partition).collect();
        let mut known = self.binding(key)?;
        for target in targets {
            let Some(hint) = self.hint_of(target, partition, key)? else {
                continue;
            };
            let hinted = Binding::decode(&hint.binding)
                .map_err(|error| undecodable("the binding of a hint", &error))?;
            known = Some(known.map_or_else(|| hinted.clone(), |known| known.merge(&hinted)));
        }
        Ok(known)
    }

    /// The same, where that takes no look at the disk. `None`: it may take one.
    pub fn known_binding_at_hand(
        &self,
        key: &BindingKey,
    ) -> Option<Result<Option<Binding>, ReadError>> {
        let partition = self.partition_of(key.as_bytes());
        if self.kept_hints().targets(partition).next().is_some() {
            return None;
        }
        self.binding_at_hand(key)
    }

    /// The hint that is kept of a key for a node.
    fn hint_of(
        &self,
        target: NodeId,
        partition: PartitionId,
        key: &BindingKey,
    ) -> Result<Option<Hint>, ReadError> {
        let index = keys::hint_of_key(partition, key.as_bytes(), target);
        loop {
            let Some(found) = self.store().get(family::BINDING_INDEX, &index)? else {
                return Ok(None);
            };
            let sequence = only_u64(&found);
            let sequence = sequence.map_err(|error| undecodable("the index of hints", &error))?;
            let row = keys::hint_key(target, partition, sequence);
            if let Some(value) = self.store().get(family::HINTS, &row)? {
                return self.hint(target, &row, &value).map(Some);
            }
            // A newer one has taken its place in between, or it was removed; where the index still names it, it is lost.
            let still = self.store().get(family::BINDING_INDEX, &index)?;
            if still.is_some_and(|still| still[..] == found[..]) {
                return Err(undecodable("a hint", &"its row is missing"));
            }
        }
    }

    /// Hints for `target` behind `after`, in the order in which they are to be delivered (by partition, and within it as
    /// they came), until `bytes` of stored values are reached; at least one if there is any.
    ///
    /// # Errors
    /// The next hint cannot be read. What stands in the way is one partition's: pass `(partition, u64::MAX)` to go on with
    /// the next.
    pub fn hints(
        &self,
        target: NodeId,
        after: Option<(PartitionId, u64)>,
        bytes: usize,
    ) -> Result<Vec<Hint>, ReadError> {
        let store = self.store();
        let mut iterator = store.iterate(family::HINTS, &target.0);
        let after = after.map(|(partition, sequence)| keys::hint_key(target, partition, sequence));
        match &after {
            None => iterator.seek_to_first(),
            Some(after) => iterator.seek([&after[..], &[0]].concat()),
        }
        let (mut found, mut read) = (Vec::new(), 0);
        while let Some((key, value)) = iterator.item() {
            match self.hint(target, key, value) {
                Ok(hint) => found.push(hint),
                // What came before it is good; the next call meets it first.
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => return Ok(found),
            }
            read += value.len();
            if read >= bytes {
                break;
            }
            iterator.next();
        }
        match iterator.status() {
            Err(error) if found.is_empty() => {
                let from = after.unwrap_or_else(|| target.0.to_vec());
                Err(store.read_error(family::HINTS, &from, &error))
            }
            _ => Ok(found),
        }
    }

    fn hint(&self, target: NodeId, key: &[u8], value: &[u8]) -> Result<Hint, ReadError> {
        let broken = |detail: String| undecodable(&format!("a hint for node {target}"), &detail);
        let (partition, sequence) = keys::parse_hint_key(target, key)
            .ok_or_else(|| broken("a key that is never written".into()))?;
        let row = HintRow::decode(value).map_err(|error| broken(error.to_string()))?;
        Binding::decode(row.binding).map_err(|error| broken(error.to_string()))?;
        if partition_of(row.key, self.identity().partitions) != partition {
            return Err(broken("its key is of another partition".into()));
        }
        Ok(Hint {
            partition,
            sequence,
            home: row.home,
            key: BindingKey::new(row.key).map_err(|error| broken(error.to_string()))?,
            binding: Bytes::copy_from_slice(row.binding),
            oldest_ms: row.oldest_ms,
        })
    }

    /// Queues that hints which a home replica has acknowledged are removed; `done` is called on the writer's thread, when that
    /// is durable, with how many there were. It must not block. Sequences that are not there, or whose hint cannot be
    /// read, are passed over.
    ///
    /// # Errors
    /// `done` is told that the store stopped: the hints may come again, which does no harm.
    pub fn submit_remove_hints(
        &self,
        target: NodeId,
        partition: PartitionId,
        sequences: Vec<u64>,
        done: impl FnOnce(Result<u64, HintError>) + Send + 'static,
    ) {
        let op = SettleOp {
            target,
            partition,
            sequences,
            next_target: None,
        };
        self.settle_hints(op, done);
    }

    /// As [`Engine::submit_remove_hints`], and waits.
    ///
    /// # Errors
    /// The store stopped.
    pub fn remove_hints(
        &self,
        target: NodeId,
        partition: PartitionId,
        sequences: Vec<u64>,
    ) -> Result<u64, HintError> {
        let (sender, receiver) = sync_channel(1);
        self.submit_remove_hints(target, partition, sequences, move |result| {
            let _ = sender.send(result);
        });
        Answer::of(receiver).wait()
    }

    /// Moves the hints of a partition from a node that was removed to its successor, behind those that it has, and returns
    /// how many went. A crash leaves each with one of both.
    ///
    /// # Errors
    /// A hint cannot be read, or the store stopped. What moved until then stays moved; the call may be made again.
    pub fn reroute_hints(
        &self,
        from: NodeId,
        to: NodeId,
        partition: PartitionId,
    ) -> Result<u64, HintError> {
        let mut moved = 0;
        let mut stuck = Vec::new();
        loop {
            let sequences = self.hint_sequences(from, partition)?;
            if from == to || sequences.is_empty() {
                return Ok(moved);
            }
            if sequences == stuck {
                let what = format!("hints of partition {partition} for node {from}");
                return Err(undecodable(&what, &"they cannot be read").into());
            }
            stuck.clone_from(&sequences);
            let op = SettleOp {
                target: from,
                partition,
                sequences,
                next_target: Some(to),
            };
            let (sender, receiver) = sync_channel(1);
            self.settle_hints(op, move |result| {
                let _ = sender.send(result);
            });
            moved += Answer::<u64, HintError>::of(receiver).wait()?;
        }
    }

    /// Removes all hints of a partition, whoever they are for, and returns how many there were. Durable when it returns.
    ///
    /// # Errors
    /// A hint cannot be read, or the store stopped. What was removed until then is gone; the call may be made again.
    pub fn drop_hints(&self, partition: PartitionId) -> Result<u64, HintError> {
        let mut dropped = 0;
        for target in self.hint_stats().into_keys() {
            let mut stuck = Vec::new();
            loop {
                let sequences = self.hint_sequences(target, partition)?;
                if sequences.is_empty() {
                    break;
                }
                if sequences == stuck {
                    let what = format!("hints of partition {partition} for node {target}");
                    return Err(undecodable(&what, &"they cannot be read").into());
                }
                stuck.clone_from(&sequences);
                dropped += self.remove_hints(target, partition, sequences)?;
            }
        }
        Ok(dropped)
    }

    /// The first hints of one partition.
    fn hint_sequences(
        &self,
        target: NodeId,
        partition: PartitionId,
    ) -> Result<Vec<u64>, ReadError> {
        let prefix = &keys::hint_key(target, partition, 0)[..18];
        let mut iterator = self.store().iterate(family::HINTS, prefix);
        iterator.seek_to_first();
        let mut sequences = Vec::new();
        while sequences.len() < REROUTED_AT_ONCE
            && let Some(key) = iterator.key()
        {
            sequences.extend(keys::parse_hint_key(target, key).map(|(_, sequence)| sequence));
            iterator.next();
        }
        match iterator.status() {
            Err(error) if sequences.is_empty() => {
                Err(self.store().read_error(family::HINTS, prefix, &error))
            }
            _ => Ok(sequences),
        }
    }

    fn settle_hints(
        &self,
        op: SettleOp,
        done: impl FnOnce(Result<u64, HintError>) + Send + 'static,
    ) {
        let bytes = HINT_BYTES + op.sequences.len() * size_of::<u64>();
        self.queue()
            .push(Op::SettleHints(Box::new(op), Box::new(done)), bytes);
    }

    /// What is kept for each node. Nodes for which nothing is are left out.
    pub fn hint_stats(&self) -> BTreeMap<NodeId, HintStats> {
        self.kept_hints().by_target()
    }

    /// Bytes of all hints that are kept.
    pub fn hint_bytes(&self) -> u64 {
        self.kept_hints().bytes()
    }

    /// A time, in unix milliseconds, that no version in a hint of the partition is older than; `None` where there is no
    /// hint of it. It may be earlier than that of any hint which is still there.
    pub fn oldest_hint_ms(&self, partition: PartitionId) -> Option<u64> {
        self.kept_hints().oldest_ms(partition)
    }
}
