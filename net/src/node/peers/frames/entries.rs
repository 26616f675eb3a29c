//! Journal entries in frames, and what has to be right about one before it is stored.
//!
//! A batch counts for the majority as soon as it is stored, and nobody looks into it again before a reader does. So both of
//! its checksums are checked on the way in, and that it is the batch of which its command speaks. An append without a
//! batch means that its topic begins behind it, everywhere: it removes what is stored before it. That must have been
//! said, and is not concluded from a batch that is missing.

use bytes::Bytes;
use mesh_engine::{CodecError, JournalEntry, batch::BatchError, journal::Entry as Stored};
use mesh_ring::{
    command::Command,
    ids::{Epoch, Index, PartitionId},
    replica::{self, Entry, Position},
};
use thiserror::Error;

use super::FrameFault;
use crate::node::payload::Payload;
use crate::wire::proto::ReplicaEntry;

/// What is wrong with an entry.
#[derive(Debug, Error)]
pub enum EntryFault {
    /// Its epoch is lower than that of the entry before it, or higher than its sender's.
    #[error("epoch {0} is out of order")]
    Order(Epoch),
    /// Its command cannot be decoded.
    #[error("its command: {0}")]
    Command(#[from] CodecError),
    /// A batch stands beside a command that has none.
    #[error("it comes with a batch and appends nothing")]
    Batch,
    /// Its batch is damaged, or is another one.
    #[error("its batch: {0}")]
    Damaged(#[from] BatchError),
    /// It appends records, which neither came nor were trimmed away.
    #[error("its batch is missing, and was not trimmed away")]
    Missing,
    /// It is said to be trimmed away, and it is there, or it is no append.
    #[error("it is said to be trimmed away, and is not")]
    Trimmed,
}

/// The batch that an entry carries.
pub(super) fn batch(entry: &Entry<Payload>) -> Option<&Bytes> {
    match &entry.payload {
        replica::Payload::Barrier => None,
        replica::Payload::Command(payload) => payload.batch(),
    }
}

pub(super) fn batches(entries: &[Entry<Payload>]) -> Vec<Bytes> {
    entries.iter().filter_map(batch).cloned().collect()
}

/// An entry without its batch.
pub(super) fn described(entry: &Entry<Payload>) -> ReplicaEntry {
    let command = match &entry.payload {
        replica::Payload::Barrier => Command::Barrier,
        replica::Payload::Command(payload) => payload.command().clone(),
    };
    let batch_bytes = batch(entry).map(|batch| batch.len() as u32);
    // A payload lacks its batch only where the store found it trimmed away, or another replica said so.
    let trimmed = batch_bytes.is_none() && matches!(command, Command::Append { .. });
    let stored = Stored {
        epoch: entry.epoch,
        command,
    };
    ReplicaEntry {
        command: stored.encode().into(),
        batch_bytes,
        trimmed,
    }
}

/// Reads the entries behind `prev` that came from a replica in epoch `sender`. What it returns may be stored.
///
/// # Errors
/// [`FrameFault`]: one of them is not what it should be, and none is of use.
pub(super) fn read(
    partition: PartitionId,
    (prev, sender): (Position, Epoch),
    described: Vec<ReplicaEntry>,
    mut body: Bytes,
) -> Result<Vec<Entry<Payload>>, FrameFault> {
    let lengths = described.iter().filter_map(|entry| entry.batch_bytes);
    let said = lengths.map(|bytes| bytes as usize).sum();
    if said != body.len() {
        return Err(FrameFault::Body {
            bytes: body.len(),
            said,
        });
    }
    let mut entries = Vec::with_capacity(described.len());
    let mut before = prev;
    for entry in described {
        let index = before.index.0.checked_add(1).ok_or(FrameFault::Range {
            what: "an entry's index",
        })?;
        let index = Index(index);
        let batch = entry.batch_bytes.map(|bytes| body.split_to(bytes as usize));
        let epochs = (before.epoch, sender);
        let entry = one(index, epochs, &entry, batch).map_err(|fault| FrameFault::Entry {
            partition,
            index,
            fault,
        })?;
        before = entry.position();
        entries.push(entry);
    }
    Ok(entries)
}

fn one(
    index: Index,
    (before, sender): (Epoch, Epoch),
    described: &ReplicaEntry,
    batch: Option<Bytes>,
) -> Result<Entry<Payload>, EntryFault> {
    let Stored { epoch, command } = Stored::decode(&described.command)?;
    if epoch < before || epoch > sender {
        return Err(EntryFault::Order(epoch));
    }
    match (&command, &batch, described.trimmed) {
        (Command::Append { .. }, Some(_), false) | (Command::Append { .. }, None, true) => {}
        (Command::Append { .. }, None, false) => return Err(EntryFault::Missing),
        (_, _, true) => return Err(EntryFault::Trimmed),
        (_, Some(_), false) => return Err(EntryFault::Batch),
        (_, None, false) => {}
    }
    let entry = JournalEntry {
        index,
        epoch,
        command,
        batch,
    };
    entry.verify()?;
    let payload = match entry.command {
        Command::Barrier => replica::Payload::Barrier,
        command => replica::Payload::Command(Payload::new(command, entry.batch)),
    };
    Ok(Entry {
        epoch,
        index,
        payload,
    })
}
