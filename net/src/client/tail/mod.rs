//! Reading a topic as a stream that goes on by itself, at another replica, after a node or connection was lost.

mod session;

use std::sync::Arc;

use bytes::{Buf, Bytes};
use mesh_engine::batch::{BatchHeader, Record, records, verify_stored};
use mesh_ring::name::{CursorName, TopicName};
use tokio::time::{Instant, timeout_at};

use super::{
    back_off::BackOff,
    error::{ClientError, Lost},
    links::Links,
};
use crate::wire::proto::{self, tail_frame, tail_open};
use session::{Choice, Failure, Session};

/// Where a tail begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Start {
    /// At the first record that is left.
    First,
    /// At this offset.
    Offset(u64),
    /// At the first record appended at or after this time, Unix milliseconds.
    Time(u64),
    /// So many records before the end.
    Last(u64),
    /// Where the cursor of this name stands; at the first record where there is none.
    Cursor(String),
}

/// What a tail reads.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// Where it begins.
    pub start: Start,
    /// Wait for more at the end. Otherwise the tail stops at the end that there is when it begins.
    pub follow: bool,
    /// Stop before this offset.
    pub until: Option<u64>,
}

impl Default for TailOptions {
    fn default() -> Self {
        Self {
            start: Start::First,
            follow: false,
            until: None,
        }
    }
}

/// Records in the order of their offsets, without a gap.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// Never empty.
    pub records: Vec<TailRecord>,
}

/// One record and where it stands.
#[derive(Clone, Debug)]
pub struct TailRecord {
    /// Its offset.
    pub offset: u64,
    /// When the leader appended it, Unix milliseconds. Never less than that of the record before.
    pub append_time_ms: u64,
    /// What was published.
    pub record: Record,
}

/// Reads one topic in order, from whichever replica serves. Dropping it ends it.
#[derive(Debug)]
pub struct Tail {
    links: Arc<Links>,
    topic: String,
    options: TailOptions,
    /// What the node said when the tail began, and how far it has come since.
    place: Option<Place>,
    choice: Choice,
    session: Option<Session>,
    leaderless: bool,
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    topic: proto::TopicId,
    next: u64,
    until: Option<u64>,
}

/// One frame's worth of progress.
enum Step {
    Records(Vec<TailRecord>),
    Nothing,
    End,
}

impl Tail {
    pub(super) fn new(links: Arc<Links>, topic: &str, options: TailOptions) -> Self {
        Self {
            links,
            topic: topic.into(),
            options,
            place: None,
            choice: Choice::default(),
            session: None,
            leaderless: false,
            ended: false,
        }
    }

    /// The next records, as they come. `None` at the end, where the tail does not follow.
    ///
    /// Where a node dies or hands over, the tail goes on at the next offset, at another replica where there is one:
    /// within the timeout, or, for a tail that follows and has begun, however long it takes. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// [`ClientError::Trimmed`] and [`ClientError::OffsetBeyondEnd`] where the next offset is not in the topic;
    /// [`ClientError::TopicDeleted`] where the topic was deleted meanwhile; [`ClientError::NotFound`] where there is
    /// none; [`ClientError::Unavailable`], [`ClientError::Refused`]. Calling again after one tries again.
    pub async fn next(&mut self) -> Result<Option<TailBatch>, ClientError> {
        let mut back_off = BackOff::new();
        let mut deadline = Instant::now() + self.links.timeout;
        while !self.ended {
            let failure = match self.step(deadline).await {
                Ok(Step::Records(records)) => return Ok(Some(TailBatch { records })),
                Ok(Step::Nothing) => {
                    back_off = BackOff::new();
                    deadline = Instant::now() + self.links.timeout;
                    continue;
                }
                Ok(Step::End) => {
                    self.session = None;
                    self.ended = true;
                    continue;
                }
                Err(failure) => failure,
            };
            let error = match failure {
                Failure::Passing(lost @ Lost::Connection(_)) => lost.into_error("tail"),
                Failure::Passing(lost) => return Err(lost.into_error("tail")),
                Failure::Doubtful(error) => error,
                Failure::Final(error) => return Err(error),
            };
            if self.is_patient() {
                back_off.pause_fully().await;
                // Each attempt has the whole timeout, however long ago something came.
                deadline = Instant::now() + self.links.timeout;
                continue;
            }
            back_off.pause(deadline).await;
            if Instant::now() >= deadline {
                return Err(error);
            }
        }
        Ok(None)
    }

    /// The offset of the next record, once the tail has begun.
    pub fn next_offset(&self) -> Option<u64> {
        self.place.map(|place| place.next)
    }

