//! The side that takes a partition's copy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{Chunk, ExportHeader, ImportError};
use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use tokio::time::Instant;

use super::progress::Listed;
use crate::node::Shared;
use crate::node::partitions::Stop;
use crate::node::peers::Replies;
use crate::tasks::blocking;
use crate::wire::proto::{PartitionPart, PullPartition, Request, reply::Kind as Answer, request};

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// How long a source may take to answer at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take between two parts.
const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// Brings the partition's copy here, however often that takes, and then lets it be opened.
pub(in crate::node) fn pull(shared: &Arc<Shared>, id: PartitionId, stop: Stop) {
    let shared_too = Arc::clone(shared);
    shared.tasks.spawn("transfer", async move {
        let shared = shared_too;
        let arrived = tokio::select! {
            () = run(&shared, id) => true,
            () = stop.wanted().cancelled() => false,
            () = shared.tasks.stopping() => false,
        };
        if arrived {
            tracing::info!(partition = %id, "a partition's copy is here");
            shared.arrived(id);
        }
        stop.note_end();
    });
}

async fn run(shared: &Arc<Shared>, id: PartitionId) {
    loop {
        match attempt(shared, id).await {
            Ok(()) => return,
            Err(cause) => tracing::debug!(partition = %id, cause, "a transfer is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn attempt(shared: &Arc<Shared>, id: PartitionId) -> Result<(), String> {
    let (source, epoch) = leader(shared, id)?;
    let listed = shared.transfers.begin(id, source, shared.me());
    let engine = Arc::clone(&shared.engine);
    let begun = on_disk(move || engine.import_state(id)).await?;
    let (copy, after) = begun.map_or((None, Vec::new()), |(copy, after)| {
        (Some(Bytes::copy_from_slice(&copy)), after)
    });
    let request = Request::new(request::Kind::PullPartition(PullPartition {
        partition: id.0.into(),
        copy,
        after: after.into(),
        epoch: epoch.0,
    }));
    let mut parts = shared
        .peers
        .pull(source, &request, Instant::now() + ANSWER_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let (first, _) = next(&mut parts).await?;
    let header = first.header.ok_or("the copy does not say what it is")?;
    let header = ExportHeader::decode(&header).map_err(|error| error.to_string())?;
    if header.partition != id {
        return Err("a copy of another partition".into());
    }
    let header = Arc::new(header);
    let (engine, of) = (Arc::clone(&shared.engine), Arc::clone(&header));
    on_disk(move || engine.import_begin(&of)).await?;
    loop {
        let (part, rows) = next(&mut parts).await?;
        if take(shared, &header, &listed, part, rows).await? {
            return Ok(());
        }
    }
}

async fn next(parts: &mut Replies) -> Result<(PartitionPart, Bytes), String> {
    let next = tokio::time::timeout(PART_TIMEOUT, parts.next())
        .await
        .map_err(|_| "nothing came for too long")?;
    match next.map_err(|error| error.to_string())? {
        Some((Answer::PartitionPart(part), rows)) => Ok((part, rows)),
        Some(_) => Err("an answer of another kind".into()),
        None => Err("the copy ended early".into()),
    }
}

/// Takes one part; `true` if it was the last, and the copy is whole.
async fn take(
    shared: &Arc<Shared>,
    header: &Arc<ExportHeader>,
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
    let (engine, header) = (Arc::clone(&shared.engine), Arc::clone(header));
    let last = on_disk(move || {
        engine.import_chunk(&header, &chunk)?;
        if chunk.is_last() {
            engine.import_finish(&header)?;
        }
        Ok::<_, ImportError>(chunk.is_last())
    });
    let last = last.await?;
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
    if !assignment.is_activated() {
        return Err("the partition has no leader at the moment".into());
    }
    Ok((assignment.leader, assignment.epoch))
}
