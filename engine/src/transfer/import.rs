//! Taking a copy of a partition in.
//!
//! While it comes, the partition is marked incomplete: nothing of it is served, and the node takes no part in it. What was
//! promised before stays promised.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use mesh_ring::binding::{Binding, Content};
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicKey};
use mesh_ring::replica::Position;

use super::{Chunk, END, ExportHeader, hash, take_row};
use crate::codec::CodecError;
use crate::engine::Engine;
use crate::error::{ReadError, Stopped};
use crate::keys::{self, family};
use crate::read::{checked, undecodable};
use crate::replica::{
    Held, Journal, RECORD_BYTES, Record, Slots, Visible, first_and_last, load_record,
};
use crate::scrub::check_value;
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
    /// The store cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The store stopped. A restart goes on where it was.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// How far an import has come: [`ExportHeader::id`], and the cursor behind what has come.
pub type ImportState = ([u8; 16], Vec<u8>);

/// How far an import has come; the value at [`keys::import_key`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress {
    id: [u8; 16],
    cursor: Vec<u8>,
}

impl Progress {
    /// id | cursor.
    fn encode(&self) -> Vec<u8> {
        [&self.id[..], &self.cursor].concat()
    }

    fn decode(mut from: &[u8]) -> Result<Progress, CodecError> {
        let mut id = [0; 16];
        from.try_copy_to_slice(&mut id)
            .map_err(|_| CodecError::Short)?;
        Ok(Progress {
            id,
            cursor: from.to_vec(),
        })
    }
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
    /// Rows of a chunk come, with due times of its bindings.
    Rows { rows: Bytes, expiry: Vec<Vec<u8>> },
    /// Nothing more comes; these are the epochs of the journal that came.
    Whole { epochs: Vec<(Epoch, Index)> },
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
        match &self.replacement {
            Replacement::Rows { rows, expiry } => {
                rows.len() + expiry.iter().map(|key| key.len() + 16).sum::<usize>() + KEYS_BYTES
            }
            _ => KEYS_BYTES,
        }
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

    /// Begins to take a copy in, in place of the journal that is held of the partition, or goes on with the same copy.
    /// Returns the cursor behind what has come of it: the next chunk is the one behind that. Bindings that are held are
    /// merged with those that come.
    ///
    /// Where a journal was held, the replica is suspect from the moment that it goes, until a leader has caught it up:
    /// what it had acknowledged counted towards majorities.
    ///
    /// From here on, also after a crash, the partition is incomplete until [`Engine::import_finish`].
    ///
    /// # Errors
    /// The store cannot be read, or stopped.
    pub fn import_begin(&self, header: &ExportHeader) -> Result<Vec<u8>, ImportError> {
        let partition = header.partition;
        if let Some(progress) = self.progress(partition)?
            && progress.id == header.id
        {
            return Ok(progress.cursor);
        }
        let progress = Progress {
            id: header.id,
            cursor: Vec::new(),
        };
        let record = self.empty_record(partition, true)?;
        // What this node has acknowledged of the journal that goes may be on it alone.
        let replaces = !matches!(self.held(partition), Ok(Held::Nothing | Held::Arriving));
        let record = Record {
            suspect: record.suspect || replaces,
            ..record
        };
        let progress = Some(progress.encode());
        self.replace(partition, Replacement::OnlyBindings, record, progress)?;
        Ok(Vec::new())
    }

