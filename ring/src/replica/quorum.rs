//! Who must agree.

use super::config::Config;
use super::fault::{Fault, Faults};
use crate::ids::{Index, NodeId};

/// The sets of which each needs its own majority.
pub(super) struct Sets<'c> {
    sets: [&'c [NodeId]; 2],
    count: usize,
}

impl<'c> Sets<'c> {
    /// The epoch's replicas; until the epoch is activated, also those of the last epoch that was.
    fn of(config: &'c Config, one: bool) -> Self {
        Self {
            sets: [&config.replicas, &config.activated.replicas],
            count: if one || config.is_activated() { 1 } else { 2 },
        }
    }

    pub(super) fn to_seal(config: &'c Config, faults: &Faults) -> Self {
        Self::of(config, faults.has(Fault::OneSetSeals))
    }

    pub(super) fn to_commit(config: &'c Config, faults: &Faults) -> Self {
        Self::of(config, faults.has(Fault::OneSetCommits))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'c [NodeId]> {
        self.sets[..self.count].iter().copied()
    }
}

/// Whether these are more than half of the set.
pub(super) fn is_majority(set: &[NodeId], has: impl Fn(NodeId) -> bool) -> bool {
    set.iter().filter(|node| has(**node)).count() * 2 > set.len()
}

/// The highest index that more than half of the set has. `held` says how far a node has everything.
pub(super) fn majority_index(set: &[NodeId], held: impl Fn(NodeId) -> Index) -> Index {
    let candidates = set.iter().map(|node| held(*node));
    candidates
        .filter(|index| is_majority(set, |node| held(node) >= *index))
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u8) -> Vec<NodeId> {
        (0..count).map(|n| NodeId([n; 16])).collect()
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for (of, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
            for have in 0..=of {
                let has = |node: NodeId| node.0[0] < have;
                assert_eq!(
                    is_majority(&nodes(of), has),
                    have >= needed,
                    "{have} of {of}"
                );
            }
        }
        assert!(!is_majority(&[], |_| true));
    }

    #[test]
    fn the_index_of_a_majority_is_the_middle_one() {
        let held = |held: &'static [u64]| {
            let count = u8::try_from(held.len()).unwrap();
            majority_index(&nodes(count), move |node| {
                Index(held[usize::from(node.0[0])])
            })
        };
        assert_eq!(held(&[7]), Index(7));
        assert_eq!(held(&[7, 3]), Index(3));
        assert_eq!(held(&[1, 9, 4]), Index(4));
        assert_eq!(held(&[5, 5, 0]), Index(5));
        assert_eq!(held(&[1, 2, 3, 4]), Index(2));
        assert_eq!(held(&[0, 0, 8]), Index(0));
    }
}
