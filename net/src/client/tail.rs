//! Reading a topic as a stream that goes on by itself after a connection was lost.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use mesh_engine::batch::{BatchHeader, Record, records, verify_stored};
use mesh_ring::name::{CursorName, TopicName};
use quinn::RecvStream;
use tokio::time::{Instant, timeout_at};

use super::{
    error::{ClientError, Lost},
    link::{BackOff, Link},
};
use crate::{
    quic::STREAM_GIVEN_UP,
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, ErrorCode, Request, TailFrame, request, tail_frame, tail_open},
    },
};

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

/// Reads one topic in order. Dropping it ends it.
#[derive(Debug)]
pub struct Tail {
    link: Arc<Link>,
    topic: String,
    options: TailOptions,
    /// What the node said when the tail began, and how far it has come since.
    place: Option<Place>,
    session: Option<Session>,
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    topic: proto::TopicId,
    next: u64,
    until: Option<u64>,
}

#[derive(Debug)]
struct Session {
    connection: quinn::Connection,
    reader: FrameReader<RecvStream>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.stop(STREAM_GIVEN_UP);
    }
}

/// One frame's worth of progress.
enum Step {
    Records(Vec<TailRecord>),
    Nothing,
    End,
}

/// Why a step failed.
enum Failure {
    /// Another connection may do.
    Lost(Lost),
    /// The node is going away.
    Stopping,
    /// What another connection alone does not mend.
    Error(ClientError),
}

impl Failure {
    /// Whether trying again, for long enough, may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Lost(Lost::Connection(_)) | Self::Stopping => true,
            Self::Lost(Lost::Refused(_) | Lost::Protocol(_)) => false,
            Self::Error(error) => matches!(error, ClientError::Unavailable(_)),
        }
    }
}

impl Tail {
    pub(super) fn new(link: Arc<Link>, topic: &str, options: TailOptions) -> Self {
        Self {
            link,
            topic: topic.into(),
            options,
            place: None,
            session: None,
            ended: false,
        }
    }

