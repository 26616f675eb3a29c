//! Anti-entropy: copies of a partition are compared and healed. Bindings are brought to the same by
//! `mesh_ring::merkle::walk`; of topics, what cannot be read here is brought from another copy.
//!
//! - `walk`: one comparison, both sides; `held`: what this side has; `trees`: what the side that answers remembers during it;
//! - `blocks`: the same for topics, block by block;
//! - `rounds`: when which copies are compared; `agenda`: what is due;
//! - `leaving`: a copy that others keep now is handed over before it is dropped;
//! - `counters`: what came of it, for people.
//!
//! What cannot be read is never sent. It is replaced by another copy's.

mod agenda;
pub(super) mod blocks;
mod counters;
mod held;
mod leaving;
mod rounds;
mod trees;
mod walk;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_engine::Engine;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use mesh_ring::merkle::{LeafId, leaf_of};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::agenda::Agenda;
use self::blocks::Blocks;
pub(super) use self::counters::Compared;
use self::counters::Counters;
pub(super) use self::leaving::{hand_over, has_anything};
pub(super) use self::rounds::start;
use self::trees::Trees;
pub(super) use self::walk::{answer, compare};
use super::Shared;
use crate::tasks::blocking;
use crate::wire::proto::RepairStatus;

/// How soon a copy that has arrived, or in which damage was found, is compared with the others.
const SOON: Duration = Duration::from_millis(100);

/// How long a leaf in which a read met damage is left to what is done about it then, before another read begins anew.
const MENDED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Most such leaves that are remembered.
const MENDING_MAX: usize = 1_024;

/// What the node remembers of its comparisons.
#[derive(Debug)]
pub(super) struct Repairs {
    /// How often each partition is compared with another copy; `None`: only when somebody asks for it.
    every: Option<Duration>,
    agenda: Mutex<Agenda>,
    /// Rung when something is due that was not.
    due: Notify,
    trees: Trees,
    blocks: Blocks,
    /// Leaves in which reads met damage, and when.
    mending: Mutex<BTreeMap<(PartitionId, LeafId), Instant>>,
    counters: Counters,
}

impl Repairs {
    pub(super) fn new(every: Option<Duration>) -> Repairs {
        Repairs {
            every,
            agenda: Mutex::default(),
            due: Notify::new(),
            trees: Trees::default(),
            blocks: Blocks::default(),
            mending: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// What comparisons have come to, for people.
    pub(super) fn status(&self) -> RepairStatus {
        self.counters.status(self.blocks.unreadable())
    }

    /// How many blocks of the partition's topics are known that cannot be read.
    pub(super) fn unreadable_blocks(&self, id: PartitionId) -> u64 {
        self.blocks.unreadable_in(id)
    }

    /// Sentences for people about what is not as it should be.
    pub(super) fn warnings(&self, engine: &Engine) -> Vec<String> {
        self.blocks.warnings(engine)
    }

    /// Whether something is to be done about damage in a leaf: not again and again while that is under way.
    fn is_news(&self, leaf: (PartitionId, LeafId)) -> bool {
        let mut mending = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        mending.retain(|_, at| at.elapsed() < MENDED_AGAIN_AFTER);
        let news = mending.len() < MENDING_MAX && !mending.contains_key(&leaf);
        if news {
            mending.insert(leaf, Instant::now());
        }
        news
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the partition compared with these nodes, and tried again for a while where that fails.
    fn want(&self, id: PartitionId, with: impl IntoIterator<Item = NodeId>, after: Duration) {
        if self.every.is_none() {
            return;
        }
        let at = Instant::now() + after;
        let mut agenda = self.agenda();
        for node in with {
            agenda.add((id, node), at, agenda::TRIES);
        }
        drop(agenda);
        self.due.notify_waiters();
    }
}

/// The other nodes that have a copy of the partition, or are getting one; none where `me` is not among them.
fn others(map: &ClusterMap, id: PartitionId, me: NodeId) -> Vec<NodeId> {
    let Some(of) = map.assignment(id).filter(|of| of.needs_copy(me)) else {
        return Vec::new();
    };
    let all = of.replicas.iter().chain(&of.learners);
    let mut others: Vec<NodeId> = all.chain(&of.activated.replicas).copied().collect();
    others.sort_unstable();
    others.dedup();
    others.retain(|node| *node != me);
    others
}

/// The other nodes that have a copy of the partition, or are getting one; `None` where this node is not among them, or its
/// copy is not open.
pub(super) fn others_of(shared: &Shared, id: PartitionId) -> Option<Vec<NodeId>> {
    let (map, me) = (shared.map(), shared.me());
    let keeps = map.assignment(id).is_some_and(|of| of.needs_copy(me));
    (keeps && shared.partitions.get(id).is_some()).then(|| others(&map, id, me))
}

impl Shared {
    /// A copy has just come here: what was written since it was read at its source is in the others.
    pub(super) fn repair_soon(&self, id: PartitionId) {
        let others = others(&self.map(), id, self.me());
        self.repairs.want(id, others, SOON);
    }

    /// Bindings under these leaves cannot be read here: the leaves are summed anew without them, so that the other copies
    /// are found to differ, and heal them.
    pub(super) async fn mend(self: &Arc<Self>, leaves: Vec<(PartitionId, LeafId)>) {
        for (id, leaf) in leaves {
            let engine = Arc::clone(&self.engine);
            match blocking(move || engine.recount_leaf(id, leaf)).await {
                Some(Ok(unreadable)) => {
                    tracing::error!(partition = %id, %leaf, unreadable, "bindings cannot be read: they are asked of other replicas");
                    self.repair_soon(id);
                }
                Some(Err(error)) => {
                    tracing::error!(partition = %id, %leaf, %error, "a leaf with damage under it cannot be summed anew");
                }
                None => return,
            }
        }
    }

    /// A binding cannot be read here: its leaf is mended, in the background.
    pub(super) fn mend_soon(self: &Arc<Self>, key: &[u8]) {
        let leaf = (self.engine.partition_of(key), leaf_of(key));
        if self.repairs.is_news(leaf) {
            let shared = Arc::clone(self);
            self.tasks.spawn("mend", async move {
                tokio::select! {
                    () = shared.mend(vec![leaf]) => {}
                    () = shared.tasks.stopping() => {}
                }
            });
        }
    }
}
