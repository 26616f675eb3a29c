//! The one task of a producer: sends what was gathered, takes in the answers, and begins anew when a connection is
//! lost.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    select,
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval},
};

use super::gather::{Shared, Topic, client_closed};
use crate::{
    client::{
        ClientError,
        error::Lost,
        link::{BackOff, Link},
    },
    wire::{
        frame::{Chunks, FrameError, FrameReader, FrameWriter},
        proto::{self, ErrorCode, Request, request},
    },
};

/// Bytes of frames that are handed to the transport at once.
const WRITE_BYTES: usize = 512 << 10;

/// How a session on one connection ended.
enum Ended {
    Lost(Lost),
    /// The node goes away; another one, or this one later, will do.
    Stopping,
    /// No connection within the timeout.
    Unreachable(ClientError),
    /// Everything was answered, and nobody will publish any more.
    Done,
}

/// Sends for one producer until it has nothing left and no handle, or the client is closed.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>, writer: Bytes) {
    let driver = Driver {
        shared: shared.clone(),
        link,
        writer,
        dispatch: Mutex::default(),
    };
    select! {
        () = driver.serve() => {}
        () = driver.watch_deadlines() => {}
        () = shared.inflight.closed() => driver.fail_all(&client_closed()),
    }
}

struct Driver {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// Names this producer's streams, so that a newer one supersedes an older.
    writer: Bytes,
    /// The reading and the writing half meet here. They are one task, so that nobody waits for this lock.
    dispatch: Mutex<Dispatch>,
}

/// What is under way, by request.
#[derive(Default)]
struct Dispatch {
    requests: HashMap<u64, Arc<Topic>>,
    next_request: u64,
    /// Topics that may have something to send.
    due: VecDeque<Arc<Topic>>,
    synced: Option<Arc<[String]>>,
}

impl Driver {
    fn dispatch(&self) -> MutexGuard<'_, Dispatch> {
        self.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self) {
        let mut back_off = BackOff::new();
        loop {
            if !self.has_work() {
                if self.shared.orphaned.load(Ordering::Acquire) {
                    return;
                }
                self.shared.wake.notified().await;
                continue;
            }
            let started = Instant::now();
            let ended = self.session().await;
            self.lost();
            match ended {
                Ended::Lost(Lost::Connection(cause)) => {
                    tracing::debug!(cause, "the append stream was lost")
                }
                Ended::Stopping => tracing::debug!("the node is stopping"),
                Ended::Unreachable(ClientError::Unavailable(_)) => {}
                Ended::Done => continue,
                Ended::Unreachable(error) => self.fail_all(&error),
                Ended::Lost(lost) => self.fail_all(&lost.into_error("publish")),
            }
            if started.elapsed() > Duration::from_secs(1) {
                back_off = BackOff::new();
            }
            back_off.pause(Instant::now() + self.link.timeout).await;
        }
    }

    fn has_work(&self) -> bool {
        let mut dispatch = self.dispatch();
        self.shared.take_told(&mut dispatch.due);
        !dispatch.due.is_empty()
    }

    async fn session(&self) -> Ended {
        let connection = match self
            .link
            .connection(Instant::now() + self.link.timeout)
            .await
        {
            Ok(connection) => connection,
            Err(error) => return Ended::Unreachable(error),
        };
        let (send, receive) = match connection.open_bi().await {
            Ok(streams) => streams,
            Err(error) => return Ended::Lost(Lost::of_connection(&error)),
        };
        let mut writer = FrameWriter::new(send);
        let mut reader = FrameReader::new(receive);
        let open = proto::AppendOpen {
            writer: self.writer.clone(),
        };
        let ended = match writer
            .header(&Request::new(request::Kind::Append(open)))
            .await
        {
            Err(error) => Err(error),
            Ok(()) => select! {
                ended = self.read(&mut reader) => ended,
                ended = self.write(&mut writer) => ended.map(|()| Ended::Done),
            },
        };
        match ended {
            Ok(Ended::Stopping) => {
                self.link.forget(&connection);
                Ended::Stopping
            }
            Ok(ended) => ended,
            Err(error) => Ended::Lost(Lost::of_frame(error, &connection)),
        }
    }

    async fn read(&self, reader: &mut FrameReader<quinn::RecvStream>) -> Result<Ended, FrameError> {
        while let Some((answers, _)) = reader.frame::<proto::Appends>().await? {
            let leave = self.dispatch().answered(answers.appended, &self.shared);
            // The writing half looks again after the publishers that were just woken had their turn.
            self.shared.wake.notify_one();
            if let Some(fatal) = answers.fatal {
                return Ok(match fatal.code() {
                    ErrorCode::Stopping | ErrorCode::Stopped => Ended::Stopping,
                    ErrorCode::Denied => Ended::Lost(Lost::Refused(fatal.message)),
                    _ => Ended::Lost(Lost::Protocol(fatal.message)),
                });
            }
            if leave {
                return Ok(Ended::Stopping);
            }
        }
        Ok(Ended::Stopping)
    }

    async fn write(&self, writer: &mut FrameWriter) -> Result<(), FrameError> {
        let mut chunks = Chunks::default();
        loop {
            self.dispatch().fill(&mut chunks, &self.shared)?;
            if chunks.is_empty() {
                if self.shared.orphaned.load(Ordering::Acquire)
                    && self.dispatch().requests.is_empty()
                {
                    writer.finish();
                    return Ok(());
                }
                self.shared.wake.notified().await;
                // Lets everyone else who is ready publish first, so that they share a batch. Where nobody is, this
                // costs nothing.
                yield_now().await;
            } else {
                writer.chunks(&mut chunks).await?;
            }
        }
    }

    /// What was under way has to be sent again.
    fn lost(&self) {
        let mut dispatch = self.dispatch();
        dispatch.requests.clear();
        dispatch.due.clear();
        for topic in self.shared.busy() {
            topic.flights().lost();
            dispatch.due.push_back(topic);
        }
    }

    fn fail_all(&self, error: &ClientError) {
        let mut dispatch = self.dispatch();
        dispatch.requests.clear();
        dispatch.due.clear();
        let mut released = 0;
        for topic in self.shared.busy() {
            released += topic.flights().fail(error);
            let mut gather = topic.gather();
            while let Some(pending) = gather.take(0) {
                pending.completion.resolve(Err(error.clone()));
                released += pending.counted;
            }
            gather.looked(0);
        }
        self.shared.inflight.release(released);
    }

    /// Never ends; tells publishers whose time is up.
    async fn watch_deadlines(&self) {
        let timeout = self.shared.inflight.timeout;
        let slack = (timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(250));
        let mut ticks = interval(slack);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            if self.shared.inflight.is_idle() {
                continue;
            }
            for topic in self.shared.busy() {
                topic.flights().expire(now);
                let mut gather = topic.gather();
                gather.close_older(now - slack, timeout);
                for pending in gather.expire(now) {
                    pending.completion.resolve(Err(ClientError::Unavailable(
                        "not sent within the timeout; the record was not written".into(),
                    )));
                    self.shared.inflight.release(pending.counted);
                }
            }
        }
    }
}

