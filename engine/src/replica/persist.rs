//! Making promises and entries durable.

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicKey};

use super::commit::told_of;
use super::{JournalEntry, Persist, RECORD_BYTES, Removal, Slots};
use crate::engine::Engine;
use crate::error::{ReadError, Stopped};
use crate::writer::{Completion, Done, Op};

/// What the writer is to do for one [`Persist`].
pub(crate) struct PersistOp {
    pub(crate) partition: PartitionId,
    pub(crate) record: Option<[u8; RECORD_BYTES]>,
    pub(crate) removal: Option<Removal>,
    /// Epochs that begin, and with which entry.
    pub(crate) begun: Vec<(Epoch, Index)>,
    pub(crate) entries: Vec<JournalEntry>,
    /// What commits with the entries: what they change beside the log, and whose readers are told.
    pub(crate) changes: Vec<(Index, Command)>,
    pub(crate) committed: Option<(TopicKey, Offset)>,
    pub(crate) completion: Persisted,
    pub(crate) done: Done<(), Stopped>,
}

/// Why nothing is persisted, and who is to be told.
type Refused = (Stopped, Done<(), Stopped>);

/// What is true of the partition once a [`Persist`] is durable.
pub(crate) struct Persisted {
    slots: Arc<Slots>,
    partition: PartitionId,
    durable: Index,
    removal: Option<u64>,
    /// Removals of the partition until then.
    removals: u64,
    /// All of it is committed by that.
    committed: bool,
    in_bulk: bool,
}

/// About what an entry adds beside its batch: its own row, and the keys of both.
const ROWS_BYTES: usize = 128;

impl PersistOp {
    /// About what it adds to a WriteBatch, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let rows = self.entries.iter().map(|entry| {
            let name = match &entry.command {
                Command::CreateTopic { name, .. } | Command::CommitCursor { name, .. } => {
                    name.len()
                }
                _ => 0,
            };
            entry.batch.as_ref().map_or(0, Bytes::len) + name + ROWS_BYTES
        });
        rows.sum::<usize>() + ROWS_BYTES
    }
}

impl Engine {
    /// Queues what is to become durable; `done` is called on the writer's thread when it is. It must not block, and
    /// neither does this call: whoever calls bounds what is under way, to at most [`crate::QUEUE_BYTES_MAX`].
    ///
    /// Readers are not shown the entries before [`Engine::submit_commit`] says that they are committed. Entries from
    /// elsewhere are to be [verified](JournalEntry::verify) first.
    ///
    /// # Errors
    /// `done` is told that the store stopped: it may or may not have become durable.
    ///
    /// # Panics
    /// If entries are not consecutive, or committed ones would go.
    pub fn submit_persist(
        &self,
        persist: Persist,
        done: impl FnOnce(Result<(), Stopped>) + Send + 'static,
    ) {
        self.persist(persist, false, Box::new(done));
    }

    /// As [`Engine::submit_persist`], of one command that is committed as soon as it is durable.
    pub(crate) fn submit_committed(&self, persist: Persist, done: Done<(), Stopped>) {
        self.persist(persist, true, done);
    }

    fn persist(&self, persist: Persist, committed: bool, done: Done<(), Stopped>) {
        let op = match self.prepare(persist, committed, done) {
            Ok(op) => op,
            Err((stopped, done)) => return done(Err(stopped)),
        };
        if op.completion.in_bulk {
            let bytes = op.bytes();
            self.queue().push_reserved(Op::Persist(op), bytes);
        } else {
            self.queue().push_control(Op::Persist(op));
        }
    }

    /// Enters it in the partition's journal, as memory has it.
    fn prepare(
        &self,
        persist: Persist,
        committed: bool,
        done: Done<(), Stopped>,
    ) -> Result<Box<PersistOp>, Refused> {
        let partition = persist.partition;
        // Whoever persists has read the replica before, so that this is the disk getting worse.
        let stopped = |error: ReadError| Stopped {
            cause: error.to_string(),
        };
        let Some(mut slot) = self.slots().lock(partition) else {
            let error = ReadError::Store(format!("there is no partition {partition}"));
            return Err((stopped(error), done));
        };
        let waiting = slot.bulk;
        let journal = match slot.journal(self.store(), partition) {
            Ok(journal) if journal.record.incomplete => {
                return Err((stopped(ReadError::Incomplete), done));
            }
            Ok(journal) => journal,
            Err(error) => return Err((stopped(error), done)),
        };
        let has_rows =
            persist.promise.is_some() || persist.suspect.is_some() || persist.truncate.is_some();
        let promised = persist.promise.unwrap_or(Epoch(0));
        journal.record.promised = journal.record.promised.max(promised);
        if let Some(suspect) = persist.suspect {
            journal.record.suspect = suspect;
        }
        let removal = persist
            .truncate
            .and_then(|from| journal.remove(partition, from));
        let mut begun = Vec::new();
        let mut changes = Vec::new();
        let mut told = None;
        let mut payload = 0;
        for entry in &persist.entries {
            if journal.push(partition, entry.index, entry.epoch) {
                begun.push((entry.epoch, entry.index));
            }
            let batch_bytes = entry.batch.as_ref().map(Bytes::len);
            payload += batch_bytes.unwrap_or(0);
            if !committed {
                journal
                    .visible
                    .push(entry.index, &entry.command, batch_bytes);
            }
            if committed {
                told = told_of(partition, &entry.command).or(told);
                if !matches!(entry.command, Command::Append { .. } | Command::Barrier) {
                    changes.push((entry.index, entry.command.clone()));
                }
            }
        }
        if committed {
            journal.record.commit = journal.last.index;
        }
        // What carries no records goes ahead of all bulk, unless that would be ahead of its own partition's.
        let in_bulk = payload > 0 || waiting > 0;
        let completion = Persisted {
            slots: Arc::clone(self.slots()),
            partition,
            durable: journal.last.index,
            removal: removal.as_ref().map(|removal| removal.number),
            removals: journal.removals,
            committed,
            in_bulk,
        };
        journal.unrecorded_bytes += payload;
        let record = journal.record_to_write(has_rows || !changes.is_empty());
        slot.bulk += u32::from(in_bulk);
        Ok(Box::new(PersistOp {
            partition,
            record,
            removal,
            begun,
            entries: persist.entries,
            changes,
            committed: told,
            completion,
            done,
        }))
    }
}

impl Completion for Persisted {
    fn complete(&mut self, _committed: &mut Vec<(TopicKey, Offset)>) {
        let Some(mut slot) = self.slots.lock(self.partition) else {
            return;
        };
        slot.bulk -= u32::from(self.in_bulk);
        if let Some(journal) = slot.loaded() {
            if let Some(removal) = self.removal {
                journal.visible.removed(removal);
            }
            // A removal that was submitted meanwhile may have taken some of it back; its own completion follows.
            if journal.removals == self.removals {
                journal.durable = self.durable;
            }
            if self.committed {
                journal.shown = journal.shown.max(self.durable);
            }
        }
    }
}
