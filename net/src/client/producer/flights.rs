//! The batches of one topic that are numbered and not settled: sent, to be sent again, or held back.
//!
//! No clock and no I/O here, so that every order of answers and losses can be tested.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mesh_engine::batch::{BatchError, ProducerStamp, set_producer};
use mesh_ring::{
    ids::ProducerId,
    limits::{PRODUCER_AGE_MS_MAX, PRODUCER_WINDOW_BATCHES},
};
use tokio::time::Instant;

use super::{
    completion::{Appended, Completion},
    gather::Pending,
};
use crate::{
    client::ClientError,
    wire::proto::{self, ErrorCode},
};

/// Batches of one topic under way at a time: enough that the wire, the disk and the way back all have one.
pub(super) const FLIGHTS_MAX: usize = 4;
const _: () = assert!(
    FLIGHTS_MAX * 2 <= PRODUCER_WINDOW_BATCHES,
    "a retry must always be remembered"
);

/// Where a batch stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// To be sent, for the first time or again.
    Unsent,
    /// Under way as this request.
    Sent(u64),
    /// Refused because one before it was. To be numbered anew.
    Held,
}

#[derive(Debug)]
struct Flight {
    state: State,
    batch: Bytes,
    sequence: u32,
    expected: Option<u64>,
    completion: Arc<Completion>,
    deadline: Instant,
    counted: usize,
    /// How often it was sent under its present number.
    attempts: u32,
}

/// A frame to write. The batch is lent: a clone would take an allocation, and small ones are copied anyway.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    #[cfg(test)]
    pub(super) request: u64,
    pub(super) expected: Option<u64>,
    pub(super) incarnation: Option<proto::TopicId>,
    pub(super) batch: B,
}

/// What came of an answer.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Settled {
    /// Bytes to give back.
    pub(super) released: usize,
    /// The node stops or has stopped: nothing more will come of this connection.
    pub(super) leave: bool,
    /// Something was appended: the topic is where it belongs.
    pub(super) appended: bool,
}

/// Why nothing is sent for the moment.
#[derive(Debug)]
enum Hold {
    /// One came before its predecessor, which is not known to be written or refused: both are sent again, in order.
    Regroup,
    /// The node does not lead the topic, or cannot append just now. Where it said so: who leads.
    Adrift { leader: Option<String> },
}

/// The numbered batches of one topic, in their order.
#[derive(Debug, Default)]
pub(super) struct Flights {
    queue: VecDeque<Flight>,
    /// Stamp of the next batch. Every topic has a producer id of its own: one that is forgotten and met again never
    /// uses a number twice.
    next: Option<ProducerStamp>,
    /// One was refused, so those after it will be, and are numbered anew once all before it are settled and nothing is
    /// under way. How many were before it: they may be written, and keep their numbers.
    renumber: Option<usize>,
    /// Nothing is sent until all are back.
    hold: Option<Hold>,
    /// What went wrong last, until something is appended.
    trouble: Option<String>,
    /// The incarnation that the first acknowledgement named.
    incarnation: Option<proto::TopicId>,
}

impl Flights {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Encoded bytes of all that are not settled.
    pub(super) fn bytes(&self) -> usize {
        self.queue.iter().map(|flight| flight.batch.len()).sum()
    }

    /// Whether another batch may be numbered now.
    pub(super) fn has_room(&self) -> bool {
        let exhausted =
            self.next.is_some_and(|next| next.sequence == u32::MAX) && !self.queue.is_empty();
        self.renumber.is_none()
            && self.hold.is_none()
            && !exhausted
            && self.queue.len() < FLIGHTS_MAX
    }

    /// Whether something is under way.
    fn is_sent(&self) -> bool {
        self.queue
            .iter()
            .any(|flight| matches!(flight.state, State::Sent(_)))
    }

    /// Whether another node is to be found, and nothing is under way on this one any more. Where the node said so: the
    /// address of the leader. What is not settled can be sent from now on.
    pub(super) fn take_adrift(&mut self) -> Option<Option<String>> {
        if self.is_sent() {
            return None;
        }
        match self.hold.take() {
            Some(Hold::Adrift { leader }) => Some(leader),
            _ => None,
        }
    }

    /// What went wrong last, in the words of a message.
    pub(super) fn trouble(&self) -> String {
        self.trouble
            .as_ref()
            .map_or_else(String::new, |trouble| format!(": {trouble}"))
    }

