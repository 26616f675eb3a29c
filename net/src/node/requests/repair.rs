//! Comparing copies of bindings and of topics' blocks, for another node and because a person asks for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_ring::ids::{NodeId, PartitionId, TopicId};
use tokio::time::Instant;

use super::access::{allow, only_nodes};
use super::{Answers, Caller, plain};
use crate::identity::{Access, Scope};
use crate::node::repair::blocks::{self, Place};
use crate::node::{Shared, repair, reply, tombstones};
use crate::wire::proto::{
    self, BlockPlace, CompareBlocks, Error, FetchBlock, MissedCopy, Repaired, WalkBindings,
    reply::Kind as Answer,
};

/// How long one request goes on healing and comparing blocks before it answers with the place where the next one goes on.
const BLOCKS_FOR: Duration = Duration::from_secs(1);

/// One step of another node's comparison.
pub(super) async fn walk(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: WalkBindings,
    body: Bytes,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let from = tombstones::sender(shared, caller)?;
    repair::answer(shared, from, asked, &body).await
}

/// Blocks of this node, for another one to compare with its own.
pub(super) async fn compare_blocks(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: CompareBlocks,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    blocks::compared(shared, asked).await
}

/// Batches of a block, for another node that cannot read its own.
pub(super) async fn fetch_block(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: FetchBlock,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    blocks::page(shared, asked).await
}

/// Compares this node's copy of a partition with every other one: its bindings, and a part of its topics' blocks; the next
/// request goes on with those.
pub(super) async fn run(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: proto::Repair,
) -> Result<Answers, Error> {
    allow(&caller.peer, Access::Write, Scope::Cluster, b"")?;
    let id = u16::try_from(asked.partition)
        .map(PartitionId)
        .map_err(reply::malformed)?;
    let Some(others) = repair::others_of(shared, id) else {
        return Err(shared.not_replica(id));
    };
    let after = asked.after.as_ref().map(place).transpose()?;
    let mut run = Run {
        shared,
        id,
        sum: repair::Compared::default(),
        missed: Vec::new(),
    };
    let next = tokio::select! {
        next = run.compare(&others, after) => next,
        () = shared.tasks.stopping() => return Err(reply::stopping()),
    };
    let Run { sum, missed, .. } = run;
    Ok(plain(Answer::Repaired(Repaired {
        differing_leaves: u32::try_from(sum.leaves).unwrap_or(u32::MAX),
        sent: sum.sent,
        received: sum.received,
        bytes: sum.bytes,
        damaged: sum.damaged,
        missed,
        next: next.map(on_the_wire),
        blocks: sum.blocks,
        blocks_differing: sum.blocks_differing,
        blocks_damaged: sum.blocks_damaged,
        blocks_healed: sum.blocks_healed,
        blocks_unreadable: shared.repairs.unreadable_blocks(id),
    })))
}

/// Where a request goes on.
#[derive(Clone, Copy, Debug)]
enum After {
    /// With healing what is known to be unreadable.
    Healing(Place),
    /// With comparing blocks with another copy.
    Comparing(NodeId, Place),
}

fn on_the_wire(after: After) -> BlockPlace {
    let (node, at) = match after {
        After::Healing(at) => (Bytes::new(), at),
        After::Comparing(node, at) => (Bytes::copy_from_slice(&node.0), at),
    };
    BlockPlace {
        node,
        topic: at.topic.0,
        block: at.block,
    }
}

fn place(place: &BlockPlace) -> Result<After, Error> {
    let at = Place {
        topic: TopicId(place.topic),
        block: place.block,
    };
    if place.node.is_empty() {
        return Ok(After::Healing(at));
    }
    let node = place.node.as_ref().try_into().map(NodeId);
    let node = node.map_err(|_| reply::malformed("a node's id has 16 bytes"))?;
    Ok(After::Comparing(node, at))
}

/// What one request does.
struct Run<'a> {
    shared: &'a Arc<Shared>,
    id: PartitionId,
    sum: repair::Compared,
    missed: Vec<MissedCopy>,
}

impl Run<'_> {
    /// Where the next request goes on, if there is more to do.
    async fn compare(&mut self, others: &[NodeId], after: Option<After>) -> Option<After> {
        if after.is_none() {
            for node in others {
                self.bindings(*node).await;
            }
        }
        let until = Instant::now() + BLOCKS_FOR;
        let (begin, place) = match after.unwrap_or(After::Healing(Place::default())) {
            After::Healing(at) => {
                let step = blocks::heal_all(self.shared, self.id, at, until).await;
                if let Some(next) = self.take(step) {
                    return Some(After::Healing(next));
                }
                (NodeId([0; 16]), Place::default())
            }
            After::Comparing(node, at) => (node, at),
        };
        let shared = self.shared;
        // However slowly copies may be read, an answer comes soon.
        let most = blocks::PAGE_BYTES.min(shared.transfers.read_in(BLOCKS_FOR));
        let rest = others.iter().filter(|node| **node >= begin);
        for node in rest.filter(|node| shared.is_alive(**node)) {
            let mut at = if *node == begin {
                place
            } else {
                Place::default()
            };
            loop {
                if Instant::now() >= until {
                    return Some(After::Comparing(*node, at));
                }
                match blocks::compare(shared, self.id, *node, at, most, Some(until)).await {
                    Ok(step) => match self.take(step) {
                        Some(next) => at = next,
                        None => break,
                    },
                    Err(error) => {
                        self.miss(*node, error.to_string());
                        break;
                    }
                }
            }
        }
        None
    }

    async fn bindings(&mut self, node: NodeId) {
        if !self.shared.is_alive(node) {
            return self.miss(node, "it is away".into());
        }
        match repair::compare(self.shared, self.id, node).await {
            Ok(compared) => self.sum += compared,
            Err(error) => self.miss(node, error.to_string()),
        }
    }

    fn take(&mut self, step: blocks::Step) -> Option<Place> {
        self.sum += step.compared;
        for cause in step.troubles {
            self.miss(self.shared.me(), cause);
        }
        step.next
    }

    fn miss(&mut self, node: NodeId, cause: String) {
        let id = self.id;
        self.missed.push(MissedCopy {
            node: Bytes::copy_from_slice(&node.0),
            cause: format!("partition {id}: {cause}"),
        });
    }
}
