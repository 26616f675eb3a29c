//! What replicas say to each other, and what a journal is made of.

use crate::ids::{Epoch, Index};

/// Where an entry stands: the epoch of the leader that wrote it, and its index. Later epochs sort behind earlier ones.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The epoch of the leader that wrote the entry.
    pub epoch: Epoch,
    /// The entry's number in the journal.
    pub index: Index,
}

impl Position {
    /// Before the first entry of every journal.
    pub const ZERO: Self = Self {
        epoch: Epoch(0),
        index: Index(0),
    };
}

/// What an entry holds. The core looks into neither.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Payload<P> {
    /// The first entry of an epoch. When it commits, everything before it is committed.
    Barrier,
    /// What was proposed.
    Command(P),
}

/// One entry of the journal.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Entry<P> {
    /// The epoch of the leader that wrote it.
    pub epoch: Epoch,
    /// Its number in the journal, from 1, without gaps.
    pub index: Index,
    /// What it holds.
    pub payload: Payload<P>,
}

impl<P> Entry<P> {
    /// Where the entry stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            index: self.index,
        }
    }
}

/// How much memory a payload holds.
pub trait Weigh {
    /// Bytes on the heap and on the wire, roughly. Windows and the tail in memory are measured by it.
    fn bytes(&self) -> usize;
}

impl<P: Weigh> Weigh for Entry<P> {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.payload {
                Payload::Barrier => 0,
                Payload::Command(command) => command.bytes(),
            }
    }
}

/// What one replica of a partition says to another. Every message may be lost, doubled and overtaken.
///
/// `boot` is the boot count of the replica whose disk the message speaks of (see [`Durable::boot`](super::Durable::boot)),
/// so that nothing which it said before its disk was damaged counts for what the disk holds now.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Message<P> {
    /// From the leader to be: promise `epoch`, and say how far you are.
    Seal {
        /// The epoch that begins.
        epoch: Epoch,
    },
    /// The promise is durable, and so is the journal up to `last`.
    Sealed {
        /// The epoch promised.
        epoch: Epoch,
        /// The boot count of the sender.
        boot: u32,
        /// Its disk did not come back whole: it may have forgotten entries and promises.
        suspect: bool,
        /// The first index that it keeps.
        first: Index,
        /// Its last entry.
        last: Position,
        /// It knows that everything up to here is committed.
        commit: Index,
    },
    /// From the leader to be: send what you have after this entry.
    Fetch {
        /// The epoch that begins.
        epoch: Epoch,
        /// An entry that both may have.
        after: Position,
    },
    /// Entries that follow `prev`, as many as fit.
    Fetched {
        /// The epoch that begins.
        epoch: Epoch,
        /// The boot count of the sender.
        boot: u32,
        /// The entry before the first one.
        prev: Position,
        /// Consecutive entries, the first of them after `prev`.
        entries: Vec<Entry<P>>,
    },
    /// The entry asked for with `Fetch` is not in the sender's journal.
    Diverged {
        /// The epoch that begins.
        epoch: Epoch,
        /// The boot count of the sender.
        boot: u32,
        /// What was asked for.
        after: Position,
        /// Its last entry with an epoch and an index no higher; beyond `after` if it no longer keeps any.
        hint: Position,
    },
    /// From the leader: these follow `prev`.
    Append {
        /// The leader's epoch.
        epoch: Epoch,
        /// The highest boot count of the receiver that the leader has heard of; 0 if none.
        boot: u32,
        /// The entry before the first one. Accepted only where it is present.
        prev: Position,
        /// Consecutive entries, the first of them after `prev`; may be empty.
        entries: Vec<Entry<P>>,
        /// Everything up to here is committed.
        commit: Index,
        /// The map has this epoch activated.
        activated: bool,
        /// Answer also if nothing is new.
        answer: bool,
    },
    /// The journal is durable, and the same as the leader's, up to `index`.
    Acked {
        /// The leader's epoch.
        epoch: Epoch,
        /// The boot count of the sender.
        boot: u32,
        /// The last index that is.
        index: Index,
        /// The last index that the journal is the same up to, and that is durable or on its way to the disk.
        received: Index,
        /// How far the sender knows it to be committed.
        commit: Index,
        /// The sender's disk did not come back whole, and it has not been caught up yet.
        suspect: bool,
    },
    /// `prev` of an `Append` is not in the journal, or a message's epoch is below the one promised.
    Rejected {
        /// The epoch of the message refused.
        epoch: Epoch,
        /// The boot count of the sender.
        boot: u32,
        /// The `prev` refused; [`Position::ZERO`] of other messages.
        prev: Position,
        /// The highest epoch that the sender knows of. Above `epoch`: there is a newer leader.
        promised: Epoch,
        /// The sender's last entry with an epoch and an index no higher than those of `prev`.
        hint: Position,
    },
}

impl<P> Message<P> {
    /// The epoch that the message belongs to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Seal { epoch }
            | Self::Sealed { epoch, .. }
            | Self::Fetch { epoch, .. }
            | Self::Fetched { epoch, .. }
            | Self::Diverged { epoch, .. }
            | Self::Append { epoch, .. }
            | Self::Acked { epoch, .. }
            | Self::Rejected { epoch, .. } => *epoch,
        }
    }
}

/// How urgent a message is. The two lanes may overtake each other.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Lane {
    /// Someone may be waiting for it.
    Live,
    /// Old entries for a replica that lags: they must not hold up what is live.
    CatchUp,
}
