//! The side that takes a partition's copy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{Chunk, ExportHeader};
use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use mesh_ring::tombstone::Stamp;

use super::arrival::Arrival;
use super::parts::Parts;
use super::progress::Listed;
use crate::node::Shared;
use crate::node::tombstones::stamp_of;
use crate::tasks::blocking;
use crate::wire::proto::{PartitionPart, PullPartition};

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// An operator is told of every so many attempts that came to nothing.
const TELL_EVERY: u32 = 50;

/// Brings the partition's copy here, however often that takes, and then lets it be opened.
pub(in crate::node) fn pull(shared: &Arc<Shared>, id: PartitionId, arrival: Arrival) {
    let shared_too = Arc::clone(shared);
    shared.tasks.spawn("transfer", async move {
        let shared = shared_too;
        let arrived = tokio::select! {
            () = run(&shared, id, &arrival) => true,
            () = arrival.stop.wanted().cancelled() => false,
            () = shared.tasks.stopping() => false,
        };
        // What was begun is done before anything else is done to the partition.
        arrival.rest().await;
        if arrived {
            tracing::info!(partition = %id, "a partition's copy is here");
            shared.arrived(id);
        }
        arrival.stop.note_end();
    });
}

async fn run(shared: &Arc<Shared>, id: PartitionId, arrival: &Arrival) {
    // Every attempt goes by the fence of the first one: what came by then need not come again where the fence rises.
    let fence = shared.fences.admits(id);
    for tried in 1_u32.. {
        match attempt(shared, id, fence, arrival).await {
            Ok(()) => return,
            Err(cause) if tried % TELL_EVERY == 0 => {
                tracing::warn!(partition = %id, tried, cause, "a partition's copy does not come to its end, and is tried again");
            }
            Err(cause) => tracing::debug!(partition = %id, cause, "a transfer is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    id: PartitionId,
    fence: u64,
    arrival: &Arrival,
) -> Result<(), String> {
    let (source, epoch) = leader(shared, id)?;
    let listed = shared.transfers.begin(id, source, shared.me());
    let engine = Arc::clone(&shared.engine);
    let begun = on_disk(move || engine.import_state(id)).await?;
    let pull = PullPartition {
        partition: id.0.into(),
        epoch: epoch.0,
        fence,
        member_since: shared.fences.since().unwrap_or_default(),
        ..PullPartition::default()
    };
    let pull = match begun {
        None => pull,
        Some(begun) => PullPartition {
            copy: Some(Bytes::copy_from_slice(&begun.id)),
            after: begun.cursor.into(),
            bytes_held: begun.log_bytes,
            ..pull
        },
    };
    let mut parts = Parts::ask(shared, source, pull).await?;
    let (mut first, _) = parts.next().await?;
    if first.asks_what_is_held {
        let engine = Arc::clone(&shared.engine);
        let holding = on_disk(move || engine.import_holding(id)).await?;
        parts.tell(holding).await?;
        (first, _) = parts.next().await?;
    }
    parts.listen_only();
    let stamp = stamp_of(first.stamp).map_err(|error| error.message)?;
    shared.reach_map(source, stamp).await;
    let of = (source, stamp, fence);
    let header = first.header.ok_or("the copy does not say what it is")?;
    let header = ExportHeader::decode(&header).map_err(|error| error.to_string())?;
    if header.partition != id {
        return Err("a copy of another partition".into());
    }
    let header = Arc::new(header);
    let (engine, begun) = (Arc::clone(&shared.engine), Arc::clone(&header));
    arrival.step(move || engine.import_begin(&begun)).await?;
    loop {
        let (part, rows) = parts.next().await?;
        if take(shared, arrival, (&header, of), &listed, part, rows).await? {
            return Ok(());
        }
    }
}

/// Takes one part; `true` if it was the last, and the copy is whole.
async fn take(
    shared: &Arc<Shared>,
    arrival: &Arrival,
    (header, (source, stamp, fence)): (&Arc<ExportHeader>, (NodeId, Stamp, u64)),
    listed: &Listed<'_>,
    part: PartitionPart,
    rows: Bytes,
) -> Result<bool, String> {
    let bytes = rows.len();
    let hash = part.hash.as_ref().try_into();
    let chunk = Chunk {
        after: part.after.into(),
        upto: part.upto.into(),
        rows,
        hash: hash.map_err(|_| "a hash has 32 bytes")?,
    };
    let (importing, of) = (Arc::clone(shared), Arc::clone(header));
    let (id, last) = (header.partition, chunk.is_last());
    let step = move || {
        let admitted = importing.admit_copy(id, source, stamp, fence);
        admitted.map_err(|error| error.message)?;
        let taken = importing.engine.import_chunk(&of, &chunk);
        taken.map_err(|error| error.to_string())
    };
    arrival.step(step).await?;
    if last {
        let (engine, of) = (Arc::clone(&shared.engine), Arc::clone(header));
        arrival.last_step(move || engine.import_finish(&of)).await?;
    }
    listed.note(bytes, part.bytes_done, part.bytes_total);
    Ok(last)
}

/// Runs what waits for the disk where that holds up no task.
async fn on_disk<T: Send + 'static, E: ToString + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = blocking(work).await.ok_or("the node is ending")?;
    done.map_err(|error| error.to_string())
}

fn leader(shared: &Shared, id: PartitionId) -> Result<(NodeId, Epoch), String> {
    let map = shared.map();
    let assignment = map.assignment(id).ok_or("no such partition")?;
    if assignment.leader == shared.me() {
        shared.cannot_lead(id, assignment);
        return Err("the map has this node lead what it does not have yet".into());
    }
    // Also where it has not taken over: it may wait for this very replica.
    Ok((assignment.leader, assignment.epoch))
}
