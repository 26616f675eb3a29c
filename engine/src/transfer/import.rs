//! Taking a copy of a partition in.
//!
//! While it comes, the partition is marked incomplete: nothing of it is served, and the node takes no part in it. What was
//! promised before stays promised.

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicKey};
use mesh_ring::replica::{Left, Position};

use super::check::Stale;
use super::progress::Progress;
use super::{Chunk, END, ExportHeader};
use crate::engine::Engine;
use crate::error::{ReadError, Stopped};
use crate::replica::{Held, Journal, Persist, RECORD_BYTES, Record, Slots, Visible, load_record};
use crate::writer::{Completion, Done, Op};

/// Why a copy, or a part of it, was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The chunk does not follow the one before. Send the one behind `cursor`.
    #[error("the chunk does not follow what has come so far")]
    OutOfOrder {
        /// The cursor behind what has come.
        cursor: Vec<u8>,
    },
    /// It is of another export than the chunks before, or none was begun. Begin again.
    #[error("the chunk is of another copy than the one that has begun")]
    OtherExport,
    /// The chunk is not what was sent, or holds what no store writes. Nothing of it was written.
    #[error("the copy is damaged: {0}")]
    Damaged(String),
    /// What has come does not fit together. All of it was removed: begin again.
    #[error("what has come of the copy is given up: {0}")]
    Diverged(String),
    /// The store cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The store stopped. A restart goes on where it was.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// What the writer is to do to the rows of a partition.
pub(crate) struct ReplaceOp {
    pub(crate) partition: PartitionId,
    pub(crate) replacement: Replacement,
    pub(crate) record: [u8; RECORD_BYTES],
    /// What is to be known of the import from now on.
    pub(crate) progress: Option<Vec<u8>>,
    pub(crate) completion: Replaced,
    pub(crate) done: Done<(), Stopped>,
}

pub(crate) enum Replacement {
    /// All rows go.
    Nothing,
    /// All rows go, except for bindings: those that only this node has acknowledged are in no other copy.
    OnlyBindings,
    /// As `OnlyBindings`, but the log stays too: another export goes on with it.
    OnlyLogAndBindings,
    /// Rows of a chunk come, and log rows go.
    Rows { rows: Bytes, stale: Vec<Stale> },
    /// Nothing more comes; these are the epochs of the journal that came, and log rows that go.
    Whole {
        epochs: Vec<(Epoch, Index)>,
        stale: Vec<Stale>,
    },
}

/// What is true of the partition then.
pub(crate) struct Replaced {
    slots: Arc<Slots>,
    partition: PartitionId,
    /// The rows are what the next use of the partition finds.
    is_whole: bool,
}

impl ReplaceOp {
    /// About what it adds to a WriteBatch, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        const KEYS_BYTES: usize = 1_024;
        const STALE_BYTES: usize = 96;
        let bytes = match &self.replacement {
            Replacement::Rows { rows, stale } => rows.len() + stale.len() * STALE_BYTES,
            Replacement::Whole { epochs, stale } => epochs.len() * 32 + stale.len() * STALE_BYTES,
            _ => 0,
        };
        bytes + KEYS_BYTES
    }
}

impl Engine {
    /// Removes what this node holds of a partition, durably, except for what it has promised. Nothing else may be under way
    /// for it. Disk space comes back when [`Engine::reclaim`] has run.
    ///
    /// # Errors
    /// The store stopped.
    pub fn drop_partition(&self, partition: PartitionId) -> Result<(), ImportError> {
        let record = self.empty_record(partition, false)?;
        self.replace(partition, Replacement::Nothing, record, None)
    }

