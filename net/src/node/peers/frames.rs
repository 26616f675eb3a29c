//! Replication messages as frames, and back.
//!
//! Entries travel without their indices: an entry's index is one more than that of the entry before it. A batch is
//! not copied; it follows the header raw.
//!
//! Of entries that come in nothing is believed (`entries`): what is stored here counts for a majority.

use bytes::Bytes;
use mesh_ring::{
    command::Command,
    ids::{Epoch, Index, PartitionId},
    replica::{self, Entry, Message},
};
use thiserror::Error;

pub use self::entries::EntryFault;
use self::entries::{batch, batches, described, read};
use super::super::payload::Payload;
use crate::wire::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES_MAX,
    proto::{self, ReplicaFrame, replica_frame::Message as Kind},
};

mod entries;

/// Bytes of a header kept free for what is not an entry.
const HEADER_RESERVE_BYTES: usize = 256;
/// Bytes that an entry takes in a header beside its command: tags and lengths, generously.
const ENTRY_OVERHEAD_BYTES: usize = 16;

/// A frame is not a replication message.
#[derive(Debug, Error)]
pub enum FrameFault {
    /// It holds no message that this build knows.
    #[error("a replica frame of no known kind")]
    Kind,
    /// A number is beyond what it may be.
    #[error("{what} is out of range")]
    Range {
        /// Which one.
        what: &'static str,
    },
    /// The batches' lengths are not those of the body.
    #[error("a body of {bytes} bytes whose entries say {said}")]
    Body {
        /// Bytes that came.
        bytes: usize,
        /// What the entries say.
        said: usize,
    },
    /// Epochs of entries go back, or are above their sender's.
    #[error("an entry of epoch {epoch} is out of order")]
    Order {
        /// The entry's epoch.
        epoch: Epoch,
    },
    /// An entry is not what a journal has at this place. None of its message was taken.
    #[error("entry {index} of partition {partition}: {fault}")]
    Entry {
        /// Of which journal.
        partition: PartitionId,
        /// Its number there.
        index: Index,
        /// What is wrong with it.
        fault: EntryFault,
    },
}

/// One frame: its header, and the pieces of its body.
pub(super) type Frame = (ReplicaFrame, Vec<Bytes>);

/// The frames of a message. An `Append` of more entries than one frame holds becomes several; of a `Fetched` the entries
/// that do not fit are left out, because the asking node goes on after the last one that it gets.
pub(super) fn encode(partition: PartitionId, message: Message<Payload>) -> Vec<Frame> {
    let kind = match message {
        Message::Append {
            epoch,
            boot,
            prev,
            entries,
            commit,
            activated,
            answer,
        } => {
            let mut prev = prev;
            let mut frames = Vec::with_capacity(1);
            for part in parts(&entries) {
                let append = proto::ReplicaAppend {
                    epoch: epoch.0,
                    boot,
                    prev: Some(prev.into()),
                    entries: part.iter().map(described).collect(),
                    commit: commit.0,
                    activated,
                    answer,
                };
                frames.push((frame(partition, Kind::Append(append)), batches(part)));
                prev = part.last().map_or(prev, Entry::position);
            }
            return frames;
        }
        Message::Fetched {
            epoch,
            boot,
            prev,
            entries,
        } => {
            let part = parts(&entries).next().unwrap_or_default();
            let fetched = proto::Fetched {
                epoch: epoch.0,
                boot,
                prev: Some(prev.into()),
                entries: part.iter().map(described).collect(),
            };
            return vec![(frame(partition, Kind::Fetched(fetched)), batches(part))];
        }
        Message::Seal { epoch } => Kind::Seal(proto::Seal { epoch: epoch.0 }),
        Message::Sealed {
            epoch,
            boot,
            suspect,
            first,
            last,
            commit,
        } => Kind::Sealed(proto::Sealed {
            epoch: epoch.0,
            boot,
            suspect,
            first: first.0,
            last: Some(last.into()),
            commit: commit.0,
        }),
        Message::Fetch { epoch, after } => Kind::Fetch(proto::Fetch {
            epoch: epoch.0,
            after: Some(after.into()),
        }),
        Message::Diverged {
            epoch,
            boot,
            after,
            hint,
        } => Kind::Diverged(proto::Diverged {
            epoch: epoch.0,
            boot,
            after: Some(after.into()),
            hint: Some(hint.into()),
        }),
        Message::Acked {
            epoch,
            boot,
            index,
            received,
            commit,
            suspect,
        } => Kind::Acked(proto::Acked {
            epoch: epoch.0,
            boot,
            index: index.0,
            received: received.0,
            commit: commit.0,
            suspect,
        }),
        Message::Rejected {
            epoch,
            boot,
            prev,
            promised,
            hint,
        } => Kind::Rejected(proto::Rejected {
            epoch: epoch.0,
            boot,
            prev: Some(prev.into()),
            promised: promised.0,
            hint: Some(hint.into()),
        }),
    };
    vec![(frame(partition, kind), Vec::new())]
}

