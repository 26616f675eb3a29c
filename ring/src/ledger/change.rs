//! What changes a topic other than by appending: create, delete, trim, cursors, forgotten producers.

use super::topics::Topics;
use super::{Decision, Ledger, Moment, Source};
use crate::command::{Command, TopicConfig};
use crate::ids::{Index, Offset, ProducerId, TopicId};
use crate::name::{CursorName, TopicName};

/// A topic that was made, or is being made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Created {
    /// Its id.
    pub topic: TopicId,
    /// Its configuration.
    pub config: TopicConfig,
    /// When it was made, unix milliseconds.
    pub created_ms: u64,
    /// Whether an earlier request, which is still under way, makes it.
    pub attached: bool,
}

/// Where a trimmed topic begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trimmed {
    /// The first offset that remains: the one asked for, or a later one.
    pub first: Offset,
    /// Size of the batches that the trim removes whole, in bytes.
    pub freed: u64,
}

/// Why a topic is not changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TopicRefusal {
    /// A topic of that name exists.
    Exists(TopicId),
    /// The topic does not exist (any more).
    Unknown,
    /// The offset is beyond the next that will be given out.
    BeyondEnd {
        /// What was asked.
        offset: Offset,
        /// The next offset.
        next: Offset,
    },
    /// The log lacks the batch that should hold the offset.
    Missing {
        /// Which offset.
        offset: Offset,
    },
    /// The caller says that nothing new is taken.
    NotAdmitted,
}

type TopicDecision<A, E> = Result<Decision<A, TopicRefusal>, E>;

impl Ledger {
    /// Makes a topic, unless one has the name. A request that asks for what an earlier one is making already waits for
    /// that one: it may be its retry.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    ///
    /// # Panics
    /// If the ledger does not [`lead`](Self::lead), as all decisions.
    pub fn decide_create<S: Source>(
        &mut self,
        source: &S,
        at: Moment,
        name: &TopicName,
        config: TopicConfig,
        admitted: bool,
    ) -> TopicDecision<Created, S::Error> {
        let pending = self.led_topics().name(name.as_str()).cloned();
        let existing = match pending {
            Some(pending) => match pending.topic {
                Some((topic, made, created_ms)) if made == config => {
                    return Ok(Decision::Answer {
                        answer: Created {
                            topic,
                            config,
                            created_ms,
                            attached: true,
                        },
                        after: Some(pending.index),
                    });
                }
                Some((topic, ..)) => Some(topic),
                None => None,
            },
            None => source.topic(name.as_str())?,
        };
        if let Some(topic) = existing {
            return refuse(TopicRefusal::Exists(topic), self.confirmed());
        }
        if !admitted {
            return refuse(TopicRefusal::NotAdmitted, None);
        }
        let created_ms = at.now_ms;
        let name = name.as_str().to_owned();
        let command = Command::CreateTopic {
            name: name.clone(),
            config,
            created_ms,
        };
        let index = self.enter(&command, Some(name.clone()));
        self.topics.create(index, name, config, created_ms);
        Ok(Decision::Propose {
            index,
            command,
            answer: Created {
                topic: TopicId(index.0),
                config,
                created_ms,
                attached: false,
            },
        })
    }

