//! Who waits for an entry to be applied.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::sync::Arc;

use mesh_ring::ids::{Index, NodeId};

/// What became of the entry that an answer waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Committed and applied; these replicas have it on their disks.
    Settled(Arc<[NodeId]>),
    /// Leadership was lost before: it may be committed or not.
    Lost,
}

/// An answer that waits.
pub(super) type Waiting = Box<dyn FnOnce(Fate) + Send>;

/// Answers with the index that they wait for, in its order, and of the same index in that in which they came. Nearly all
/// wait for the newest entry, and so come last.
#[derive(Default)]
pub(super) struct Pending {
    waiting: VecDeque<(Index, Waiting)>,
}

impl Pending {
    pub(super) fn wait(&mut self, index: Index, waiting: Waiting) {
        let is_last = self.waiting.back().is_none_or(|(last, _)| *last <= index);
        if is_last {
            self.waiting.push_back((index, waiting));
        } else {
            let at = self.waiting.partition_point(|(other, _)| *other <= index);
            self.waiting.insert(at, (index, waiting));
        }
    }

    /// Those whose entry is at `upto` or before it, in order.
    pub(super) fn due(&mut self, upto: Index) -> Drain<'_, (Index, Waiting)> {
        let count = self.waiting.partition_point(|(index, _)| *index <= upto);
        self.waiting.drain(..count)
    }

    /// What is waited for first.
    pub(super) fn first(&self) -> Option<Index> {
        self.waiting.front().map(|(index, _)| *index)
    }

    /// Everyone: leadership is lost.
    pub(super) fn lose(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            waiting(Fate::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn answers_come_in_the_order_of_their_entries_and_once() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut pending = Pending::default();
        for (index, name) in [(5, 'c'), (3, 'a'), (3, 'b'), (9, 'd')] {
            let said = Arc::clone(&said);
            pending.wait(
                Index(index),
                Box::new(move |fate| said.lock().unwrap().push((name, fate))),
            );
        }
        assert_eq!(pending.due(Index(2)).len(), 0);
        assert_eq!(pending.first(), Some(Index(3)));
        for (_, waiting) in pending.due(Index(5)) {
            waiting(Fate::Settled([].into()));
        }
        assert_eq!(pending.first(), Some(Index(9)));
        pending.lose();
        pending.lose();
        let settled = |name| (name, Fate::Settled([].into()));
        assert_eq!(
            *said.lock().unwrap(),
            [settled('a'), settled('b'), settled('c'), ('d', Fate::Lost)]
        );
    }
}
