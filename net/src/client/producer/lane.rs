//! One append stream of a producer, to one node, from dialling to its end.
//!
//! A topic is on one lane at a time. It leaves when the node has answered all that was under way, or with the lane, whose
//! stream is reset: what the node has not read by then it never sees. So every node gets a topic's batches in their order.

mod doubt;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    select,
    sync::Notify,
    task::yield_now,
    time::{Instant, timeout},
};

use super::{gather::Shared, router::Stray, topic::Topic};
use crate::{
    client::{
        ClientError,
        error::Lost,
        line::{Line, Waiting},
        links::Links,
    },
    quic::STREAM_GIVEN_UP,
    wire::{
        frame::{Chunks, FrameError, FrameReader, FrameWriter},
        proto::{self, ErrorCode, Request, request},
    },
};

/// Bytes of frames that are handed to the transport at once.
const WRITE_BYTES: usize = 512 << 10;
/// A lane that has nothing to do for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// What the router and the lanes of one producer share.
#[derive(Debug)]
pub(super) struct Road {
    pub(super) shared: Arc<Shared>,
    pub(super) links: Arc<Links>,
    /// Names this producer's streams, so that at each node a newer one supersedes an older.
    pub(super) writer: Bytes,
    /// Numbers requests on all lanes, so that a late answer on one is not taken for one on another.
    pub(super) next_request: AtomicU64,
}

/// One stream and what is on it.
#[derive(Debug)]
pub(super) struct Lane {
    address: Arc<str>,
    /// The reading and the writing half meet here, and publishers who leave something. Nobody waits while holding it.
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    is_open: bool,
    /// Topics that may have something to send.
    due: VecDeque<Arc<Topic>>,
    /// What is under way, by request, and since when.
    requests: HashMap<u64, (Arc<Topic>, Instant)>,
    /// While something is under way: lets the line notice a node that does not answer.
    waiting: Option<Waiting>,
    synced: Option<Arc<[String]>>,
}

/// How a lane ended.
enum Ended {
    /// Another node, or this one later, will do.
    Passing(String),
    /// No node will do.
    Fatal(ClientError),
    /// Everything was answered, and nothing came for a while.
    Idle,
    /// The client ends.
    Closed,
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Connection(cause) => Self::Passing(cause),
            lost => Self::Fatal(lost.into_error("publish")),
        }
    }
}

impl Lane {
    pub(super) fn new(address: Arc<str>) -> Self {
        Self {
            address,
            state: Mutex::new(State {
                is_open: true,
                due: VecDeque::new(),
                requests: HashMap::new(),
                waiting: None,
                synced: None,
            }),
            wake: Notify::new(),
        }
    }

    /// Leaves word that a topic has something to send. `false`: the lane has ended.
    pub(super) fn offer(&self, topic: &Arc<Topic>) -> bool {
        let mut state = self.state();
        if !state.is_open {
            return false;
        }
        state.due.push_back(topic.clone());
        drop(state);
        self.wake.notify_one();
        true
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().is_open
    }

