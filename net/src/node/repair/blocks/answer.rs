//! The side that is asked: what its blocks are, and their batches.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::ReadError;
use mesh_ring::ids::{PartitionId, TopicId, TopicKey};

use super::compare::{BLOCKS_MAX, RANGES_MAX};
use super::{Block, digests::Digests};
use crate::node::requests::{Answers, on_disk, plain};
use crate::node::{Shared, reply};
use crate::wire::proto::{
    BlockPage, BlockState, BlocksCompared, CompareBlocks, Error, ErrorCode, FetchBlock,
    reply::Kind as Answer,
};

/// Bytes of batches in one answer. A longer batch goes alone.
const PAGE_BYTES: usize = 1 << 20;

/// What there is of a full block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Look {
    /// All of it, and how many bytes were read to know.
    Whole([u8; 32], u64),
    /// Something of it cannot be read.
    Damaged,
    /// It was trimmed, or is not full here.
    Absent,
}

/// Tells another node how this one's copies of blocks compare with its own.
///
/// # Errors
/// This node keeps no copy that is whole, knows only an older map, or cannot read its catalogue.
pub(in crate::node) async fn compared(
    shared: &Arc<Shared>,
    asked: CompareBlocks,
) -> Result<Answers, Error> {
    let id = kept(shared, asked.partition, asked.map_version)?;
    let blocks = asked.ranges.iter().map(|range| u64::from(range.count));
    if asked.ranges.len() > RANGES_MAX || blocks.sum::<u64>() > BLOCKS_MAX as u64 {
        return Err(reply::malformed("more blocks than one message may name"));
    }
    let compared = on_disk(shared, move |shared| {
        look_at_all(shared, id, &asked).map_err(|error| reply::of_read(&error))
    });
    Ok(plain(Answer::BlocksCompared(compared.await?)))
}

fn look_at_all(
    shared: &Shared,
    partition: PartitionId,
    asked: &CompareBlocks,
) -> Result<BlocksCompared, ReadError> {
    let (mut all, mut blocks) = (blake3::Hasher::new(), Vec::new());
    for range in &asked.ranges {
        let topic = TopicKey {
            partition,
            id: TopicId(range.topic),
        };
        let full = match shared.engine.describe(topic) {
            Ok(extent) => extent.full_blocks(),
            Err(ReadError::TopicDeleted) => 0..0,
            // Where its end cannot be read, what is before it still can.
            Err(error @ ReadError::Damaged(_)) => {
                shared.note_damage(&error);
                0..u64::MAX
            }
            Err(error) => return Err(error),
        };
        let end = range.first.saturating_add(range.count.into());
        for number in range.first..end {
            let block = Block { topic, number };
            let look = match full.contains(&number) {
                true => look(shared, block)?,
                false => Look::Absent,
            };
            let digest = match look {
                Look::Whole(digest, _) => digest.to_vec(),
                Look::Damaged | Look::Absent => Vec::new(),
            };
            all.update(&digest);
            blocks.push(BlockState {
                digest: digest.into(),
                damaged: look == Look::Damaged,
            });
        }
    }
    let same = asked.digest == all.finalize().as_bytes()[..];
    if same {
        blocks.clear();
    }
    Ok(BlocksCompared { same, blocks })
}

/// What a full block of this node is; damage is taken note of.
pub(super) fn look(shared: &Shared, block: Block) -> Result<Look, ReadError> {
    let digests: &Digests = &shared.repairs.blocks.digests;
    if let Some(digest) = digests.get(block) {
        return Ok(Look::Whole(digest, 0));
    }
    match shared.engine.topic_block_digest(block.topic, block.number) {
        Ok(whole) => {
            digests.keep(block, whole.digest);
            Ok(Look::Whole(whole.digest, whole.bytes))
        }
        Err(ReadError::Damaged(damage)) => {
            shared.want_block(block, &damage.detail);
            Ok(Look::Damaged)
        }
        Err(ReadError::Trimmed { .. } | ReadError::BeyondEnd { .. } | ReadError::TopicDeleted) => {
            Ok(Look::Absent)
        }
        Err(error) => Err(error),
    }
}

/// Stored batches of a block for another node. What cannot be read here is no source of a repair.
///
/// # Errors
/// As for [`compared`]; [`ErrorCode::Corrupt`] where the first of them cannot be read.
pub(in crate::node) async fn page(
    shared: &Arc<Shared>,
    asked: FetchBlock,
) -> Result<Answers, Error> {
    let partition = kept(shared, asked.partition, asked.map_version)?;
    let topic = TopicKey {
        partition,
        id: TopicId(asked.topic),
    };
    let batches = on_disk(shared, move |shared| {
        let read = shared
            .engine
            .read_block(topic, asked.block, asked.from, PAGE_BYTES);
        read.map_err(|error| {
            shared.note_damage(&error);
            reply::of_read(&error)
        })
    });
    let body: Bytes = batches.await?.concat().into();
    Ok(vec![(Answer::BlockPage(BlockPage {}), body)])
}

/// The partition, if this node may speak for its copy of it.
fn kept(shared: &Shared, partition: u32, map_version: u64) -> Result<PartitionId, Error> {
    let id = u16::try_from(partition)
        .map(PartitionId)
        .map_err(reply::malformed)?;
    let map = shared.map();
    if map_version > map.version() {
        return Err(reply::error(
            ErrorCode::Unavailable,
            "this node has not heard of the newest map yet: try again",
        ));
    }
    let mine = map.assignment(id);
    if mine.is_none_or(|assignment| !assignment.needs_copy(shared.me())) {
        return Err(shared.not_replica(id));
    }
    if shared.partitions.get(id).is_none() {
        return Err(reply::error(
            ErrorCode::Unavailable,
            format!("this node's copy of partition {id} is on its way, or cannot be opened"),
        ));
    }
    Ok(id)
}
