//! Comparing copies of bindings, for another node and because a person asks for it.

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::ids::{NodeId, PartitionId};

use super::access::{allow, only_nodes};
use super::{Answers, Caller, plain};
use crate::identity::{Access, Scope};
use crate::node::{Shared, repair, reply, tombstones};
use crate::wire::proto::{self, Error, MissedCopy, Repaired, WalkBindings, reply::Kind as Answer};

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

/// Compares this node's copy of a partition with every other one.
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
    let (mut sum, mut missed) = (repair::Compared::default(), Vec::new());
    let mut miss = |node: NodeId, cause: String| {
        missed.push(MissedCopy {
            node: Bytes::copy_from_slice(&node.0),
            cause,
        });
    };
    for node in others {
        if !shared.is_alive(node) {
            miss(node, "it is away".into());
            continue;
        }
        let compared = tokio::select! {
            compared = repair::compare(shared, id, node) => compared,
            () = shared.tasks.stopping() => return Err(reply::stopping()),
        };
        match compared {
            Ok(compared) => sum += compared,
            Err(error) => miss(node, format!("partition {id}: {error}")),
        }
    }
    Ok(plain(Answer::Repaired(Repaired {
        differing_leaves: u32::try_from(sum.leaves).unwrap_or(u32::MAX),
        sent: sum.sent,
        received: sum.received,
        bytes: sum.bytes,
        damaged: sum.damaged,
        missed,
    })))
}