    /// Begins to take a copy in, in place of the journal that is held of the partition, or goes on with the same copy, or
    /// with one that [continues](ExportHeader::continues) what has come of others. Returns the cursor behind what has come
    /// of it: the next chunk is the one behind that. Bindings that are held are merged with those that come.
    ///
    /// Where a journal was held, it is not forgotten where it ended: [`Engine::left`] tells, and a copy that ends before that
    /// makes the replica suspect, until a leader has caught it up: what it had acknowledged counted towards majorities.
    ///
    /// From here on, also after a crash, the partition is incomplete until [`Engine::import_finish`].
    ///
    /// # Errors
    /// [`ImportError::OtherExport`] where the copy continues what is not held, or not any more; the store cannot be read,
    /// or stopped.
    pub fn import_begin(&self, header: &ExportHeader) -> Result<Vec<u8>, ImportError> {
        let partition = header.partition;
        let held = self.progress(partition)?;
        if let Some(progress) = &held
            && progress.id == header.id
        {
            return Ok(progress.cursor.clone());
        }
        let continued = match (&header.continues, held) {
            (None, _) => None,
            (Some(token), Some(progress))
                if *token == progress.token() && progress.commit <= header.commit =>
            {
                Some(progress)
            }
            (Some(_), _) => return Err(ImportError::OtherExport),
        };
        let progress = Progress {
            id: header.id,
            commit: header.commit,
            log_bytes: continued.as_ref().map_or(0, |before| before.log_bytes),
            continued: continued.is_some(),
            cursor: Vec::new(),
        };
        let replacement = match continued {
            Some(_) => Replacement::OnlyLogAndBindings,
            None => Replacement::OnlyBindings,
        };
        let record = self.empty_record(partition, true)?;
        // What was acknowledged of a journal that cannot be read is not known.
        let record = Record {
            suspect: record.suspect || self.held(partition).is_err(),
            ..record
        };
        self.replace(partition, replacement, record, Some(progress))?;
        Ok(Vec::new())
    }

