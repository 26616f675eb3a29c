//! What an interrupted import holds, told to whoever exports the partition next.
//!
//! Each topic's rows that are held are one run without a gap, from where its log began at the giver to some batch, and a
//! record that was committed once is the same in every export: where the run ends is all that another giver must know.
//! That holds for however long the import lay still, and whatever the giver's journal still reaches back to.

use bytes::Buf;
use mesh_ring::ids::{Index, Offset, PartitionId, TopicId};

use crate::codec::{CodecError, take_u8, take_u64};
use crate::engine::Engine;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::undecodable;

/// Most topics of which it is told what is held of them. Of others all rows are sent again, which does no harm.
pub const HELD_TOPICS_MAX: usize = 200_000;

const VERSION: u8 = 1;

/// What an interrupted import holds of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Names it: [`crate::ExportHeader::continues`].
    pub token: [u8; 32],
    /// No row is of a later entry: only an export that is not behind it goes on from there.
    pub commit: Index,
    /// Topics by ascending id, each with the offset behind its last row that is held.
    pub topics: Vec<(TopicId, Offset)>,
}

impl Holding {
    /// version u8 | token, 32 bytes | commit u64 BE | of each topic: id u64 BE, next offset u64 BE.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 32 + 8 + self.topics.len() * 16);
        out.push(VERSION);
        out.extend_from_slice(&self.token);
        out.extend_from_slice(&self.commit.0.to_be_bytes());
        for (topic, next) in &self.topics {
            out.extend_from_slice(&topic.0.to_be_bytes());
            out.extend_from_slice(&next.to_be_bytes());
        }
        out
    }

    /// Reads what [`Holding::encode`] wrote.
    ///
    /// # Errors
    /// Any other bytes, topics that do not ascend, and more than [`HELD_TOPICS_MAX`].
    pub fn decode(mut from: &[u8]) -> Result<Holding, CodecError> {
        let from = &mut from;
        match take_u8(from)? {
            VERSION => {}
            other => return Err(CodecError::Unknown("holding version", other.into())),
        }
        let mut token = [0; 32];
        from.try_copy_to_slice(&mut token)
            .map_err(|_| CodecError::Short)?;
        let commit = Index(take_u64(from)?);
        let count = from.len() / 16;
        if count > HELD_TOPICS_MAX {
            return Err(CodecError::Unknown("number of topics", count as u64));
        }
        let mut topics: Vec<(TopicId, Offset)> = Vec::with_capacity(count);
        while !from.is_empty() {
            let (topic, next) = (TopicId(take_u64(from)?), take_u64(from)?);
            if next == 0 || topics.last().is_some_and(|(last, _)| *last >= topic) {
                return Err(CodecError::Unknown("topic that is held", topic.0));
            }
            topics.push((topic, next));
        }
        Ok(Holding {
            token,
            commit,
            topics,
        })
    }
}

impl Engine {
    /// What an import of the partition that is under way holds; `None` where none is. It reads one batch a topic.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn import_holding(&self, partition: PartitionId) -> Result<Option<Holding>, ReadError> {
        let Some(progress) = self.progress(partition)? else {
            return Ok(None);
        };
        let prefix = partition.0.to_be_bytes();
        let mut iterator = self.store().iterate(family::LOG, &prefix);
        iterator.seek_to_last();
        let mut topics = Vec::new();
        while topics.len() < HELD_TOPICS_MAX
            && let Some(key) = iterator.key()
        {
            let (topic, last) = keys::parse_log_key(key)
                .filter(|(_, last)| *last < Offset::MAX)
                .ok_or_else(|| undecodable("a key of the log", &"it is none that is written"))?;
            topics.push((topic.id, last + 1));
            // What is before all of a topic's keys is the last of the topic before.
            iterator.seek_for_prev(keys::topic_prefix(topic));
        }
        iterator
            .status()
            .map_err(|error| self.store().read_error(family::LOG, &prefix, &error))?;
        topics.reverse();
        Ok(Some(Holding {
            token: progress.token(),
            commit: progress.commit,
            topics,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holding(topics: &[(u64, Offset)]) -> Holding {
        Holding {
            token: [5; 32],
            commit: Index(6),
            topics: topics
                .iter()
                .map(|(topic, next)| (TopicId(*topic), *next))
                .collect(),
        }
    }

    #[test]
    fn holding_bytes() {
        let bytes = holding(&[(7, 8)]).encode();
        assert_eq!(bytes[..33], [&[1][..], &[5; 32]].concat());
        assert_eq!(
            bytes[33..],
            [
                0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8
            ]
        );
        assert_eq!(Holding::decode(&bytes), Ok(holding(&[(7, 8)])));
        let last = bytes.len() - 1;
        assert_eq!(Holding::decode(&bytes[..last]), Err(CodecError::Short));
        for wrong in [&[(7, 0)][..], &[(7, 1), (7, 2)], &[(7, 1), (6, 2)]] {
            assert!(
                Holding::decode(&holding(wrong).encode()).is_err(),
                "{wrong:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(holding) = Holding::decode(&bytes) {
                prop_assert_eq!(holding.encode(), bytes);
            }
        }
    }
}
