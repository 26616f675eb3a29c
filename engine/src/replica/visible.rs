//! What of a partition's journal is not committed, so that readers are not shown it.
//!
//! Batches stand in the log as soon as they are durable; readers see those that are committed. An entry is noted here
//! before it can be written, and stays until it is committed or until its removal is durable. So whoever has looked into
//! the store and then asks here where the committed part ends is told of every uncommitted batch that it may have
//! met. Except one whose removal became durable in between: then the generation has moved, and it looks again.

use std::collections::{HashMap, VecDeque};

use mesh_ring::command::Command;
use mesh_ring::ids::{Index, Offset, PartitionId, TopicId, TopicKey};

use crate::keys;

/// Where the committed part of a topic ends, in a topic of which a part is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// The first offset that is not committed.
    pub(crate) next: Offset,
    /// Byte position where its batch begins.
    pub(crate) position: u64,
}

/// The uncommitted entries of one partition.
#[derive(Debug, Default)]
pub(crate) struct Visible {
    /// Moves whenever a removal has become durable.
    pub(crate) generation: u64,
    appends: VecDeque<Pending>,
    ends: HashMap<TopicId, PendingEnd>,
    /// Entries that change more than the log when they commit.
    changes: VecDeque<(Index, Command)>,
    /// Batches that are being removed.
    doomed: Vec<Doomed>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    index: Index,
    topic: TopicId,
    first: Offset,
    last: Offset,
    /// Byte positions before and after the batch.
    begin: u64,
    end: u64,
}

#[derive(Debug, Clone, Copy)]
struct PendingEnd {
    end: End,
    batches: u32,
}

#[derive(Debug, Clone, Copy)]
struct Doomed {
    removal: u64,
    topic: TopicId,
    end: End,
}

impl Visible {
    /// Notes an entry. `batch_bytes`: the size of its batch, `None` where it comes without one.
    pub(crate) fn push(&mut self, index: Index, command: &Command, batch_bytes: Option<usize>) {
        let Command::Append {
            topic,
            first,
            last,
            position,
            ..
        } = *command
        else {
            if *command != Command::Barrier {
                self.changes.push_back((index, command.clone()));
            }
            return;
        };
        if batch_bytes.is_none() {
            // Its batch was trimmed away: applying it moves the topic's beginning behind it.
            self.changes.push_back((index, command.clone()));
        }
        let begin = position.saturating_sub(batch_bytes.unwrap_or(0) as u64);
        let end = End {
            next: first,
            position: begin,
        };
        self.ends
            .entry(topic)
            .or_insert(PendingEnd { end, batches: 0 })
            .batches += 1;
        self.appends.push_back(Pending {
            index,
            topic,
            first,
            last,
            begin,
            end: position,
        });
    }

    /// Where the committed part of the topic ends; `None` where all that is stored of it is committed.
    pub(crate) fn end(&self, topic: TopicId) -> Option<End> {
        let doomed = self.doomed.iter().filter(|doomed| doomed.topic == topic);
        let ends = doomed.map(|doomed| doomed.end);
        ends.chain(self.ends.get(&topic).map(|pending| pending.end))
            .min_by_key(|end| end.next)
    }

    /// The entries at and after `from` are about to be removed. Returns the log keys of their batches.
    pub(crate) fn remove(
        &mut self,
        partition: PartitionId,
        from: Index,
        removal: u64,
    ) -> Vec<[u8; 18]> {
        let mut keys = Vec::new();
        while self
            .appends
            .back()
            .is_some_and(|pending| pending.index >= from)
            && let Some(pending) = self.appends.pop_back()
        {
            let topic = TopicKey {
                partition,
                id: pending.topic,
            };
            keys.push(keys::log_key(topic, pending.last));
            self.drop_from_end(pending.topic, None);
            let end = End {
                next: pending.first,
                position: pending.begin,
            };
            let same = self
                .doomed
                .iter_mut()
                .find(|doomed| doomed.removal == removal && doomed.topic == pending.topic);
            match same {
                // Taken from the last to the first.
                Some(doomed) => doomed.end = end,
                None => self.doomed.push(Doomed {
                    removal,
                    topic: pending.topic,
                    end,
                }),
            }
        }
        while self.changes.back().is_some_and(|(index, _)| *index >= from) {
            self.changes.pop_back();
        }
        keys
    }

    /// The removal is durable.
    pub(crate) fn removed(&mut self, removal: u64) {
        self.doomed.retain(|doomed| doomed.removal != removal);
        self.generation += 1;
    }

