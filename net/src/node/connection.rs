//! Connections and their streams: who is it, what does it ask, may it.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming, RecvStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::gate::{Answer, Pass};
use super::partition::Ask;
use super::peers::Greeting;
use super::{Shared, append, close, pipeline, reply, requests, tail, transfer, watches};
use crate::identity::{Peer, REVOKED_REASON, Role};
use crate::wire::frame::{FrameError, FrameReader, FrameWriter};
use crate::wire::proto::{
    Error, NodeHello, Reply, Request, reply::Kind as ReplyKind, request::Kind,
};
use crate::wire::{FRAME_BODY_BYTES_MAX, PROTOCOL_VERSION};

/// How long a stream may take to say what it wants.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a handshake may take. Its peer is not known yet, and keeps a place from others.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// One stream of a known peer.
pub(super) struct Stream {
    pub(super) peer: Arc<Peer>,
    pub(super) reader: FrameReader<RecvStream>,
    pub(super) writer: FrameWriter,
    /// What the streams of this connection may hold in bodies that nobody has taken yet.
    pub(super) intake: Arc<Semaphore>,
    /// Which node is at the other end, where it is one.
    pub(super) greeting: Arc<Greeting>,
}

/// Most bytes of bodies that one connection makes the node hold before the engine takes them.
const INTAKE_BYTES_MAX: usize = 4 * FRAME_BODY_BYTES_MAX;

