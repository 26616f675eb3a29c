//! Committing entries: showing batches to readers, applying the rest, and checkpoints.

use std::sync::Arc;

use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::ledger::Checkpoint;

use super::{JOURNAL_ENTRIES_KEPT, Journal, RECORD_BYTES, Slots};
use crate::engine::Engine;
use crate::error::{ReadError, Stopped};
use crate::writer::{Completion, Done, Op};

/// What the writer is to do for a commit.
pub(crate) struct CommitOp {
    pub(crate) partition: PartitionId,
    pub(crate) record: Option<[u8; RECORD_BYTES]>,
    pub(crate) changes: Vec<(Index, Command)>,
    pub(crate) completion: Committed,
    pub(crate) done: Done<(), Stopped>,
}

/// What is true once the commit is durable.
pub(crate) struct Committed {
    slots: Arc<Slots>,
    partition: PartitionId,
    upto: Index,
    /// Whom else to tell: topics that were deleted or begin later.
    notes: Vec<(TopicKey, Offset)>,
    in_bulk: bool,
}

/// What the writer is to do for a checkpoint.
pub(crate) struct CheckpointOp {
    pub(crate) partition: PartitionId,
    pub(crate) record: [u8; RECORD_BYTES],
    pub(crate) checkpoint: Checkpoint,
    /// The first entry that is kept from now on, if earlier ones go.
    pub(crate) first: Option<Index>,
    /// Epochs of which no entry is kept.
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) completion: Checkpointed,
    pub(crate) done: Box<dyn FnOnce(Result<Index, Stopped>) + Send>,
    pub(crate) kept_from: Index,
}

pub(crate) struct Checkpointed {
    slots: Arc<Slots>,
    partition: PartitionId,
    in_bulk: bool,
}

impl Engine {
    /// Notes that the entries up to `upto` are committed. Their batches are shown to readers, and what else they do is
    /// applied, durably and exactly once; then [`crate::Options::on_committed`] is called, then `done`: at once, on this
    /// thread, where nothing is to be written and nothing is to be waited for, or else on the writer's. It must not
    /// block. Entries that are not durable here yet are committed when they are.
    ///
    /// # Errors
    /// `done` is told that the store stopped.
    ///
    /// # Panics
    /// If there are no such entries.
    pub fn submit_commit(
        &self,
        partition: PartitionId,
        upto: Index,
        done: impl FnOnce(Result<(), Stopped>) + Send + 'static,
    ) {
        let stopped = |cause: String| Err(Stopped { cause });
        let Some(mut slot) = self.slots().lock(partition) else {
            return done(stopped(format!("there is no partition {partition}")));
        };
        let waiting = slot.bulk;
        let journal = match slot.journal(self.store(), partition) {
            Ok(journal) if journal.record.incomplete => {
                return done(stopped(ReadError::Incomplete.to_string()));
            }
            Ok(journal) => journal,
            Err(error) => return done(stopped(error.to_string())),
        };
        let changes = journal.commit(partition, upto);
        if changes.is_empty() && journal.commits == 0 && upto <= journal.durable {
            let committed = release(journal, partition, upto);
            drop(slot);
            self.tell(&committed);
            return done(Ok(()));
        }
        journal.commits += 1;
        let notes = changes
            .iter()
            .filter_map(|(_, command)| told_of(partition, command));
        let in_bulk = waiting > 0;
        let completion = Committed {
            slots: Arc::clone(self.slots()),
            partition,
            upto,
            notes: notes.collect(),
            in_bulk,
        };
        let op = Op::Commit(Box::new(CommitOp {
            partition,
            record: journal.record_to_write(!changes.is_empty()),
            changes,
            completion,
            done: Box::new(done),
        }));
        slot.bulk += u32::from(in_bulk);
        drop(slot);
        if in_bulk {
            self.queue().push_reserved(op, OP_BYTES);
        } else {
            self.queue().push_control(op);
        }
    }

