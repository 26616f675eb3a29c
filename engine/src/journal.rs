//! Journal entries: the ordered commands of a partition, and the one truth from which derived state is made.
//!
//! An entry is `epoch u64 BE | kind u8 | fields`. Records are not in it: an append points into `log`, so that
//! payload bytes are written once. Kinds are never reused; an unknown one is an error. The same bytes cross the wire.

use bytes::Buf;
use mesh_ring::command::{Command, ProducerStamp};
use mesh_ring::ids::{Epoch, ProducerId, TopicId};
use mesh_ring::name::{CursorName, TopicName};

use crate::catalogue::{put_config, take_config};
use crate::codec::{CodecError, put_bytes, take_text, take_u8, take_u32, take_u64};

const APPEND: u8 = 1;
const CREATE_TOPIC: u8 = 2;
const DELETE_TOPIC: u8 = 3;
const TRIM: u8 = 4;
const COMMIT_CURSOR: u8 = 5;
const BARRIER: u8 = 6;
const EXPIRE_PRODUCER: u8 = 7;

/// Longest encoded entry, in bytes: a create with the longest name, with room for more fields.
pub(crate) const ENTRY_BYTES_MAX: usize = 1024;

/// One command of a partition, with the epoch of the leader that ordered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Epoch of the leader that ordered the entry.
    pub epoch: Epoch,
    /// What it does.
    pub command: Command,
}

impl Entry {
    /// The entry's bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        Entry::put(&mut out, self.epoch, &self.command);
        out
    }

    /// Adds to `out` the bytes of an entry with this command.
    pub(crate) fn put(out: &mut Vec<u8>, epoch: Epoch, command: &Command) {
        let before = out.len();
        out.extend_from_slice(&epoch.0.to_be_bytes());
        match command {
            Command::Append {
                topic,
                first,
                last,
                position,
                time_ms,
                producer,
            } => {
                out.push(APPEND);
                for number in [topic.0, *first, *last, *position, *time_ms] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                match producer {
                    None => out.push(0),
                    Some(stamp) => {
                        out.push(1);
                        out.extend_from_slice(&stamp.id.0);
                        out.extend_from_slice(&stamp.epoch.to_be_bytes());
                        out.extend_from_slice(&stamp.sequence.to_be_bytes());
                    }
                }
            }
            Command::CreateTopic {
                name,
                config,
                created_ms,
            } => {
                out.push(CREATE_TOPIC);
                put_bytes(out, name.as_bytes());
                put_config(out, config);
                out.extend_from_slice(&created_ms.to_be_bytes());
            }
            Command::DeleteTopic { topic } => {
                out.push(DELETE_TOPIC);
                out.extend_from_slice(&topic.0.to_be_bytes());
            }
            Command::Trim {
                topic,
                first,
                position,
                time_ms,
            } => {
                out.push(TRIM);
                for number in [topic.0, *first, *position, *time_ms] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Command::CommitCursor { topic, name, next } => {
                out.push(COMMIT_CURSOR);
                out.extend_from_slice(&topic.0.to_be_bytes());
                put_bytes(out, name.as_bytes());
                out.extend_from_slice(&next.to_be_bytes());
            }
            Command::Barrier => out.push(BARRIER),
            Command::ExpireProducer { topic, producer } => {
                out.push(EXPIRE_PRODUCER);
                out.extend_from_slice(&topic.0.to_be_bytes());
                out.extend_from_slice(&producer.0);
            }
        }
        debug_assert!(out.len() - before <= ENTRY_BYTES_MAX);
    }

    /// Reads an entry back.
    ///
    /// # Errors
    /// Bytes that [`Entry::encode`] does not write.
    pub fn decode(mut from: &[u8]) -> Result<Entry, CodecError> {
        let from = &mut from;
        let epoch = Epoch(take_u64(from)?);
        let command = match take_u8(from)? {
            APPEND => take_append(from)?,
            CREATE_TOPIC => Command::CreateTopic {
                name: take_name(from, |name| TopicName::new(name).is_ok())?,
                config: take_config(from)?,
                created_ms: take_u64(from)?,
            },
            DELETE_TOPIC => Command::DeleteTopic {
                topic: TopicId(take_u64(from)?),
            },
            TRIM => Command::Trim {
                topic: TopicId(take_u64(from)?),
                first: take_u64(from)?,
                position: take_u64(from)?,
                time_ms: take_u64(from)?,
            },
            COMMIT_CURSOR => Command::CommitCursor {
                topic: TopicId(take_u64(from)?),
                name: take_name(from, |name| CursorName::new(name).is_ok())?,
                next: take_u64(from)?,
            },
            BARRIER => Command::Barrier,
            EXPIRE_PRODUCER => Command::ExpireProducer {
                topic: TopicId(take_u64(from)?),
                producer: take_producer(from)?,
            },
            other => return Err(CodecError::Unknown("journal entry kind", other.into())),
        };
        if from.is_empty() {
            Ok(Entry { epoch, command })
        } else {
            Err(CodecError::Long)
        }
    }
}

