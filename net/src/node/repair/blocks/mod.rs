//! Blocks of topics: copies of them are compared by digests, and what cannot be read here is brought back from a copy that
//! can.
//!
//! - `compare`: the side that begins, some blocks at a time; `answer`: the other one; `digests`: those worked out lately;
//! - `heal`: one block made whole; `wanted`: which ones are to be, and when; `search`: where they are looked for.
//!
//! A comparison reads what it compares, on both sides, and so finds what is missing or rotten in between two scrubs. That is
//! why rounds by the clock take a few MiB of a copy each and go on where the one before has stopped, while `meshctl repair`
//! takes everything. On the wire a part that is in sync costs one digest.

mod answer;
mod compare;
mod digests;
mod heal;
mod search;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_engine::{BLOCK_OFFSETS, Damage, Engine, ReadError};
use mesh_ring::ids::{NodeId, PartitionId, TopicId, TopicKey};
use mesh_ring::ledger::Source;
use mesh_ring::map::ClusterMap;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(in crate::node) use self::answer::{compared, page};
pub(super) use self::compare::round;
pub(in crate::node) use self::compare::{PAGE_BYTES, Step, compare, heal_all};
use self::digests::Digests;
pub(super) use self::heal::work;
use self::search::Searches;
use self::wanted::Wanted;
use super::agenda::Pair;
use super::walk::Unfinished;
use super::{Compared, SOON, others};
use crate::node::Shared;
use crate::tasks::blocking;

/// Bytes of its own copies that a round of all partitions reads. Those that are left out have their turn in a later one.
const ROUNDS_BYTES: u64 = 256 << 20;

/// Most differences that are kept for people. One is one too many.
const CONFLICTS_MAX: usize = 64;

/// Most sentences for people about blocks that cannot be read.
const SENTENCES_MAX: usize = 8;

/// Offsets of a topic that are compared and healed together.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::node) struct Block {
    topic: TopicKey,
    number: u64,
}

/// Where a comparison of a partition's topics goes on: at the first block that was not compared.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::node) struct Place {
    pub(in crate::node) topic: TopicId,
    pub(in crate::node) block: u64,
}

/// What the node remembers of its topics' blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Where the rounds go on with each other copy; from the beginning where there is none.
    places: Mutex<BTreeMap<Pair, Place>>,
    wanted: Mutex<Wanted>,
    /// Rung when a block is wanted that was not.
    due: Notify,
    digests: Digests,
    searches: Searches,
    /// Bytes that the present round may read yet.
    budget: AtomicU64,
    /// Blocks that have other records at another node, in words.
    conflicts: Mutex<BTreeMap<(Block, NodeId), String>>,
}

impl Blocks {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Pair, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conflicts(&self) -> MutexGuard<'_, BTreeMap<(Block, NodeId), String>> {
        self.conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A round of all partitions begins.
    pub(super) fn begin_round(&self) {
        self.budget.store(ROUNDS_BYTES, Ordering::Relaxed);
    }

    /// Lets go of what no comparison asks for any more.
    pub(super) fn tidy(&self, map: &ClusterMap, me: NodeId, engine: &Engine) {
        self.digests.tidy();
        self.places()
            .retain(|(id, node), _| others(map, *id, me).contains(node));
        let kept = |block: &Block| {
            map.assignment(block.partition())
                .is_some_and(|of| of.needs_copy(me))
        };
        self.conflicts().retain(|(block, _), _| kept(block));
        self.wanted().retain(kept);
        self.settle_conflicts(engine);
    }

    /// Lets go of conflicts about records that nobody has any more: their topic was deleted, or they were trimmed.
    fn settle_conflicts(&self, engine: &Engine) {
        let blocks: BTreeSet<Block> = self.conflicts().keys().map(|(block, _)| *block).collect();
        for block in blocks {
            let is_gone = match engine.describe(block.topic) {
                Ok(extent) => block.number < extent.blocks().start,
                Err(error) => error == ReadError::TopicDeleted,
            };
            if is_gone {
                self.conflicts().retain(|(of, _), _| *of != block);
            }
        }
    }

    /// How many blocks are known that cannot be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.wanted().len() as u64
    }

    /// The same for one partition.
    pub(super) fn unreadable_in(&self, id: PartitionId) -> u64 {
        self.wanted().of(id).len() as u64
    }

    /// Sentences for people about what is not as it should be.
    pub(super) fn warnings(&self, engine: &Engine) -> Vec<String> {
        self.settle_conflicts(engine);
        let wanted: Vec<Block> = self.wanted().blocks().take(SENTENCES_MAX).collect();
        let unreadable = wanted.into_iter().map(|block| {
            format!(
                "{} cannot be read here and is not served: it is asked of other replicas",
                block.in_words(engine)
            )
        });
        let conflicts: Vec<String> = self.conflicts().values().cloned().collect();
        unreadable.chain(conflicts).collect()
    }
}

impl Block {
    fn of(damage: &Damage) -> Option<Block> {
        Some(Block {
            topic: damage.topic?,
            number: damage.offset? / BLOCK_OFFSETS,
        })
    }

    fn partition(&self) -> PartitionId {
        self.topic.partition
    }

    fn place(&self) -> Place {
        Place {
            topic: self.topic.id,
            block: self.number,
        }
    }

    /// For people.
    fn in_words(&self, engine: &Engine) -> String {
        let first = self.number.saturating_mul(BLOCK_OFFSETS);
        let last = first.saturating_add(BLOCK_OFFSETS - 1);
        let name = engine.source(self.partition()).name(self.topic.id);
        // Where even that cannot be read, the id tells which.
        let name = name.ok().flatten();
        let name = name.unwrap_or_else(|| self.topic.to_string());
        format!("something of {name} at offsets {first} to {last}")
    }
}

impl Shared {
    /// Takes note of records that could not be read here, where the error is about such: they are asked of other replicas
    /// soon.
    pub(in crate::node) fn note_damage(&self, error: &ReadError) {
        if let ReadError::Damaged(damage) = error {
            self.note_damages([damage]);
        }
    }

    /// The same for what a scrub has found.
    pub(in crate::node) fn note_damages<'a>(&self, damages: impl IntoIterator<Item = &'a Damage>) {
        for damage in damages {
            if let Some(block) = Block::of(damage) {
                self.want_block(block, &damage.detail);
            }
        }
    }

    fn want_block(&self, block: Block, detail: &str) {
        let blocks = &self.repairs.blocks;
        if !blocks.wanted().add(block, Instant::now() + SOON) {
            return;
        }
        blocks.digests.forget(block);
        self.repairs.counters.note(Compared {
            blocks_damaged: 1,
            ..Compared::default()
        });
        tracing::error!(topic = %block.topic, block = block.number, detail, "records cannot be read: they are asked of other replicas");
        blocks.due.notify_waiters();
    }
}

/// Runs what waits for the disk where that holds up no task.
async fn here<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Unfinished> {
    let shared = Arc::clone(shared);
    let done = blocking(move || work(&shared)).await;
    let done = done.ok_or_else(|| Unfinished::Here("the node is ending".into()))?;
    done.map_err(|error| Unfinished::Here(error.to_string()))
}
