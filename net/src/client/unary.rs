//! One question, one answer: a stream of its own for each request.

use bytes::{Buf, Bytes};
use quinn::Connection;
use tokio::time::{Instant, timeout_at};

use super::{
    error::{ClientError, Lost},
    link::{BackOff, Link},
};
use crate::{
    quic::STREAM_GIVEN_UP,
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, ErrorCode, Reply, Request, reply, request},
    },
};

/// Whether a request whose answer was lost may be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repeat {
    /// Doing it twice is as good as once.
    Safe,
    /// It may have been done. The caller must decide.
    Unsafe,
}

/// What an attempt came to.
enum Attempt<T> {
    Done(T),
    /// Not done, and the node may be gone soon.
    Stopping(ClientError),
    Lost(Lost),
}

impl Link {
    /// Asks, and asks again where the connection is lost and that is safe, until the timeout.
    pub(super) async fn ask(
        &self,
        doing: &str,
        repeat: Repeat,
        kind: request::Kind,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let request = Request::new(kind);
        let mut back_off = BackOff::new();
        loop {
            let connection = self.connection(deadline).await?;
            let late = || {
                let known = if repeat == Repeat::Safe {
                    ""
                } else {
                    "; it may have been done"
                };
                ClientError::Unavailable(format!("{doing}: no answer within the timeout{known}"))
            };
            match timeout_at(deadline, attempt(&connection, &request, body.clone()))
                .await
                .map_err(|_| late())?
            {
                Attempt::Done(answer) => return answer,
                Attempt::Stopping(error) if Instant::now() >= deadline => return Err(error),
                Attempt::Lost(Lost::Connection(cause)) if repeat == Repeat::Unsafe => {
                    return Err(ClientError::Unavailable(format!(
                        "{doing}: {cause}; it may have been done"
                    )));
                }
                Attempt::Lost(lost @ Lost::Connection(_)) if Instant::now() >= deadline => {
                    return Err(lost.into_error(doing));
                }
                Attempt::Stopping(_) | Attempt::Lost(Lost::Connection(_)) => {
                    // A node that stops keeps the connection a while; the next attempt is to go to another one.
                    self.forget(&connection);
                    back_off.pause(deadline).await;
                }
                Attempt::Lost(lost) => return Err(lost.into_error(doing)),
            }
        }
    }
}

/// The whole answer: the first reply, and the bodies of all its frames.
pub(super) struct Answer {
    pub(super) replies: Vec<(reply::Kind, Bytes)>,
}

impl Answer {
    /// The only reply, where one frame is all there is.
    pub(super) fn one(self) -> Result<(reply::Kind, Bytes), ClientError> {
        self.replies
            .into_iter()
            .next()
            .ok_or_else(|| ClientError::protocol("nothing"))
    }
}

async fn attempt(
    connection: &Connection,
    request: &Request,
    body: Bytes,
) -> Attempt<Result<Answer, ClientError>> {
    let (send, receive) = match connection.open_bi().await {
        Ok(streams) => streams,
        Err(error) => return Attempt::Lost(Lost::of_connection(&error)),
    };
    let mut writer = FrameWriter::new(send);
    let mut guard = Asking {
        reader: FrameReader::new(receive),
        finished: false,
    };
    // The node may answer, and refuse the rest, before it has taken all of the body: its answer tells more.
    let sent = writer.frame(request, [body]).await;
    writer.finish();
    let mut replies = Vec::new();
    loop {
        let (kind, body) = match guard.reader.frame::<Reply>().await {
            Ok(Some((Reply { kind: Some(kind) }, body))) => (kind, body),
            Ok(Some(_)) => {
                return Attempt::Lost(Lost::Protocol("an answer of no known kind".into()));
            }
            Ok(None) => return Attempt::Lost(Lost::Connection("the answer ended early".into())),
            Err(error) => {
                let error = sent.err().unwrap_or(error);
                return Attempt::Lost(Lost::of_frame(error, connection));
            }
        };
        match kind {
            reply::Kind::Error(error) => {
                guard.finished = true;
                let stopping = error.code() == ErrorCode::Stopping;
                let error = ClientError::from(error);
                return if stopping {
                    Attempt::Stopping(error)
                } else {
                    Attempt::Done(Err(error))
                };
            }
            kind => {
                let more = matches!(&kind, reply::Kind::Values(proto::Values { more: true, .. }));
                replies.push((kind, body));
                if !more {
                    guard.finished = true;
                    return Attempt::Done(Ok(Answer { replies }));
                }
            }
        }
    }
}

/// Tells the node to save itself the answer when the caller stops waiting.
struct Asking {
    reader: FrameReader<quinn::RecvStream>,
    finished: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.finished {
            self.reader.stop(STREAM_GIVEN_UP);
        }
    }
}

/// Cuts a body into the pieces of the given lengths.
pub(super) fn pieces(
    mut body: Bytes,
    lengths: impl Iterator<Item = u32>,
) -> Result<Vec<Bytes>, ClientError> {
    let mut pieces = Vec::new();
    for length in lengths {
        if body.remaining() < length as usize {
            return Err(ClientError::protocol("lengths beyond its body"));
        }
        pieces.push(body.split_to(length as usize));
    }
    Ok(pieces)
}