    /// Takes a chunk in, and returns when it is durable. All of it is checked before anything is written. May block while
    /// much waits for the disk.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import_chunk(&self, header: &ExportHeader, chunk: &Chunk) -> Result<(), ImportError> {
        let partition = header.partition;
        let progress = self.progress(partition)?;
        let Some(progress) = progress.filter(|progress| progress.id == header.id) else {
            return Err(ImportError::OtherExport);
        };
        if progress.cursor != chunk.after || progress.cursor == [END] {
            return Err(ImportError::OutOfOrder {
                cursor: progress.cursor,
            });
        }
        let expiry = self.check(partition, chunk)?;
        let progress = Progress {
            cursor: chunk.upto.clone(),
            ..progress
        };
        let record = self.empty_record(partition, true)?;
        let rows = Replacement::Rows {
            rows: chunk.rows.clone(),
            expiry,
        };
        self.replace(partition, rows, record, Some(progress.encode()))
    }

    /// Makes the copy this node's own, once its last chunk has come. Afterwards [`Engine::replica`] tells what it holds.
    ///
    /// # Errors
    /// See [`ImportError`]; chunks are missing while it is [`ImportError::OutOfOrder`].
    pub fn import_finish(&self, header: &ExportHeader) -> Result<(), ImportError> {
        let partition = header.partition;
        let progress = self.progress(partition)?;
        let Some(progress) = progress.filter(|progress| progress.id == header.id) else {
            return Err(ImportError::OtherExport);
        };
        if progress.cursor != [END] {
            return Err(ImportError::OutOfOrder {
                cursor: progress.cursor,
            });
        }
        self.check_journal(header)?;
        let record = self.empty_record(partition, false)?;
        let last = header
            .epochs
            .last()
            .map_or(header.before, |(epoch, _)| *epoch);
        let record = Record {
            promised: record.promised.max(last),
            first: header.first,
            before: header.before,
            commit: header.commit,
            ..record
        };
        let epochs = header.epochs.clone();
        self.replace(partition, Replacement::Whole { epochs }, record, None)
    }

    /// How far a copy of the partition has come in; `None` where none is under way, or it is complete.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn import_state(&self, partition: PartitionId) -> Result<Option<ImportState>, ReadError> {
        let progress = self.progress(partition)?;
        Ok(progress.map(|progress| (progress.id, progress.cursor)))
    }

    fn progress(&self, partition: PartitionId) -> Result<Option<Progress>, ReadError> {
        let value = self
            .store()
            .get(family::REPLICAS, &keys::import_key(partition))?;
        value
            .map(|value| {
                Progress::decode(&value)
                    .map_err(|error| undecodable("the progress of an import", &error))
            })
            .transpose()
    }

    /// A replica that holds nothing but its promise.
    fn empty_record(&self, partition: PartitionId, incomplete: bool) -> Result<Record, ReadError> {
        // A journal that cannot be read is a reason to replace it.
        let record = match self.with_journal(partition, |journal| journal.record) {
            Ok(record) => record,
            Err(_) => load_record(self.store(), partition)?,
        };
        Ok(Record {
            suspect: record.suspect,
            promised: record.promised,
            incomplete,
            ..Record::default()
        })
    }

    /// Checks every row against the partition and its codec. Returns when its bindings are due.
    fn check(&self, partition: PartitionId, chunk: &Chunk) -> Result<Vec<Vec<u8>>, ImportError> {
        let damaged = |detail: String| ImportError::Damaged(detail);
        if hash(&chunk.after, &chunk.upto, &chunk.rows) != chunk.hash {
            return Err(damaged("a chunk does not match its hash".into()));
        }
        let mut expiry = Vec::new();
        let mut rows = &chunk.rows[..];
        while !rows.is_empty() {
            let row = take_row(&mut rows).map_err(|error| damaged(error.to_string()))?;
            let Some(key) = row.key.strip_prefix(&partition.0.to_be_bytes()) else {
                return Err(damaged(format!("a row is not of partition {partition}")));
            };
            match row.family {
                family::LOG => {
                    let topic = keys::parse_log_key(row.key);
                    let (topic, _) =
                        topic.ok_or_else(|| damaged("a key of the log is too short".into()))?;
                    checked(self.store(), topic, row.key, row.value)
                        .map_err(|error| damaged(error.to_string()))?;
                }
                name => check_value(name, row.key, row.value)
                    .map_err(|error| damaged(format!("{name}: {error}")))?,
            }
            if row.family == family::BINDINGS {
                let binding =
                    Binding::decode(row.value).map_err(|error| damaged(error.to_string()))?;
                expiry.extend(self.due(partition, key, &binding));
            }
        }
        Ok(expiry)
    }

    /// When a binding is to be looked at.
    fn due(&self, partition: PartitionId, key: &[u8], binding: &Binding) -> Vec<Vec<u8>> {
        let due = |version: &mesh_ring::binding::Version| match &version.content {
            Content::Tombstone => {
                let since_ms = version.hlc.millis();
                Some(since_ms.saturating_add(self.tombstone_age_ms()))
            }
            Content::Value(_) => version.expires_ms,
        };
        let times = binding.versions().iter().filter_map(due);
        times
            .map(|due_ms| keys::expiry_key(due_ms, partition, key))
            .collect()
    }

    /// The journal that came must be the one that the header tells of.
    fn check_journal(&self, header: &ExportHeader) -> Result<(), ImportError> {
        let found = first_and_last(self.store(), header.partition)?;
        let expected = header.epochs.last().map(|(epoch, _)| {
            let last = Position {
                epoch: *epoch,
                index: header.commit,
            };
            (header.first, last)
        });
        if found == expected {
            Ok(())
        } else {
            let detail = format!("its journal is {found:?} where {expected:?} was announced");
            Err(ImportError::Damaged(detail))
        }
    }

    fn replace(
        &self,
        partition: PartitionId,
        replacement: Replacement,
        record: Record,
        progress: Option<Vec<u8>>,
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
            progress,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_bytes() {
        let progress = Progress {
            id: [7; 16],
            cursor: vec![1, 2],
        };
        let bytes = progress.encode();
        assert_eq!(bytes, [&[7; 16][..], &[1, 2]].concat());
        assert_eq!(Progress::decode(&bytes), Ok(progress));
        assert_eq!(Progress::decode(&bytes[..15]), Err(CodecError::Short));
    }
}
