//! Checkpoints: handing the settled windows to the store, so that a restart replays few entries.
//!
//! A window changes with every append; writing it each time would double the keys of small appends. The journal tells
//! what changed, and a ledger that starts replays what came after the last checkpoint.

use super::{Ledger, Window};
use crate::ids::{Index, ProducerId, TopicId};

/// Settled entries after which a checkpoint is due: about as many does a start replay.
pub const REPLAY_ENTRIES_MAX: u64 = 4_096;

/// Windows that memory is ahead with, from which on a checkpoint is due.
pub const WINDOWS_UNSAVED_MAX: usize = 1_024;

/// What a store remembers of the last checkpoint; the default where there never was one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checkpointed {
    /// The stored windows reflect the journal up to here.
    pub upto: Index,
    /// Of the same name in [`Checkpoint`].
    pub forgotten_before_ms: u64,
}

/// Settled state for the store, to be written as a whole, and after all commits that were submitted before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The stored windows then reflect the journal up to here.
    pub upto: Index,
    /// Producers that were minted before this and have no window are not taken for new ones, in unix milliseconds.
    pub forgotten_before_ms: u64,
    /// Topics that are gone: all their windows are to be removed, before `windows` are written.
    pub deleted: Vec<TopicId>,
    /// The windows that moved since the last checkpoint.
    pub windows: Vec<SavedWindow>,
}

/// A window to store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SavedWindow {
    /// In which topic.
    pub topic: TopicId,
    /// Of which producer.
    pub producer: ProducerId,
    /// The window; `None`: it is to be removed.
    pub window: Option<Window>,
}

#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The last checkpoint that was handed out.
    upto: Index,
    /// Whether it is on its way to the store.
    under_way: bool,
    /// Windows in use, from which on a checkpoint is due.
    due_at: usize,
}

impl Progress {
    pub(super) fn new(upto: Index) -> Self {
        Self {
            upto,
            under_way: false,
            due_at: WINDOWS_UNSAVED_MAX,
        }
    }
}

impl Ledger {
    /// Whether so much has settled since the last checkpoint that the next one should be made.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        let entries = self.settled().0 - self.checkpoints.upto.0;
        !self.checkpoints.under_way
            && entries > 0
            && (entries >= REPLAY_ENTRIES_MAX || self.windows.held() >= self.checkpoints.due_at)
    }

    /// Hands out what has settled since the last checkpoint; `None` if nothing has, or if one is under way.
    ///
    /// The store writes it in one batch, in the order of submission among all else of the partition; then
    /// [`checkpoint_done`](Self::checkpoint_done) is to be called.
    pub fn checkpoint(&mut self) -> Option<Checkpoint> {
        if self.checkpoints.under_way || self.settled() == self.checkpoints.upto {
            return None;
        }
        self.checkpoints.under_way = true;
        self.checkpoints.upto = self.settled();
        let (windows, deleted) = self.windows.hand_out();
        Some(Checkpoint {
            upto: self.settled(),
            forgotten_before_ms: self.windows.forgotten_before_ms(),
            deleted,
            windows,
        })
    }

    /// The checkpoint that was handed out last is durable, and can be read from the source.
    pub fn checkpoint_done(&mut self) {
        if self.checkpoints.under_way {
            self.checkpoints.under_way = false;
            self.windows.drop_saved();
            // Windows in constant use stay: the more of them, the rarer a checkpoint for their number.
            self.checkpoints.due_at = WINDOWS_UNSAVED_MAX.max(2 * self.windows.held());
        }
    }
}
