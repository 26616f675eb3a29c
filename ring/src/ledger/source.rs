//! What the ledger decides upon: the applied state of a partition, as the store holds it.

use crate::codec::DecodeError;
use crate::ids::{Offset, ProducerId, TopicId};
use crate::producer::ProducerWindow;

/// Where a topic's log begins and ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tail {
    /// First offset that can be read.
    pub first: Offset,
    /// Byte position of the first stored batch.
    pub first_position: u64,
    /// The next offset to be given out.
    pub next: Offset,
    /// Byte position after the last batch.
    pub position: u64,
    /// Append time of the last record, unix milliseconds; 0 where there never was one.
    pub time_ms: u64,
}

/// What one topic remembers of one producer, and when the producer appended last. The default: it never did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Window {
    /// Append time of its newest batch, unix milliseconds.
    pub last_append_ms: u64,
    /// Where its newest batches went.
    pub window: ProducerWindow,
}

/// The applied state of one partition.
///
/// Everything that was reported by [`Ledger::settle`](super::Ledger::settle) is in it: the batches of those entries in
/// the log, unclamped by what readers may see, and what the other commands did to the catalogue. It may be ahead of that
/// (a batch is in the log before it is committed); the ledger never asks about a topic that it knows to be under way.
/// Windows are those of the last checkpoint that was reported by
/// [`Ledger::checkpoint_done`](super::Ledger::checkpoint_done).
pub trait Source {
    /// Why the store could not be read.
    type Error;

    /// Where the topic's log begins and ends, uncommitted batches included; `None` where there is no such topic.
    ///
    /// # Errors
    /// The store cannot tell.
    fn tail(&self, topic: TopicId) -> Result<Option<Tail>, Self::Error>;

    /// The topic that has the name.
    ///
    /// # Errors
    /// The store cannot tell.
    fn topic(&self, name: &str) -> Result<Option<TopicId>, Self::Error>;

    /// The name that the topic has.
    ///
    /// # Errors
    /// The store cannot tell.
    fn name(&self, topic: TopicId) -> Result<Option<String>, Self::Error>;

    /// The checkpointed window of a producer.
    ///
    /// # Errors
    /// The store cannot tell.
    fn window(&self, topic: TopicId, producer: ProducerId) -> Result<Option<Window>, Self::Error>;

    /// Byte position where the batch that holds `offset` begins; `None` where no batch of the log holds it.
    ///
    /// # Errors
    /// The store cannot tell.
    fn position_of(&self, topic: TopicId, offset: Offset) -> Result<Option<u64>, Self::Error>;
}

impl Window {
    /// The canonical bytes: last append u64 BE | the producer window's own.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.last_append_ms.to_be_bytes().to_vec();
        out.extend(self.window.encode());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`]: any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (time, window) = bytes.split_first_chunk().ok_or(DecodeError::Truncated)?;
        Ok(Self {
            last_append_ms: u64::from_be_bytes(*time),
            window: ProducerWindow::decode(window)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_bytes() {
        let mut window = Window {
            last_append_ms: 258,
            window: ProducerWindow::default(),
        };
        window.window.record(3, 0, 7, 9);
        let bytes = [0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 3, 0, 0, 0, 0, 1, 7, 2];
        assert_eq!(window.encode(), bytes);
        assert_eq!(Window::decode(&bytes), Ok(window));
        assert_eq!(Window::decode(&bytes[..7]), Err(DecodeError::Truncated));
        assert_eq!(Window::decode(&bytes[..18]), Err(DecodeError::Truncated));
    }
}
