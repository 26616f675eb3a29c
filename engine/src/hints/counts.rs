//! How many hints are kept, by target and partition: a row for each pair that has any, changed in the batch that changes
//! its hints.

use std::collections::BTreeMap;

use mesh_ring::ids::{NodeId, PartitionId};

use crate::codec::{CodecError, take_u8, take_u64};
use crate::error::ReadError;
use crate::keys::{self, family, meta};
use crate::read::undecodable;
use crate::store::Store;

const VERSION: u8 = 1;

/// What is kept for one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HintStats {
    /// Hints.
    pub count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// A time, in unix milliseconds, that no version in them is older than.
    pub oldest_ms: u64,
}

/// Counts of every (target, partition) that has hints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HintCounts {
    pairs: BTreeMap<(NodeId, PartitionId), HintStats>,
    bytes: u64,
}

impl HintStats {
    /// version u8 | count u64 BE | bytes u64 BE | oldest unix ms u64 BE.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [self.count, self.bytes, self.oldest_ms] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(mut from: &[u8]) -> Result<HintStats, CodecError> {
        let from = &mut from;
        match take_u8(from)? {
            VERSION => {}
            other => return Err(CodecError::Unknown("version of a hint count", other.into())),
        }
        let stats = HintStats {
            count: take_u64(from)?,
            bytes: take_u64(from)?,
            oldest_ms: take_u64(from)?,
        };
        if from.is_empty() {
            Ok(stats)
        } else {
            Err(CodecError::Long)
        }
    }

    fn and(self, other: HintStats) -> HintStats {
        HintStats {
            count: self.count + other.count,
            bytes: self.bytes + other.bytes,
            oldest_ms: self.oldest_ms.min(other.oldest_ms),
        }
    }
}

impl HintCounts {
    /// Reads the counts: as many rows as there are partitions with hints for each node that is away.
    pub(crate) fn load(store: &Store) -> Result<HintCounts, ReadError> {
        let mut counts = HintCounts::default();
        let mut iterator = store.iterate(family::META, meta::HINT_COUNT);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            let broken = |error: &dyn ToString| undecodable("a count of hints", &error.to_string());
            let pair = keys::parse_hint_count_key(key).ok_or_else(|| broken(&"its key"))?;
            let stats = HintStats::decode(value).map_err(|error| broken(&error))?;
            counts.set(pair, Some(stats));
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| store.read_error(family::META, meta::HINT_COUNT, &error))?;
        Ok(counts)
    }

    pub(crate) fn get(&self, pair: (NodeId, PartitionId)) -> Option<HintStats> {
        self.pairs.get(&pair).copied()
    }

    /// Replaces the count of a pair; `None` and a count of nothing are the same.
    pub(crate) fn set(&mut self, pair: (NodeId, PartitionId), stats: Option<HintStats>) {
        let stats = stats.filter(|stats| stats.count > 0);
        let before = match stats {
            Some(stats) => self.pairs.insert(pair, stats),
            None => self.pairs.remove(&pair),
        };
        let (before, after) = (
            before.unwrap_or_default().bytes,
            stats.unwrap_or_default().bytes,
        );
        self.bytes = self.bytes.saturating_sub(before) + after;
    }

    pub(crate) fn add(&mut self, pair: (NodeId, PartitionId), bytes: u64, oldest_ms: u64) {
        let one = HintStats {
            count: 1,
            bytes,
            oldest_ms,
        };
        let stats = self.get(pair).map_or(one, |held| held.and(one));
        self.set(pair, Some(stats));
    }

    /// The oldest time stays until nothing is left: what remains is not looked through.
    pub(crate) fn remove(&mut self, pair: (NodeId, PartitionId), bytes: u64) {
        let stats = self.get(pair).map(|held| HintStats {
            count: held.count.saturating_sub(1),
            bytes: held.bytes.saturating_sub(bytes),
            ..held
        });
        self.set(pair, stats);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn by_target(&self) -> BTreeMap<NodeId, HintStats> {
        let mut targets: BTreeMap<NodeId, HintStats> = BTreeMap::new();
        for ((target, _), stats) in &self.pairs {
            targets
                .entry(*target)
                .and_modify(|held| *held = held.and(*stats))
                .or_insert(*stats);
        }
        targets
    }

    /// Nodes for which there are hints of the partition.
    pub(crate) fn targets(&self, partition: PartitionId) -> impl Iterator<Item = NodeId> + '_ {
        let of_partition = self.pairs.keys().filter(move |(_, of)| *of == partition);
        of_partition.map(|(target, _)| *target)
    }

    pub(crate) fn oldest_ms(&self, partition: PartitionId) -> Option<u64> {
        let of_partition = self.pairs.iter().filter(|((_, of), _)| *of == partition);
        of_partition.map(|(_, stats)| stats.oldest_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (NodeId, PartitionId) = (NodeId([1; 16]), PartitionId(1));
    const B: (NodeId, PartitionId) = (NodeId([1; 16]), PartitionId(2));
    const C: (NodeId, PartitionId) = (NodeId([2; 16]), PartitionId(1));

    #[test]
    fn hint_count_bytes() {
        let stats = HintStats {
            count: 1,
            bytes: 2,
            oldest_ms: 3,
        };
        let bytes = stats.encode();
        assert_eq!(
            bytes,
            [
                1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3
            ]
        );
        assert_eq!(HintStats::decode(&bytes), Ok(stats));
        assert_eq!(HintStats::decode(&bytes[..24]), Err(CodecError::Short));
        assert_eq!(
            HintStats::decode(&[&bytes[..], &[0]].concat()),
            Err(CodecError::Long)
        );
    }

    #[test]
    fn counts_add_up_and_vanish_with_the_last_hint() {
        let mut counts = HintCounts::default();
        counts.add(A, 10, 7);
        counts.add(A, 20, 5);
        counts.add(B, 1, 9);
        counts.add(C, 2, 6);
        assert_eq!(counts.bytes(), 33);
        let targets = counts.by_target();
        let first = HintStats {
            count: 3,
            bytes: 31,
            oldest_ms: 5,
        };
        assert_eq!(targets[&A.0], first);
        assert_eq!(counts.oldest_ms(PartitionId(1)), Some(5));
        counts.remove(A, 20);
        counts.remove(A, 10);
        assert_eq!(counts.get(A), None);
        assert_eq!(counts.oldest_ms(PartitionId(1)), Some(6));
        counts.remove(B, 1);
        counts.remove(C, 2);
        assert_eq!(counts, HintCounts::default());
    }
}
