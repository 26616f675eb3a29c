//! Who waits for an entry to be applied.

use std::collections::BTreeMap;

use mesh_ring::ids::{Index, NodeId};

/// What became of the entry that an answer waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Committed and applied; these replicas have it on their disks.
    Settled(Vec<NodeId>),
    /// Leadership was lost before: it may be committed or not.
    Lost,
}

/// An answer that waits.
pub(super) type Waiting = Box<dyn FnOnce(Fate) + Send>;

/// Answers by the index that they wait for.
#[derive(Default)]
pub(super) struct Pending {
    waiting: BTreeMap<Index, Vec<Waiting>>,
}

impl Pending {
    pub(super) fn wait(&mut self, index: Index, waiting: Waiting) {
        self.waiting.entry(index).or_default().push(waiting);
    }

    /// Those whose entry is at `upto` or before it, in order.
    pub(super) fn due(&mut self, upto: Index) -> BTreeMap<Index, Vec<Waiting>> {
        let first = self.waiting.first_key_value();
        if first.is_none_or(|(index, _)| *index > upto) {
            return BTreeMap::new();
        }
        let later = self.waiting.split_off(&upto.next());
        std::mem::replace(&mut self.waiting, later)
    }

    /// Everyone: leadership is lost.
    pub(super) fn lose(&mut self) {
        for waiting in std::mem::take(&mut self.waiting).into_values().flatten() {
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
        assert!(pending.due(Index(2)).is_empty());
        for waiting in pending.due(Index(5)).into_values().flatten() {
            waiting(Fate::Settled(vec![]));
        }
        pending.lose();
        pending.lose();
        let settled = |name| (name, Fate::Settled(vec![]));
        assert_eq!(
            *said.lock().unwrap(),
            [settled('a'), settled('b'), settled('c'), ('d', Fate::Lost)]
        );
    }
}
