//! Requests to a peer: a stream of its own for each.

use std::net::SocketAddr;

use bytes::Bytes;
use mesh_ring::{ids::NodeId, swim};
use quinn::{Connection, RecvStream};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use super::{
    Peers,
    dial::{self, DIAL_TIMEOUT, DialError, Expected},
    link,
};
use crate::{
    pipeline::CallError,
    quic::{CLOSE_DONE, STREAM_GIVEN_UP},
    wire::{
        frame::{FrameError, FrameReader, FrameWriter},
        proto::{self, Channel, ControlCall, NodeIs, Reply, Request, reply, request},
    },
};

/// Most bytes of an answer that is gathered as a whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A peer gave no answer, or a bad one.
#[derive(Debug, Error)]
pub enum AskError {
    /// It was not asked: no address of it is known, or there is no connection.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// No answer in time. It may have done what it was asked.
    #[error("no answer in time; it may have been done")]
    Late,
    /// The connection was lost. It may have done what it was asked.
    #[error("the connection was lost: {0}; it may have been done")]
    Lost(String),
    /// It says why not.
    #[error("{}", .0.message)]
    Refused(proto::Error),
    /// It answers something that has no meaning here.
    #[error("not an answer of this protocol: {0}")]
    Protocol(String),
}

impl From<FrameError> for AskError {
    fn from(error: FrameError) -> Self {
        if error.is_malformed() && !matches!(error, FrameError::Truncated) {
            Self::Protocol(error.to_string())
        } else {
            Self::Lost(error.to_string())
        }
    }
}

impl From<CallError> for AskError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => Self::Refused(error),
            CallError::Lost(cause) => Self::Lost(cause),
            CallError::Protocol(cause) => Self::Protocol(cause),
        }
    }
}

impl From<DialError> for AskError {
    fn from(error: DialError) -> Self {
        Self::NotConnected(error.to_string())
    }
}

/// The frames of an answer, one after the other. Dropping it tells the peer to save itself the rest.
#[derive(Debug)]
pub struct Replies {
    reader: FrameReader<RecvStream>,
    ended: bool,
}

impl Replies {
    /// The next frame; `None` at the end. Not cancel-safe: a dropped call leaves the stream within a frame.
    ///
    /// # Errors
    /// [`AskError::Refused`], [`AskError::Lost`], [`AskError::Protocol`]. The answer is over then.
    pub async fn next(&mut self) -> Result<Option<(reply::Kind, Bytes)>, AskError> {
        if self.ended {
            return Ok(None);
        }
        let frame = self.reader.frame::<Reply>().await;
        self.ended = !matches!(&frame, Ok(Some(_)));
        match frame? {
            None => Ok(None),
            Some((
                Reply {
                    kind: Some(reply::Kind::Error(error)),
                },
                _,
            )) => {
                self.ended = true;
                Err(AskError::Refused(error))
            }
            Some((Reply { kind: Some(kind) }, body)) => Ok(Some((kind, body))),
            Some(_) => Err(AskError::Protocol("an answer of no known kind".into())),
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if !self.ended {
            self.reader.stop(STREAM_GIVEN_UP);
        }
    }
}

impl Peers {
    /// Asks a node over its bulk connection, and gathers the whole answer. Waits while the connection is being dialled,
    /// and fails at once where the last attempt had failed. Cancel-safe; what was asked may be done all the same.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(
        &self,
        to: NodeId,
        request: &Request,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Vec<(reply::Kind, Bytes)>, AskError> {
        self.ask_over(Channel::Bulk, to, request, body, deadline)
            .await
    }

    /// Asks a node over its control connection, which every node keeps to every other one: no other connection is dialled
    /// for it. For what is small and seldom. Otherwise as [`Peers::ask`].
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_aside(
        &self,
        to: NodeId,
        request: &Request,
        deadline: Instant,
    ) -> Result<Vec<(reply::Kind, Bytes)>, AskError> {
        self.ask_over(Channel::Control, to, request, Bytes::new(), deadline)
            .await
    }

    /// Asks a node over the pipeline of its bulk connection, without waiting; `done` is told what came of it, when the
    /// connection is lost at the latest, and must not block. For what is small.
    ///
    /// # Errors
    /// Not sent, and nobody was told: there is no connection, or too much waits. [`Peers::ask`] waits for both.
    pub(in crate::node) fn post<F>(
        &self,
        to: NodeId,
        request: &Request,
        body: &Bytes,
        done: F,
    ) -> Result<(), F>
    where
        F: FnOnce(Result<Vec<(reply::Kind, Bytes)>, AskError>) + Send + 'static,
    {
        let calls = self
            .neighbour(to)
            .and_then(|neighbour| neighbour.link(Channel::Bulk).calls());
        let Some(calls) = calls else { return Err(done) };
        calls.post(request, body, done).map(drop)
    }

