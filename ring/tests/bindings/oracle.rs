//! What truly happened: which write had seen which, told apart from what contexts claim.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content};
use mesh_ring::version::Dot;

/// Writes, by their number in the run.
pub(crate) type Seen = BTreeSet<usize>;

pub(crate) struct Written {
    pub(crate) key: Bytes,
    pub(crate) dot: Dot,
    /// Every write that it had seen, and so supersedes.
    pub(crate) past: Seen,
    /// A tombstone, or a value that becomes one.
    pub(crate) vanishes: bool,
    pub(crate) is_acknowledged: bool,
    /// Nobody had it but a node that was removed by force.
    pub(crate) is_forgiven: bool,
    /// Where it was acknowledged without hints: the version of the map, how many homes, when in the run.
    pub(crate) firm: Option<(u64, usize)>,
}

#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) writes: Vec<Written>,
    by_dot: BTreeMap<Dot, usize>,
    /// Tombstones that some node has collected.
    collected: Seen,
}

impl Oracle {
    pub(crate) fn minted(&mut self, key: &Bytes, dot: Dot, past: Seen, vanishes: bool) -> usize {
        let number = self.writes.len();
        let before = self.by_dot.insert(dot, number);
        assert_eq!(before, None, "dot {dot} was minted twice");
        self.writes.push(Written {
            key: key.clone(),
            dot,
            past,
            vanishes,
            is_acknowledged: false,
            is_forgiven: false,
            firm: None,
        });
        number
    }

    /// What a reader of this state has seen.
    pub(crate) fn seen(&self, state: &Binding) -> Seen {
        let mut seen = Seen::new();
        for version in state.versions() {
            let number = self.by_dot[&version.dot];
            seen.insert(number);
            seen.extend(&self.writes[number].past);
        }
        seen
    }

    pub(crate) fn collected(&mut self, binding: &Binding) {
        let versions = binding.versions().iter();
        let numbers = versions.map(|version| self.by_dot[&version.dot]);
        self.collected.extend(numbers.collect::<Vec<_>>());
    }

    /// Writes of a key that were acknowledged without hints at a quorum which every quorum of `homes` nodes meets.
    pub(crate) fn firm(&self, key: &Bytes, map_version: u64, need: usize, homes: usize) -> Seen {
        let writes = self.writes.iter().enumerate();
        let firm = writes.filter(|(_, write)| {
            let meets = |(version, at): (u64, usize)| version == map_version && at + need > homes;
            write.key == *key && write.firm.is_some_and(meets)
        });
        firm.map(|(number, _)| number).collect()
    }

    /// A read that was promised to show these.
    pub(crate) fn check_read(&self, promised: &Seen, state: &Binding) {
        let seen = self.seen(state);
        for number in promised {
            let superseded = || self.writes.iter().any(|write| write.past.contains(number));
            let write = &self.writes[*number];
            assert!(
                seen.contains(number)
                    || state.context().covers(write.dot)
                    || write.vanishes
                    || superseded(),
                "write {} of {:?} was acknowledged by a quorum, and a quorum does not show it",
                write.dot,
                write.key
            );
        }
    }

    /// A node goes for good, with what nobody else has.
    pub(crate) fn forgive(&mut self, is_elsewhere: impl Fn(&Bytes, Dot) -> bool) {
        for write in &mut self.writes {
            write.is_forgiven |= !is_elsewhere(&write.key, write.dot);
        }
    }

    /// What every replica must hold at rest, given what one of them holds.
    pub(crate) fn check_at_rest(&self, held: &BTreeMap<Bytes, Binding>) {
        let mut live = BTreeSet::new();
        let mut present = BTreeSet::new();
        for (key, binding) in held {
            let numbers: Vec<usize> = binding
                .versions()
                .iter()
                .map(|version| self.by_dot[&version.dot])
                .collect();
            for (number, version) in numbers.iter().zip(binding.versions()) {
                present.insert(*number);
                if matches!(version.content, Content::Value(_)) {
                    live.insert(*number);
                }
                let by = numbers
                    .iter()
                    .find(|by| self.writes[**by].past.contains(number));
                assert!(
                    by.is_none(),
                    "{key:?}: {} stands beside a write that had seen it",
                    version.dot
                );
            }
        }
        for (number, write) in self.writes.iter().enumerate() {
            self.check_write(number, write, &present, &live);
        }
    }

    fn check_write(
        &self,
        number: usize,
        write: &Written,
        present: &BTreeSet<usize>,
        live: &BTreeSet<usize>,
    ) {
        let (key, dot) = (&write.key, write.dot);
        let must_stay = write.is_acknowledged && !write.is_forgiven;
        if must_stay {
            let back = write.past.iter().find(|before| live.contains(before));
            assert!(
                back.is_none(),
                "{key:?}: {} is back, and the acknowledged {dot} had seen it",
                self.writes[*back.unwrap_or(&0)].dot
            );
        }
        assert!(
            !must_stay || self.is_kept(number, present),
            "{key:?}: the acknowledged {dot} is lost"
        );
    }

    /// Whether a write is there, was collected as a tombstone, or was seen by a write of which one of this is true.
    fn is_kept(&self, number: usize, present: &BTreeSet<usize>) -> bool {
        let had_effect = |number| present.contains(&number) || self.collected.contains(&number);
        let mut later = self.writes.iter().enumerate().skip(number + 1);
        // Pasts are transitive: one step is enough.
        had_effect(number)
            || later.any(|(by, write)| write.past.contains(&number) && had_effect(by))
    }
}