fn take_append(from: &mut &[u8]) -> Result<Command, CodecError> {
    let (topic, first, last) = (TopicId(take_u64(from)?), take_u64(from)?, take_u64(from)?);
    // The next offset is one more, and there must be one.
    if first > last || last == u64::MAX {
        return Err(CodecError::Unknown("last offset", last));
    }
    Ok(Command::Append {
        topic,
        first,
        last,
        position: take_u64(from)?,
        time_ms: take_u64(from)?,
        producer: match take_u8(from)? {
            0 => None,
            1 => Some(ProducerStamp {
                id: take_producer(from)?,
                epoch: take_u32(from)?,
                sequence: take_u32(from)?,
            }),
            other => return Err(CodecError::Unknown("producer flag", other.into())),
        },
    })
}

fn take_name(from: &mut &[u8], is_name: impl Fn(&str) -> bool) -> Result<String, CodecError> {
    let name = take_text(from)?;
    if is_name(&name) {
        Ok(name)
    } else {
        Err(CodecError::Text)
    }
}

fn take_producer(from: &mut &[u8]) -> Result<ProducerId, CodecError> {
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id)
        .map_err(|_| CodecError::Short)?;
    Ok(ProducerId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_ring::command::TopicConfig;
    use proptest::prelude::*;

    fn entry(command: Command) -> Entry {
        Entry {
            epoch: Epoch(2),
            command,
        }
    }

    #[test]
    fn entries_bytes() {
        let append = entry(Command::Append {
            topic: TopicId(3),
            first: 4,
            last: 5,
            position: 6,
            time_ms: 7,
            producer: None,
        });
        assert_eq!(
            append.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0,
                0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0
            ]
        );
        let trim = entry(Command::Trim {
            topic: TopicId(3),
            first: 4,
            position: 5,
            time_ms: 6,
        });
        assert_eq!(
            trim.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0,
                0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6
            ]
        );
        let cursor = entry(Command::CommitCursor {
            topic: TopicId(3),
            name: "c".into(),
            next: 4,
        });
        assert_eq!(
            cursor.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 2, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, b'c', 0, 0, 0, 0, 0,
                0, 0, 4
            ]
        );
        let create = entry(Command::CreateTopic {
            name: "t".into(),
            config: TopicConfig {
                retention_age_ms: Some(1),
                retention_bytes: None,
            },
            created_ms: 6,
        });
        assert_eq!(
            create.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 1, b't', 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
                0, 0, 0, 6
            ]
        );
        assert_eq!(
            entry(Command::Barrier).encode(),
            [0, 0, 0, 0, 0, 0, 0, 2, 6]
        );
        assert_eq!(
            entry(Command::DeleteTopic { topic: TopicId(3) }).encode(),
            [0, 0, 0, 0, 0, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0, 3]
        );
    }

    #[test]
    fn entries_come_back() {
        for command in [
            Command::Append {
                topic: TopicId(3),
                first: 4,
                last: 5,
                position: 6,
                time_ms: 7,
                producer: Some(ProducerStamp {
                    id: ProducerId([7; 16]),
                    epoch: 1,
                    sequence: 2,
                }),
            },
            Command::CreateTopic {
                name: "t/u".into(),
                config: TopicConfig {
                    retention_age_ms: None,
                    retention_bytes: Some(9),
                },
                created_ms: 1,
            },
            Command::DeleteTopic {
                topic: TopicId(u64::MAX),
            },
            Command::Trim {
                topic: TopicId(1),
                first: 2,
                position: 3,
                time_ms: 4,
            },
            Command::CommitCursor {
                topic: TopicId(1),
                name: "c".into(),
                next: 3,
            },
            Command::Barrier,
            Command::ExpireProducer {
                topic: TopicId(1),
                producer: ProducerId([2; 16]),
            },
        ] {
            let entry = entry(command);
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        assert_eq!(
            Entry::decode(&[0, 0, 0, 0, 0, 0, 0, 2, 99]),
            Err(CodecError::Unknown("journal entry kind", 99))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }
}
