//! The commands of a partition's journal: the one truth from which all derived state of its topics is made.
//!
//! A command tells all that a replica needs in order to apply it: what the leader decided (offsets, byte positions,
//! times) stands in it, so that replicas with other clocks come to the same state. Records are not in it: an append
//! points at its batch, which travels and is stored beside it. The bytes of a command belong to the engine.

use crate::ids::{Offset, ProducerId, TopicId};

/// What one journal entry does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// A batch of records came to the end of a topic.
    Append {
        /// Topic that the batch belongs to.
        topic: TopicId,
        /// Offset of its first record.
        first: Offset,
        /// Offset of its last record.
        last: Offset,
        /// The topic's byte position after the batch.
        position: u64,
        /// The append time that is stamped on the batch, unix milliseconds. Within a topic it never moves back.
        time_ms: u64,
        /// Who sent it, for batches that may be retried.
        producer: Option<ProducerStamp>,
    },
    /// A topic came to be. Its id is the index of this entry.
    CreateTopic {
        /// The topic's name.
        name: String,
        /// Its configuration.
        config: TopicConfig,
        /// Unix time in milliseconds, by the clock of the leader.
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
        /// Byte position where the first remaining batch begins.
        position: u64,
        /// Append time of the topic's last record, so that time does not move back in a topic that is now empty.
        time_ms: u64,
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

/// Which batch of which producer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// The producer's epoch: a newer one shuts out the older.
    pub epoch: u32,
    /// The batch's number in that epoch, from 0.
    pub sequence: u32,
}

/// What a topic's owner decides when the topic is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TopicConfig {
    /// Records older than this, in milliseconds of append time, may be trimmed. `None`: kept for ever.
    pub retention_age_ms: Option<u64>,
    /// The log's stored size that retention trims down to, in bytes. `None`: no bound.
    pub retention_bytes: Option<u64>,
}

impl TopicConfig {
    /// Whether retention ever looks at the topic.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        self.retention_age_ms.is_some() || self.retention_bytes.is_some()
    }
}
