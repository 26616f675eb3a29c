//! The side of a pipeline that answers: requests in, as they come; answers out, many to a write.
//!
//! Copies of bindings between nodes, of which there are the most, are handed to the store and read from its memory by the task
//! that takes them in; everything else has a task of its own.

use std::sync::Arc;

use bytes::Bytes;
use quinn::RecvStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::Stream;
use super::requests::{Answers, Caller};
use super::{Shared, bindings, close, reply, requests};
use crate::identity::Role;
use crate::pipeline::Outgoing;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::frame::{FrameError, FrameReader};
use crate::wire::proto::{
    Error, PipelinedReply, PipelinedRequest, Reply, reply::Kind as Answer, request::Kind,
};

/// Memory that a request holds beside its body until it is answered, in bytes, with a margin: what bounds how many are
/// under way.
const REQUEST_BYTES: usize = 4_096;

/// Bytes of answers that may wait to be written when another request is taken.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A request that is to be answered, once. Dropping it says that the outcome is open.
pub(super) struct Ticket {
    outgoing: Arc<Outgoing>,
    number: u64,
    answered: bool,
    /// The connection's bound on what is under way, until the answer is written.
    admitted: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    fn new(outgoing: &Arc<Outgoing>, number: u64, admitted: OwnedSemaphorePermit) -> Self {
        outgoing.owe();
        Self {
            outgoing: Arc::clone(outgoing),
            number,
            answered: false,
            admitted: Some(admitted),
        }
    }

    pub(super) fn answer(mut self, result: Result<Answers, Error>) {
        self.write(result);
    }

    fn write(&mut self, result: Result<Answers, Error>) {
        self.answered = true;
        let answers = result.unwrap_or_else(|error| requests::plain(Answer::Error(error)));
        let last = answers.len().saturating_sub(1);
        for (at, (kind, body)) in answers.into_iter().enumerate() {
            let frame = PipelinedReply {
                number: self.number,
                reply: Some(Reply { kind: Some(kind) }),
                more: at < last,
                ..PipelinedReply::default()
            };
            if let Err(error) = self.outgoing.push(&frame, &[body]) {
                tracing::error!(%error, "an answer breaks a limit of the protocol");
                self.refuse();
                break;
            }
        }
    }

    fn refuse(&self) {
        let frame = PipelinedReply {
            number: self.number,
            reply: Some(Reply {
                kind: Some(Answer::Error(reply::internal())),
            }),
            ..PipelinedReply::default()
        };
        // It is short.
        let _ = self.outgoing.push(&frame, &[]);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.write(Err(reply::cut_off()));
        }
        self.outgoing.paid(self.admitted.take());
    }
}

/// Serves a pipeline until the caller ends it or the node stops; what was taken is answered either way.
pub(super) async fn serve(shared: Arc<Shared>, stream: Stream) {
    let Stream {
        peer,
        reader,
        mut writer,
        intake,
        greeting,
    } = stream;
    let caller = Caller {
        peer,
        node: greeting.caller().map(|caller| caller.node),
        forwarded: false,
    };
    let outgoing = Arc::new(Outgoing::default());
    let taking = Intake {
        shared: &shared,
        caller,
        outgoing: &outgoing,
        intake: &intake,
    };
    // Where the stream is lost, the answers are too; what was taken is still done.
    let (_, _) = tokio::join!(taking.run(reader), outgoing.write(&mut writer));
    writer.finish();
    writer.delivered().await;
}

struct Intake<'a> {
    shared: &'a Arc<Shared>,
    caller: Caller,
    outgoing: &'a Arc<Outgoing>,
    intake: &'a Arc<Semaphore>,
}

impl Intake<'_> {
    async fn run(self, mut reader: FrameReader<RecvStream>) {
        let mut taken = 0;
        let ended = tokio::select! {
            ended = self.take_all(&mut reader, &mut taken) => ended,
            () = self.shared.tasks.stopping() => Some(reply::stopping()),
        };
        if let Some(error) = ended {
            let frame = PipelinedReply {
                error: Some(error),
                taken,
                ..PipelinedReply::default()
            };
            // It is short.
            let _ = self.outgoing.push(&frame, &[]);
            // A caller that goes on sending is told to stop.
            reader.stop(close::STOPPING);
        }
        self.outgoing.end();
    }

    /// Takes requests until the caller ends the stream, or one of them is no request.
    async fn take_all(
        &self,
        reader: &mut FrameReader<RecvStream>,
        taken: &mut u64,
    ) -> Option<Error> {
        loop {
            let frame = match reader.header::<PipelinedRequest>().await {
                Ok(frame) => frame?,
                Err(error) => return of_frame(error),
            };
            let (PipelinedRequest { number, request }, length) = frame;
            // Of a caller that does not read its answers no more requests are taken.
            self.outgoing.room(ANSWER_BYTES_MAX).await;
            let bytes = length + REQUEST_BYTES;
            let admitted = Stream::admit(self.intake, bytes).await?;
            let body = match reader.body(length).await {
                Ok(body) => body,
                Err(error) => return of_frame(error),
            };
            if number != *taken + 1 {
                return Some(reply::malformed("requests that are not numbered in order"));
            }
            let request = request.unwrap_or_default();
            if request.version != PROTOCOL_VERSION {
                return Some(reply::unsupported(request.version));
            }
            if request.forwarded && self.caller.peer.role != Role::Node {
                return Some(reply::malformed("only nodes pass requests on"));
            }
            let Some(kind) = request.kind else {
                return Some(reply::malformed(FrameError::UnknownKind));
            };
            let caller = Caller {
                forwarded: request.forwarded,
                ..self.caller.clone()
            };
            // From here on it is answered, whatever happens.
            *taken = number;
            let ticket = Ticket::new(self.outgoing, number, admitted);
            self.take(caller, kind, body, ticket).await;
        }
    }

    async fn take(&self, caller: Caller, kind: Kind, body: Bytes, ticket: Ticket) {
        let shared = Arc::clone(self.shared);
        match kind {
            // A state of a newer map may wait until that has come.
            Kind::StoreBinding(store) if !shared.lacks_map_of(store.stamp.as_ref()) => {
                let done = |result| ticket.answer(result);
                bindings::store(&shared, &caller, store, body, done).await;
            }
            Kind::FetchBinding(fetch) => {
                if let Some(result) = bindings::fetch_at_hand(&shared, &caller, &fetch) {
                    return ticket.answer(result);
                }
                self.shared.tasks.spawn("binding copy", async move {
                    ticket.answer(bindings::fetch(&shared, &caller, fetch).await);
                });
            }
            kind => self.shared.tasks.spawn("request", async move {
                let done = |result| ticket.answer(result);
                requests::carry_out(&shared, &caller, kind, body, done).await;
            }),
        }
    }
}

/// What the caller is told of a frame that could not be read; `None` where the stream is lost.
fn of_frame(error: FrameError) -> Option<Error> {
    error.is_malformed().then(|| reply::malformed(error))
}
