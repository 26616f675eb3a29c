//! What each unsettled entry touches, so that settling or truncating it costs no more than the entry did.

use std::collections::VecDeque;

use crate::command::Command;
use crate::ids::{Index, ProducerId, TopicId};

/// What an entry touches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Trace {
    Append(TopicId, Option<ProducerId>),
    /// A creation; its name, where this leader decided it.
    Create(Option<String>),
    /// A deletion; the topic's name, where this leader decided it.
    Delete(TopicId, Option<String>),
    Topic(TopicId),
    Expire(TopicId, ProducerId),
    Nothing,
}

/// The unsettled entries, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Trail {
    settled: Index,
    traces: VecDeque<Trace>,
}

impl Trail {
    pub(super) fn new(settled: Index) -> Self {
        Self {
            settled,
            traces: VecDeque::new(),
        }
    }

    pub(super) fn settled(&self) -> Index {
        self.settled
    }

    pub(super) fn last(&self) -> Index {
        Index(self.settled.0 + self.traces.len() as u64)
    }

    pub(super) fn push(&mut self, command: &Command, name: Option<String>) {
        self.traces.push_back(match command {
            Command::Append {
                topic, producer, ..
            } => Trace::Append(*topic, producer.map(|stamp| stamp.id)),
            Command::CreateTopic { .. } => Trace::Create(name),
            Command::DeleteTopic { topic } => Trace::Delete(*topic, name),
            Command::Trim { topic, .. } | Command::CommitCursor { topic, .. } => {
                Trace::Topic(*topic)
            }
            Command::ExpireProducer { topic, producer } => Trace::Expire(*topic, *producer),
            Command::Barrier => Trace::Nothing,
        });
    }

    pub(super) fn pop_last(&mut self) -> Option<Trace> {
        self.traces.pop_back()
    }

    /// The next entry to settle, if it is within `upto`.
    pub(super) fn pop_settled(&mut self, upto: Index) -> Option<(Index, Trace)> {
        if self.settled >= upto {
            return None;
        }
        let trace = self.traces.pop_front()?;
        self.settled = self.settled.next();
        Some((self.settled, trace))
    }
}
