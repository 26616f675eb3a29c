//! Staging hints: for each target and key one row with all that was written, the row that finds it by key, and the count of
//! its target and partition.

use std::borrow::Cow;

use mesh_ring::binding::{Binding, Version};
use mesh_ring::hash::partition_of;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};

use super::group::Group;
use super::state::State;
use super::{BindingWrite, Decided, Written};
use crate::codec::only_u64;
use crate::error::{BindingError, HintError, ReadError};
use crate::hints::{HintOp, HintRow, SettleOp};
use crate::keys::{self, family};
use crate::read::undecodable;

/// A hint that a group sees.
struct Kept {
    sequence: u64,
    bytes: u64,
    home: NodeId,
    binding: Binding,
}

impl State {
    /// Keeps a write for its target.
    pub(super) fn hint(&mut self, group: &mut Group<'_>, hint: &HintOp) -> Result<(), HintError> {
        check_space(group)?;
        let key = hint.key.as_bytes();
        self.keep(
            group,
            (hint.target, hint.target),
            key,
            &hint.binding,
            self.hint_bytes_max,
        )?;
        let times = hint.binding.versions().iter().map(|version| version.hlc);
        self.observe(times.max().unwrap_or_default(), group.now_ms);
        Ok(())
    }

    /// Makes a write as a stand-in, for a target that is away: over all that is known of the key here.
    pub(super) fn hinted_write(
        &mut self,
        group: &mut Group<'_>,
        target: NodeId,
        write: BindingWrite,
        decided: Option<Decided>,
    ) -> Result<Written, HintError> {
        check_space(group)?;
        let partition = partition_of(write.key.as_bytes(), self.partition_count);
        let key = write.key.clone();
        let held = group.held(partition, key.as_bytes())?;
        let copy = held.map(|held| held.binding).unwrap_or_default();
        let known = self.with_hints(group, partition, key.as_bytes(), &copy)?;
        let (after, written) = self
            .decide(group, partition, &known, write)
            .map_err(|error| match error {
                BindingError::Read(error) => HintError::Read(error),
                error => HintError::Refused(Box::new(error)),
            })?;
        self.keep(
            group,
            (target, target),
            key.as_bytes(),
            &after,
            self.hint_bytes_max,
        )?;
        if let Some(decided) = decided {
            decided(&after, &written);
        }
        Ok(written)
    }

