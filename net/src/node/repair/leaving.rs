//! A copy that this node needs no longer: it goes only when those who keep the partition now have all of it.

use std::sync::Arc;
use std::time::Duration;

use mesh_engine::{Engine, Held};
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::{LeafSum, MERKLE_LEAVES};

use super::walk::{News, compare_and};
use crate::node::Shared;
use crate::node::partitions::Stop;
use crate::tasks::blocking;

/// The pauses between two attempts: doubled each time, up to the longest.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// Comparisons with one node before another attempt begins. The second finds nothing left to send, unless somebody wrote to
/// this copy meanwhile.
const COMPARISONS_MAX: usize = 4;

/// Whether there is anything of the partition here. Blocks.
pub(in crate::node) fn has_anything(engine: &Engine, id: PartitionId) -> bool {
    let nothing = matches!(engine.held(id), Ok(Held::Nothing));
    !nothing || engine.leaf_sums(id).map_or(true, |sums| !is_empty(&sums))
}

fn is_empty(sums: &[LeafSum; MERKLE_LEAVES as usize]) -> bool {
    sums.iter().all(|sum| *sum == LeafSum::ZERO)
}

/// Hands the copy over and drops it, however often that is tried; ends early where `stop` wants it, and tells when it has
/// ended. Nothing runs on the copy any more.
pub(in crate::node) fn hand_over(shared: &Arc<Shared>, id: PartitionId, stop: Stop) {
    let shared_too = Arc::clone(shared);
    shared.tasks.spawn("leaving", async move {
        let shared = shared_too;
        let handed_over = tokio::select! {
            () = until_others_have_all(&shared, id) => true,
            () = stop.wanted().cancelled() => false,
            () = shared.tasks.stopping() => false,
        };
        // Not to be given up half done: whoever has it stopped waits for its end.
        if handed_over && !stop.wanted().is_cancelled() && drop_copy(&shared, id).await {
            shared.let_gone(id);
        }
        stop.note_end();
    });
}

async fn drop_copy(shared: &Arc<Shared>, id: PartitionId) -> bool {
    let engine = Arc::clone(&shared.engine);
    match blocking(move || engine.drop_partition(id)).await {
        Some(Ok(())) => {
            tracing::info!(partition = %id, "dropped the copy of a partition that others keep now");
            true
        }
        // The store has stopped, and so will the node.
        Some(Err(error)) => {
            tracing::warn!(partition = %id, %error, "could not drop a partition's copy");
            false
        }
        None => false,
    }
}

async fn until_others_have_all(shared: &Arc<Shared>, id: PartitionId) {
    let mut pause = AGAIN_MIN;
    while let Err(cause) = attempt(shared, id).await {
        tracing::debug!(partition = %id, cause, "a copy cannot be dropped yet");
        if pause == AGAIN_MAX {
            tracing::warn!(partition = %id, cause, "a copy that is not needed any more is kept: those who keep the partition now are not known to have all of it");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}

/// Sees to it that every home that lives, and a majority of all, has all that is here, by a map that a restart knows too.
async fn attempt(shared: &Arc<Shared>, id: PartitionId) -> Result<(), String> {
    give_homes(shared, id).await?;
    // By the map before it this node may be a home, and would count as one that has nothing.
    match shared.control.has_map_in_log() {
        true => Ok(()),
        false => Err("the control group has not told this node yet that others keep it".into()),
    }
}

async fn give_homes(shared: &Arc<Shared>, id: PartitionId) -> Result<(), String> {
    let homes = homes(shared, id)?;
    let before = sums(shared, id).await?;
    if is_empty(&before) {
        return Ok(());
    }
    let mut have = 0;
    for node in homes.iter().filter(|node| shared.is_alive(**node)) {
        give_all(shared, id, *node).await?;
        have += 1;
    }
    let need = homes.len() / 2 + 1;
    if have < need {
        return Err(format!("{have} nodes have all of it, {need} should"));
    }
    // A write that was under way when the map changed, or another move.
    if sums(shared, id).await? != before {
        return Err("it was written to meanwhile".into());
    }
    if self::homes(shared, id)? != homes {
        return Err("others keep the partition by now".into());
    }
    Ok(())
}

fn homes(shared: &Shared, id: PartitionId) -> Result<Vec<NodeId>, String> {
    let map = shared.map();
    let assignment = map.assignment(id).ok_or("no such partition")?;
    if assignment.needs_copy(shared.me()) {
        return Err("this node keeps it again".into());
    }
    Ok(assignment.replicas.clone())
}

/// Compares until a comparison finds nothing here that the other has not. What clients write there meanwhile is not for this
/// node.
async fn give_all(shared: &Arc<Shared>, id: PartitionId, to: NodeId) -> Result<(), String> {
    for _ in 0..COMPARISONS_MAX {
        let compared = compare_and(shared, id, to, News::Left).await;
        if compared.map_err(|error| error.to_string())?.sent == 0 {
            return Ok(());
        }
    }
    Err(format!("node {to} goes on lacking some of it"))
}

async fn sums(
    shared: &Arc<Shared>,
    id: PartitionId,
) -> Result<Box<[LeafSum; MERKLE_LEAVES as usize]>, String> {
    let engine = Arc::clone(&shared.engine);
    let sums = blocking(move || engine.leaf_sums(id)).await;
    sums.ok_or("the node is ending")?
        .map_err(|error| error.to_string())
}