    async fn ask_over(
        &self,
        channel: Channel,
        to: NodeId,
        request: &Request,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Vec<(reply::Kind, Bytes)>, AskError> {
        let connection = self.connection(to, channel, deadline).await?;
        timeout_at(deadline, exchange(&connection, request, body))
            .await
            .map_err(|_| AskError::Late)?
    }

    /// Passes a message of the control plane to a node, over its control connection, and returns the answer. Otherwise as
    /// [`Peers::ask`].
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn control_call(
        &self,
        to: NodeId,
        call: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, AskError> {
        let connection = self.connection(to, Channel::Control, deadline).await?;
        let request = Request::new(request::Kind::ControlCall(ControlCall {}));
        let answer = timeout_at(deadline, exchange(&connection, &request, call))
            .await
            .map_err(|_| AskError::Late)??;
        match answer.into_iter().next() {
            Some((reply::Kind::ControlAnswer(_), body)) => Ok(body),
            other => Err(AskError::Protocol(format!("{other:?} to a control call"))),
        }
    }

    /// Asks a node over its bulk connection, and returns the answer as it comes, however long it is. `deadline` is that
    /// of the connection.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn pull(
        &self,
        to: NodeId,
        request: &Request,
        deadline: Instant,
    ) -> Result<Replies, AskError> {
        let (mut writer, reader) = self.open(to, request, deadline).await?;
        writer.finish();
        Ok(Replies {
            reader,
            ended: false,
        })
    }

    /// Opens a stream to a node over its bulk connection, and sends the request that begins it. For those that stay:
    /// appends and tails that are passed on.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn open(
        &self,
        to: NodeId,
        request: &Request,
        deadline: Instant,
    ) -> Result<(FrameWriter, FrameReader<RecvStream>), AskError> {
        let connection = self.connection(to, Channel::Bulk, deadline).await?;
        let opening = async {
            let (send, receive) = open_bi(&connection).await?;
            let mut writer = FrameWriter::new(send);
            writer.header(request).await?;
            Ok((writer, FrameReader::new(receive)))
        };
        timeout_at(deadline, opening)
            .await
            .map_err(|_| AskError::Late)?
    }

    /// Asks whichever node of this cluster answers at `HOST:PORT`, over a connection of its own. Returns who it was.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_at(
        &self,
        address: &str,
        request: &Request,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(NodeIs, Vec<(reply::Kind, Bytes)>), AskError> {
        let asking = async {
            let anyone = Expected {
                node: None,
                name: "",
            };
            let dialled = dial::dial(
                &self.0.shared,
                address,
                &anyone,
                Channel::Bulk,
                DIAL_TIMEOUT,
            )
            .await?;
            let answer = exchange(&dialled.connection, request, body).await;
            dialled.connection.close(CLOSE_DONE, b"");
            Ok((dialled.is, answer?))
        };
        timeout_at(deadline, asking)
            .await
            .map_err(|_| AskError::Late)?
    }

    /// The addresses of `HOST:PORT`, each once, and not more than there is sense in trying.
    ///
    /// # Errors
    /// [`DialError::Resolve`].
    pub async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
        dial::resolve(address).await
    }

    /// Asks whoever is at `addr`, an address of `name`, which node it is and where it is reached.
    ///
    /// # Errors
    /// [`DialError`]; also where it is this node itself.
    pub async fn greet_at(&self, name: &str, addr: SocketAddr) -> Result<swim::Contact, DialError> {
        let anyone = Expected {
            node: None,
            name: "",
        };
        let dialled = dial::dial_one(
            &self.0.shared,
            name,
            addr,
            &anyone,
            Channel::Bulk,
            DIAL_TIMEOUT,
        )
        .await?;
        dialled.connection.close(CLOSE_DONE, b"");
        Ok(swim::Contact {
            node: dialled.node,
            address: dialled.is.address,
        })
    }

    async fn connection(
        &self,
        to: NodeId,
        channel: Channel,
        deadline: Instant,
    ) -> Result<Connection, AskError> {
        let neighbour = self
            .neighbour(to)
            .ok_or_else(|| AskError::NotConnected(format!("node {to} is not in the ring")))?;
        link::want(&self.0, &neighbour, channel);
        timeout_at(deadline, neighbour.link(channel).settled())
            .await
            .map_err(|_| AskError::NotConnected("still dialling".into()))?
            .map_err(AskError::NotConnected)
    }
}

async fn open_bi(connection: &Connection) -> Result<(quinn::SendStream, RecvStream), AskError> {
    connection
        .open_bi()
        .await
        .map_err(|error| AskError::NotConnected(error.to_string()))
}

/// Asks on a stream of its own and gathers the whole answer.
pub(super) async fn exchange(
    connection: &Connection,
    request: &Request,
    body: Bytes,
) -> Result<Vec<(reply::Kind, Bytes)>, AskError> {
    let (send, receive) = open_bi(connection).await?;
    let mut replies = Replies {
        reader: FrameReader::new(receive),
        ended: false,
    };
    let mut writer = FrameWriter::new(send);
    // A peer may refuse before it has taken all of the body: its answer tells more.
    let sent = writer.frame(request, [body]).await;
    writer.finish();
    let (mut answer, mut bytes) = (Vec::new(), 0);
    loop {
        match replies.next().await {
            Ok(Some((kind, body))) => {
                bytes += body.len();
                if bytes > ANSWER_BYTES_MAX {
                    return Err(AskError::Protocol(format!(
                        "an answer of more than {ANSWER_BYTES_MAX} bytes"
                    )));
                }
                answer.push((kind, body));
            }
            Ok(None) if answer.is_empty() => {
                return Err(match sent {
                    Err(error) => error.into(),
                    Ok(()) => AskError::Lost("the answer ended early".into()),
                });
            }
            Ok(None) => return Ok(answer),
            Err(error @ (AskError::Refused(_) | AskError::Protocol(_))) => return Err(error),
            Err(error) => {
                return Err(sent.err().map_or(error, AskError::from));
            }
        }
    }
}
