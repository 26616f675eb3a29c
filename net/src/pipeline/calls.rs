//! The side that asks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use quinn::Connection;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use super::{Answer, Outgoing, PIPELINED_BODY_BYTES_MAX};
use crate::wire::{
    frame::{FrameError, FrameReader, FrameWriter},
    proto::{self, PipelineOpen, PipelinedReply, PipelinedRequest, Request, reply, request},
};

/// Most requests that wait for their answers, and most bytes that wait to be written. Further ones go another way, where
/// the transport holds up whoever asks.
const WAITING_MAX: usize = 16_384;
const BYTES_MAX: usize = 4 << 20;
/// Longest answer that is gathered, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Streams of higher priority are sent first: bulk on streams of its own is not to hold up what is small.
const PRIORITY: i32 = 1;

/// Is told what came of a request, once. Must not block.
type Done = Box<dyn FnOnce(Result<Answer, CallError>) + Send>;

/// A request got no answer, or a bad one.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// The node says why not.
    #[error("{}", .0.message)]
    Refused(proto::Error),
    /// The connection went. It may have been done.
    #[error("{0}")]
    Lost(String),
    /// The answer has no meaning here.
    #[error("{0}")]
    Protocol(String),
}

/// Asks over the pipeline of one connection. Dropping it fails what waits.
#[derive(Debug)]
pub(crate) struct Calls(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    outgoing: Outgoing,
    closed: AtomicBool,
    close: Notify,
}

#[derive(Default)]
struct State {
    /// Nothing is taken any more.
    ended: bool,
    /// The number of the last request.
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

struct Waiting {
    done: Done,
    answer: Answer,
    bytes: usize,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Sends a request; `done` is told what comes of it.
    ///
    /// # Errors
    /// Not sent, and nobody was told: the request is too long, too much waits, or the pipeline has ended. A stream of its own
    /// may do.
    pub(crate) fn post<E, F>(&self, request: &Request, body: &Bytes, done: F) -> Result<u64, F>
    where
        E: From<CallError>,
        F: FnOnce(Result<Answer, E>) + Send + 'static,
    {
        let inner = &self.0;
        if body.len() > PIPELINED_BODY_BYTES_MAX || inner.outgoing.bytes() > BYTES_MAX {
            return Err(done);
        }
        let mut state = inner.lock();
        if state.ended || state.waiting.len() >= WAITING_MAX {
            return Err(done);
        }
        let number = state.last + 1;
        let frame = PipelinedRequest {
            number,
            request: Some(request.clone()),
        };
        // Under the lock: numbers go out in their order.
        if inner
            .outgoing
            .push(&frame, std::slice::from_ref(body))
            .is_err()
        {
            return Err(done);
        }
        state.last = number;
        let waiting = Waiting {
            done: Box::new(move |result| done(result.map_err(E::from))),
            answer: Vec::new(),
            bytes: 0,
        };
        state.waiting.insert(number, waiting);
        Ok(number)
    }

    /// Sends a request and waits for the answer. `None`: not sent, as for [`Calls::post`]. Dropping the call gives the answer
    /// up; what was asked may be done all the same.
    pub(crate) async fn call(
        &self,
        request: &Request,
        body: &Bytes,
    ) -> Option<Result<Answer, CallError>> {
        let (tell, told) = oneshot::channel();
        let done = move |result: Result<Answer, CallError>| {
            // Nobody may wait any more.
            let _ = tell.send(result);
        };
        let number = self.post(request, body, done).ok()?;
        let _calling = Calling {
            inner: &self.0,
            number,
        };
        let answer = told.await;
        Some(answer.unwrap_or_else(|_| Err(CallError::Lost("the connection was given up".into()))))
    }