impl Dispatch {
    /// Collects frames to write, until there are enough for one write or nothing may be sent.
    fn fill(&mut self, chunks: &mut Chunks, shared: &Shared) -> Result<(), FrameError> {
        shared.take_told(&mut self.due);
        while chunks.bytes() < WRITE_BYTES {
            let Some(topic) = self.due.front().cloned() else {
                break;
            };
            let request = self.next_request;
            let Some(out) = next(&topic, request, shared) else {
                self.due.pop_front();
                continue;
            };
            self.next_request += 1;
            let header = proto::Append {
                request,
                topic: topic.name.as_ref().to_owned(),
                create: shared.create,
                expected_offset: out.expected,
                incarnation: out.incarnation,
            };
            self.requests.insert(request, topic);
            chunks.push_frame(&header, [out.batch])?;
        }
        Ok(())
    }

    /// Takes answers in. Returns whether the node is going away.
    fn answered(&mut self, answers: Vec<proto::Appended>, shared: &Shared) -> bool {
        let (mut released, mut leave) = (0, false);
        for answer in answers {
            let Some(topic) = self.requests.remove(&answer.request) else {
                continue;
            };
            let synced = self.synced(&answer.synced);
            let settled = topic.flights().answered(answer, &synced);
            released += settled.released;
            leave |= settled.leave;
            if !self
                .due
                .back()
                .is_some_and(|last| Arc::ptr_eq(last, &topic))
            {
                self.due.push_back(topic);
            }
        }
        shared.inflight.release(released);
        leave
    }

    /// The names of replicas, in an allocation that answers share as long as they say the same.
    fn synced(&mut self, names: &[String]) -> Arc<[String]> {
        match &self.synced {
            Some(synced) if synced[..] == *names => synced.clone(),
            _ => self.synced.insert(names.into()).clone(),
        }
    }
}

/// The topic's next frame, if it may send one now.
fn next(topic: &Topic, request: u64, shared: &Shared) -> Option<super::flights::Outgoing> {
    let mut flights = topic.flights();
    loop {
        if let Some(out) = flights.resend(request) {
            return Some(out);
        }
        let under_way = flights.bytes();
        let room = flights.has_room();
        let mut gather = topic.gather();
        // While some are under way, a batch gathers until it is worth sending beside them: half as large as they are.
        let worth = if room { under_way / 2 } else { usize::MAX };
        let Some(pending) = room.then(|| gather.take(worth)).flatten() else {
            gather.looked(worth);
            return None;
        };
        drop(gather);
        if let Err(released) = flights.number(pending) {
            shared.inflight.release(released);
        }
    }
}
