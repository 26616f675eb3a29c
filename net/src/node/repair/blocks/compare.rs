//! The side that begins: some blocks of a partition's topics are compared with another copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{BLOCK_OFFSETS, ReadError, TopicExtent};
use mesh_ring::ids::{NodeId, PartitionId, TopicId, TopicKey};
use tokio::time::{Instant, timeout};

use super::answer::{Look, look};
use super::heal::{examine, heal, named, spend};
use super::{Block, Place, Unfinished, here};
use crate::node::Shared;
use crate::node::repair::Compared;
use crate::wire::proto::{
    BlockRange, BlocksCompared, CompareBlocks, Request, reply::Kind as Answer, request::Kind,
};

/// Bytes of its own copy that a round by the clock reads of each partition.
const ROUND_BYTES: u64 = 2 << 20;

/// The same for one step of a comparison of everything.
pub(in crate::node) const PAGE_BYTES: u64 = 4 << 20;

/// Most ranges of blocks in one message, and most blocks of them all.
pub(super) const RANGES_MAX: usize = 64;
pub(super) const BLOCKS_MAX: usize = 256;

/// Most topics that one step looks at, full blocks or not.
const TOPICS_MAX: usize = 1_024;

/// Topics that are listed at a time.
const TOPICS_AT_ONCE: usize = 128;

/// How long another node may take to read its copies of the blocks in one message.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long whoever waits for a comparison waits for one block. What came until then stays.
const HEAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What one step has come to.
#[derive(Debug, Default)]
pub(in crate::node) struct Step {
    pub(in crate::node) compared: Compared,
    /// About how many bytes of its own copy this node has read.
    read: u64,
    /// Where the next one goes on; `None`: the partition was gone through.
    pub(in crate::node) next: Option<Place>,
    /// What could not be healed, for people.
    pub(in crate::node) troubles: Vec<String>,
}

/// The next part of a partition's topics, as a round by the clock compares it.
///
/// # Errors
/// [`Unfinished`]: the same part is compared the next time.
pub(in crate::node::repair) async fn round(
    shared: &Arc<Shared>,
    id: PartitionId,
    with: NodeId,
) -> Result<(), Unfinished> {
    let blocks = &shared.repairs.blocks;
    let left = blocks.budget.load(Ordering::Relaxed);
    if left == 0 {
        return Ok(());
    }
    let from = blocks.places().get(&(id, with)).copied();
    let most = ROUND_BYTES.min(left);
    let step = compare(shared, id, with, from.unwrap_or_default(), most, None).await?;
    let spent = |left: u64| Some(left.saturating_sub(step.read));
    let _ = blocks
        .budget
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent);
    let mut places = blocks.places();
    match step.next {
        Some(next) => places.insert((id, with), next),
        None => places.remove(&(id, with)),
    };
    Ok(())
}

/// Compares blocks from a place on, until about so many bytes were read. What this node cannot read is healed, as much as can be
/// until `until`; what cannot be healed yet stays wanted.
///
/// # Errors
/// [`Unfinished`]. What was done until then is in the node's counters.
pub(in crate::node) async fn compare(
    shared: &Arc<Shared>,
    id: PartitionId,
    with: NodeId,
    from: Place,
    most_bytes: u64,
    until: Option<Instant>,
) -> Result<Step, Unfinished> {
    let mut part = here(shared, move |shared| gather(shared, id, from, most_bytes)).await?;
    let mut step = Step {
        next: part.next,
        read: part.bytes,
        ..Step::default()
    };
    // One long block is paid for as far as a part goes, so that whoever waits for this need not be patient for its sake.
    shared
        .transfers
        .spend_read(part.bytes.min(most_bytes) as usize)
        .await;
    // One at least, so that it goes on however little time there is.
    for (healed, block) in std::mem::take(&mut part.damaged).into_iter().enumerate() {
        if healed > 0 && until.is_some_and(|until| Instant::now() >= until) {
            // What lies before it is compared now, and the rest with it the next time.
            part.whole.retain(|(whole, _)| *whole < block);
            step.next = Some(block.place());
            break;
        }
        mend(shared, block, Some(with), &mut step).await;
    }
    if !part.whole.is_empty() {
        let told = ask(shared, id, with, &part.whole, &mut step.compared.bytes).await?;
        take_in(shared, with, &part.whole, told, &mut step).await?;
    }
    Ok(step)
}

