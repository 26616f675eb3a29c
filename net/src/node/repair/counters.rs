//! What came of comparisons.

use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::wire::proto::RepairStatus;

/// What one comparison, or several, came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::node) struct Compared {
    /// Leaves that differed.
    pub(in crate::node) leaves: u64,
    /// Bindings, or versions of them, that the other side lacked.
    pub(in crate::node) sent: u64,
    /// The same for this side.
    pub(in crate::node) received: u64,
    /// Frames on the wire, both ways.
    pub(in crate::node) bytes: u64,
    /// Bindings that could not be read, on either side, and were replaced.
    pub(in crate::node) damaged: u64,
    /// Blocks of topics that both sides could read.
    pub(in crate::node) blocks: u64,
    /// Blocks with other records here than there.
    pub(in crate::node) blocks_differing: u64,
    /// Blocks that this node could not read.
    pub(in crate::node) blocks_damaged: u64,
    /// Blocks of this node that another one's batches have made whole.
    pub(in crate::node) blocks_healed: u64,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.leaves += other.leaves;
        self.sent += other.sent;
        self.received += other.received;
        self.bytes += other.bytes;
        self.damaged += other.damaged;
        self.blocks += other.blocks;
        self.blocks_differing += other.blocks_differing;
        self.blocks_damaged += other.blocks_damaged;
        self.blocks_healed += other.blocks_healed;
    }
}

/// What all comparisons came to since the start.
#[derive(Debug, Default)]
pub(in crate::node) struct Counters(Mutex<Counted>);

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    rounds: u64,
    comparisons: u64,
    sum: Compared,
    healed: Option<Instant>,
    block_healed: Option<Instant>,
}

impl Counters {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_round(&self) {
        self.lock().rounds += 1;
    }

    pub(super) fn note_comparison(&self) {
        self.lock().comparisons += 1;
    }

    /// A part of a comparison is done, whatever becomes of the rest.
    pub(super) fn note(&self, part: Compared) {
        let mut counted = self.lock();
        counted.sum += part;
        if part.sent + part.received > 0 {
            counted.healed = Some(Instant::now());
        }
        if part.blocks_healed > 0 {
            counted.block_healed = Some(Instant::now());
        }
    }

    /// `blocks_unreadable`: those that cannot be read now.
    pub(super) fn status(&self, blocks_unreadable: u64) -> RepairStatus {
        let counted = *self.lock();
        let ms = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        RepairStatus {
            rounds: counted.rounds,
            compared: counted.comparisons,
            differing_leaves: counted.sum.leaves,
            sent: counted.sum.sent,
            received: counted.sum.received,
            bytes: counted.sum.bytes,
            damaged: counted.sum.damaged,
            healed_ms_ago: counted.healed.map(ms),
            blocks: counted.sum.blocks,
            blocks_differing: counted.sum.blocks_differing,
            blocks_damaged: counted.sum.blocks_damaged,
            blocks_healed: counted.sum.blocks_healed,
            blocks_unreadable,
            block_healed_ms_ago: counted.block_healed.map(ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_healed_counts_as_healed() {
        let counters = Counters::default();
        counters.note_round();
        counters.note_comparison();
        let in_sync = Compared {
            bytes: 60,
            ..Compared::default()
        };
        counters.note(in_sync);
        let status = counters.status(0);
        assert_eq!((status.rounds, status.compared, status.bytes), (1, 1, 60));
        assert_eq!(status.healed_ms_ago, None);
        counters.note(Compared {
            received: 2,
            damaged: 1,
            ..in_sync
        });
        let status = counters.status(0);
        assert_eq!((status.received, status.damaged, status.bytes), (2, 1, 120));
        assert!(status.healed_ms_ago.is_some() && status.block_healed_ms_ago.is_none());
        counters.note(Compared {
            blocks_healed: 1,
            ..Compared::default()
        });
        let status = counters.status(3);
        assert_eq!((status.blocks_healed, status.blocks_unreadable), (1, 3));
        assert!(status.block_healed_ms_ago.is_some());
    }
}
