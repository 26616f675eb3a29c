//! Journal entries: the ordered commands of a partition, and the one truth from which derived state is made.
//!
//! An entry is `epoch u64 BE | kind u8 | fields`. Records are not in it: an append points into `log`, so that
//! payload bytes are written once. Kinds are never reused; an unknown one is an error.

use bytes::Buf;
use mesh_ring::ids::{Epoch, Offset, ProducerId, TopicId};

use crate::catalogue::TopicConfig;
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

/// What a journal entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A batch stands in `log` under (partition, topic, last).
    Append {
        /// Topic that the batch belongs to.
        topic: TopicId,
        /// Offset of its first record.
        first: Offset,
        /// Offset of its last record.
        last: Offset,
        /// Who sent it, for batches that may be retried.
        producer: Option<(ProducerId, u32, u32)>,
    },
    /// A topic came to be. Its id is the index of this entry.
    CreateTopic {
        /// The topic's name.
        name: String,
        /// Its configuration.
        config: TopicConfig,
        /// Unix time in milliseconds.
        created_ms: u64,
    },
    /// A topic and everything under it was removed.
    DeleteTopic {
        /// Which topic.
        topic: TopicId,
    },
    /// Records before `first` are gone.
    Trim {
        /// Which topic.
        topic: TopicId,
        /// First offset that remains.
        first: Offset,
    },
    /// A named reader has read everything before `next`.
    CommitCursor {
        /// Which topic.
        topic: TopicId,
        /// The reader's name.
        name: String,
        /// The next offset to read.
        next: Offset,
    },
    /// A leader began its epoch here.
    Barrier,
    /// A producer's window was forgotten.
    ExpireProducer {
        /// In which topic.
        topic: TopicId,
        /// Which producer.
        producer: ProducerId,
    },
}

impl Entry {
    /// The entry's bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        match &self.command {
            Command::Append {
                topic,
                first,
                last,
                producer,
            } => {
                out.push(APPEND);
                out.extend_from_slice(&topic.0.to_be_bytes());
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&last.to_be_bytes());
                match producer {
                    None => out.push(0),
                    Some((id, epoch, sequence)) => {
                        out.push(1);
                        out.extend_from_slice(&id.0);
                        out.extend_from_slice(&epoch.to_be_bytes());
                        out.extend_from_slice(&sequence.to_be_bytes());
                    }
                }
            }
            Command::CreateTopic {
                name,
                config,
                created_ms,
            } => {
                out.push(CREATE_TOPIC);
                put_bytes(&mut out, name.as_bytes());
                config.encode(&mut out);
                out.extend_from_slice(&created_ms.to_be_bytes());
            }
            Command::DeleteTopic { topic } => {
                out.push(DELETE_TOPIC);
                out.extend_from_slice(&topic.0.to_be_bytes());
            }
            Command::Trim { topic, first } => {
                out.push(TRIM);
                out.extend_from_slice(&topic.0.to_be_bytes());
                out.extend_from_slice(&first.to_be_bytes());
            }
            Command::CommitCursor { topic, name, next } => {
                out.push(COMMIT_CURSOR);
                out.extend_from_slice(&topic.0.to_be_bytes());
                put_bytes(&mut out, name.as_bytes());
                out.extend_from_slice(&next.to_be_bytes());
            }
            Command::Barrier => out.push(BARRIER),
            Command::ExpireProducer { topic, producer } => {
                out.push(EXPIRE_PRODUCER);
                out.extend_from_slice(&topic.0.to_be_bytes());
                out.extend_from_slice(&producer.0);
            }
        }
        debug_assert!(out.len() <= ENTRY_BYTES_MAX);
        out
    }

    /// Reads an entry back.
    ///
    /// # Errors
    /// Bytes that [`Entry::encode`] does not write.
    pub fn decode(mut from: &[u8]) -> Result<Entry, CodecError> {
        let from = &mut from;
        let epoch = Epoch(take_u64(from)?);
        let command = match take_u8(from)? {
            APPEND => Command::Append {
                topic: TopicId(take_u64(from)?),
                first: take_u64(from)?,
                last: take_u64(from)?,
                producer: match take_u8(from)? {
                    0 => None,
                    1 => Some((take_producer(from)?, take_u32(from)?, take_u32(from)?)),
                    other => return Err(CodecError::Unknown("producer flag", other.into())),
                },
            },
            CREATE_TOPIC => Command::CreateTopic {
                name: take_text(from)?,
                config: TopicConfig::decode(from)?,
                created_ms: take_u64(from)?,
            },
            DELETE_TOPIC => Command::DeleteTopic {
                topic: TopicId(take_u64(from)?),
            },
            TRIM => Command::Trim {
                topic: TopicId(take_u64(from)?),
                first: take_u64(from)?,
            },
            COMMIT_CURSOR => {
                let topic = TopicId(take_u64(from)?);
                Command::CommitCursor {
                    topic,
                    name: take_text(from)?,
                    next: take_u64(from)?,
                }
            }
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

fn take_producer(from: &mut &[u8]) -> Result<ProducerId, CodecError> {
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id)
        .map_err(|_| CodecError::Short)?;
    Ok(ProducerId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
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
            producer: None,
        });
        assert_eq!(
            append.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0,
                0, 0, 0, 0, 5, 0
            ]
        );
        let trim = entry(Command::Trim {
            topic: TopicId(3),
            first: 4,
        });
        assert_eq!(
            trim.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4
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
                producer: Some((ProducerId([7; 16]), 1, 2)),
            },
            Command::CreateTopic {
                name: "t/ü".into(),
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
