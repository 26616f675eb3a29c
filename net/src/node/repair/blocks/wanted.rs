//! Blocks that cannot be read here, and when they are asked of others.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_ring::ids::PartitionId;
use tokio::time::Instant;

use super::Block;

/// Most blocks that wait. Where more are damaged, they are found again when these are healed.
const WANTED_MAX: usize = 4_096;

/// The pauses between tries: each twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Blocks to be healed, each until it is.
#[derive(Debug, Default)]
pub(super) struct Wanted(BTreeMap<Block, Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    /// How long it waits for its next try when this one fails.
    pause: Duration,
}

impl Wanted {
    /// Wants a block healed; whether it was not wanted already.
    pub(super) fn add(&mut self, block: Block, at: Instant) -> bool {
        if self.0.len() >= WANTED_MAX || self.0.contains_key(&block) {
            return false;
        }
        let pause = PAUSE_MIN;
        self.0.insert(block, Entry { at, pause });
        true
    }

    /// The block whose time has come, which stays and waits for its next try; else when the next one's comes.
    pub(super) fn take(&mut self, now: Instant) -> Result<Block, Option<Instant>> {
        let first = self.0.iter_mut().min_by_key(|(_, entry)| entry.at);
        let (block, entry) = first.ok_or(None)?;
        if entry.at > now {
            return Err(Some(entry.at));
        }
        entry.at = now + entry.pause;
        entry.pause = (entry.pause * 2).min(PAUSE_MAX);
        Ok(*block)
    }

    /// It can be read, or is no more.
    pub(super) fn settled(&mut self, block: Block) {
        self.0.remove(&block);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Block) -> bool) {
        self.0.retain(|block, _| keep(block));
    }

    pub(super) fn of(&self, id: PartitionId) -> Vec<Block> {
        self.blocks()
            .filter(|block| block.partition() == id)
            .collect()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.0.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::{TopicId, TopicKey};

    use super::*;

    fn block(number: u64) -> Block {
        let topic = TopicKey {
            partition: PartitionId(1),
            id: TopicId(7),
        };
        Block { topic, number }
    }

    #[test]
    fn a_block_is_tried_until_it_is_settled_and_less_and_less_often() {
        let (mut wanted, mut now) = (Wanted::default(), Instant::now());
        assert_eq!(wanted.take(now), Err(None));
        assert!(wanted.add(block(1), now));
        assert!(!wanted.add(block(1), now));
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(wanted.take(now), Ok(block(1)));
            let next = wanted.take(now).unwrap_err().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses.is_sorted());
        assert_eq!(
            (pauses.first(), pauses.last()),
            (Some(&PAUSE_MIN), Some(&PAUSE_MAX))
        );
        wanted.settled(block(1));
        assert_eq!((wanted.take(now), wanted.len()), (Err(None), 0));
    }

    #[test]
    fn the_first_comes_first_and_there_are_never_too_many() {
        let (mut wanted, now) = (Wanted::default(), Instant::now());
        let later = now + Duration::from_millis(1);
        wanted.add(block(9), later);
        wanted.add(block(10), now);
        assert_eq!(wanted.take(later), Ok(block(10)));
        assert_eq!(wanted.take(later), Ok(block(9)));
        for number in 0..2 * WANTED_MAX as u64 {
            wanted.add(block(number), now);
        }
        assert_eq!(wanted.len(), WANTED_MAX);
        assert_eq!(wanted.of(PartitionId(1)).len(), WANTED_MAX);
        assert_eq!(wanted.of(PartitionId(2)), []);
    }
}