    /// What is known of a key: `copy`, and what hints of it say.
    pub(super) fn with_hints<'b>(
        &self,
        group: &Group<'_>,
        partition: PartitionId,
        key: &[u8],
        copy: &'b Binding,
    ) -> Result<Cow<'b, Binding>, ReadError> {
        let mut known = Cow::Borrowed(copy);
        if self.hints.oldest_ms(partition).is_none() {
            return Ok(known);
        }
        for target in self.hints.targets(partition) {
            if let Some(kept) = group.kept(target, partition, key)? {
                known = Cow::Owned(known.merge(&kept.binding));
            }
        }
        Ok(known)
    }

    /// Keeps `binding` for a target, together with what is kept of the key for it already: so a key that is written over
    /// and over takes no more room, and the target gets the whole of it.
    fn keep(
        &mut self,
        group: &mut Group<'_>,
        (target, home): (NodeId, NodeId),
        key: &[u8],
        binding: &Binding,
        max: u64,
    ) -> Result<(), HintError> {
        let partition = partition_of(key, self.partition_count);
        let pair = (target, partition);
        let kept = group.kept(target, partition, key)?;
        let merged = kept.as_ref().map(|kept| kept.binding.merge(binding));
        let binding = merged.as_ref().unwrap_or(binding);
        let oldest_ms = oldest(binding).millis();
        let value = HintRow {
            home: kept.as_ref().map_or(home, |kept| kept.home),
            oldest_ms,
            key,
            binding: &binding.encode(),
        }
        .encode();
        let sequence = self.next_hint();
        let row = keys::hint_key(target, partition, sequence);
        let (bytes, before) = (
            bytes_of(&row, &value),
            kept.as_ref().map_or(0, |kept| kept.bytes),
        );
        let held = self.hints.bytes();
        if held.saturating_sub(before).saturating_add(bytes) > max {
            return Err(HintError::Full { held, max });
        }
        if let Some(kept) = kept {
            let row = keys::hint_key(target, partition, kept.sequence);
            self.hints.remove(pair, kept.bytes);
            group.delete(family::HINTS, &row);
            group.hints.insert(row, None);
        }
        self.hints.add(pair, bytes, oldest_ms);
        let index = keys::hint_of_key(partition, key, target);
        group.put(family::BINDING_INDEX, &index, sequence.to_be_bytes());
        group.hint_index.insert(index, Some(sequence));
        group.put(family::HINTS, &row, &value);
        group.hints.insert(row, Some(value));
        group.counted.insert(pair);
        Ok(())
    }

    /// Removes hints, or gives them to another target. Returns how many there were; what cannot be read stays.
    pub(super) fn settle_hints(
        &mut self,
        group: &mut Group<'_>,
        op: &SettleOp,
    ) -> Result<u64, HintError> {
        let mut settled = 0;
        for sequence in &op.sequences {
            match self.settle_hint(group, op, *sequence) {
                Ok(true) => settled += 1,
                Ok(false) => {}
                Err(HintError::Read(error)) => {
                    tracing::error!(target = %op.target, sequence, %error, "a hint cannot be read, and is kept");
                }
                Err(error) => return Err(error),
            }
        }
        if settled > 0 && op.next_target.is_none() {
            self.forget(group, op.partition)?;
        }
        Ok(settled)
    }

    fn settle_hint(
        &mut self,
        group: &mut Group<'_>,
        op: &SettleOp,
        sequence: u64,
    ) -> Result<bool, HintError> {
        let row = keys::hint_key(op.target, op.partition, sequence);
        let Some(value) = group.hint(&row)? else {
            return Ok(false);
        };
        let hint = decoded(&value)?;
        let key = hint.key;
        if let Some(next_target) = op.next_target {
            let binding = decoded_binding(hint.binding)?;
            self.keep(group, (next_target, hint.home), key, &binding, u64::MAX)?;
        }
        let pair = (op.target, op.partition);
        self.hints.remove(pair, bytes_of(&row, &value));
        group.counted.insert(pair);
        if group.hint_sequence(op.target, op.partition, key)? == Some(sequence) {
            let index = keys::hint_of_key(op.partition, key, op.target);
            group.delete(family::BINDING_INDEX, &index);
            group.hint_index.insert(index, None);
        }
        group.delete(family::HINTS, &row);
        group.hints.insert(row, None);
        Ok(true)
    }

    /// Writes the counts that the group changed.
    pub(super) fn count_hints(&self, group: &mut Group<'_>) {
        for (target, partition) in std::mem::take(&mut group.counted) {
            let key = keys::hint_count_key(target, partition);
            let stats = self.hints.get((target, partition));
            match stats {
                Some(stats) => group.put(family::META, key, stats.encode()),
                None => group.delete(family::META, key),
            }
            group.recounted.push(((target, partition), stats));
        }
    }
}

impl Group<'_> {
    /// The hint that is kept of a key for a target, as the group sees it so far.
    fn kept(
        &self,
        target: NodeId,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<Kept>, ReadError> {
        let Some(sequence) = self.hint_sequence(target, partition, key)? else {
            return Ok(None);
        };
        let row = keys::hint_key(target, partition, sequence);
        let Some(value) = self.hint(&row)? else {
            return Ok(None);
        };
        let hint = decoded(&value)?;
        Ok(Some(Kept {
            sequence,
            bytes: bytes_of(&row, &value),
            home: hint.home,
            binding: decoded_binding(hint.binding)?,
        }))
    }

    fn hint_sequence(
        &self,
        target: NodeId,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<u64>, ReadError> {
        let index = keys::hint_of_key(partition, key, target);
        if let Some(staged) = self.hint_index.get(&index) {
            return Ok(*staged);
        }
        let stored = self.store.get(family::BINDING_INDEX, &index)?;
        stored
            .map(|sequence| {
                only_u64(&sequence).map_err(|error| undecodable("the index of hints", &error))
            })
            .transpose()
    }

    /// A hint by its row, as the group sees it so far.
    fn hint(&self, row: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        match self.hints.get(row) {
            Some(staged) => Ok(staged.clone()),
            None => {
                let stored = self.store.get(family::HINTS, row)?;
                Ok(stored.map(|value| value.to_vec()))
            }
        }
    }
}

fn check_space(group: &Group<'_>) -> Result<(), HintError> {
    match &group.space {
        Ok(()) => Ok(()),
        Err(shortage) => Err(HintError::DiskFull {
            free: shortage.free,
            reserve: shortage.reserve,
        }),
    }
}

fn oldest(binding: &Binding) -> Hlc {
    let hlc = |version: &Version| version.hlc;
    let times = binding.versions().iter().map(hlc);
    times.min().unwrap_or_default()
}

fn decoded(value: &[u8]) -> Result<HintRow<'_>, ReadError> {
    HintRow::decode(value).map_err(|error| undecodable("a hint", &error))
}

fn decoded_binding(encoded: &[u8]) -> Result<Binding, ReadError> {
    Binding::decode(encoded).map_err(|error| undecodable("the binding of a hint", &error))
}

fn bytes_of(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}