/// Heals what is known to be unreadable in a partition, from a place on, until `until`. The step says where it goes on.
pub(in crate::node) async fn heal_all(
    shared: &Arc<Shared>,
    id: PartitionId,
    from: Place,
    until: Instant,
) -> Step {
    let wanted = shared.repairs.blocks.wanted().of(id);
    let mut step = Step::default();
    let rest = wanted.into_iter().filter(|block| block.place() >= from);
    for (healed, block) in rest.enumerate() {
        if healed > 0 && Instant::now() >= until {
            step.next = Some(block.place());
            break;
        }
        mend(shared, block, None, &mut step).await;
    }
    step
}

async fn mend(shared: &Arc<Shared>, block: Block, first: Option<NodeId>, step: &mut Step) {
    let healing = heal(shared, block, first, &mut step.compared.bytes);
    match timeout(HEAL_TIMEOUT, healing).await {
        Ok(Ok(healed)) => {
            step.compared.blocks_damaged += u64::from(healed);
            step.compared.blocks_healed += u64::from(healed);
        }
        Err(_) => {
            let named = named(shared, block).await;
            step.compared.blocks_damaged += 1;
            step.troubles.push(format!(
                "{named} is not healed within {} s: what came stays, ask again",
                HEAL_TIMEOUT.as_secs()
            ));
        }
        Ok(Err(cause)) => {
            step.compared.blocks_damaged += 1;
            step.troubles.push(cause);
        }
    }
}

/// Some blocks of this node's copy.
#[derive(Debug, Default)]
struct Part {
    /// Full ones, and their digests.
    whole: Vec<(Block, [u8; 32])>,
    /// Those of which something cannot be read.
    damaged: Vec<Block>,
    /// About how much was read.
    bytes: u64,
    next: Option<Place>,
}