    /// Removes a topic and everything under it. A topic whose removal is under way is no error: it may be a retry.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    pub fn decide_delete<S: Source>(
        &mut self,
        source: &S,
        topic: TopicId,
    ) -> TopicDecision<(), S::Error> {
        let Some(state) = self.led_topics().get(source, topic)? else {
            return refuse(TopicRefusal::Unknown, self.absence(topic));
        };
        if state.is_deleted() {
            return Ok(Decision::Answer {
                answer: (),
                after: state.unsettled(),
            });
        }
        let name = match self.topics.name_of(topic) {
            Some(name) => Some(name.to_owned()),
            None => source.name(topic)?,
        };
        let command = Command::DeleteTopic { topic };
        let index = self.enter(&command, name.clone());
        if let Some(state) = self.topics.get_to_change(topic) {
            state.delete(index);
        }
        if let Some(name) = name {
            self.topics.free_name(index, name);
        }
        Ok(Decision::Propose {
            index,
            command,
            answer: (),
        })
    }

    /// Removes the records before `first`. The answer names the first that remains, which may have been later already.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    pub fn decide_trim<S: Source>(
        &mut self,
        source: &S,
        topic: TopicId,
        first: Offset,
    ) -> TopicDecision<Trimmed, S::Error> {
        let settled = self.settled();
        let Some(state) = self.led_topics().get(source, topic)? else {
            return refuse(TopicRefusal::Unknown, self.absence(topic));
        };
        if state.is_deleted() {
            return refuse(TopicRefusal::Unknown, state.unsettled());
        }
        let (tail, after) = (state.tail, state.unsettled());
        if first > tail.next {
            return refuse(beyond_end(first, tail.next), self.confirmed());
        }
        if first <= tail.first {
            let answer = Trimmed {
                first: tail.first,
                freed: 0,
            };
            let after = state.unsettled_trim(settled);
            return Ok(Decision::Answer { answer, after });
        }
        let position = match state.position_of_unsettled(first) {
            Some(position) => Some(position),
            None if first == tail.next => Some(tail.position),
            None => source.position_of(topic, first)?,
        };
        let Some(position) = position else {
            return refuse(TopicRefusal::Missing { offset: first }, after);
        };
        let command = Command::Trim {
            topic,
            first,
            position,
            time_ms: tail.time_ms,
        };
        let index = self.enter(&command, None);
        if let Some(state) = self.topics.get_to_change(topic) {
            state.tail.first = first;
            state.tail.first_position = position;
            state.trim(index);
        }
        let freed = position.saturating_sub(tail.first_position);
        Ok(Decision::Propose {
            index,
            command,
            answer: Trimmed { first, freed },
        })
    }

    /// Notes that a named reader has read everything before `next`.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    pub fn decide_cursor<S: Source>(
        &mut self,
        source: &S,
        topic: TopicId,
        name: &CursorName,
        next: Offset,
    ) -> TopicDecision<(), S::Error> {
        let Some(state) = self.led_topics().get(source, topic)? else {
            return refuse(TopicRefusal::Unknown, self.absence(topic));
        };
        if state.is_deleted() {
            return refuse(TopicRefusal::Unknown, state.unsettled());
        }
        let end = state.tail.next;
        if next > end {
            return refuse(beyond_end(next, end), self.confirmed());
        }
        let command = Command::CommitCursor {
            topic,
            name: name.as_str().to_owned(),
            next,
        };
        let index = self.enter(&command, None);
        if let Some(state) = self.topics.get_to_change(topic) {
            state.change(index);
        }
        Ok(Decision::Propose {
            index,
            command,
            answer: (),
        })
    }

    /// Forgets a producer unless it has appended since `before_ms`. The answer: whether it is forgotten by this.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    pub fn decide_expire<S: Source>(
        &mut self,
        source: &S,
        topic: TopicId,
        producer: ProducerId,
        before_ms: u64,
    ) -> TopicDecision<bool, S::Error> {
        let Some(state) = self.led_topics().get(source, topic)? else {
            return refuse(TopicRefusal::Unknown, self.absence(topic));
        };
        let after = state.unsettled();
        if state.is_deleted() {
            return refuse(TopicRefusal::Unknown, after);
        }
        let window = self.windows.newest(source, topic, producer)?;
        if window.window.epoch().is_none() || window.last_append_ms >= before_ms {
            return Ok(Decision::Answer {
                answer: false,
                after,
            });
        }
        let command = Command::ExpireProducer { topic, producer };
        self.windows.prepare(source, &command)?;
        let index = self.enter(&command, None);
        if let Some(state) = self.topics.get_to_change(topic) {
            state.change(index);
        }
        Ok(Decision::Propose {
            index,
            command,
            answer: true,
        })
    }

    /// The topics, to decide upon.
    pub(super) fn led_topics(&mut self) -> &mut Topics {
        assert!(self.leading, "only a leader decides");
        &mut self.topics
    }
}

fn beyond_end(offset: Offset, next: Offset) -> TopicRefusal {
    TopicRefusal::BeyondEnd { offset, next }
}

fn refuse<A, E>(refusal: TopicRefusal, after: Option<Index>) -> TopicDecision<A, E> {
    Ok(Decision::Refuse { refusal, after })
}
