//! The taker's end of a transfer's stream.

use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{HELD_TOPICS_MAX, Holding};
use mesh_ring::ids::NodeId;
use quinn::RecvStream;
use tokio::time::{Instant, timeout};

use crate::node::Shared;
use crate::quic::STREAM_GIVEN_UP;
use crate::wire::FRAME_BODY_BYTES_MAX;
use crate::wire::frame::{FrameReader, FrameWriter};
use crate::wire::proto::{
    PartitionPart, PullPartition, Reply, Request, reply::Kind as Answer, request,
};

/// How long a source may take to answer at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long either side may take between two frames.
pub(super) const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that a topic takes in what a taker says that it holds.
const HELD_TOPIC_BYTES: usize = 16;

/// What is held is told in one frame.
const _: () = assert!(HELD_TOPICS_MAX * HELD_TOPIC_BYTES + 64 <= FRAME_BODY_BYTES_MAX);

/// The parts of a copy, one after the other. Dropping it tells the giver to save itself the rest.
pub(super) struct Parts {
    writer: FrameWriter,
    reader: FrameReader<RecvStream>,
    ended: bool,
}

impl Parts {
    /// Asks for a copy.
    ///
    /// # Errors
    /// Why `from` was not asked.
    pub(super) async fn ask(
        shared: &Shared,
        from: NodeId,
        pull: PullPartition,
    ) -> Result<Parts, String> {
        let request = Request::new(request::Kind::PullPartition(pull));
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let opened = shared.peers.open(from, &request, deadline).await;
        let (writer, reader) = opened.map_err(|error| error.to_string())?;
        Ok(Parts {
            writer,
            reader,
            ended: false,
        })
    }

    /// The next part, with its rows.
    ///
    /// # Errors
    /// Nothing came in time, the giver says why not, or the stream is over.
    pub(super) async fn next(&mut self) -> Result<(PartitionPart, Bytes), String> {
        let next = timeout(PART_TIMEOUT, self.reader.frame::<Reply>())
            .await
            .map_err(|_| "nothing came for too long")?;
        let (reply, rows) = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                self.ended = true;
                return Err("the copy ended early".into());
            }
            Err(error) => return Err(error.to_string()),
        };
        match reply.kind {
            Some(Answer::PartitionPart(part)) => Ok((part, rows)),
            Some(Answer::Error(error)) => Err(error.message),
            _ => Err("an answer of another kind".into()),
        }
    }

    /// Says what is held.
    ///
    /// # Errors
    /// The stream is lost.
    pub(super) async fn tell(&mut self, holding: Option<Holding>) -> Result<(), String> {
        let body = holding.map_or(Bytes::new(), |holding| holding.encode().into());
        let request = Request::new(request::Kind::PullPartition(PullPartition::default()));
        timeout(PART_TIMEOUT, self.writer.frame(&request, [body]))
            .await
            .map_err(|_| "what is held was not taken in time")?
            .map_err(|error| error.to_string())
    }

    /// Says that nothing more is going to be said.
    pub(super) fn listen_only(&mut self) {
        self.writer.finish();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !self.ended {
            self.reader.stop(STREAM_GIVEN_UP);
        }
    }
}