    /// What carries the requests over a connection, until that is lost or the calls are dropped: to be spawned with it. The
    /// stream is opened with the first request.
    pub(crate) fn carry(&self, connection: Connection) -> impl Future<Output = ()> + Send + use<> {
        let inner = Arc::clone(&self.0);
        async move {
            let _ending = Ending(&inner);
            tokio::select! {
                () = inner.is_closed() => {}
                () = inner.run(&connection) => {}
            }
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.close.notify_one();
        self.0.end("the connection was given up");
    }
}

/// Somebody waits for an answer. Dropping it ends that.
struct Calling<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.inner.lock().waiting.remove(&self.number);
    }
}

/// Fails what waits when nobody carries it any more.
struct Ending<'a>(&'a Inner);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end("the connection was lost");
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_closed(&self) {
        while !self.closed.load(Ordering::Acquire) {
            self.close.notified().await;
        }
    }

    async fn run(&self, connection: &Connection) {
        self.outgoing.filled().await;
        let ended = self.stream(connection).await;
        let cause = match (connection.close_reason(), ended) {
            (Some(reason), _) => reason.to_string(),
            (None, Err(error)) => error.to_string(),
            (None, Ok(())) => "the node has ended the stream".to_owned(),
        };
        self.end(&cause);
    }

    async fn stream(&self, connection: &Connection) -> Result<(), FrameError> {
        let (send, receive) = connection
            .open_bi()
            .await
            .map_err(|error| FrameError::Lost(error.into()))?;
        // A stream that has ended already fails at the first write.
        let _ = send.set_priority(PRIORITY);
        let mut writer = FrameWriter::new(send);
        let open = Request::new(request::Kind::Pipeline(PipelineOpen {}));
        writer.header(&open).await?;
        let writing = async {
            let written = self.outgoing.write(&mut writer).await;
            // A node that stops reads no more, and still answers what it took. Further requests go another way.
            self.lock().ended = true;
            match written {
                Err(error) if error.is_malformed() => Err(error),
                Ok(()) | Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            read = self.read(FrameReader::new(receive)) => read,
            failed = writing => failed,
        }
    }

    async fn read(&self, mut reader: FrameReader<quinn::RecvStream>) -> Result<(), FrameError> {
        while let Some((frame, body)) = reader.frame::<PipelinedReply>().await? {
            if let Some(error) = frame.error {
                self.takes_no_more(frame.taken, &error);
                continue;
            }
            let Some(kind) = frame.reply.and_then(|reply| reply.kind) else {
                return Err(FrameError::UnknownKind);
            };
            // What the reader took in at once is not to be kept whole for a part of it.
            let body = Bytes::copy_from_slice(&body);
            self.answered(frame.number, kind, body, frame.more);
        }
        Ok(())
    }

    fn answered(&self, number: u64, kind: reply::Kind, body: Bytes, more: bool) {
        let mut state = self.lock();
        // Where there is none, the caller has given up.
        let Some(mut waiting) = state.waiting.remove(&number) else {
            return;
        };
        waiting.bytes += body.len();
        let result = match kind {
            reply::Kind::Error(error) => Err(CallError::Refused(error)),
            _ if waiting.bytes > ANSWER_BYTES_MAX => Err(CallError::Protocol(format!(
                "an answer of more than {ANSWER_BYTES_MAX} bytes"
            ))),
            kind => {
                waiting.answer.push((kind, body));
                if more {
                    state.waiting.insert(number, waiting);
                    return;
                }
                Ok(waiting.answer)
            }
        };
        drop(state);
        (waiting.done)(result);
    }

    /// The node refuses what comes behind `taken`.
    fn takes_no_more(&self, taken: u64, error: &proto::Error) {
        let mut state = self.lock();
        state.ended = true;
        let refused: Vec<Waiting> = state
            .waiting
            .extract_if(|number, _| *number > taken)
            .map(|(_, waiting)| waiting)
            .collect();
        drop(state);
        for waiting in refused {
            (waiting.done)(Err(CallError::Refused(error.clone())));
        }
    }

    fn end(&self, cause: &str) {
        let mut state = self.lock();
        state.ended = true;
        let lost = std::mem::take(&mut state.waiting);
        drop(state);
        for waiting in lost.into_values() {
            (waiting.done)(Err(CallError::Lost(cause.to_owned())));
        }
    }
}