    /// Looks again whether it is still needed.
    pub(super) fn nudge(&self) {
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what topics have until it ends, and hands those that still have something to the router then.
    pub(super) async fn run(self: Arc<Self>, road: Arc<Road>) {
        let ended = loop {
            let ended = select! {
                ended = self.session(&road) => ended,
                () = road.shared.inflight.closed() => Ended::Closed,
            };
            if !matches!(ended, Ended::Idle) || self.close_if_idle() {
                break ended;
            }
        };
        match ended {
            Ended::Idle | Ended::Closed => {}
            Ended::Passing(cause) => {
                tracing::debug!(node = %self.address, cause, "an append stream ended");
                self.hand_over(&road.shared, &cause);
            }
            Ended::Fatal(error) => {
                for topic in self.close(&road.shared) {
                    topic.fail(&error, &road.shared);
                }
            }
        }
        // A producer without handles waits for its last lane.
        road.shared.wake.notify_one();
    }

    async fn session(&self, road: &Road) -> Ended {
        let link = road.links.link(&self.address);
        let line = select! {
            line = link.line(Instant::now() + road.links.timeout) => match line {
                Ok(line) => line,
                Err(lost) => return lost.into(),
            },
            () = self.led_elsewhere(road, None) => return elsewhere(),
        };
        let ended = select! {
            ended = self.stream(road, &line) => ended,
            () = self.led_elsewhere(road, Some(&line)) => elsewhere(),
            () = line.silent(), if road.links.routes().has_others() => {
                Ended::Passing(format!("{} has gone silent", self.address))
            }
        };
        if matches!(ended, Ended::Passing(_)) {
            link.forget(&line);
        }
        ended
    }

    async fn stream(&self, road: &Road, line: &Line) -> Ended {
        let (send, receive) = match line.connection().open_bi().await {
            Ok(streams) => streams,
            Err(error) => return Lost::of_connection(&error).into(),
        };
        let mut stream = Stream {
            writer: FrameWriter::new(send),
            reader: FrameReader::new(receive),
            is_done: false,
        };
        let open = proto::AppendOpen {
            writer: road.writer.clone(),
        };
        let open = Request::new(request::Kind::Append(open));
        let ended = match stream.writer.header(&open).await {
            Err(error) => Err(error),
            Ok(()) => select! {
                ended = self.read(road, &mut stream.reader) => ended,
                ended = self.write(road, line, &mut stream.writer) => ended.map(|()| Ended::Idle),
            },
        };
        match ended {
            Ok(ended) => {
                stream.is_done = matches!(ended, Ended::Idle);
                ended
            }
            Err(error) => Lost::of_frame(error, line.connection()).into(),
        }
    }

    async fn read(
        &self,
        road: &Road,
        reader: &mut FrameReader<quinn::RecvStream>,
    ) -> Result<Ended, FrameError> {
        let stopping = || Ended::Passing(format!("{} is stopping", self.address));
        while let Some((answers, _)) = reader.frame::<proto::Appends>().await? {
            let leave = self.answered(answers.appended, &answers.synced, &road.shared);
            // The writing half looks again after the publishers that were just woken had their turn.
            self.wake.notify_one();
            if let Some(fatal) = answers.fatal {
                return Ok(match fatal.code() {
                    ErrorCode::Stopping | ErrorCode::Stopped | ErrorCode::Unavailable => stopping(),
                    ErrorCode::Denied => Lost::Refused(fatal.message).into(),
                    _ => Lost::Protocol(fatal.message).into(),
                });
            }
            if leave {
                return Ok(stopping());
            }
        }
        Ok(stopping())
    }

    async fn write(
        &self,
        road: &Road,
        line: &Line,
        writer: &mut FrameWriter,
    ) -> Result<(), FrameError> {
        let mut chunks = Chunks::default();
        loop {
            let is_idle = self.fill(&mut chunks, road, line)?;
            if !chunks.is_empty() {
                writer.chunks(&mut chunks).await?;
                continue;
            }
            let woken = async {
                self.wake.notified().await;
                // Lets everyone else who is ready publish first, so that they share a batch. Where nobody is, this
                // costs nothing.
                yield_now().await;
            };
            if !is_idle {
                woken.await;
            } else if road.shared.orphaned.load(Ordering::Acquire)
                || timeout(IDLE_MAX, woken).await.is_err()
            {
                writer.finish();
                return Ok(());
            }
        }
    }

    /// Collects frames to write, until there are enough for one write or nothing may be sent. Returns whether nothing is
    /// under way.
    fn fill(&self, chunks: &mut Chunks, road: &Road, line: &Line) -> Result<bool, FrameError> {
        // One header for all: the memory of its name is used again.
        let mut header = proto::Append {
            create: road.shared.create,
            ..proto::Append::default()
        };
        let now = Instant::now();
        let mut state = self.state();
        while chunks.bytes() < WRITE_BYTES {
            let Some(topic) = state.due.front().cloned() else {
                break;
            };
            header.request = road.next_request.fetch_add(1, Ordering::Relaxed);
            if !self.next(&topic, &mut header, chunks, &road.shared)? {
                state.due.pop_front();
                continue;
            }
            state.requests.insert(header.request, (topic, now));
        }
        let is_idle = state.requests.is_empty();
        if !is_idle && state.waiting.is_none() {
            state.waiting = Some(line.ask());
        }
        Ok(is_idle)
    }

    /// Writes the topic's next frame with this header, if it is on this lane and may send one now.
    fn next(
        &self,
        topic: &Topic,
        header: &mut proto::Append,
        chunks: &mut Chunks,
        shared: &Shared,
    ) -> Result<bool, FrameError> {
        let mut flights = topic.flights();
        if !topic.is_on(self) {
            return Ok(false);
        }
        loop {
            if let Some(out) = flights.resend(header.request) {
                header.topic.clear();
                header.topic.push_str(&topic.name);
                header.expected_offset = out.expected;
                header.incarnation = out.incarnation;
                chunks.push_frame(header, std::slice::from_ref(out.batch))?;
                return Ok(true);
            }
            let under_way = flights.bytes();
            let room = flights.has_room();
            let mut gather = topic.gather();
            // While some are under way, a batch gathers until it is worth sending beside them: half as large as they are.
            let worth = if room { under_way / 2 } else { usize::MAX };
            let Some(pending) = room.then(|| gather.take(worth)).flatten() else {
                gather.looked(worth);
                return Ok(false);
            };
            drop(gather);
            if let Err(released) = flights.number(pending) {
                shared.inflight.release(released);
            }
        }
    }

    /// Takes answers in, `synced` for those that name no replicas. Returns whether the node is going away.
    fn answered(&self, answers: Vec<proto::Appended>, synced: &[String], shared: &Shared) -> bool {
        let (mut released, mut leave) = (0, false);
        let mut state = self.state();
        let common = state.synced(synced);
        for answer in answers {
            let Some((topic, _)) = state.requests.remove(&answer.request) else {
                continue;
            };
            let own = (!answer.synced.is_empty()).then(|| state.synced(&answer.synced));
            let mut flights = topic.flights();
            let settled = flights.answered(answer, own.as_ref().unwrap_or(&common));
            released += settled.released;
            leave |= settled.leave;
            if settled.appended {
                topic.bounces.store(0, Ordering::Relaxed);
            }
            if let Some(leader) = flights.take_adrift() {
                topic.set_lane(&flights, None);
                drop(flights);
                shared.stray(Stray::sent_away(topic, self.address.clone(), leader));
                continue;
            }
            drop(flights);
            if !state
                .due
                .back()
                .is_some_and(|last| Arc::ptr_eq(last, &topic))
            {
                state.due.push_back(topic);
            }
        }
        if state.requests.is_empty() {
            state.waiting = None;
        }
        drop(state);
        shared.inflight.release(released);
        leave
    }

    /// Ends it unless there is something to do.
    fn close_if_idle(&self) -> bool {
        let mut state = self.state();
        state.is_open = !(state.due.is_empty() && state.requests.is_empty());
        !state.is_open
    }

    /// Ends it. Returns the topics on it that have something.
    fn close(&self, shared: &Shared) -> Vec<Arc<Topic>> {
        let due = {
            let mut state = self.state();
            state.is_open = false;
            state.requests.clear();
            state.waiting = None;
            std::mem::take(&mut state.due)
        };
        for topic in due {
            topic.gather().looked_if_empty();
        }
        let mut busy = shared.busy();
        busy.retain(|topic| topic.is_on(self));
        busy
    }

    fn hand_over(&self, shared: &Shared, cause: &str) {
        for topic in self.close(shared) {
            let mut flights = topic.flights();
            if !topic.is_on(self) {
                continue;
            }
            flights.lost(cause);
            topic.set_lane(&flights, None);
            drop(flights);
            shared.stray(Stray::lost(topic, self.address.clone()));
        }
    }
}

impl State {
    /// The names of replicas, in an allocation that answers share as long as they say the same.
    fn synced(&mut self, names: &[String]) -> Arc<[String]> {
        match &self.synced {
            Some(synced) if synced[..] == *names => synced.clone(),
            _ => self.synced.insert(names.into()).clone(),
        }
    }
}

/// The two directions of a stream. Given up where it is dropped before it is done.
struct Stream {
    writer: FrameWriter,
    reader: FrameReader<quinn::RecvStream>,
    is_done: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_done {
            self.writer.reset(STREAM_GIVEN_UP);
            self.reader.stop(STREAM_GIVEN_UP);
        }
    }
}

fn elsewhere() -> Ended {
    Ended::Passing("another node leads now".into())
}