    /// Whether any entry changes more than the log.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Takes what the entries up to `upto` change beside the log, to be applied.
    pub(crate) fn take_changes(&mut self, upto: Index) -> Vec<(Index, Command)> {
        let count = self.changes.partition_point(|(index, _)| *index <= upto);
        self.changes.drain(..count).collect()
    }

    /// Shows the batches of the entries up to `upto`. Calls `shown` with each topic and its next offset then.
    pub(crate) fn release(&mut self, upto: Index, mut shown: impl FnMut(TopicId, Offset)) {
        while self
            .appends
            .front()
            .is_some_and(|pending| pending.index <= upto)
            && let Some(pending) = self.appends.pop_front()
        {
            let end = End {
                next: pending.last + 1,
                position: pending.end,
            };
            self.drop_from_end(pending.topic, Some(end));
            shown(pending.topic, pending.last + 1);
        }
    }

    /// One batch of the topic is no longer pending; if it was the first, the next begins at `end`.
    fn drop_from_end(&mut self, topic: TopicId, end: Option<End>) {
        if let Some(pending) = self.ends.get_mut(&topic) {
            pending.batches -= 1;
            if pending.batches == 0 {
                self.ends.remove(&topic);
            } else if let Some(end) = end {
                pending.end = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    fn append(topic: u64, first: Offset, last: Offset) -> Command {
        Command::Append {
            topic: TopicId(topic),
            first,
            last,
            position: (last + 1) * 100,
            time_ms: 0,
            producer: None,
        }
    }

    /// Entries 1 to 4: two batches of topic 7, one of topic 8, another of topic 7.
    fn filled() -> Visible {
        let mut visible = Visible::default();
        for (index, (topic, first, last)) in [(7, 0, 1), (7, 2, 2), (8, 0, 0), (7, 3, 3)]
            .into_iter()
            .enumerate()
        {
            let bytes = (last + 1 - first) as usize * 100;
            let command = append(topic, first, last);
            visible.push(Index(index as u64 + 1), &command, Some(bytes));
        }
        visible
    }

    fn next(visible: &Visible, topic: u64) -> Option<(Offset, u64)> {
        let end = visible.end(TopicId(topic))?;
        Some((end.next, end.position))
    }

    #[test]
    fn what_is_committed_is_shown_in_order() {
        let mut visible = filled();
        assert_eq!(
            (next(&visible, 7), next(&visible, 8)),
            (Some((0, 0)), Some((0, 0)))
        );
        let mut shown = Vec::new();
        visible.release(Index(2), |topic, next| shown.push((topic.0, next)));
        assert_eq!(shown, [(7, 2), (7, 3)]);
        assert_eq!(
            (next(&visible, 7), next(&visible, 8)),
            (Some((3, 300)), Some((0, 0)))
        );
        visible.release(Index(4), |_, _| {});
        assert_eq!((next(&visible, 7), next(&visible, 8)), (None, None));
    }

    #[test]
    fn what_is_removed_stays_hidden_until_that_is_durable() {
        let mut visible = filled();
        visible.release(Index(1), |_, _| {});
        let keys = visible.remove(P, Index(2), 1);
        assert_eq!(keys.len(), 3);
        assert_eq!(next(&visible, 7), Some((2, 200)));
        // Another batch takes the place, and is committed before the removal is known to be durable.
        visible.push(Index(2), &append(7, 2, 9), Some(800));
        visible.release(Index(2), |_, _| {});
        assert_eq!(
            next(&visible, 7),
            Some((2, 200)),
            "the old batch may still be seen"
        );
        let generation = visible.generation;
        visible.removed(1);
        assert_eq!((next(&visible, 7), next(&visible, 8)), (None, None));
        assert_eq!(visible.generation, generation + 1);
    }

    #[test]
    fn changes_are_taken_once_and_never_after_removal() {
        let mut visible = Visible::default();
        let delete = |topic| Command::DeleteTopic {
            topic: TopicId(topic),
        };
        visible.push(Index(1), &Command::Barrier, None);
        visible.push(Index(2), &delete(7), None);
        visible.push(Index(3), &append(8, 0, 4), None);
        visible.push(Index(4), &delete(9), None);
        assert_eq!(visible.take_changes(Index(1)), []);
        visible.remove(P, Index(4), 1);
        let taken = visible.take_changes(Index(9));
        assert_eq!(taken, [(Index(2), delete(7)), (Index(3), append(8, 0, 4))]);
        assert_eq!(visible.take_changes(Index(9)), []);
    }
}