    /// Takes a chunk in, and returns when it is durable. All of it is checked before anything is written. May block while
    /// much waits for the disk. What is behind the last chunk is empty, and changes nothing.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import_chunk(&self, header: &ExportHeader, chunk: &Chunk) -> Result<(), ImportError> {
        let partition = header.partition;
        let progress = self.progress_of(header)?;
        if progress.cursor != chunk.after {
            return Err(ImportError::OutOfOrder {
                cursor: progress.cursor,
            });
        }
        if progress.cursor == [END] {
            return Ok(());
        }
        let checked = self
            .check(partition, chunk, progress.continued)
            .map_err(|error| self.given_up(partition, error))?;
        let progress = Progress {
            cursor: chunk.upto.clone(),
            log_bytes: progress.log_bytes.saturating_add(checked.log_bytes),
            ..progress
        };
        let record = self.empty_record(partition, true)?;
        let rows = Replacement::Rows {
            rows: chunk.rows.clone(),
            stale: checked.stale,
        };
        self.replace(partition, rows, record, Some(progress))
    }

    /// Makes the copy this node's own, once its last chunk has come. Afterwards [`Engine::replica`] tells what it holds.
    ///
    /// # Errors
    /// See [`ImportError`]; chunks are missing while it is [`ImportError::OutOfOrder`].
    pub fn import_finish(&self, header: &ExportHeader) -> Result<(), ImportError> {
        let partition = header.partition;
        let progress = self.progress_of(header)?;
        if progress.cursor != [END] {
            return Err(ImportError::OutOfOrder {
                cursor: progress.cursor,
            });
        }
        let stale = self
            .check_whole(header, progress.continued)
            .map_err(|error| self.given_up(partition, error))?;
        let record = self.empty_record(partition, false)?;
        let last = header
            .epochs
            .last()
            .map_or(header.before, |(epoch, _)| *epoch);
        let end = Position {
            epoch: last,
            index: header.commit,
        };
        let left = self.empty_record(partition, true)?.left();
        let record = Record {
            // A committed journal that reaches as far holds all that can be committed of the one that went.
            suspect: record.suspect || end < left,
            promised: record.promised.max(last),
            first: header.first,
            before: header.before,
            commit: header.commit,
            ..record
        };
        let epochs = header.epochs.clone();
        self.replace(
            partition,
            Replacement::Whole { epochs, stale },
            record,
            None,
        )
    }

    /// How far the import of this very export has come.
    fn progress_of(&self, header: &ExportHeader) -> Result<Progress, ImportError> {
        self.progress(header.partition)?
            .filter(|progress| progress.id == header.id)
            .ok_or(ImportError::OtherExport)
    }

    /// Removes what has come where it is of no use, so that the next import begins anew.
    fn given_up(&self, partition: PartitionId, error: ImportError) -> ImportError {
        let removed = match error {
            ImportError::Diverged(_) => self
                .empty_record(partition, true)
                .map_err(ImportError::from)
                .and_then(|record| {
                    self.replace(partition, Replacement::OnlyBindings, record, None)
                }),
            _ => Ok(()),
        };
        removed.err().unwrap_or(error)
    }

    /// A replica that holds nothing but its promise.
    fn empty_record(&self, partition: PartitionId, incomplete: bool) -> Result<Record, ReadError> {
        // A journal that cannot be read is a reason to replace it.
        let held = self.with_journal(partition, |journal| (journal.record, journal.last));
        let (record, last) = match held {
            Ok(held) => held,
            Err(_) => (load_record(self.store(), partition)?, Position::ZERO),
        };
        let left = if record.incomplete {
            record.left()
        } else {
            last
        };
        let left = if incomplete { left } else { Position::ZERO };
        Ok(Record {
            suspect: record.suspect,
            promised: record.promised,
            incomplete,
            before: left.epoch,
            commit: left.index,
            ..Record::default()
        })
    }

    /// What a replica without a journal still knows: what it promised, and where the journal ended that it had. Of one that
    /// has its journal, the same.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn left(&self, partition: PartitionId) -> Result<Left, ReadError> {
        let record = self.empty_record(partition, true)?;
        Ok(Left {
            promised: record.promised,
            suspect: record.suspect,
            last: record.left(),
        })
    }

    /// Promises an epoch for a partition of which a copy is on its way, or is to come, durably. Neither a replica of it nor a
    /// step of the import may be at work.
    ///
    /// # Errors
    /// The store cannot be read, or stopped.
    pub fn promise_without_journal(
        &self,
        partition: PartitionId,
        epoch: Epoch,
    ) -> Result<(), ImportError> {
        if self.held(partition)? != Held::Arriving {
            let (sender, durable) = std::sync::mpsc::sync_channel(1);
            let promise = Persist {
                promise: Some(epoch),
                ..Persist::entries(partition, Vec::new())
            };
            self.submit_persist(promise, move |result| {
                let _ = sender.send(result);
            });
            return Ok(crate::engine::Answer::of(durable).wait()?);
        }
        let progress = self.progress(partition)?;
        let record = self.empty_record(partition, true)?;
        let record = Record {
            promised: record.promised.max(epoch),
            ..record
        };
        let nothing = Replacement::Rows {
            rows: Bytes::new(),
            stale: Vec::new(),
        };
        self.replace(partition, nothing, record, progress)
    }

    fn replace(
        &self,
        partition: PartitionId,
        replacement: Replacement,
        record: Record,
        progress: Option<Progress>,
    ) -> Result<(), ImportError> {
        let is_whole = matches!(replacement, Replacement::Whole { .. });
        if let Some(mut slot) = self.slots().lock(partition) {
            // What stood there is served no more from now on.
            let hidden = Record {
                incomplete: record.incomplete || is_whole,
                ..record
            };
            let empty = Journal::new(hidden, Vec::new(), Position::ZERO, Visible::default());
            slot.replace(empty);
            // What is submitted for the partition from now on comes after this.
            slot.bulk += 1;
        }
        let completion = Replaced {
            slots: Arc::clone(self.slots()),
            partition,
            is_whole,
        };
        let answer = self.ask_in_bulk(|done| ReplaceOp {
            partition,
            replacement,
            record: record.encode(),
            progress: progress.map(|progress| progress.encode()),
            completion,
            done,
        });
        answer.map_err(ImportError::Stopped)
    }

    fn ask_in_bulk(&self, op: impl FnOnce(Done<(), Stopped>) -> ReplaceOp) -> Result<(), Stopped> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let op = op(Box::new(move |result| {
            let _ = sender.send(result);
        }));
        let bytes = op.bytes();
        self.queue().push(Op::Replace(Box::new(op)), bytes);
        crate::engine::Answer::of(receiver).wait()
    }
}

impl Completion for Replaced {
    fn complete(&mut self, _committed: &mut Vec<(TopicKey, Offset)>) {
        if let Some(mut slot) = self.slots.lock(self.partition) {
            slot.bulk -= 1;
            if self.is_whole {
                slot.unload();
            }
        }
    }
}
