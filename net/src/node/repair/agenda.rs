//! What is to be compared, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_ring::ids::{NodeId, PartitionId};
use tokio::time::Instant;

/// A partition, and with whose copy it is compared.
pub(super) type Pair = (PartitionId, NodeId);

/// How often a comparison that something gave cause for is tried. Copies of a node that has just started are not open yet.
pub(super) const TRIES: u8 = 20;

/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// Comparisons that wait for their time. Each pair is there at most once, which bounds it.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    of: BTreeMap<Pair, Entry>,
    by_time: BTreeSet<(Instant, Pair)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    tries: u8,
}

/// One comparison whose time has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Due {
    pub(super) pair: Pair,
    tries: u8,
}

impl Agenda {
    /// Wants a pair compared at a time, or before if it is wanted before; at most so many tries, or more if more are wanted.
    pub(super) fn add(&mut self, pair: Pair, at: Instant, tries: u8) {
        let entry = match self.of.get(&pair) {
            None => Entry { at, tries },
            Some(held) => Entry {
                at: held.at.min(at),
                tries: held.tries.max(tries),
            },
        };
        if let Some(held) = self.of.insert(pair, entry) {
            self.by_time.remove(&(held.at, pair));
        }
        self.by_time.insert((entry.at, pair));
    }

    /// Takes the first pair whose time has come; else when the next one's does.
    pub(super) fn take(&mut self, now: Instant) -> Result<Due, Option<Instant>> {
        let (at, pair) = *self.by_time.first().ok_or(None)?;
        if at > now {
            return Err(Some(at));
        }
        self.by_time.remove(&(at, pair));
        let tries = self.of.remove(&pair).map_or(1, |entry| entry.tries);
        Ok(Due { pair, tries })
    }

    /// A comparison has failed: it waits for its next try, if there is one.
    pub(super) fn failed(&mut self, due: Due, now: Instant) {
        if let Some(tries) = due.tries.checked_sub(1).filter(|tries| *tries > 0) {
            self.add(due.pair, now + AGAIN, tries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(partition: u16, node: u8) -> Pair {
        (PartitionId(partition), NodeId([node; 16]))
    }

    #[test]
    fn the_first_comes_first_and_each_pair_once() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let later = |ms| now + Duration::from_millis(ms);
        assert_eq!(agenda.take(now), Err(None));
        agenda.add(pair(1, 1), later(20), 1);
        agenda.add(pair(2, 1), later(10), 1);
        agenda.add(pair(1, 1), later(5), 3);
        agenda.add(pair(1, 1), later(50), 1);
        assert_eq!(agenda.take(now), Err(Some(later(5))));
        let first = agenda.take(later(30)).unwrap();
        assert_eq!((first.pair, first.tries), (pair(1, 1), 3));
        assert_eq!(agenda.take(later(30)).unwrap().pair, pair(2, 1));
        assert_eq!(agenda.take(later(100)), Err(None));
    }

    #[test]
    fn a_failed_comparison_is_tried_again_and_in_the_end_given_up() {
        let (mut agenda, mut now) = (Agenda::default(), Instant::now());
        agenda.add(pair(1, 1), now, 3);
        for _ in 0..2 {
            let due = agenda.take(now).unwrap();
            agenda.failed(due, now);
            assert_eq!(agenda.take(now), Err(Some(now + AGAIN)));
            now += AGAIN;
        }
        let due = agenda.take(now).unwrap();
        agenda.failed(due, now);
        assert_eq!(agenda.take(now + AGAIN), Err(None));
    }
}