fn frame(partition: PartitionId, kind: Kind) -> ReplicaFrame {
    ReplicaFrame {
        partition: partition.0.into(),
        message: Some(kind),
    }
}

/// The entries in pieces that fit a frame each; one empty piece where there are none.
fn parts(entries: &[Entry<Payload>]) -> impl Iterator<Item = &[Entry<Payload>]> {
    let mut rest = Some(entries);
    std::iter::from_fn(move || {
        let entries = rest?;
        let (mut header, mut body) = (HEADER_RESERVE_BYTES, 0);
        let fitting = entries.iter().take_while(|entry| {
            header += command_bytes(entry) + ENTRY_OVERHEAD_BYTES;
            body += batch(entry).map_or(0, Bytes::len);
            header <= FRAME_HEADER_BYTES_MAX && body <= FRAME_BODY_BYTES_MAX
        });
        // One alone always fits: commands and batches have limits of their own.
        let (part, others) = entries.split_at(fitting.count().max(1).min(entries.len()));
        rest = (!others.is_empty()).then_some(others);
        Some(part)
    })
}

/// The most bytes that a command of this kind takes.
fn command_bytes(entry: &Entry<Payload>) -> usize {
    const FIXED: usize = 96;
    match &entry.payload {
        replica::Payload::Barrier => FIXED,
        replica::Payload::Command(payload) => match payload.command() {
            Command::CreateTopic { name, .. } | Command::CommitCursor { name, .. } => {
                FIXED + name.len()
            }
            _ => FIXED,
        },
    }
}

/// Reads a frame.
///
/// # Errors
/// [`FrameFault`]: nothing of the frame is of use.
pub(super) fn decode(
    frame: ReplicaFrame,
    body: Bytes,
) -> Result<(PartitionId, Message<Payload>), FrameFault> {
    let partition = u16::try_from(frame.partition).map_err(|_| FrameFault::Range {
        what: "a partition's number",
    })?;
    let partition = PartitionId(partition);
    let bytes = body.len();
    let message = match frame.message.ok_or(FrameFault::Kind)? {
        Kind::Append(append) => {
            let prev = position(append.prev);
            return Ok((
                partition,
                Message::Append {
                    epoch: Epoch(append.epoch),
                    boot: append.boot,
                    prev,
                    entries: read(partition, (prev, Epoch(append.epoch)), append.entries, body)?,
                    commit: Index(append.commit),
                    activated: append.activated,
                    answer: append.answer,
                },
            ));
        }
        Kind::Fetched(fetched) => {
            let prev = position(fetched.prev);
            return Ok((
                partition,
                Message::Fetched {
                    epoch: Epoch(fetched.epoch),
                    boot: fetched.boot,
                    prev,
                    entries: read(
                        partition,
                        (prev, Epoch(fetched.epoch)),
                        fetched.entries,
                        body,
                    )?,
                },
            ));
        }
        Kind::Seal(seal) => Message::Seal {
            epoch: Epoch(seal.epoch),
        },
        Kind::Sealed(sealed) => Message::Sealed {
            epoch: Epoch(sealed.epoch),
            boot: sealed.boot,
            suspect: sealed.suspect,
            first: Index(sealed.first),
            last: position(sealed.last),
            commit: Index(sealed.commit),
        },
        Kind::Fetch(fetch) => Message::Fetch {
            epoch: Epoch(fetch.epoch),
            after: position(fetch.after),
        },
        Kind::Diverged(diverged) => Message::Diverged {
            epoch: Epoch(diverged.epoch),
            boot: diverged.boot,
            after: position(diverged.after),
            hint: position(diverged.hint),
        },
        Kind::Acked(acked) => Message::Acked {
            epoch: Epoch(acked.epoch),
            boot: acked.boot,
            index: Index(acked.index),
            received: Index(acked.received),
            commit: Index(acked.commit),
            suspect: acked.suspect,
        },
        Kind::Rejected(rejected) => Message::Rejected {
            epoch: Epoch(rejected.epoch),
            boot: rejected.boot,
            prev: position(rejected.prev),
            promised: Epoch(rejected.promised),
            hint: position(rejected.hint),
        },
    };
    if bytes > 0 {
        return Err(FrameFault::Body { bytes, said: 0 });
    }
    Ok((partition, message))
}

fn position(position: Option<proto::Position>) -> replica::Position {
    let proto::Position { epoch, index } = position.unwrap_or_default();
    replica::Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

impl From<replica::Position> for proto::Position {
    fn from(position: replica::Position) -> Self {
        Self {
            epoch: position.epoch.0,
            index: position.index.0,
        }
    }
}

/// Bytes that a message takes while it waits to be sent.
pub(super) fn weight(message: &Message<Payload>) -> usize {
    let entries = match message {
        Message::Append { entries, .. } | Message::Fetched { entries, .. } => entries.as_slice(),
        _ => &[],
    };
    size_of::<Message<Payload>>() + entries.iter().map(replica::Weigh::bytes).sum::<usize>()
}

#[cfg(test)]
mod tests;