/// Takes connections until the node stops.
pub(super) async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    loop {
        let incoming = tokio::select! {
            () = shared.tasks.stopping() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let address = incoming.remote_address();
        let proved = incoming.remote_address_validated();
        match shared.gate.knock(endpoint.open_connections(), proved) {
            Answer::Welcome(pass) => {
                let serving = connection(Arc::clone(&shared), incoming, pass);
                shared.tasks.spawn("connection", serving);
            }
            Answer::Prove => {
                tracing::debug!(%address, "many handshakes are under way: the address is to be proved");
                // One whose address is not proved may always be asked to; if not, dropping it refuses it.
                let _ = incoming.retry();
            }
            Answer::Refuse(cause) => {
                tracing::debug!(%address, cause, "refused a handshake");
                incoming.refuse();
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, incoming: Incoming, mut pass: Pass) {
    let address = incoming.remote_address();
    let handshake = tokio::select! {
        () = shared.tasks.stopping() => return,
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming) => handshake,
    };
    let connection = match handshake {
        Ok(Ok(connection)) => connection,
        // Anyone can make as many of these as the network carries, so that they are not worth more.
        Ok(Err(error)) => return tracing::debug!(%address, %error, "a handshake failed"),
        Err(_) => return tracing::debug!(%address, "a handshake took too long"),
    };
    let peer = match Peer::of_connection(&connection) {
        Ok(peer) => Arc::new(peer),
        Err(error) => {
            tracing::info!(%address, %error, "refused a certificate");
            return connection.close(close::NOT_A_PEER, error.to_string().as_bytes());
        }
    };
    pass.established();
    tracing::debug!(%address, peer = peer.name, "connected");
    tokio::select! {
        () = serve(&shared, &connection, &peer) => {}
        () = shared.identity.revoked().until_revoked(peer.fingerprint) => {
            tracing::info!(%address, peer = peer.name, "closed a connection whose certificate is revoked");
            connection.close(close::NOT_A_PEER, REVOKED_REASON);
        }
    }
    tracing::debug!(%address, peer = peer.name, "disconnected");
}

async fn serve(shared: &Arc<Shared>, connection: &Connection, peer: &Arc<Peer>) {
    let intake = Arc::new(Semaphore::new(INTAKE_BYTES_MAX));
    let greeting = Arc::new(Greeting::default());
    let mut map = shared.control.map();
    loop {
        let stream = tokio::select! {
            Ok(()) = map.changed() => {
                let node = greeting.caller().map(|caller| caller.node);
                if node.is_some_and(|node| map.borrow_and_update().is_removed(node)) {
                    tracing::info!(peer = peer.name, "closed a connection from a node that was removed");
                    return connection.close(close::NOT_A_PEER, b"removed from the cluster");
                }
                continue;
            }
            () = shared.tasks.stopping() => return,
            stream = connection.accept_bi() => stream,
            datagram = connection.read_datagram(), if peer.role == Role::Node => {
                let Ok(datagram) = datagram else { return };
                if greeting.caller().is_some() {
                    shared.gossip.hear(datagram);
                }
                continue;
            }
        };
        let Ok((send, receive)) = stream else { return };
        let stream = Stream {
            peer: Arc::clone(peer),
            reader: FrameReader::new(receive),
            writer: FrameWriter::new(send),
            intake: Arc::clone(&intake),
            greeting: Arc::clone(&greeting),
        };
        let shared_too = Arc::clone(shared);
        shared
            .tasks
            .spawn("stream", serve_stream(shared_too, stream));
    }
}

/// Answers one stream. What is not of this protocol is answered as far as possible and ends the stream, no more.
async fn serve_stream(shared: Arc<Shared>, mut stream: Stream) {
    let opening = tokio::select! {
        opening = tokio::time::timeout(OPENING_TIMEOUT, stream.reader.header::<Request>()) => opening,
        () = shared.tasks.stopping() => return stream.refuse(reply::stopping()).await,
    };
    let (request, length) = match opening {
        Ok(Ok(Some(header))) => header,
        Ok(Ok(None)) => return,
        Ok(Err(error)) if error.is_malformed() => {
            return stream.refuse(reply::malformed(error)).await;
        }
        Ok(Err(_)) => return,
        Err(_) => {
            return stream
                .refuse(reply::malformed("no request came in time"))
                .await;
        }
    };
    if request.version != PROTOCOL_VERSION {
        return stream.refuse(reply::unsupported(request.version)).await;
    }
    let forwarded = request.forwarded;
    if forwarded && stream.peer.role != Role::Node {
        return stream
            .refuse(reply::malformed("only nodes pass requests on"))
            .await;
    }
    match request.kind {
        None => {
            stream
                .refuse(reply::malformed(FrameError::UnknownKind))
                .await
        }
        Some(Kind::Append(open)) => append::serve(shared, stream, &open).await,
        Some(Kind::Tail(open)) => tail::serve(shared, stream, open).await,
        Some(Kind::Watch(open)) => watches::serve(shared, stream, open).await,
        Some(Kind::NodeHello(hello)) => greet(&shared, stream, &hello).await,
        Some(Kind::Replicate(_)) => replicate(&shared, stream).await,
        Some(Kind::Pipeline(_)) => pipeline::serve(shared, stream).await,
        Some(Kind::PullPartition(pull)) => transfer::serve(&shared, stream, &pull).await,
        Some(kind) => requests::serve(&shared, stream, kind, forwarded, length).await,
    }
}

/// Tells another node who this one is, and remembers who it is.
async fn greet(shared: &Arc<Shared>, mut stream: Stream, hello: &NodeHello) {
    let version = shared.map().version();
    let greeted = stream
        .greeting
        .answer(&shared.peers, &stream.peer, hello, version);
    match greeted {
        Ok(is) => {
            let reply = Reply {
                kind: Some(ReplyKind::NodeIs(is)),
            };
            if stream.writer.header(&reply).await.is_ok() {
                stream.writer.finish();
                stream.writer.delivered().await;
            }
        }
        Err(error) => stream.refuse(error).await,
    }
}

/// Takes another replica's messages, no faster than their partitions do.
async fn replicate(shared: &Arc<Shared>, mut stream: Stream) {
    let from = match stream.greeting.require() {
        Ok(caller) => caller.node,
        Err(error) => return stream.refuse(error).await,
    };
    let taking = shared.peers.receive(from, &mut stream.reader, |arrived| {
        let partition = shared.partitions.get(arrived.partition);
        let arriving = shared.partitions.arriving(arrived.partition);
        async move {
            if let Some(arrival) = arriving {
                return arrival.hear(shared, arrived.from, &arrived.message).await;
            }
            // A partition that is not kept here answers nothing; whoever sent it hears of the new map.
            if let Some(partition) = partition {
                let ask = Ask::Received {
                    from: arrived.from,
                    message: arrived.message,
                    admitted: arrived.admitted,
                };
                let _ = partition.send(ask).await;
            }
        }
    });
    let taken = tokio::select! {
        taken = taking => taken,
        () = shared.tasks.stopping() => return,
    };
    if let Err(error) = taken
        && error.is_malformed()
    {
        tracing::warn!(peer = stream.peer.name, %error, "a node sent what is no message");
        stream.refuse(reply::malformed(error)).await;
    }
}

impl Stream {
    /// Waits until the connection's streams hold little enough for a body of `length` bytes; the permit is that body's.
    pub(super) async fn admit(
        intake: &Arc<Semaphore>,
        length: usize,
    ) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(length.min(INTAKE_BYTES_MAX)).ok()?;
        Arc::clone(intake).acquire_many_owned(bytes).await.ok()
    }

    /// Answers with an error and ends the stream.
    pub(super) async fn refuse(mut self, error: Error) {
        let reply = Reply {
            kind: Some(ReplyKind::Error(error)),
        };
        if self.writer.header(&reply).await.is_ok() {
            self.writer.finish();
        }
        self.reader.stop(close::MALFORMED);
        self.writer.delivered().await;
    }
}
