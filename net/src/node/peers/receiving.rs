//! Replication messages that come in, no faster than they are taken.

use std::sync::Arc;

use mesh_ring::{
    ids::{NodeId, PartitionId},
    replica::Message,
};
use thiserror::Error;
use tokio::{io::AsyncRead, sync::OwnedSemaphorePermit};

use super::{
    Peers,
    frames::{self, FrameFault},
};
use crate::{
    node::payload::Payload,
    wire::{
        FRAME_BODY_BYTES_MAX,
        frame::{FrameError, FrameReader},
        proto::ReplicaFrame,
    },
};

/// Most bytes of batches that peers make this node hold before they are written. Beyond, streams are not read.
pub const REPLICA_INTAKE_BYTES_MAX: usize = 16 * FRAME_BODY_BYTES_MAX;

/// A share of [`REPLICA_INTAKE_BYTES_MAX`], given back when it is dropped.
#[derive(Debug, Default)]
pub struct Admitted(Option<OwnedSemaphorePermit>);

impl Admitted {
    /// Bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// A message from a peer.
#[derive(Debug)]
pub struct Arrived {
    /// Who sent it.
    pub from: NodeId,
    /// Whose journal it is about.
    pub partition: PartitionId,
    /// What it says.
    pub message: Message<Payload>,
    /// To be kept until the message's entries are written, or dropped.
    pub admitted: Admitted,
}

/// A stream of replication messages is of no more use.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// It was lost, or is no stream of frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame is no message.
    #[error(transparent)]
    Fault(#[from] FrameFault),
}

impl ReceiveError {
    /// Whether the peer sent something that is not this protocol, as opposed to a lost stream.
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Frame(error) => error.is_malformed(),
            Self::Fault(_) => true,
        }
    }
}

impl Peers {
    /// Takes the messages of a stream that `from` has opened with `Replicate`, and hands them to `take` in their order,
    /// each when the one before was taken. Returns when the stream ends.
    ///
    /// # Errors
    /// [`ReceiveError`]. What was handed over before stays so.
    pub async fn receive<R, F, Taken>(
        &self,
        from: NodeId,
        reader: &mut FrameReader<R>,
        take: F,
    ) -> Result<(), ReceiveError>
    where
        R: AsyncRead + Unpin,
        F: Fn(Arrived) -> Taken,
        Taken: Future<Output = ()>,
    {
        while let Some((header, length)) = reader.header::<ReplicaFrame>().await? {
            let admitted = self.admit(length).await;
            let body = reader.body(length).await?;
            let (partition, message) = frames::decode(header, body)?;
            take(Arrived {
                from,
                partition,
                message,
                admitted,
            })
            .await;
        }
        Ok(())
    }

    /// Waits until a body of `length` bytes may be read. Answers have none, and never wait for those who do.
    async fn admit(&self, length: usize) -> Admitted {
        if length == 0 {
            return Admitted::default();
        }
        let bytes = u32::try_from(length.min(REPLICA_INTAKE_BYTES_MAX)).unwrap_or(u32::MAX);
        // It is never closed.
        Admitted(
            Arc::clone(&self.0.intake)
                .acquire_many_owned(bytes)
                .await
                .ok(),
        )
    }
}