fn gather(
    shared: &Shared,
    id: PartitionId,
    from: Place,
    most_bytes: u64,
) -> Result<Part, ReadError> {
    let (mut part, mut looked_at) = (Part::default(), 0);
    let mut after = from.topic.0.checked_sub(1).map(TopicId);
    loop {
        let topics = shared.engine.topics_of(id, after, TOPICS_AT_ONCE)?;
        let Some(last) = topics.last().copied() else {
            return Ok(part);
        };
        for topic in topics {
            let begin = if topic.id == from.topic {
                from.block
            } else {
                0
            };
            let place = |block| Place {
                topic: topic.id,
                block,
            };
            if looked_at == TOPICS_MAX {
                part.next = Some(place(0));
                return Ok(part);
            }
            looked_at += 1;
            let extent = match shared.engine.describe(topic) {
                Ok(extent) => extent,
                Err(ReadError::TopicDeleted) => continue,
                Err(ReadError::Damaged(damage)) => {
                    shared.note_damages([&damage]);
                    part.damaged.extend(Block::of(&damage));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let blocks = extent.blocks();
            for number in blocks.start.max(begin)..blocks.end {
                if part.is_full(topic, number, most_bytes) {
                    part.next = Some(place(number));
                    return Ok(part);
                }
                part.add(shared, Block { topic, number }, &extent)?;
            }
        }
        after = Some(last.id);
    }
}

impl Part {
    fn is_full(&self, topic: TopicKey, number: u64, most_bytes: u64) -> bool {
        let begins_range = self
            .whole
            .last()
            .is_none_or(|(last, _)| !follows(*last, topic, number));
        self.bytes >= most_bytes
            || self.whole.len() + self.damaged.len() >= BLOCKS_MAX
            || begins_range && ranges(&self.whole).len() >= RANGES_MAX
    }

    fn add(
        &mut self,
        shared: &Shared,
        block: Block,
        extent: &TopicExtent,
    ) -> Result<(), ReadError> {
        if extent.full_blocks().contains(&block.number) {
            match look(shared, block)? {
                Look::Whole(digest, bytes) => {
                    self.bytes += bytes;
                    self.whole.push((block, digest));
                }
                Look::Damaged => self.damaged.push(block),
                Look::Absent => {}
            }
            return Ok(());
        }
        // It cannot be compared, but whether it can be read is known here.
        match shared.engine.unreadable_in(block.topic, block.number) {
            Ok(None) | Err(ReadError::TopicDeleted) => {}
            Ok(Some(offset)) => {
                shared.want_block(block, &format!("offset {offset} cannot be read"));
                self.damaged.push(block);
            }
            Err(error) => return Err(error),
        }
        let records = (extent.next - extent.first).max(1);
        self.bytes += extent.bytes / records * records.min(BLOCK_OFFSETS);
        Ok(())
    }
}

fn follows(before: Block, topic: TopicKey, number: u64) -> bool {
    before.topic == topic && before.number + 1 == number
}

/// Blocks as they are named in a message: those that follow each other together.
fn ranges(blocks: &[(Block, [u8; 32])]) -> Vec<BlockRange> {
    let runs = blocks.chunk_by(|(a, _), (b, _)| follows(*a, b.topic, b.number));
    let range = |run: &[(Block, [u8; 32])]| {
        let (first, _) = run.first()?;
        Some(BlockRange {
            topic: first.topic.id.0,
            first: first.number,
            count: u32::try_from(run.len()).ok()?,
        })
    };
    runs.filter_map(range).collect()
}

async fn ask(
    shared: &Arc<Shared>,
    id: PartitionId,
    with: NodeId,
    blocks: &[(Block, [u8; 32])],
    bytes: &mut u64,
) -> Result<BlocksCompared, Unfinished> {
    let mut all = blake3::Hasher::new();
    for (_, digest) in blocks {
        all.update(digest);
    }
    let request = Request::new(Kind::CompareBlocks(CompareBlocks {
        partition: id.0.into(),
        map_version: shared.map().version(),
        ranges: ranges(blocks),
        digest: Bytes::copy_from_slice(all.finalize().as_bytes()),
    }));
    let deadline = Instant::now() + COMPARE_TIMEOUT;
    let asked = shared.peers.ask(with, &request, Bytes::new(), deadline);
    let Some((Answer::BlocksCompared(told), _)) = asked.await?.pop() else {
        return Err(Unfinished::Answer("an answer of another kind".into()));
    };
    if !told.same && told.blocks.len() != blocks.len() {
        return Err(Unfinished::Answer("another number of blocks".into()));
    }
    *bytes += spend(shared, &request, Answer::BlocksCompared(told.clone()), 0).await;
    Ok(told)
}

async fn take_in(
    shared: &Arc<Shared>,
    with: NodeId,
    blocks: &[(Block, [u8; 32])],
    told: BlocksCompared,
    step: &mut Step,
) -> Result<(), Unfinished> {
    let mut part = Compared::default();
    let mut differing = Vec::new();
    if told.same {
        part.blocks = blocks.len() as u64;
        forget(shared, with, blocks.iter().map(|(block, _)| *block));
    }
    for ((block, mine), theirs) in blocks.iter().zip(&told.blocks) {
        // One that cannot be read there is healed by whoever is there; one that is not there is no difference.
        if theirs.digest.is_empty() {
            continue;
        }
        part.blocks += 1;
        if theirs.digest == mine[..] {
            forget(shared, with, [*block]);
        } else {
            differing.push(*block);
        }
    }
    shared.repairs.counters.note(part);
    step.compared += part;
    for block in differing {
        if examine(shared, block, with, &mut step.compared.bytes).await? {
            let differs = Compared {
                blocks_differing: 1,
                ..Compared::default()
            };
            shared.repairs.counters.note(differs);
            step.compared += differs;
        }
    }
    Ok(())
}

/// These blocks are the same here and there.
fn forget(shared: &Shared, with: NodeId, blocks: impl IntoIterator<Item = Block>) {
    let mut conflicts = shared.repairs.blocks.conflicts();
    if !conflicts.is_empty() {
        for block in blocks {
            conflicts.remove(&(block, with));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_follow_each_other_are_named_together() {
        let block = |id, number| {
            let topic = TopicKey {
                partition: PartitionId(1),
                id: TopicId(id),
            };
            (Block { topic, number }, [0; 32])
        };
        let blocks = [
            block(3, 0),
            block(3, 1),
            block(3, 5),
            block(4, 6),
            block(4, 7),
        ];
        let named = |range: BlockRange| (range.topic, range.first, range.count);
        let named: Vec<_> = ranges(&blocks).into_iter().map(named).collect();
        assert_eq!(named, [(3, 0, 2), (3, 5, 1), (4, 6, 2)]);
        assert!(ranges(&[]).is_empty());
    }
}
