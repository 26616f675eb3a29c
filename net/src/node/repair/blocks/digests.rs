//! Digests that were worked out lately: in a repair of everything each copy is compared with several others, and read once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Block;

/// How long a digest serves. The records of a full block do not change, but what is read may rot.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Most digests that are kept, about 6 MiB of them.
const DIGESTS_MAX: usize = 65_536;

/// Digests of full blocks.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<HashMap<Block, ([u8; 32], Instant)>>);

impl Digests {
    fn lock(&self) -> MutexGuard<'_, HashMap<Block, ([u8; 32], Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, block: Block) -> Option<[u8; 32]> {
        let digests = self.lock();
        let kept = digests.get(&block);
        kept.filter(|(_, at)| at.elapsed() < KEPT_FOR)
            .map(|(digest, _)| *digest)
    }

    pub(super) fn keep(&self, block: Block, digest: [u8; 32]) {
        let mut digests = self.lock();
        if digests.len() >= DIGESTS_MAX {
            digests.retain(|_, (_, at)| at.elapsed() < KEPT_FOR);
        }
        if digests.len() < DIGESTS_MAX {
            digests.insert(block, (digest, Instant::now()));
        }
    }

    /// Something of the block cannot be read any more.
    pub(super) fn forget(&self, block: Block) {
        self.lock().remove(&block);
    }

    /// Lets go of those that are too old.
    pub(super) fn tidy(&self) {
        let mut digests = self.lock();
        digests.retain(|_, (_, at)| at.elapsed() < KEPT_FOR);
        if digests.is_empty() {
            digests.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::{PartitionId, TopicId, TopicKey};

    use super::*;

    #[test]
    fn what_is_kept_serves_until_it_is_forgotten_and_is_never_too_much() {
        let digests = Digests::default();
        let topic = TopicKey {
            partition: PartitionId(1),
            id: TopicId(7),
        };
        let block = |number| Block { topic, number };
        for number in 0..=DIGESTS_MAX as u64 {
            digests.keep(block(number), [number as u8; 32]);
        }
        assert_eq!(digests.lock().len(), DIGESTS_MAX);
        assert_eq!(digests.get(block(5)), Some([5; 32]));
        digests.forget(block(5));
        assert_eq!(digests.get(block(5)), None);
        digests.tidy();
        assert_eq!(digests.lock().len(), DIGESTS_MAX - 1);
    }
}
