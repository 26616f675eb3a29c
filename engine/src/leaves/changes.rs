//! What a group changes of leaves, as it is staged.

use std::collections::BTreeSet;

use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum};

use super::row::{Entry, entries};

/// Partition and leaf, in order.
pub(super) type At = (PartitionId, LeafId);

#[derive(Debug, Clone, Copy)]
enum Change {
    /// To be added to the sum.
    Add(LeafSum),
    /// What the sum is, whatever it was.
    Set(LeafSum),
}

/// Changes in the order in which they were made.
#[derive(Default)]
pub(crate) struct Changes {
    pub(super) wiped: BTreeSet<PartitionId>,
    sums: Vec<(At, Change)>,
    /// Entries of keys that are under a leaf, or not any more.
    pub(super) keys: Vec<u8>,
}

impl Changes {
    /// A binding under the leaf changed: the digest that came less the one that went.
    pub(crate) fn add(&mut self, partition: PartitionId, leaf: LeafId, difference: LeafSum) {
        self.sums.push(((partition, leaf), Change::Add(difference)));
    }

    /// The leaf was summed anew.
    pub(crate) fn set(&mut self, partition: PartitionId, leaf: LeafId, sum: LeafSum) {
        self.sums.push(((partition, leaf), Change::Set(sum)));
    }

    /// The key is under the leaf now.
    pub(crate) fn bound(&mut self, partition: PartitionId, leaf: LeafId, key: &[u8]) {
        Entry::Bound(partition, leaf, key).put(&mut self.keys);
    }

    /// The key is not under the leaf any more.
    pub(crate) fn gone(&mut self, partition: PartitionId, leaf: LeafId, key: &[u8]) {
        Entry::Gone(partition, leaf, key).put(&mut self.keys);
    }

    /// All leaves of the partition are empty now.
    pub(crate) fn wipe(&mut self, partition: PartitionId) {
        self.sums.retain(|((of, _), _)| *of != partition);
        let mut keys = Vec::with_capacity(self.keys.len());
        for (entry, bytes) in entries(&self.keys).flatten() {
            if !matches!(entry, Entry::Bound(of, ..) | Entry::Gone(of, ..) if of == partition) {
                keys.extend_from_slice(bytes);
            }
        }
        self.keys = keys;
        self.wiped.insert(partition);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wiped.is_empty() && self.sums.is_empty() && self.keys.is_empty()
    }

    /// The sums that come of it, one for each leaf that was changed, in order; `before`: what a leaf was, unless its
    /// partition was wiped.
    pub(super) fn sums(&mut self, before: impl Fn(At) -> LeafSum) -> Vec<(At, LeafSum)> {
        let mut changes = std::mem::take(&mut self.sums);
        // Stable: what is added to a leaf after it was summed anew comes on top.
        changes.sort_by_key(|(at, _)| *at);
        let mut sums: Vec<(At, LeafSum)> = Vec::with_capacity(changes.len());
        for (at, change) in changes {
            match (sums.last_mut(), change) {
                (Some((last, sum)), Change::Add(difference)) if *last == at => {
                    *sum = sum.add(difference);
                }
                (Some((last, sum)), Change::Set(anew)) if *last == at => *sum = anew,
                (_, Change::Set(anew)) => sums.push((at, anew)),
                (_, Change::Add(difference)) => {
                    let sum = match self.wiped.contains(&at.0) {
                        true => LeafSum::ZERO,
                        false => before(at),
                    };
                    sums.push((at, sum.add(difference)));
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(1);
    const Q: PartitionId = PartitionId(2);

    fn sum(n: u64) -> LeafSum {
        LeafSum([n, 0, 0, 0])
    }

    #[test]
    fn changes_count_in_their_order() {
        let mut changes = Changes::default();
        changes.add(Q, LeafId(3), sum(1));
        changes.add(P, LeafId(9), sum(1));
        changes.set(Q, LeafId(3), sum(50));
        changes.add(Q, LeafId(3), sum(2));
        changes.add(P, LeafId(9), sum(1));
        let sums = changes.sums(|_| sum(100));
        assert_eq!(
            sums,
            [((P, LeafId(9)), sum(102)), ((Q, LeafId(3)), sum(52))]
        );
    }

    #[test]
    fn a_wiped_partition_keeps_only_what_comes_after() {
        let mut changes = Changes::default();
        for partition in [P, Q] {
            changes.add(partition, LeafId(1), sum(1));
            changes.bound(partition, LeafId(1), b"before");
        }
        changes.wipe(P);
        changes.add(P, LeafId(1), sum(7));
        changes.gone(P, LeafId(1), b"after");
        let keys: Vec<Entry<'_>> = entries(&changes.keys)
            .flatten()
            .map(|(entry, _)| entry)
            .collect();
        let expected = [
            Entry::Bound(Q, LeafId(1), b"before"),
            Entry::Gone(P, LeafId(1), b"after"),
        ];
        assert_eq!(keys, expected);
        let sums = changes.sums(|_| sum(100));
        assert_eq!(sums, [((P, LeafId(1)), sum(7)), ((Q, LeafId(1)), sum(101))]);
    }
}
