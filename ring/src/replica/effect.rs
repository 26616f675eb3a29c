//! What goes into a replica, and what comes out.

use thiserror::Error;

use super::config::Config;
use super::message::{Entry, Lane, Message, Position};
use crate::ids::{Epoch, Index, NodeId};

/// What a replica finds on its disk when it starts.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Durable {
    /// How often this node has started, higher each time, also after its disk was damaged; at least 1.
    pub boot: u32,
    /// The highest epoch promised.
    pub promised: Epoch,
    /// The disk did not come back whole at this start or an earlier one, and no leader has caught the replica up since.
    pub suspect: bool,
    /// The first index kept; one beyond `last` if none is.
    pub first: Index,
    /// The entry just before `first`.
    pub before: Position,
    /// The last entry; `before` if none is kept.
    pub last: Position,
    /// Where each epoch begins among the entries kept, in ascending order.
    pub epochs: Vec<(Epoch, Index)>,
    /// Everything up to here is committed. More may be.
    pub commit: Index,
}

impl Durable {
    /// A replica whose disk holds nothing yet.
    #[must_use]
    pub fn empty(boot: u32) -> Self {
        Self {
            boot,
            first: Index(1),
            ..Self::default()
        }
    }
}

/// What happened.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Input<P> {
    /// The cluster map says this. Older and repeated ones do no harm. The first one after a start must be from a map
    /// that has registered this start of the node: it stands in for promises that a damaged disk may have lost.
    Configure(Config),
    /// A message came in.
    Received {
        /// The node that sent it, by its certificate.
        from: NodeId,
        /// What it says.
        message: Message<P>,
    },
    /// Every [`Effect::Persist`] with this ticket or a lower one is durable.
    Persisted(u64),
    /// What [`Effect::Read`] asked for: consecutive entries from `from` on, at least one.
    Read {
        /// As in the effect.
        to: NodeId,
        /// As in the effect.
        epoch: Epoch,
        /// The entries.
        entries: Vec<Entry<P>>,
    },
    /// [`Effect::Read`] failed. It is asked for again later.
    ReadFailed {
        /// As in the effect.
        to: NodeId,
        /// As in the effect.
        epoch: Epoch,
    },
    /// Everything up to here has been applied.
    Applied(Index),
    /// The journal was shortened at its beginning: this is the first index kept now. All before it was applied.
    Forgotten(Index),
    /// There is a connection to the node. Every node is taken for connected until the opposite is said.
    Connected(NodeId),
    /// The connection to the node is lost. Nothing is sent to it until it is back.
    Disconnected(NodeId),
    /// Time has passed. Wanted about every [`Limits::resend_ms`](super::Limits::resend_ms) while
    /// [`Replica::wants_tick`](super::Replica::wants_tick).
    Tick,
}

/// What is to be done, in the order given.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Effect<P> {
    /// Write all of this in one step, after every `Persist` before it; then say [`Input::Persisted`].
    Persist {
        /// Counts up by one with each.
        ticket: u64,
        /// Promise this epoch.
        promise: Option<Epoch>,
        /// Whether the replica is suspect from now on.
        suspect: Option<bool>,
        /// First remove this entry and all after it, with everything that they point to.
        truncate: Option<Index>,
        /// Then add these.
        entries: Vec<Entry<P>>,
    },
    /// Send a message, or drop it: it is said again when it matters.
    Send {
        /// The node to send it to.
        to: NodeId,
        /// What to say.
        message: Message<P>,
        /// How urgent it is.
        lane: Lane,
    },
    /// Read entries from the disk, then say [`Input::Read`] or [`Input::ReadFailed`].
    Read {
        /// The node that they are for.
        to: NodeId,
        /// The epoch in which they are wanted.
        epoch: Epoch,
        /// The first index wanted.
        from: Index,
        /// Stop at about this many bytes, after one entry at least.
        bytes: usize,
    },
    /// Everything up to here is committed: it may be applied and shown. Say [`Input::Applied`] when it has been.
    Commit(Index),
    /// The entry with this index, and all after it, are no longer part of the journal. None of them was committed.
    /// Whoever waits for one does not learn its outcome here.
    Truncated(Index),
    /// The role has changed.
    Role(Role),
    /// Something for the cluster map. It is said again while it matters.
    Report(Report),
    /// The node's journal ends before this leader's begins: it needs a transfer. After it, say [`Input::Connected`]. Said
    /// of this replica itself: what it knows to be committed, all who vote have lost, and it needs a copy of their journal
    /// in place of its own; said again while the leader sends what contradicts it.
    Behind {
        /// The node.
        node: NodeId,
    },
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// It follows.
    Follower {
        /// The leader, if one is known that has not been superseded.
        leader: Option<NodeId>,
    },
    /// It is to lead in this epoch, and may not serve yet.
    TakingOver(Epoch),
    /// It leads in this epoch and serves: everything of earlier epochs is committed and applied, and the map knows.
    Leading(Epoch),
}

/// What the cluster map must hear.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Report {
    /// The barrier of the epoch is committed and applied: from now on its own replicas are enough.
    Activated(Epoch),
    /// The learner has everything that was committed, and keeps up.
    CaughtUp {
        /// The leader's epoch.
        epoch: Epoch,
        /// The learner.
        node: NodeId,
    },
    /// This leader cannot lead. It asks for a new epoch.
    Resign {
        /// The epoch that it was to lead.
        epoch: Epoch,
        /// Who should lead instead, if it knows; may be itself.
        to: Option<NodeId>,
        /// Why.
        why: ResignCause,
    },
}

/// Why a leader asks for a new epoch.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Error)]
pub enum ResignCause {
    /// It was restarted, or its disk damaged, while it may have led: what it had sent and not written is lost.
    #[error("it was restarted in the epoch that it led")]
    Restarted,
    /// Too few replicas answer.
    #[error("too few replicas answer")]
    NoMajority,
    /// The replica that it has to learn from no longer keeps entries that it lacks.
    #[error("the replica with the longest journal no longer keeps what this one lacks")]
    SourceForgot,
}

/// The replica does not lead, or may not serve yet. Nothing was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
#[error("not the leader")]
pub struct NotLeading {
    /// Who leads, if it is known.
    pub leader: Option<NodeId>,
}
