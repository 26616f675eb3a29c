//! What a group changes of leaves, as it is staged.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafId, LeafSum};

use super::digests::{Beside, difference};
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
    /// Where differences are made beside the writer; those are the last of `sums`, which wait for them.
    beside: Option<Beside>,
    waiting: usize,
    /// Entries of keys that are under a leaf, or not any more.
    pub(super) keys: Vec<u8>,
}

impl Changes {
    /// Changes of a group of many, where there is something to make differences beside the writer.
    pub(crate) fn of_many(beside: Option<Beside>) -> Changes {
        Changes {
            beside,
            ..Changes::default()
        }
    }

    /// A binding under the leaf changed.
    pub(crate) fn change(
        &mut self,
        partition: PartitionId,
        leaf: LeafId,
        key: &[u8],
        before: Option<&Bytes>,
        after: Option<&Bytes>,
    ) {
        match &mut self.beside {
            None => {
                let before = before.map(|encoded| &encoded[..]);
                let after = after.map(|encoded| &encoded[..]);
                self.add(partition, leaf, difference(key, before, after));
            }
            Some(beside) => {
                beside.push(key, before.cloned(), after.cloned());
                self.waiting += 1;
                self.add(partition, leaf, LeafSum::ZERO);
            }
        }
    }

    /// Fills in the differences that were waited for.
    fn finish(&mut self) {
        let Some(beside) = &mut self.beside else {
            return;
        };
        let first = self.sums.len().saturating_sub(self.waiting);
        self.waiting = 0;
        let waiting = self.sums.iter_mut().skip(first);
        for ((_, change), difference) in waiting.zip(beside.finish()) {
            *change = Change::Add(difference);
        }
    }

    /// The digest that came less the one that went of a binding under the leaf.
    pub(crate) fn add(&mut self, partition: PartitionId, leaf: LeafId, difference: LeafSum) {
        self.sums.push(((partition, leaf), Change::Add(difference)));
    }

    /// The leaf was summed anew.
    pub(crate) fn set(&mut self, partition: PartitionId, leaf: LeafId, sum: LeafSum) {
        self.finish();
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
        self.finish();
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

    /// Those that it has something of; one may come again.
    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        let of_keys = entries(&self.keys)
            .flatten()
            .filter_map(|(entry, _)| match entry {
                Entry::Bound(of, ..) | Entry::Gone(of, ..) => Some(of),
                Entry::Wiped(_) | Entry::Sum(..) => None,
            });
        self.sums.iter().map(|((of, _), _)| *of).chain(of_keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wiped.is_empty() && self.sums.is_empty() && self.keys.is_empty()
    }

    /// The sums that come of it, one for each leaf that was changed, in order; `before`: what a leaf was, unless its
    /// partition was wiped.
    pub(super) fn sums(&mut self, before: impl Fn(At) -> LeafSum) -> Vec<(At, LeafSum)> {
        self.finish();
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
    use super::super::Digests;
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
    fn differences_that_are_made_beside_come_to_the_same() {
        let digests = Digests::default();
        for beside in [None, digests.begin()] {
            let mut changes = Changes::of_many(beside);
            let mut expected = [LeafSum::ZERO; 3];
            for n in 0..200_u64 {
                let (key, partition) = (n.to_be_bytes(), PartitionId((n % 3) as u16));
                let after = Bytes::from(n.to_string());
                changes.change(partition, LeafId(4), &key, None, Some(&after));
                let sum = &mut expected[n as usize % 3];
                *sum = sum.add(difference(&key, None, Some(&after)));
                if n == 70 {
                    changes.wipe(PartitionId(0));
                    changes.set(PartitionId(1), LeafId(4), sum.sub(*sum));
                    (expected[0], expected[1]) = (LeafSum::ZERO, LeafSum::ZERO);
                }
            }
            let sums = changes.sums(|_| LeafSum::ZERO);
            let sums: Vec<LeafSum> = sums.into_iter().map(|(_, sum)| sum).collect();
            assert_eq!(sums, expected);
        }
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
