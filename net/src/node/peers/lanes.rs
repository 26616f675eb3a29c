//! Writes what waits for a peer, many messages at a time.

use quinn::Connection;
use tokio::task::yield_now;

use super::{
    frames,
    link::{Neighbour, Outgoing},
    outbox::Outbox,
};
use crate::wire::{
    frame::{Chunks, FrameError, FrameReader, FrameWriter},
    proto::{Channel, Replicate, Reply, Request, reply, request::Kind},
};

/// Bytes of messages that are gathered for one write. What comes while it is under way goes into the next.
const WRITE_BYTES: usize = 256 << 10;
/// Streams of higher priority are sent first. Requests have 0.
const LIVE_PRIORITY: i32 = 1;
const CATCH_UP_PRIORITY: i32 = -1;

/// Why a lane is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaneError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the peer ended a stream")]
    Ended,
}

impl From<quinn::ConnectionError> for LaneError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::Frame(FrameError::Lost(error.into()))
    }
}

/// Writes the lanes of one connection until one of them fails.
pub(super) async fn run(peer: &Neighbour, channel: Channel, connection: &Connection) -> LaneError {
    match channel {
        Channel::Control => lane(connection, &peer.prompt, 0).await,
        Channel::Bulk => tokio::select! {
            error = lane(connection, &peer.live, LIVE_PRIORITY) => error,
            error = lane(connection, &peer.catch_up, CATCH_UP_PRIORITY) => error,
        },
    }
}

async fn lane(connection: &Connection, outbox: &Outbox<Outgoing>, priority: i32) -> LaneError {
    match write(connection, outbox, priority).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

enum Never {}

async fn write(
    connection: &Connection,
    outbox: &Outbox<Outgoing>,
    priority: i32,
) -> Result<Never, LaneError> {
    outbox.is_filled().await;
    let (send, receive) = connection.open_bi().await?;
    // A stream that has ended already fails at the first write.
    let _ = send.set_priority(priority);
    let mut writer = FrameWriter::new(send);
    writer
        .header(&Request::new(Kind::Replicate(Replicate {})))
        .await?;
    let writing = async {
        let mut chunks = Chunks::default();
        loop {
            outbox.is_filled().await;
            // Whoever is ready to say something says it first, and it shares a packet: one fsync wakes many partitions.
            yield_now().await;
            for (partition, message) in outbox.take(WRITE_BYTES).await {
                for (header, body) in frames::encode(partition, message) {
                    chunks.push_frame(&header, body)?;
                }
            }
            writer.chunks(&mut chunks).await?;
        }
    };
    let mut reader = FrameReader::new(receive);
    tokio::select! {
        written = writing => written,
        answered = reader.frame::<Reply>() => Err(match answered {
            Ok(Some((Reply { kind: Some(reply::Kind::Error(error)) }, _))) => LaneError::Refused(error.message),
            Ok(_) => LaneError::Ended,
            Err(error) => error.into(),
        }),
    }
}