    /// The next one that was numbered and has to be sent, under the number `request`.
    pub(super) fn resend(&mut self, request: u64) -> Option<Outgoing<&Bytes>> {
        if self.hold.is_some() {
            return None;
        }
        let valid = self.renumber.unwrap_or(self.queue.len());
        let flight = self
            .queue
            .iter_mut()
            .take(valid)
            .find(|flight| flight.state == State::Unsent)?;
        flight.state = State::Sent(request);
        flight.attempts = flight.attempts.saturating_add(1);
        Some(Outgoing {
            #[cfg(test)]
            request,
            expected: flight.expected,
            incarnation: self.incarnation,
            batch: &flight.batch,
        })
    }

    /// Numbers a batch and queues it as the last. It is to be sent with [`Flights::resend`].
    ///
    /// # Errors
    /// The batch cannot be encoded, of which its publishers have been told. Returns the bytes to give back.
    pub(super) fn number(&mut self, pending: Pending) -> Result<(), usize> {
        let stamp = match self.next {
            Some(stamp) if stamp.sequence < u32::MAX => stamp,
            stamp => renewed(stamp),
        };
        let Pending {
            builder,
            expected,
            completion,
            deadline,
            counted,
        } = pending;
        match builder.finish(Some(stamp)) {
            Ok(batch) => {
                self.next = Some(ProducerStamp {
                    sequence: stamp.sequence + 1,
                    ..stamp
                });
                self.queue.push_back(Flight {
                    state: State::Unsent,
                    batch: batch.into(),
                    sequence: stamp.sequence,
                    expected,
                    completion,
                    deadline,
                    counted,
                    attempts: 0,
                });
                Ok(())
            }
            Err(error) => {
                completion.resolve(Err(error.into()));
                Err(counted)
            }
        }
    }

    /// The connection went: what was under way is to be sent again, with the numbers that it has.
    pub(super) fn lost(&mut self, cause: &str) {
        self.hold = None;
        if !cause.is_empty() {
            self.trouble = Some(cause.into());
        }
        for flight in &mut self.queue {
            if matches!(flight.state, State::Sent(_)) {
                flight.state = State::Unsent;
            }
        }
        self.renumber_if_all_back();
    }

    /// Takes in the answer to `request`.
    pub(super) fn answered(&mut self, answer: proto::Appended, synced: &Arc<[String]>) -> Settled {
        let sent = State::Sent(answer.request);
        let Some(at) = self.queue.iter().position(|flight| flight.state == sent) else {
            return Settled::default();
        };
        let settled = match answer.error {
            None => {
                self.incarnation = answer.topic.or(self.incarnation);
                self.trouble = None;
                let (first, last, epoch) = (answer.first, answer.last, answer.epoch);
                let appended = Appended {
                    first,
                    last,
                    epoch,
                    synced: synced.clone(),
                };
                Settled {
                    appended: true,
                    ..self.settle(at, Ok(appended))
                }
            }
            Some(error) => self.refused(at, error),
        };
        self.renumber_if_all_back();
        if matches!(self.hold, Some(Hold::Regroup)) && !self.is_sent() {
            self.hold = None;
        }
        settled
    }

    fn refused(&mut self, at: usize, error: proto::Error) -> Settled {
        let follows_refused = self.renumber.is_some_and(|kept| at >= kept);
        let flight = &mut self.queue[at];
        let code = error.code();
        match code {
            ErrorCode::Stopping
            | ErrorCode::Stopped
            | ErrorCode::NotLeader
            | ErrorCode::NotReplica
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::WrongNode
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Unavailable => {
                flight.state = State::Unsent;
                self.trouble = Some(error.message);
                self.hold = Some(Hold::Adrift {
                    leader: error.leader,
                });
                return Settled {
                    leave: matches!(code, ErrorCode::Stopping | ErrorCode::Stopped),
                    ..Settled::default()
                };
            }
            // Its predecessor is not settled either: that one's answer decides.
            ErrorCode::SequenceGap if at > 0 && !follows_refused => {
                flight.state = State::Unsent;
                self.hold.get_or_insert(Hold::Regroup);
                return Settled::default();
            }
            // Not written, as the batch before it was not; or the topic has forgotten this producer, or is another one.
            // The first number of all is refused for no such reason: anew would end the same way.
            ErrorCode::SequenceGap | ErrorCode::UnknownProducer
                if flight.sequence > 0 || follows_refused =>
            {
                let known =
                    code == ErrorCode::SequenceGap || flight.attempts == 1 || follows_refused;
                if known {
                    flight.state = State::Held;
                    self.renumber_from(at);
                    return Settled::default();
                }
                let settled = self.settle(
                    at,
                    Err(ClientError::Unavailable(
                        "the topic no longer remembers this producer; the record may have been written".into(),
                    )),
                );
                self.renumber_from(at);
                return settled;
            }
            ErrorCode::TopicDeleted => self.incarnation = None,
            _ => {}
        }
        let settled = self.settle(at, Err(error.into()));
        // Those after it count on its number.
        self.renumber_from(at);
        settled
    }

