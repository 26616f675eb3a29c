//! The side that gives a partition's copy.

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::ids::{Epoch, PartitionId};

use super::desk::Desk;
use crate::node::connection::Stream;
use crate::node::{Shared, reply};
use crate::wire::proto::{self, Error, PartitionPart, Reply, reply::Kind as Answer};

/// Serves a copy until it is whole, the taker is gone, or this node no longer leads the partition.
pub(in crate::node) async fn serve(
    shared: &Arc<Shared>,
    mut stream: Stream,
    pull: &proto::PullPartition,
) {
    match give(shared, &mut stream, pull).await {
        Ok(()) => {
            stream.writer.finish();
            stream.writer.delivered().await;
        }
        Err(Some(error)) => stream.refuse(error).await,
        // The taker is gone; it asks again from where it has come.
        Err(None) => {}
    }
}

async fn give(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    pull: &proto::PullPartition,
) -> Result<(), Option<Error>> {
    let taker = stream.greeting.require().map_err(Some)?.node;
    let id = u16::try_from(pull.partition)
        .map(PartitionId)
        .map_err(|error| Some(reply::malformed(error)))?;
    let epoch = shared
        .map()
        .assignment(id)
        .map(|assignment| assignment.epoch);
    let leads = || {
        let partition = shared.partitions.get(id);
        partition.is_some_and(|partition| partition.leads())
    };
    if !leads() || epoch.is_none_or(|epoch| epoch < Epoch(pull.epoch)) {
        return Err(Some(shared.not_leader(id)));
    }
    let listed = shared.transfers.begin(id, shared.me(), taker);
    let kept = pull
        .copy
        .as_ref()
        .and_then(|copy| shared.transfers.desks.kept(id, taker, copy));
    let (desk, mut after) = match kept {
        Some(desk) => (desk, pull.after.to_vec()),
        None => {
            let opened = Desk::open(shared, id, taker).await;
            (
                opened.map_err(|error| Some(reply::of_read(&error)))?,
                Vec::new(),
            )
        }
    };
    let total = shared.size_of(id).await;
    let mut done = 0;
    let header = PartitionPart {
        header: Some(desk.header.encode().into()),
        bytes_total: total,
        ..PartitionPart::default()
    };
    send(shared, stream, header, Bytes::new()).await?;
    loop {
        let chunk = desk
            .chunk(std::mem::take(&mut after))
            .await
            .map_err(|error| Some(reply::of_read(&error)))?;
        let (bytes, last) = (chunk.rows.len(), chunk.is_last());
        shared.transfers.spend(bytes).await;
        done += bytes as u64;
        listed.note(bytes, done, total.max(done));
        after = chunk.upto.clone();
        let part = PartitionPart {
            header: None,
            after: chunk.after.into(),
            upto: chunk.upto.into(),
            hash: Bytes::copy_from_slice(&chunk.hash),
            bytes_done: done,
            bytes_total: total.max(done),
        };
        send(shared, stream, part, chunk.rows).await?;
        if last {
            return Ok(());
        }
        if !leads() {
            return Err(Some(shared.not_leader(id)));
        }
    }
}

async fn send(
    shared: &Shared,
    stream: &mut Stream,
    part: PartitionPart,
    rows: Bytes,
) -> Result<(), Option<Error>> {
    let frame = Reply {
        kind: Some(Answer::PartitionPart(part)),
    };
    let sent = tokio::select! {
        sent = stream.writer.frame(&frame, [rows]) => sent,
        () = shared.tasks.stopping() => return Err(Some(reply::stopping())),
    };
    sent.map_err(|_| None)
}
