//! One block made whole: batch by batch, from copies that can read what this one cannot.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::batch::BatchHeader;
use mesh_engine::{Engine, HealError, Healed, ReadError};
use mesh_ring::ids::{NodeId, Offset};
use mesh_ring::map::ClusterMap;
use prost::Message;
use tokio::time::{Instant, sleep_until};

use super::super::others;
use super::{Block, CONFLICTS_MAX, Unfinished, here};
use crate::node::Shared;
use crate::node::repair::Compared;
use crate::tasks::blocking;
use crate::wire::frame::FRAME_PREFIX_BYTES;
use crate::wire::proto::{FetchBlock, Reply, Request, reply::Kind as Answer, request::Kind};

/// How long another node may take to read a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Heals what is wanted, one block after the other.
pub(in crate::node::repair) async fn work(shared: Arc<Shared>) {
    loop {
        let block = tokio::select! {
            block = next(&shared) => block,
            () = shared.tasks.stopping() => return,
        };
        // The node's counters have it.
        let mut bytes = 0;
        let healed = tokio::select! {
            healed = heal(&shared, block, None, &mut bytes) => healed,
            () = shared.tasks.stopping() => return,
        };
        if let Err(cause) = healed {
            tracing::warn!(topic = %block.topic, block = block.number, cause, "records that cannot be read were not healed; it is tried again");
        }
    }
}

async fn next(shared: &Shared) -> Block {
    let blocks = &shared.repairs.blocks;
    loop {
        let rung = blocks.due.notified();
        tokio::pin!(rung);
        // Before the look: what is wanted after it rings.
        rung.as_mut().enable();
        let taken = blocks.wanted().take(Instant::now());
        match taken {
            Ok(block) => return block,
            Err(Some(at)) => tokio::select! {
                () = sleep_until(at) => {}
                () = rung => {}
            },
            Err(None) => rung.await,
        }
    }
}

/// Brings what cannot be read of a block from other live copies, `first` before the others. `Ok` where all of it can be read, or
/// is no more; whether anything had to be brought. Adds what it takes on the wire to `bytes`.
///
/// # Errors
/// Why something still cannot be read, for people. The block stays wanted, and what came stays.
pub(super) async fn heal(
    shared: &Arc<Shared>,
    block: Block,
    first: Option<NodeId>,
    bytes: &mut u64,
) -> Result<bool, String> {
    let words = |error: Unfinished| error.to_string();
    let lost = unreadable(shared, block).await.map_err(words)?;
    let Some(mut lost) = lost else {
        shared.repairs.blocks.wanted().settled(block);
        return Ok(false);
    };
    let map = shared.map();
    let mut nodes = others(&map, block.partition(), shared.me());
    nodes.retain(|node| shared.is_alive(*node));
    nodes.sort_by_key(|node| Some(*node) != first);
    let mut causes = Vec::new();
    for node in nodes {
        loop {
            match take(shared, block, node, lost, bytes).await {
                Ok(_) => {}
                Err(Unfinished::Here(cause)) => return Err(cause),
                Err(error) => {
                    causes.push(format!("{}: {error}", name(&map, node)));
                    break;
                }
            }
            match unreadable(shared, block).await.map_err(words)? {
                None => {
                    note_healed(shared, block, node);
                    return Ok(true);
                }
                Some(next) if next > lost => lost = next,
                Some(_) => {
                    causes.push(format!("{}: what it has changes nothing", name(&map, node)));
                    break;
                }
            }
        }
    }
    let named = named(shared, block).await;
    Err(match causes.is_empty() {
        true => format!("{named} cannot be read at offset {lost}, and no other replica is there"),
        false => format!(
            "{named} cannot be read at offset {lost}: {}",
            causes.join("; ")
        ),
    })
}

/// For people.
pub(super) async fn named(shared: &Arc<Shared>, block: Block) -> String {
    let engine = Arc::clone(&shared.engine);
    let named = blocking(move || block.in_words(&engine)).await;
    named.unwrap_or_else(|| block.topic.to_string())
}

async fn unreadable(shared: &Arc<Shared>, block: Block) -> Result<Option<Offset>, Unfinished> {
    here(shared, move |shared| {
        match shared.engine.unreadable_in(block.topic, block.number) {
            Err(ReadError::TopicDeleted) => Ok(None),
            found => found,
        }
    })
    .await
}

fn note_healed(shared: &Shared, block: Block, from: NodeId) {
    shared.repairs.blocks.wanted().settled(block);
    shared.repairs.counters.note(Compared {
        blocks_healed: 1,
        ..Compared::default()
    });
    tracing::info!(topic = %block.topic, block = block.number, node = %from, "records that could not be read were healed from another replica");
}

/// Writes what `node` has of a block from an offset on, where this copy cannot read it.
async fn take(
    shared: &Arc<Shared>,
    block: Block,
    node: NodeId,
    from: Offset,
    bytes: &mut u64,
) -> Result<Healed, Unfinished> {
    let batches = fetch(shared, block, node, from, bytes).await?;
    match store(shared, block, batches.clone()).await? {
        // The page goes on behind what this copy knows to be committed: what cannot be read comes first.
        Err(HealError::NotCommitted { .. }) if batches.len() > 1 => {
            let first = batches.into_iter().take(1).collect();
            let stored = store(shared, block, first).await?;
            stored.map_err(|error| judged(shared, block, node, error))
        }
        stored => stored.map_err(|error| judged(shared, block, node, error)),
    }
}