    fn renumber_from(&mut self, at: usize) {
        self.renumber = Some(self.renumber.map_or(at, |kept| kept.min(at)));
    }

    fn settle(&mut self, at: usize, result: Result<Appended, ClientError>) -> Settled {
        let released = self.queue.remove(at).map_or(0, |flight| {
            flight.completion.resolve(result);
            flight.counted
        });
        if let Some(kept) = &mut self.renumber
            && at < *kept
        {
            *kept -= 1;
        }
        Settled {
            released,
            ..Settled::default()
        }
    }

    /// Numbers what is to be numbered anew from the start of a new epoch, once all before it is settled and nothing is under
    /// way: whatever of the old epoch still wanders about can then no longer be appended.
    fn renumber_if_all_back(&mut self) {
        if self.renumber != Some(0) || self.is_sent() {
            return;
        }
        self.renumber = None;
        let mut stamp = renewed(self.next);
        for flight in &mut self.queue {
            match restamped(&flight.batch, stamp) {
                Ok(batch) => flight.batch = batch,
                // It was encoded by this process, so that it is whole; a node would refuse it otherwise.
                Err(error) => tracing::error!(%error, "a batch could not be numbered anew"),
            }
            flight.sequence = stamp.sequence;
            flight.state = State::Unsent;
            flight.attempts = 0;
            stamp.sequence += 1;
        }
        self.next = Some(stamp);
    }

    /// Tells the publishers of what is beyond its deadline. The batches stay: those after them count on their numbers.
    pub(super) fn expire(&mut self, now: Instant) {
        let trouble = self.trouble();
        for flight in self
            .queue
            .iter()
            .filter(|flight| flight.deadline <= now && !flight.completion.is_resolved())
        {
            flight.completion.resolve(Err(ClientError::Unavailable(format!(
                "no acknowledgement within the timeout{trouble}; the record may have been written"
            ))));
        }
    }

    /// Gives everything up with this error. Returns the bytes to give back.
    pub(super) fn fail(&mut self, error: &ClientError) -> usize {
        let failed = std::mem::take(&mut self.queue);
        // Whether they were written is not known, so their numbers must not be used again.
        self.next = self.next.map(|next| renewed(Some(next)));
        self.renumber = None;
        self.hold = None;
        failed
            .into_iter()
            .map(|flight| {
                flight.completion.resolve(Err(error.clone()));
                flight.counted
            })
            .sum()
    }
}

/// The first stamp of a new epoch, or of a new producer where the id is so old that a topic may take it for a
/// forgotten one.
fn renewed(stamp: Option<ProducerStamp>) -> ProducerStamp {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    match stamp {
        Some(ProducerStamp { id, epoch, .. })
            if epoch < u32::MAX && id.minted_ms().abs_diff(now_ms) < PRODUCER_AGE_MS_MAX / 7 =>
        {
            ProducerStamp {
                id,
                epoch: epoch + 1,
                sequence: 0,
            }
        }
        _ => {
            let mut random = [0; 10];
            #[expect(
                clippy::expect_used,
                reason = "a system without randomness cannot do TLS, and so has no connection"
            )]
            getrandom::fill(&mut random).expect("the system gives random bytes");
            ProducerStamp {
                id: ProducerId::new(now_ms, random),
                epoch: 0,
                sequence: 0,
            }
        }
    }
}

fn restamped(batch: &Bytes, stamp: ProducerStamp) -> Result<Bytes, BatchError> {
    let mut batch = Vec::from(batch.clone());
    set_producer(&mut batch, stamp)?;
    Ok(batch.into())
}

#[cfg(test)]
#[path = "flights_tests.rs"]
mod tests;
