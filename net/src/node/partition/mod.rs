//! One partition on this node: an actor that drives the replication core and the ledger, and carries out what they say.
//!
//! - `ask`: what the actor can be asked, and how it answers;
//! - `actor`: the loop; `effects`: what is done; decisions are `mesh_ring`'s, bytes are the engine's;
//! - `completions`: how the engine's writer tells the actor what is durable, without a queue;
//! - `pending`: who waits for an entry to be committed;
//! - `propose`: from a request to a journal entry.
//!
//! Nothing here is shared but the mailbox and the status: a partition has one owner, its task.

mod actor;
mod ask;
mod completions;
mod effects;
mod pending;
mod propose;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::replica::Role;
use tokio::sync::{mpsc, watch};

pub(super) use self::actor::{Actor, Doors};
pub(super) use self::ask::{AppendAsk, Appended, Ask, Change, Changed, Refusal};

/// Most requests and messages that wait for one partition's actor. Further senders wait.
pub(super) const MAILBOX_ASKS_MAX: usize = 1_024;

/// The way to one partition's actor. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    pub(super) id: PartitionId,
    mailbox: mpsc::Sender<Ask>,
    status: watch::Receiver<Status>,
    progress: Arc<Progress>,
}

/// What others may know of a partition on this node. Changes with its role, not with every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) role: PartitionRole,
    pub(super) epoch: Epoch,
    pub(super) leader: Option<NodeId>,
    /// The disk did not come back whole: votes count for nothing until a leader has caught it up.
    pub(super) suspect: bool,
    /// Why the partition cannot go on here.
    pub(super) failed: Option<String>,
}

/// What a partition does on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PartitionRole {
    #[default]
    Follows,
    TakesOver,
    Leads,
}

/// How far a partition has come on this node; read at any time, without asking the actor.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: AtomicU64,
    committed: AtomicU64,
    /// On a leader: what each other replica has acknowledged, and how many entries it lacks.
    others: Mutex<Vec<(NodeId, Index, u64)>>,
}

impl Progress {
    fn note(&self, last: Index, committed: Index) {
        self.last.store(last.0, Ordering::Relaxed);
        self.committed.store(committed.0, Ordering::Relaxed);
    }

    fn note_lag(&self, lag: Vec<(NodeId, u64)>) {
        let last = self.last().0;
        let others = lag
            .into_iter()
            .map(|(node, lacks)| (node, Index(last.saturating_sub(lacks)), lacks));
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others.collect();
    }

    pub(super) fn last(&self) -> Index {
        Index(self.last.load(Ordering::Relaxed))
    }

    pub(super) fn committed(&self) -> Index {
        Index(self.committed.load(Ordering::Relaxed))
    }

    /// Entries that each other replica lacks.
    pub(super) fn lag(&self) -> Vec<(NodeId, u64)> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others
            .iter()
            .map(|(node, _, lacks)| (*node, *lacks))
            .collect()
    }

    /// What each other replica has acknowledged, where that is anything.
    pub(super) fn matched(&self) -> Vec<(NodeId, Index)> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let matched = others.iter().map(|(node, matched, _)| (*node, *matched));
        matched.filter(|(_, matched)| *matched > Index(0)).collect()
    }
}

impl Partition {
    /// Hands `ask` to the actor; waits while its mailbox is full. `Err`: the actor has ended.
    pub(super) async fn send(&self, ask: Ask) -> Result<(), Ask> {
        self.mailbox.send(ask).await.map_err(|refused| refused.0)
    }

    /// A seat in the mailbox, once there is one. `None`: the actor has ended.
    pub(super) async fn reserve(&self) -> Option<mpsc::Permit<'_, Ask>> {
        self.mailbox.reserve().await.ok()
    }

    /// A seat in the mailbox, where there is one now.
    pub(super) fn try_reserve(&self) -> Option<mpsc::Permit<'_, Ask>> {
        self.mailbox.try_reserve().ok()
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Resolves when the actor has ended: the partition is no longer kept here, or the node stops.
    pub(super) async fn ended(&self) {
        self.mailbox.closed().await;
    }

    pub(super) fn leads(&self) -> bool {
        self.leads_in().is_some()
    }

    /// The epoch in which it leads.
    pub(super) fn leads_in(&self) -> Option<Epoch> {
        let status = self.status.borrow();
        (status.role == PartitionRole::Leads).then_some(status.epoch)
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl From<Role> for PartitionRole {
    fn from(role: Role) -> PartitionRole {
        match role {
            Role::Follower { .. } => PartitionRole::Follows,
            Role::TakingOver(_) => PartitionRole::TakesOver,
            Role::Leading(_) => PartitionRole::Leads,
        }
    }
}
