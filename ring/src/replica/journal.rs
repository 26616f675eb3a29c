//! What a replica knows of its journal without reading it: where it begins and ends, which epoch wrote what, and the
//! newest entries.

use std::collections::VecDeque;

use super::effect::Durable;
use super::message::{Entry, Position, Weigh};
use crate::ids::{Epoch, Index};

/// The journal as it will be once everything that was handed to the disk is there.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Journal<P> {
    before: Position,
    last: Position,
    /// Where each epoch begins, ascending in both. An entry ahead of the first of them is of the epoch of `before`.
    epochs: Vec<(Epoch, Index)>,
    /// The newest entries without a gap, the last of them at `last`. Older ones are on the disk.
    recent: VecDeque<Entry<P>>,
    recent_bytes: usize,
}

impl<P: Clone + Weigh> Journal<P> {
    pub(super) fn new(durable: &Durable) -> Self {
        assert!(
            durable.before.index.next() == durable.first && durable.before <= durable.last,
            "a journal from {} to {:?} does not follow {:?}",
            durable.first,
            durable.last,
            durable.before
        );
        let journal = Self {
            before: durable.before,
            last: durable.last,
            epochs: durable.epochs.clone(),
            recent: VecDeque::new(),
            recent_bytes: 0,
        };
        assert!(
            journal.epoch_at(durable.last.index) == Some(durable.last.epoch),
            "{:?} is not of the epoch that {:?} say",
            durable.last,
            durable.epochs
        );
        journal
    }

    pub(super) const fn last(&self) -> Position {
        self.last
    }

    /// The entry before the first one kept.
    pub(super) const fn before(&self) -> Position {
        self.before
    }

    /// The epoch of an entry; `None` if the journal does not reach so far, or no longer does.
    pub(super) fn epoch_at(&self, index: Index) -> Option<Epoch> {
        if index < self.before.index || index > self.last.index {
            return None;
        }
        if index == self.before.index {
            return Some(self.before.epoch);
        }
        let later = self.epochs.partition_point(|(_, start)| *start <= index);
        Some(
            later
                .checked_sub(1)
                .map_or(self.before.epoch, |at| self.epochs[at].0),
        )
    }

    /// The entry at `index`, which must not lie outside the journal.
    pub(super) fn position_at(&self, index: Index) -> Position {
        let epoch = self.epoch_at(index);
        assert!(
            epoch.is_some(),
            "index {index} is outside of {:?} to {:?}",
            self.before,
            self.last
        );
        Position {
            epoch: epoch.unwrap_or_default(),
            index,
        }
    }

    pub(super) fn holds(&self, position: Position) -> bool {
        self.epoch_at(position.index) == Some(position.epoch)
    }

    /// The last entry whose epoch and index are both no higher; [`Journal::before`] if no entry kept is.
    pub(super) fn at_most(&self, limit: Position) -> Position {
        let mut index = limit.index.min(self.last.index);
        for (epoch, start) in self.epochs.iter().rev() {
            if index < *start {
                continue;
            }
            if *epoch <= limit.epoch {
                break;
            }
            index = Index(start.0 - 1);
        }
        // The epoch of `before` may go on behind it.
        let last = self.position_at(index.max(self.before.index));
        if last.epoch <= limit.epoch {
            last
        } else {
            self.before
        }
    }

    /// Adds entries behind the last one.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = Entry<P>>) {
        for entry in entries {
            assert!(
                entry.index == self.last.index.next() && entry.epoch >= self.last.epoch,
                "{:?} does not follow {:?}",
                entry.position(),
                self.last
            );
            if entry.epoch > self.last.epoch {
                self.epochs.push((entry.epoch, entry.index));
            }
            self.last = entry.position();
            self.recent_bytes += entry.bytes();
            self.recent.push_back(entry);
        }
    }

    /// Removes the entry at `from` and all behind it.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.before.index, "index {from} is not kept");
        self.last = self.position_at(Index(from.0 - 1));
        while self.epochs.last().is_some_and(|(_, start)| *start >= from) {
            self.epochs.pop();
        }
        while self.recent.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.recent.pop_back();
            self.recent_bytes -= entry.map_or(0, |entry| entry.bytes());
        }
    }

    /// Lets go of what lies before `first`, in memory too.
    pub(super) fn forget(&mut self, first: Index) {
        if first <= self.before.index.next() {
            return;
        }
        self.before = self.position_at(Index(first.0 - 1));
        let later = self.epochs.partition_point(|(_, start)| *start < first);
        self.epochs.drain(..later);
        self.drop_recent(self.before.index);
    }

    /// Takes entries up to `upto` out of memory.
    pub(super) fn drop_recent(&mut self, upto: Index) {
        self.shrink_recent(upto, 0);
    }

    /// Takes entries up to `upto` out of memory until no more than `bytes` are left there.
    pub(super) fn shrink_recent(&mut self, upto: Index, bytes: usize) {
        while self.recent_bytes > bytes && self.recent.front().is_some_and(|e| e.index <= upto) {
            let entry = self.recent.pop_front();
            self.recent_bytes -= entry.map_or(0, |entry| entry.bytes());
        }
    }

    /// Entries from `from` on, one at least, as many as fit; `None` if the first is not in memory.
    pub(super) fn recent_from(
        &self,
        from: Index,
        bytes: usize,
        count: usize,
    ) -> Option<Vec<Entry<P>>> {
        let oldest = self.recent.front()?.index;
        let skip = usize::try_from(from.0.checked_sub(oldest.0)?).ok()?;
        let mut room = bytes;
        let mut entries = Vec::new();
        for entry in self.recent.iter().skip(skip).take(count.max(1)) {
            let size = entry.bytes();
            if !entries.is_empty() && size > room {
                break;
            }
            room = room.saturating_sub(size);
            entries.push(entry.clone());
        }
        (!entries.is_empty()).then_some(entries)
    }

    /// The entries, as far as they are part of this journal: what was read may have been truncated meanwhile.
    pub(super) fn still_here(&self, entries: Vec<Entry<P>>) -> Vec<Entry<P>> {
        let mut next = entries.first().map(|entry| entry.index);
        entries
            .into_iter()
            .take_while(|entry| {
                let follows = next.replace(entry.index.next()) == Some(entry.index);
                follows && entry.index > self.before.index && self.holds(entry.position())
            })
            .collect()
    }
}

