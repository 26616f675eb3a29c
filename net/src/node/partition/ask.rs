//! What a partition's actor can be asked, and how it answers.

use std::sync::Arc;

use mesh_engine::batch::BatchHeader;
use mesh_engine::{AppendError, JournalEntry, ReadError, TopicConfig, TopicError, TopicMeta};
use mesh_ring::ids::{Epoch, NodeId, Offset, ProducerId, TopicKey};
use mesh_ring::name::{CursorName, TopicName};
use mesh_ring::replica::{Config, Message};
use tokio::sync::oneshot;

use crate::node::payload::Payload;
use crate::node::peers::Admitted;

/// One thing for the actor to do.
#[derive(Debug)]
pub(in crate::node) enum Ask {
    Append(AppendAsk),
    Change {
        change: Change,
        done: oneshot::Sender<Result<Changed, Refusal<TopicError>>>,
    },
    /// The cluster map's word on this partition.
    Configure(Config),
    /// From another replica. The permit is given back when what came is durable or refused.
    Received {
        from: NodeId,
        message: Message<Payload>,
        admitted: Admitted,
    },
    Connected(NodeId),
    Disconnected(NodeId),
    /// Too few replicas live for anything to be committed soon: whoever waits learns that the outcome is open.
    GiveUp,
    /// What was read from the journal for a follower that is behind.
    Read {
        to: NodeId,
        epoch: Epoch,
        entries: Result<Vec<JournalEntry>, ReadError>,
    },
}

/// A batch to order.
pub(in crate::node) struct AppendAsk {
    pub(in crate::node) topic: TopicKey,
    /// Checked by the caller.
    pub(in crate::node) header: BatchHeader,
    pub(in crate::node) batch: Vec<u8>,
    pub(in crate::node) expected: Option<Offset>,
    /// Called once, on the actor's task; must not block.
    pub(in crate::node) done: AppendDone,
}

/// How an append's answer reaches whoever asked.
pub(in crate::node) type AppendDone =
    Box<dyn FnOnce(Result<Appended, Refusal<AppendError>>) + Send>;

/// A committed append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Appended {
    pub(in crate::node) first: Offset,
    pub(in crate::node) last: Offset,
    pub(in crate::node) epoch: Epoch,
    pub(in crate::node) duplicate: bool,
    /// Replicas that had it on their disks when it was answered.
    pub(in crate::node) synced: Arc<[NodeId]>,
}

/// A change of a topic other than an append.
#[derive(Clone, Debug)]
pub(in crate::node) enum Change {
    Create {
        name: TopicName,
        config: TopicConfig,
    },
    Delete {
        topic: TopicKey,
    },
    Trim {
        topic: TopicKey,
        first: Offset,
    },
    CommitCursor {
        topic: TopicKey,
        name: CursorName,
        next: Offset,
    },
    /// Forget a producer that has appended nothing since.
    Expire {
        topic: TopicKey,
        producer: ProducerId,
        before_ms: u64,
    },
}

/// What became of a change.
#[derive(Clone, Debug)]
pub(in crate::node) enum Changed {
    Created(TopicMeta),
    /// First offset that is left.
    Trimmed(Offset),
    Done,
}

/// Why the actor did not do it.
#[derive(Clone, Debug)]
pub(in crate::node) enum Refusal<E> {
    /// Not done here, and not known whether an earlier attempt was: ask the leader.
    NotLeading,
    /// Taken up, then leadership was lost: it may have been done. A retry with the same sequence is safe.
    Unknown,
    /// Not done: too few replicas live for anything to be committed.
    TooFew,
    /// Decided: no.
    Decided(E),
    /// The partition cannot go on here.
    Failed(String),
}

impl std::fmt::Debug for AppendAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppendAsk")
            .field("topic", &self.topic)
            .field("bytes", &self.batch.len())
            .finish_non_exhaustive()
    }
}

/// A payload as the journal keeps it.
pub(super) fn payload_of(entry: &JournalEntry) -> Payload {
    Payload::new(entry.command.clone(), entry.batch.clone())
}
