//! The side that gives a partition's copy.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::{Holding, JOURNAL_ENTRIES_KEPT};
use mesh_ring::ids::{Epoch, Index, PartitionId};
use mesh_ring::tombstone::Stamp;
use tokio::time::timeout;

use super::desk::Desk;
use super::parts::PART_TIMEOUT;
use crate::node::connection::Stream;
use crate::node::{Shared, reply};
use crate::wire::proto::{
    self, Error, ErrorCode, PartitionPart, Reply, Request, reply::Kind as Answer, request::Kind,
};

/// Entries since a copy was made after which it is better to make another one, once its log rows have gone over: what is
/// left must arrive before the journal has let go of the entries that the taker is to follow from there.
const ENTRIES_SINCE_MAX: u64 = JOURNAL_ENTRIES_KEPT / 4;

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
    // Also before it has taken over: the taker's vote may be what is missing. What it knows to be committed is, at any time.
    let leads = || {
        let map = shared.map();
        let current = map.assignment(id).is_some_and(|assignment| {
            assignment.leader == shared.me() && assignment.epoch >= Epoch(pull.epoch)
        });
        current && shared.partitions.get(id).is_some()
    };
    if !leads() {
        return Err(Some(shared.not_leader(id)));
    }
    let listed = shared.transfers.begin(id, shared.me(), taker);
    // A copy that is made now is as new as the taker wants it.
    shared.catch_up(id, pull.fence).await;
    let oldest = Stamp {
        map_version: pull.member_since,
        fence: pull.fence,
    };
    let kept = pull
        .copy
        .as_ref()
        .and_then(|copy| shared.transfers.desks.kept(id, taker, copy, oldest));
    let (desk, mut after) = match kept {
        Some(desk) => (desk, pull.after.to_vec()),
        None => {
            let holding = match pull.copy {
                Some(_) => held(shared, stream).await?,
                None => None,
            };
            let opened = Desk::open(shared, id, taker, holding).await;
            let desk = opened.map_err(|error| Some(reply::of_read(&error)))?;
            (desk, Vec::new())
        }
    };
    let goes_on = !after.is_empty() || desk.continues.is_some();
    let mut done = if goes_on { pull.bytes_held } else { 0 };
    let total = shared.size_of(id).await.max(done);
    let header = PartitionPart {
        header: Some(desk.header.encode().into()),
        bytes_done: done,
        bytes_total: total,
        stamp: Some(desk.stamp.into()),
        ..PartitionPart::default()
    };
    send(shared, stream, header, Bytes::new()).await?;
    loop {
        let chunk = desk
            .chunk(std::mem::take(&mut after))
            .await
            .map_err(|error| Some(reply::of_read(&error)))?;
        if chunk.leaves_log() && is_outdated(shared, id, &desk) {
            let desks = &shared.transfers.desks;
            desks.forget(id, taker, desk.header.id);
            return Err(Some(outdated()));
        }
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
            asks_what_is_held: false,
            stamp: None,
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

/// Asks the taker what it holds of another copy.
async fn held(shared: &Shared, stream: &mut Stream) -> Result<Option<Holding>, Option<Error>> {
    let ask = PartitionPart {
        asks_what_is_held: true,
        ..PartitionPart::default()
    };
    send(shared, stream, ask, Bytes::new()).await?;
    let telling = async {
        let Ok(Some((told, length))) = stream.reader.header::<Request>().await else {
            return Err(None);
        };
        if !matches!(told.kind, Some(Kind::PullPartition(_))) {
            return Err(Some(reply::malformed("what is held is not told")));
        }
        let _room = Stream::admit(&stream.intake, length).await;
        stream.reader.body(length).await.map_err(|_| None)
    };
    let told = tokio::select! {
        told = timeout(PART_TIMEOUT, telling) => told.map_err(|_| None)??,
        () = shared.tasks.stopping() => return Err(Some(reply::stopping())),
    };
    if told.is_empty() {
        return Ok(None);
    }
    let holding = Holding::decode(&told);
    holding
        .map(Some)
        .map_err(|error| Some(reply::malformed(error)))
}

/// Whether so much was committed since the copy was made that another one, which goes on from it, should be finished in
/// its place.
fn is_outdated(shared: &Shared, id: PartitionId, desk: &Desk) -> bool {
    // Where it cannot be read, reading on says so.
    let now = shared.engine.replica(id).map(|replica| replica.commit);
    now.is_ok_and(|now| another_is_worth_it(desk.continues, desk.header.commit, now))
}

/// Each further copy has to be closer to the journal's end than the one before was: where records come faster than copies
/// go over, they must end all the same.
fn another_is_worth_it(before: Option<Index>, copied: Index, now: Index) -> bool {
    let since = now.0.saturating_sub(copied.0);
    since > ENTRIES_SINCE_MAX && before.is_none_or(|before| since < copied.0 - before.0)
}

fn outdated() -> Error {
    reply::error(
        ErrorCode::Unavailable,
        "the log has gone over, and much was appended meanwhile: another copy goes on from there",
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_come_closer_or_end() {
        let worth = |before: Option<u64>, copied, now| {
            another_is_worth_it(before.map(Index), Index(copied), Index(now))
        };
        assert!(!worth(None, 100, 100 + ENTRIES_SINCE_MAX));
        assert!(worth(None, 100, 101 + ENTRIES_SINCE_MAX));
        // 100,000 entries came during the copy before, fewer during this one.
        assert!(worth(Some(100), 100_100, 150_100));
        assert!(!worth(Some(100), 100_100, 200_100));
        // What is held may be as new as the copy.
        assert!(!worth(Some(100), 100, 1_000_000));
    }
}