    /// Whether the node that it reads from could not reach the topic's leader when the tail began there: the end is what
    /// that node knows to be committed.
    pub fn is_leaderless(&self) -> bool {
        self.leaderless
    }

    /// Whether it tries as long as it is not given up.
    fn is_patient(&self) -> bool {
        self.options.follow && self.place.is_some()
    }

    /// Whether less came than was promised when the tail began.
    fn is_short(&self) -> bool {
        self.place
            .is_some_and(|place| place.until.is_some_and(|until| place.next < until))
    }

    async fn step(&mut self, deadline: Instant) -> Result<Step, Failure> {
        // Taken out while it is used: if this future is dropped within a frame, the session goes with it and the next
        // one begins at the next offset.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.begin(deadline).await?,
        };
        let next = session.next(&self.links, &mut self.choice, &self.topic);
        match next.await? {
            (tail_frame::Kind::Batches(_), body) => {
                let records = self.take_in(body).map_err(Failure::Final)?;
                self.session = Some(session);
                self.choice.served();
                Ok(if records.is_empty() {
                    Step::Nothing
                } else {
                    Step::Records(records)
                })
            }
            (tail_frame::Kind::End(_), _) if self.is_short() => {
                // It was promised by a replica that had more than this one.
                Err(self.choice.lags(&session))
            }
            (tail_frame::Kind::End(_), _) => Ok(Step::End),
            _ => Err(Failure::Passing(Lost::Protocol(
                "a tail that starts twice".into(),
            ))),
        }
    }

    async fn begin(&mut self, deadline: Instant) -> Result<Session, Failure> {
        let open = self.open().map_err(Failure::Final)?;
        let beginning = session::begin(&self.links, &mut self.choice, open, deadline);
        let (session, started) = timeout_at(deadline, beginning).await.map_err(|_| {
            Failure::Passing(Lost::Connection("no answer within the timeout".into()))
        })??;
        let topic = started
            .topic
            .ok_or_else(|| Failure::Final(ClientError::protocol("no topic id")))?;
        self.leaderless = started.leaderless;
        self.place.get_or_insert(Place {
            topic,
            next: started.from,
            until: started.until,
        });
        Ok(session)
    }

    /// The request: as the caller wants it, or from where it has come.
    fn open(&self) -> Result<proto::TailOpen, ClientError> {
        let topic = TopicName::new(&self.topic)?.to_string();
        if let Some(place) = self.place {
            return Ok(proto::TailOpen {
                topic,
                incarnation: Some(place.topic),
                start: Some(tail_open::Start::Offset(place.next)),
                follow: self.options.follow,
                until: place.until,
            });
        }
        let start = match &self.options.start {
            Start::First => tail_open::Start::First(proto::First {}),
            Start::Offset(offset) => tail_open::Start::Offset(*offset),
            Start::Time(ms) => tail_open::Start::TimeMs(*ms),
            Start::Last(count) => tail_open::Start::Last(*count),
            Start::Cursor(name) => tail_open::Start::Cursor(CursorName::new(name)?.to_string()),
        };
        Ok(proto::TailOpen {
            topic,
            incarnation: None,
            start: Some(start),
            follow: self.options.follow,
            until: self.options.until,
        })
    }

    /// Decodes whole batches, checks them against their producer's checksum, and keeps what is wanted of them.
    fn take_in(&mut self, mut body: Bytes) -> Result<Vec<TailRecord>, ClientError> {
        let place = self
            .place
            .as_mut()
            .ok_or_else(|| ClientError::protocol("records before the start"))?;
        let damaged = |error| {
            ClientError::Failed(format!("{}: a batch arrived damaged: {error}", self.topic))
        };
        let mut wanted = Vec::new();
        // A frame goes on behind `until` where its batches are small.
        while body.has_remaining() && place.until.is_none_or(|until| place.next < until) {
            let length = BatchHeader::decode_prefix(&body)
                .map_err(damaged)?
                .batch_bytes();
            if length > body.len() {
                return Err(ClientError::protocol("a batch cut short"));
            }
            let batch = body.split_to(length);
            let header = verify_stored(&batch).map_err(damaged)?;
            if header.leader.base_offset > place.next {
                return Err(ClientError::protocol("a gap in the offsets"));
            }
            wanted.reserve(header.record_count as usize);
            for item in records(&batch).map_err(damaged)? {
                let (offset, record) = item.map_err(damaged)?;
                if offset == place.next && place.until.is_none_or(|until| offset < until) {
                    place.next = offset + 1;
                    wanted.push(TailRecord {
                        offset,
                        append_time_ms: header.leader.append_time_ms,
                        record,
                    });
                }
            }
        }
        Ok(wanted)
    }
}
