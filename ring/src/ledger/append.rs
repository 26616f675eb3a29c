//! Appends: the checks in the order that makes retries safe, then the place in the log.

use super::{Decision, Ledger, Moment, Source};
use crate::command::{Command, ProducerStamp};
use crate::ids::{Index, Offset, ProducerId, TopicId};
use crate::limits::PRODUCER_AGE_MS_MAX;
use crate::producer::{SequenceError, Verdict};

/// What is to be known of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppendFacts {
    /// The topic.
    pub topic: TopicId,
    /// How many records it has; at least one.
    pub records: u32,
    /// Its size as it is stored, in bytes.
    pub bytes: u64,
    /// Its producer, if it may be retried.
    pub producer: Option<ProducerStamp>,
    /// The offset that its first record must get.
    pub expected: Option<Offset>,
    /// Whether new records are taken now (space, load). A retry is answered even if not.
    pub admitted: bool,
}

/// Where a batch is, or will be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// Whether an earlier request appended it.
    pub duplicate: bool,
}

/// Why a batch is not appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AppendRefusal {
    /// The topic does not exist (any more).
    TopicDeleted,
    /// The topic's next offset is not the expected one.
    WrongOffset {
        /// What the caller expected.
        expected: Offset,
        /// The next offset.
        next: Offset,
    },
    /// The producer's epoch or sequence does not fit.
    Sequence(SequenceError),
    /// The facts say that nothing new is taken; it is no retry, and would otherwise have been appended.
    NotAdmitted,
}

/// What a window says of a batch that does not fit.
struct Unfit {
    error: SequenceError,
    /// It stays so whatever else was committed.
    sure: bool,
    /// An entry of another topic upon which it rests.
    by: Option<Index>,
}

impl Ledger {
    /// Gives a batch its offsets, unless it is a retry or does not fit. Whether it is a retry is asked first: the answer
    /// to a retry is what happened the first time, whatever has become of the topic's end since.
    ///
    /// The stamp of the batch: base offset `first`, base position `position` − `bytes`, and time of the command.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    ///
    /// # Panics
    /// If the ledger does not [`lead`](Self::lead).
    pub fn decide_append<S: Source>(
        &mut self,
        source: &S,
        at: Moment,
        facts: AppendFacts,
    ) -> Result<Decision<Appended, AppendRefusal>, S::Error> {
        let Some(topic) = self.led_topics().get(source, facts.topic)? else {
            return Ok(Decision::Refuse {
                refusal: AppendRefusal::TopicDeleted,
                after: self.absence(facts.topic),
            });
        };
        let after = topic.unsettled();
        if topic.is_deleted() {
            return Ok(Decision::Refuse {
                refusal: AppendRefusal::TopicDeleted,
                after,
            });
        }
        let tail = topic.tail;
        if let Some(stamp) = facts.producer {
            match self.verdict(source, at, facts.topic, stamp)? {
                Err(Unfit { error, sure, by }) => {
                    return Ok(Decision::Refuse {
                        refusal: AppendRefusal::Sequence(error),
                        after: if sure {
                            after.max(by)
                        } else {
                            self.confirmed()
                        },
                    });
                }
                Ok(Verdict::Duplicate { first, last }) => {
                    return Ok(Decision::Answer {
                        answer: Appended {
                            first,
                            last,
                            duplicate: true,
                        },
                        after: self.windows.pending(facts.topic, stamp),
                    });
                }
                Ok(Verdict::Next) => {}
            }
        }
        if let Some(expected) = facts.expected.filter(|expected| *expected != tail.next) {
            let next = tail.next;
            return Ok(Decision::Refuse {
                refusal: AppendRefusal::WrongOffset { expected, next },
                after: if expected < next {
                    after
                } else {
                    self.confirmed()
                },
            });
        }
        if !facts.admitted {
            // To be tried again in any case, so it need not wait for what is under way.
            return Ok(Decision::Refuse {
                refusal: AppendRefusal::NotAdmitted,
                after: None,
            });
        }
        let first = tail.next;
        let last = first + Offset::from(facts.records.max(1)) - 1;
        let command = Command::Append {
            topic: facts.topic,
            first,
            last,
            position: tail.position + facts.bytes,
            // A clock that is behind must not make records look old once it is right again.
            time_ms: at.latest_ms().max(tail.time_ms),
            producer: facts.producer,
        };
        let answer = Appended {
            first,
            last,
            duplicate: false,
        };
        self.windows.prepare(source, &command)?;
        Ok(Decision::Propose {
            index: self.enter(&command, None),
            command,
            answer,
        })
    }

    fn verdict<S: Source>(
        &self,
        source: &S,
        at: Moment,
        topic: TopicId,
        stamp: ProducerStamp,
    ) -> Result<Result<Verdict, Unfit>, S::Error> {
        let newest = self.windows.newest(source, topic, stamp.id)?;
        let is_stranger = newest.window.epoch().is_none();
        if is_stranger {
            let error = SequenceError::Unknown;
            let forgotten = self.windows.forgotten(stamp.id);
            if is_too_old(stamp.id, at) || forgotten.is_some() {
                let by = forgotten.and_then(|forgotten| forgotten.by);
                let sure = true;
                return Ok(Err(Unfit { error, sure, by }));
            }
        }
        let verdict = newest.window.check(stamp.epoch, stamp.sequence);
        Ok(verdict.map_err(|error| Unfit {
            error,
            sure: match error {
                SequenceError::Gap { .. } => false,
                SequenceError::Unknown => !is_stranger,
                SequenceError::Fenced { .. } => true,
            },
            by: None,
        }))
    }

    /// Enters a command that was decided here, whose window has been prepared.
    pub(super) fn enter(&mut self, command: &Command, name: Option<String>) -> Index {
        let index = self.record(command, name);
        if let Command::Append {
            topic,
            last,
            position,
            time_ms,
            ..
        } = *command
            && let Some(topic) = self.topics.get_to_change(topic)
        {
            topic.append(index, last, position, time_ms);
        }
        index
    }
}

/// Whether a producer without a window may be one that was forgotten, so that its batch may be a late retry: one that is
/// older than windows live, by the clock or by the time by which they were judged.
///
/// An id from the far future would never grow old enough to be told apart, and is refused as well.
fn is_too_old(id: ProducerId, at: Moment) -> bool {
    let dies_ms = id.minted_ms().saturating_add(PRODUCER_AGE_MS_MAX);
    dies_ms <= at.latest_ms() || id.minted_ms() >= at.now_ms.saturating_add(PRODUCER_AGE_MS_MAX)
}