    /// Writes a checkpoint of producer windows, and lets go of journal entries that are no longer needed for a restart:
    /// [`JOURNAL_ENTRIES_KEPT`] stay at least. `done` is told the first entry that is kept from now on.
    ///
    /// # Errors
    /// `done` is told that the store stopped.
    pub fn submit_checkpoint(
        &self,
        partition: PartitionId,
        checkpoint: Checkpoint,
        done: impl FnOnce(Result<Index, Stopped>) + Send + 'static,
    ) {
        let stopped = |cause: String| Err(Stopped { cause });
        let Some(mut slot) = self.slots().lock(partition) else {
            return done(stopped(format!("there is no partition {partition}")));
        };
        let waiting = slot.bulk;
        let journal = match slot.journal(self.store(), partition) {
            Ok(journal) => journal,
            Err(error) => return done(stopped(error.to_string())),
        };
        let (first, epochs) = let_go(journal, checkpoint.upto);
        let in_bulk = waiting > 0;
        journal.recorded = journal.record.commit;
        let op = Op::Checkpoint(Box::new(CheckpointOp {
            partition,
            record: journal.record.encode(),
            checkpoint,
            first,
            epochs,
            completion: Checkpointed {
                slots: Arc::clone(self.slots()),
                partition,
                in_bulk,
            },
            kept_from: journal.record.first,
            done: Box::new(done),
        }));
        slot.bulk += u32::from(in_bulk);
        drop(slot);
        if in_bulk {
            self.queue().push_reserved(op, OP_BYTES);
        } else {
            self.queue().push_control(op);
        }
    }
}

/// What an op without records weighs in the queue, in bytes.
const OP_BYTES: usize = 256;

/// Shows the entries up to `upto` to readers. Returns the topics with their next offsets.
fn release(journal: &mut Journal, partition: PartitionId, upto: Index) -> Vec<(TopicKey, Offset)> {
    let mut committed = Vec::new();
    journal.release(upto, |id, next| {
        let topic = TopicKey { partition, id };
        match committed.last_mut() {
            Some((last, end)) if *last == topic => *end = next,
            _ => committed.push((topic, next)),
        }
    });
    committed
}

/// Whose readers are told of a command that is not shown to them by itself, with the next offset. Whoever waits at the end
/// of a deleted topic must learn that there is none, and where records came without their batches, that they are gone.
pub(super) fn told_of(partition: PartitionId, command: &Command) -> Option<(TopicKey, Offset)> {
    let topic = |id: TopicId| TopicKey { partition, id };
    match command {
        Command::DeleteTopic { topic: id } => Some((topic(*id), 0)),
        Command::Append {
            topic: id, last, ..
        } => Some((topic(*id), last + 1)),
        _ => None,
    }
}

/// Moves the journal's beginning, where twice as much is kept as need be. Returns where to, and which epochs go.
fn let_go(journal: &mut Journal, checkpointed: Index) -> (Option<Index>, Vec<Epoch>) {
    let (first, last) = (journal.record.first, journal.last.index);
    if last.0 + 1 - first.0 < 2 * JOURNAL_ENTRIES_KEPT {
        return (None, Vec::new());
    }
    let applied = checkpointed.min(journal.record.commit);
    let next = Index((last.0 + 1 - JOURNAL_ENTRIES_KEPT).min(applied.0 + 1));
    if next <= first {
        return (None, Vec::new());
    }
    journal.record.before = journal.epoch_at(Index(next.0 - 1));
    journal.record.first = next;
    let begun = journal.epochs.partition_point(|(_, begin)| *begin <= next);
    let gone = journal.epochs.drain(..begun.saturating_sub(1));
    let gone = gone.map(|(epoch, _)| epoch).collect();
    (Some(next), gone)
}

impl Completion for Committed {
    fn complete(&mut self, committed: &mut Vec<(TopicKey, Offset)>) {
        let Some(mut slot) = self.slots.lock(self.partition) else {
            return;
        };
        slot.bulk -= u32::from(self.in_bulk);
        if let Some(journal) = slot.loaded() {
            journal.commits = journal.commits.saturating_sub(1);
            committed.extend(release(journal, self.partition, self.upto));
        }
        committed.append(&mut self.notes);
    }
}

impl Completion for Checkpointed {
    fn complete(&mut self, _committed: &mut Vec<(TopicKey, Offset)>) {
        if let Some(mut slot) = self.slots.lock(self.partition) {
            slot.bulk -= u32::from(self.in_bulk);
        }
    }
}
