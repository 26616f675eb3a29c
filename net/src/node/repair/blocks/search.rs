//! Which blocks cannot be read, where somebody has seen that some cannot: looked for in the background, one range of one topic
//! after the other, so that whoever asks often reads nothing twice at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_engine::BLOCK_OFFSETS;
use mesh_ring::ids::{Offset, TopicKey};

use super::Block;
use crate::node::Shared;
use crate::tasks::blocking;

/// Most topics that wait to be looked through. What more there is, is found by rounds and by whoever reads it.
const WAITING_MAX: usize = 256;

/// What is to be looked through.
#[derive(Debug, Default)]
pub(super) struct Searches(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Blocks of each topic: what is asked for twice is looked through once, with what lies in between.
    of: BTreeMap<TopicKey, Range<u64>>,
    /// What is looked through now.
    now: Option<(TopicKey, Range<u64>)>,
}

impl Searches {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants these blocks looked through; returns the first ones where nobody looks yet, whose caller is to go on until there
    /// are no more.
    fn add(&self, topic: TopicKey, blocks: Range<u64>) -> Option<(TopicKey, Range<u64>)> {
        let mut waiting = self.waiting();
        let Some((at, current)) = &waiting.now else {
            waiting.now = Some((topic, blocks));
            return waiting.now.clone();
        };
        let is_covered = *at == topic && current.start <= blocks.start && blocks.end <= current.end;
        if is_covered {
            return None;
        }
        if waiting.of.len() >= WAITING_MAX && !waiting.of.contains_key(&topic) {
            tracing::warn!(%topic, "damage was seen while {WAITING_MAX} topics wait to be looked through: it is left to the rounds");
            return None;
        }
        let wanted = waiting.of.entry(topic).or_insert_with(|| blocks.clone());
        *wanted = wanted.start.min(blocks.start)..wanted.end.max(blocks.end);
        None
    }

    /// What is to be looked through next; `None`: nobody looks any more.
    fn next(&self) -> Option<(TopicKey, Range<u64>)> {
        let mut waiting = self.waiting();
        waiting.now = waiting.of.pop_first();
        waiting.now.clone()
    }
}

impl Shared {
    /// Finds out which blocks with these offsets cannot be read, in the background: somebody has seen that some cannot.
    pub(in crate::node) fn look_for_damage(
        self: &Arc<Self>,
        topic: TopicKey,
        offsets: Range<Offset>,
    ) {
        let blocks = offsets.start / BLOCK_OFFSETS..offsets.end.div_ceil(BLOCK_OFFSETS);
        let mut due = self.repairs.blocks.searches.add(topic, blocks);
        if due.is_none() {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn("search for damage", async move {
            while let Some((topic, blocks)) = due {
                let looking = Arc::clone(&shared);
                blocking(move || looking.look_through(topic, blocks)).await;
                due = shared.repairs.blocks.searches.next();
            }
        });
    }

    fn look_through(&self, topic: TopicKey, blocks: Range<u64>) {
        for number in blocks.take_while(|_| !self.tasks.is_stopping()) {
            match self.engine.unreadable_in(topic, number) {
                Ok(None) => {}
                Ok(Some(offset)) => {
                    let detail = format!("offset {offset} cannot be read");
                    self.want_block(Block { topic, number }, &detail);
                }
                // It is found again where it matters.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::{PartitionId, TopicId};

    use super::*;

    fn topic(id: u64) -> TopicKey {
        TopicKey {
            partition: PartitionId(1),
            id: TopicId(id),
        }
    }

    #[test]
    fn one_looks_at_a_time_and_nothing_is_looked_through_twice() {
        let searches = Searches::default();
        assert_eq!(searches.add(topic(1), 2..9), Some((topic(1), 2..9)));
        for _ in 0..1_000 {
            assert_eq!(searches.add(topic(1), 3..9), None, "it is under way");
            assert_eq!(searches.add(topic(1), 8..11), None);
            assert_eq!(searches.add(topic(2), 0..1), None);
            assert_eq!(searches.add(topic(2), 4..5), None);
        }
        assert_eq!(searches.next(), Some((topic(1), 8..11)));
        assert_eq!(searches.next(), Some((topic(2), 0..5)));
        assert_eq!(searches.next(), None);
        assert_eq!(searches.add(topic(1), 2..9), Some((topic(1), 2..9)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let searches = Searches::default();
        for id in 0..3 * WAITING_MAX as u64 {
            searches.add(topic(id), 0..1);
        }
        let mut looked_through = 0;
        while searches.next().is_some() {
            looked_through += 1;
        }
        assert_eq!(looked_through, WAITING_MAX);
    }
}