    /// The next records, as they come. `None` at the end, where the tail does not follow.
    ///
    /// A lost connection is dialled anew and the tail goes on at the next offset: within the timeout, or, for a
    /// tail that follows and has begun, however long it takes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ClientError::Trimmed`] and [`ClientError::OffsetBeyondEnd`] where the next offset is not in the topic;
    /// [`ClientError::TopicDeleted`] where the topic was deleted meanwhile; [`ClientError::NotFound`] where there is
    /// none; [`ClientError::Unavailable`], [`ClientError::Refused`]. Calling again after one tries again.
    pub async fn next(&mut self) -> Result<Option<TailBatch>, ClientError> {
        let mut back_off = BackOff::new();
        let mut deadline = Instant::now() + self.link.timeout;
        while !self.ended {
            match self.step(deadline).await {
                Ok(Step::Records(records)) => return Ok(Some(TailBatch { records })),
                Ok(Step::Nothing) => {
                    back_off = BackOff::new();
                    deadline = Instant::now() + self.link.timeout;
                }
                Ok(Step::End) => {
                    self.session = None;
                    self.ended = true;
                }
                Err(failure) if self.is_patient() && failure.may_pass() => {
                    back_off.pause_fully().await;
                    // Each attempt has the whole timeout, however long ago something came.
                    deadline = Instant::now() + self.link.timeout;
                }
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::Lost(Lost::Connection(_)) | Failure::Stopping)
                    if Instant::now() < deadline =>
                {
                    back_off.pause(deadline).await;
                }
                Err(Failure::Lost(lost)) => return Err(lost.into_error("tail")),
                Err(Failure::Stopping) => {
                    return Err(ClientError::Unavailable(
                        "tail: the node is stopping".into(),
                    ));
                }
            }
        }
        Ok(None)
    }

    /// The offset of the next record, once the tail has begun.
    pub fn next_offset(&self) -> Option<u64> {
        self.place.map(|place| place.next)
    }

    /// Whether it tries as long as it is not given up.
    fn is_patient(&self) -> bool {
        self.options.follow && self.place.is_some()
    }

    async fn step(&mut self, deadline: Instant) -> Result<Step, Failure> {
        // Taken out while it is used: if this future is dropped within a frame, the session goes with it and the next
        // one begins at the next offset.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let late = || ClientError::Unavailable("tail: no answer within the timeout".into());
                timeout_at(deadline, self.begin(deadline))
                    .await
                    .map_err(|_| Failure::Error(late()))??
            }
        };
        let frame = session.reader.frame::<TailFrame>().await;
        let (kind, body) = match frame {
            Ok(Some((TailFrame { kind: Some(kind) }, body))) => (kind, body),
            Ok(Some(_)) => {
                return Err(Failure::Lost(Lost::Protocol(
                    "an answer of no known kind".into(),
                )));
            }
            Ok(None) => {
                return Err(Failure::Lost(Lost::Connection(
                    "the tail ended early".into(),
                )));
            }
            Err(error) => return Err(Failure::Lost(Lost::of_frame(error, &session.connection))),
        };
        match kind {
            tail_frame::Kind::Batches(_) => {
                let records = self.take_in(body).map_err(Failure::Error)?;
                self.session = Some(session);
                Ok(if records.is_empty() {
                    Step::Nothing
                } else {
                    Step::Records(records)
                })
            }
            tail_frame::Kind::End(_) => Ok(Step::End),
            tail_frame::Kind::Error(error)
                if matches!(error.code(), ErrorCode::Stopping | ErrorCode::Stopped) =>
            {
                self.link.forget(&session.connection);
                Err(Failure::Stopping)
            }
            tail_frame::Kind::Error(error) => Err(Failure::Error(error.into())),
            tail_frame::Kind::Started(_) => Err(Failure::Lost(Lost::Protocol(
                "a tail that starts twice".into(),
            ))),
        }
    }

    async fn begin(&mut self, deadline: Instant) -> Result<Session, Failure> {
        let open = self.open().map_err(Failure::Error)?;
        let connection = self
            .link
            .connection(deadline)
            .await
            .map_err(Failure::Error)?;
        let (send, receive) = connection
            .open_bi()
            .await
            .map_err(|e| Failure::Lost(Lost::of_connection(&e)))?;
        let mut session = Session {
            connection,
            reader: FrameReader::new(receive),
        };
        let lost = |error, connection: &quinn::Connection| {
            Failure::Lost(Lost::of_frame(error, connection))
        };
        let mut writer = FrameWriter::new(send);
        let sent = writer
            .header(&Request::new(request::Kind::Tail(open)))
            .await;
        sent.map_err(|e| lost(e, &session.connection))?;
        writer.finish();
        let frame = session
            .reader
            .frame::<TailFrame>()
            .await
            .map_err(|e| lost(e, &session.connection))?;
        match frame.and_then(|(frame, _)| frame.kind) {
            Some(tail_frame::Kind::Started(started)) => {
                let topic = started
                    .topic
                    .ok_or_else(|| Failure::Error(ClientError::protocol("no topic id")))?;
                self.place.get_or_insert(Place {
                    topic,
                    next: started.from,
                    until: started.until,
                });
                Ok(session)
            }
            Some(tail_frame::Kind::Error(error))
                if matches!(error.code(), ErrorCode::Stopping | ErrorCode::Stopped) =>
            {
                self.link.forget(&session.connection);
                Err(Failure::Stopping)
            }
            Some(tail_frame::Kind::Error(error)) => Err(Failure::Error(error.into())),
            Some(_) => Err(Failure::Lost(Lost::Protocol(
                "a tail that does not start".into(),
            ))),
            None => Err(Failure::Lost(Lost::Connection(
                "the tail ended early".into(),
            ))),
        }
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