/// Whether a message's entries are consecutive behind `prev` and of epochs that ascend up to the message's own.
pub(super) fn well_formed<P>(prev: Position, entries: &[Entry<P>], epoch: Epoch) -> bool {
    let mut last = prev;
    for entry in entries {
        if entry.index != last.index.next() || entry.epoch < last.epoch {
            return false;
        }
        last = entry.position();
    }
    last.epoch <= epoch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::Payload;
    use super::*;

    impl Weigh for u8 {
        fn bytes(&self) -> usize {
            usize::from(*self)
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Append { epochs_on: u64, weight: u8 },
        Truncate(u64),
        Forget(u64),
        Drop(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            5 => (0..3_u64, 0..9_u8).prop_map(|(epochs_on, weight)| Act::Append { epochs_on: epochs_on / 2, weight }),
            1 => (1..30_u64).prop_map(Act::Truncate),
            1 => (1..30_u64).prop_map(Act::Forget),
            1 => (1..30_u64).prop_map(Act::Drop),
        ]
    }

    /// The naive journal: every entry, and how many were let go of.
    #[derive(Default)]
    struct Naive {
        entries: Vec<Entry<u8>>,
        forgotten: u64,
    }

    impl Naive {
        fn at(&self, index: u64) -> Option<Position> {
            let kept = index >= self.forgotten;
            let at = usize::try_from(index).ok().filter(|_| kept)?;
            if at == 0 {
                return Some(Position::ZERO);
            }
            self.entries.get(at - 1).map(Entry::position)
        }

        fn at_most(&self, limit: Position) -> Position {
            let positions = (self.forgotten..).map_while(|index| self.at(index));
            let fits = |p: &Position| p.epoch <= limit.epoch && p.index <= limit.index;
            let before = self.at(self.forgotten).unwrap();
            positions.filter(fits).max().unwrap_or(before)
        }
    }

    proptest! {
        #[test]
        fn the_journal_knows_what_a_naive_one_does(acts in prop::collection::vec(act(), 0..60)) {
            let mut journal = Journal::new(&Durable::empty(1));
            let mut naive = Naive::default();
            for act in acts {
                let last = journal.last();
                match act {
                    Act::Append { epochs_on, weight } => {
                        let entry = Entry {
                            epoch: Epoch(last.epoch.0.max(1) + epochs_on),
                            index: last.index.next(),
                            payload: Payload::Command(weight),
                        };
                        naive.entries.push(entry.clone());
                        journal.append([entry]);
                    }
                    Act::Truncate(from) if from > naive.forgotten && from <= last.index.0 => {
                        naive.entries.truncate(usize::try_from(from).unwrap() - 1);
                        journal.truncate(Index(from));
                    }
                    Act::Forget(first) if first > naive.forgotten && first <= last.index.0 + 1 => {
                        naive.forgotten = first - 1;
                        journal.forget(Index(first));
                    }
                    Act::Drop(upto) => journal.drop_recent(Index(upto)),
                    Act::Truncate(_) | Act::Forget(_) => (),
                }
                for index in 0..40 {
                    let epoch = journal.epoch_at(Index(index));
                    prop_assert_eq!(epoch, naive.at(index).map(|p| p.epoch), "index {}", index);
                    for epoch in 0..6 {
                        let limit = Position { epoch: Epoch(epoch), index: Index(index) };
                        prop_assert_eq!(journal.at_most(limit), naive.at_most(limit), "{:?}", limit);
                    }
                    if let Some(entries) = journal.recent_from(Index(index), 20, 3) {
                        let from = usize::try_from(index).unwrap() - 1;
                        prop_assert_eq!(&entries[..], &naive.entries[from..from + entries.len()]);
                        prop_assert!(entries.len() <= 3);
                    }
                }
                let weight: usize = journal.recent.iter().map(Weigh::bytes).sum();
                prop_assert_eq!(journal.recent_bytes, weight);
            }
        }
    }

    #[test]
    fn entries_are_taken_out_in_parts_that_fit_and_one_at_least() {
        let mut journal = Journal::new(&Durable::empty(1));
        let entry = |index, weight| Entry {
            epoch: Epoch(1),
            index: Index(index),
            payload: Payload::Command(weight),
        };
        journal.append((1..=5).map(|index| entry(index, 10)));
        let size = entry(1, 10).bytes();
        let count = |bytes, count| {
            let entries = journal.recent_from(Index(2), bytes, count);
            entries.map_or(0, |entries| entries.len())
        };
        assert_eq!(count(2 * size, 9), 2);
        assert_eq!(count(3 * size - 1, 9), 2);
        assert_eq!(count(0, 9), 1);
        assert_eq!(count(usize::MAX, 3), 3);
        assert_eq!(journal.recent_from(Index(6), 100, 9), None);
    }
}