/// Compares a block whose digest differs there with this node's, batch by batch; writes what this node lacks, and nothing over
/// what it has. Whether the two have two histories, which is told of then.
pub(super) async fn examine(
    shared: &Arc<Shared>,
    block: Block,
    node: NodeId,
    bytes: &mut u64,
) -> Result<bool, Unfinished> {
    let mut from = block.number.saturating_mul(mesh_engine::BLOCK_OFFSETS);
    loop {
        let batches = fetch(shared, block, node, from, bytes).await?;
        let Some(last) = batches.last() else {
            return Ok(false);
        };
        from = header(last)?.next_offset();
        match store(shared, block, batches).await? {
            Ok(_) => {}
            Err(error @ HealError::Conflict { .. }) => {
                judged(shared, block, node, error);
                return Ok(true);
            }
            Err(error) => return Err(judged(shared, block, node, error)),
        }
    }
}

async fn store(
    shared: &Arc<Shared>,
    block: Block,
    batches: Vec<Bytes>,
) -> Result<Result<Healed, HealError>, Unfinished> {
    let bytes = batches.iter().map(Bytes::len).sum();
    let _room = shared.room(bytes).await.ok_or_else(ending)?;
    let engine: Arc<Engine> = Arc::clone(&shared.engine);
    let stored = blocking(move || engine.heal_block(block.topic, batches)).await;
    stored.ok_or_else(ending)
}

fn ending() -> Unfinished {
    Unfinished::Here("the node is ending".into())
}

/// What an error of the store means for a repair. Two histories raise the alarm.
fn judged(shared: &Shared, block: Block, node: NodeId, error: HealError) -> Unfinished {
    match error {
        HealError::Conflict { ours, theirs, .. } => {
            let map = shared.map();
            let other = name(&map, node);
            let sentence = format!(
                "{} has two histories: this node holds {ours}, {other} holds {theirs}: nothing is written over; keep both disks, and report it",
                block.in_words(&shared.engine)
            );
            tracing::error!(topic = %block.topic, block = block.number, %node, ours, theirs, "two replicas hold different records that are both valid, which must never be");
            let mut conflicts = shared.repairs.blocks.conflicts();
            if conflicts.len() < CONFLICTS_MAX {
                conflicts.insert((block, node), sentence.clone());
            }
            Unfinished::Answer(sentence)
        }
        error @ (HealError::Invalid(_) | HealError::NotCommitted { .. }) => {
            Unfinished::Answer(error.to_string())
        }
        HealError::Read(ReadError::TopicDeleted) => Unfinished::Answer("the topic is gone".into()),
        error @ (HealError::DiskFull { .. } | HealError::Read(_) | HealError::Stopped(_)) => {
            Unfinished::Here(error.to_string())
        }
    }
}

/// Asks for whole batches of a block, from the one that contains an offset.
async fn fetch(
    shared: &Arc<Shared>,
    block: Block,
    node: NodeId,
    from: Offset,
    bytes: &mut u64,
) -> Result<Vec<Bytes>, Unfinished> {
    let request = Request::new(Kind::FetchBlock(FetchBlock {
        partition: block.partition().0.into(),
        map_version: shared.map().version(),
        topic: block.topic.id.0,
        block: block.number,
        from,
    }));
    let deadline = Instant::now() + PAGE_TIMEOUT;
    let asked = shared.peers.ask(node, &request, Bytes::new(), deadline);
    let Some((Answer::BlockPage(page), mut body)) = asked.await?.pop() else {
        return Err(Unfinished::Answer("an answer of another kind".into()));
    };
    *bytes += spend(shared, &request, Answer::BlockPage(page), body.len()).await;
    let mut batches = Vec::new();
    while !body.is_empty() {
        let length = header(&body)?.batch_bytes();
        if length > body.len() {
            return Err(Unfinished::Answer("a batch cut short".into()));
        }
        batches.push(body.split_to(length));
    }
    Ok(batches)
}

/// Counts what a question and its answer took on the wire, and waits until that may be.
pub(super) async fn spend(shared: &Shared, request: &Request, answer: Answer, body: usize) -> u64 {
    let answer = Reply { kind: Some(answer) };
    let frames = request.encoded_len() + answer.encoded_len() + 2 * FRAME_PREFIX_BYTES;
    let bytes = frames + body;
    shared.repairs.counters.note(Compared {
        bytes: bytes as u64,
        ..Compared::default()
    });
    shared.transfers.spend(bytes).await;
    bytes as u64
}

fn header(batch: &[u8]) -> Result<BatchHeader, Unfinished> {
    BatchHeader::decode_prefix(batch).map_err(|error| Unfinished::Answer(error.to_string()))
}

fn name(map: &ClusterMap, node: NodeId) -> String {
    map.node(node)
        .map_or_else(|| node.to_string(), |member| member.name.clone())
}
