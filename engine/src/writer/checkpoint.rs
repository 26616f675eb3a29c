//! Checkpoints: writing the producer windows that memory is ahead with, and letting old journal entries go.
//!
//! A window changes with every append; writing it each time would double the keys of small appends. Instead the
//! journal entry tells what changed, and an open replays what came after the last checkpoint of a partition. Both are
//! bounded here, so that the time of a restart and the size of a journal are.

use mesh_ring::ids::{Index, PartitionId};

use super::Writer;
use super::group::Group;
use super::state::{Partition, State};
use crate::journal::ENTRY_BYTES_MAX;
use crate::keys::{self, family};

/// Most entries of one partition that an open replays.
const REPLAY_ENTRIES_MAX: u64 = 4_096;

/// Most windows that memory is ahead with, over all partitions.
const WINDOWS_AHEAD_MAX: usize = 8_192;

/// Entries that a partition's journal keeps at least, and twice of which it keeps at most.
const JOURNAL_ENTRIES_KEPT: u64 = 16_384;

/// Most bytes of one partition's journal.
pub const JOURNAL_BYTES_MAX: u64 = 2 * JOURNAL_ENTRIES_KEPT * ENTRY_BYTES_MAX as u64;

impl Writer {
    /// Adds to the group the checkpoints that are due.
    pub(super) fn checkpoint_if_due(&mut self, group: &mut Group<'_>) {
        let ahead: usize = self
            .state
            .partitions
            .values()
            .map(|partition| partition.windows.len())
            .sum();
        let all = ahead > WINDOWS_AHEAD_MAX;
        for (id, partition) in &mut self.state.partitions {
            if all || partition.unapplied() >= REPLAY_ENTRIES_MAX {
                partition.checkpoint(group, *id);
            }
        }
    }
}

impl State {
    /// Checkpoints every partition in use.
    pub(super) fn checkpoint(&mut self, group: &mut Group<'_>) {
        for (id, partition) in &mut self.partitions {
            partition.checkpoint(group, *id);
        }
    }
}

impl Partition {
    fn unapplied(&self) -> u64 {
        self.next_index.0 - 1 - self.applied.0
    }

    fn checkpoint(&mut self, group: &mut Group<'_>, id: PartitionId) {
        if self.unapplied() == 0 {
            return;
        }
        for ((topic, producer), window) in self.windows.drain() {
            let topic = mesh_ring::ids::TopicKey {
                partition: id,
                id: topic,
            };
            group.put(
                family::PRODUCERS,
                keys::producer_key(topic, producer),
                window.encode(),
            );
        }
        self.applied = Index(self.next_index.0 - 1);
        group.put(
            family::TOPICS,
            keys::applied_key(id),
            self.applied.0.to_be_bytes(),
        );
        if self.next_index.0 - self.first_index.0 >= 2 * JOURNAL_ENTRIES_KEPT {
            let first = Index(self.next_index.0 - JOURNAL_ENTRIES_KEPT);
            // From the beginning: what a huge group put after an earlier deletion goes with this one.
            let from = keys::journal_key(id, Index(0));
            group.delete_range(family::JOURNAL, &from, &keys::journal_key(id, first));
            self.first_index = first;
        }
    }
}
