//! The tail stream: stored batches, verbatim, from an offset on; then, if asked, what is committed from now on.
//!
//! While one chunk is written the next is read. A reader that is slow fills its window and is waited for; it costs two
//! chunks of memory and what QUIC may send ahead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::batch::BatchHeader;
use mesh_engine::{ReadError, TopicMeta};
use mesh_ring::ids::{Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::name::CursorName;
use tokio::time::Instant;

use super::commits::Watch;
use super::connection::Stream;
use super::partition::Partition;
use super::requests::access::topic_name;
use super::requests::topics::lookup;
use super::{Shared, reply};
use crate::identity::Access;
use crate::tasks::blocking;
use crate::wire::TAIL_FRAME_BYTES;
use crate::wire::frame::{FrameError, FrameWriter};
use crate::wire::proto::{
    self, Error, ErrorCode, TailBatches, TailEnd, TailFrame, TailOpen, TailStarted,
    tail_frame::Kind, tail_open::Start,
};

/// Bytes of batches that are read without giving way to others, at most.
const AT_HAND_BYTES: usize = 64 << 10;

/// How long a tail that begins waits for this copy to have what the leader has.
const CATCH_UP_WAIT: Duration = Duration::from_secs(5);

/// How long it waits for a leader that could be there, and how often it looks.
const TAKEOVER_WAIT: Duration = Duration::from_secs(2);
const TAKEOVER_LOOK: Duration = Duration::from_millis(20);

/// How long a tail goes on that waits at a node without the leader. Its client tries others, and comes back if there is none.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);

/// How soon a tail that waits looks for its leader where nothing told it to.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A tail that may begin.
struct Tail {
    topic: TopicKey,
    next: Offset,
    /// Where it ends; `None`: never.
    until: Option<Offset>,
}

/// Why a tail ended before its end.
enum Cut {
    Refused(Error),
    /// The client is gone.
    Lost,
}

impl From<FrameError> for Cut {
    fn from(_: FrameError) -> Cut {
        Cut::Lost
    }
}

pub(super) async fn serve(shared: Arc<Shared>, mut stream: Stream, open: TailOpen) {
    match run(&shared, &mut stream, open).await {
        Ok(next) => {
            let _ = send(&mut stream.writer, Kind::End(TailEnd { next }), []).await;
        }
        Err(Cut::Refused(error)) => {
            let _ = send(&mut stream.writer, Kind::Error(error), []).await;
        }
        Err(Cut::Lost) => return,
    }
    stream.writer.finish();
    stream.writer.delivered().await;
}

async fn run(shared: &Arc<Shared>, stream: &mut Stream, open: TailOpen) -> Result<Offset, Cut> {
    let name = topic_name(&stream.peer, Access::Read, &open.topic).map_err(Cut::Refused)?;
    let id = shared.map().partition(name.as_bytes());
    let Some(partition) = shared.partitions.get(id) else {
        return Err(Cut::Refused(shared.not_replica(id)));
    };
    let end = find_end(shared, &partition, &open)
        .await
        .map_err(Cut::Refused)?;
    let leaderless = end == End::Local;
    let (topic, follow) = (open.topic.clone(), open.follow);
    let beginning = {
        let shared = Arc::clone(shared);
        blocking(move || begin(&shared, &lookup(&shared, &name)?, &open, end))
    };
    let mut tail = beginning
        .await
        .unwrap_or_else(|| Err(reply::internal()))
        .map_err(Cut::Refused)?;
    let started = TailStarted {
        topic: Some(tail.topic.into()),
        from: tail.next,
        until: tail.until,
        leaderless,
    };
    send(&mut stream.writer, Kind::Started(started), []).await?;
    let (_listening, came_to) = shared.listeners.add_tail(
        &stream.peer.name,
        shared.engine.now_ms(),
        (&topic, follow),
        tail.next,
    );

    // Before the first read: a commit after it is not missed.
    let mut watch = shared.commits.watch(tail.topic);
    let mut reading = read(shared, tail.topic, tail.next);
    while !tail.is_done() {
        let batches = reading
            .await
            .unwrap_or_else(|| Err(ReadError::Store("the read was lost".into())));
        let batches = match batches {
            // The client has seen more than this copy has committed yet.
            Err(ReadError::BeyondEnd { .. }) => Vec::new(),
            batches => batches.map_err(|error| Cut::Refused(unreadable(shared, &error)))?,
        };
        if batches.is_empty() {
            // What is committed now is in memory: reading it costs less than handing the work to another thread.
            loop {
                wait(shared, &partition, &mut stream.writer, &mut watch).await?;
                let fresh = shared
                    .engine
                    .read_at_hand(tail.topic, tail.next, AT_HAND_BYTES);
                let Some((batches, is_all)) = fresh else {
                    break;
                };
                tail.next = end_of(&batches).map_err(Cut::Refused)?;
                came_to.store(tail.next, Ordering::Relaxed);
                send(&mut stream.writer, Kind::Batches(TailBatches {}), batches).await?;
                if !is_all || tail.is_done() || shared.tasks.is_stopping() {
                    break;
                }
            }
            reading = read(shared, tail.topic, tail.next);
            continue;
        }
        tail.next = end_of(&batches).map_err(Cut::Refused)?;
        came_to.store(tail.next, Ordering::Relaxed);
        reading = read(shared, tail.topic, tail.next);
        send(&mut stream.writer, Kind::Batches(TailBatches {}), batches).await?;
        if shared.tasks.is_stopping() {
            return Err(Cut::Refused(reply::stopping()));
        }
    }
    Ok(tail.next)
}

/// Where the topic ends when a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// This node leads: its own end.
    Own,
    /// The leader's, which this node has reached.
    Leaders(Offset),
    /// There is no leader to ask: what this node knows to be committed.
    Local,
}

/// Asks the leader where the topic ends, and waits until this node has it all.
async fn find_end(
    shared: &Arc<Shared>,
    partition: &Partition,
    open: &TailOpen,
) -> Result<End, Error> {
    let takeover = Instant::now() + TAKEOVER_WAIT;
    let described = loop {
        // One that is cut off from a majority may have been replaced, and not know.
        if partition.leads() && shared.shortage(partition.id).is_none() {
            return Ok(End::Own);
        }
        match shared.ask_leader(partition.id, &open.topic).await? {
            Some(described) => break described,
            // Whoever takes over serves soon; after a restart much less is known to be committed before that.
            None if Instant::now() < takeover && shared.shortage(partition.id).is_none() => {
                tokio::time::sleep(TAKEOVER_LOOK).await;
            }
            None => return Ok(End::Local),
        }
    };
    let topic = described.topic.as_ref().map(TopicKey::try_from);
    let Some(Ok(topic)) = topic else {
        return Err(reply::internal());
    };
    let deadline = Instant::now() + CATCH_UP_WAIT;
    shared
        .wait_for_commit(topic, described.next, deadline)
        .await?;
    Ok(End::Leaders(described.next))
}

/// Finds where the tail starts and ends.
fn begin(shared: &Shared, topic: &TopicMeta, open: &TailOpen, end: End) -> Result<Tail, Error> {
    let key = topic.key;
    if open.incarnation.is_some_and(|wanted| wanted != key.into()) {
        return Err(reply::of_read(&ReadError::TopicDeleted));
    }
    let engine = &shared.engine;
    let failed = |error: ReadError| unreadable(shared, &error);
    let extent = engine.describe(key).map_err(failed)?;
    let last = match end {
        End::Leaders(next) => next.min(extent.next),
        End::Own | End::Local => extent.next,
    };
    let next = match &open.start {
        None | Some(Start::First(_)) => extent.first,
        Some(Start::Offset(offset)) => *offset,
        Some(Start::TimeMs(time_ms)) => engine.offset_at_time(key, *time_ms).map_err(failed)?,
        Some(Start::Last(records)) => last.saturating_sub(*records).max(extent.first),
        Some(Start::Cursor(name)) => {
            let name = CursorName::new(name).map_err(reply::invalid)?;
            engine
                .cursor(key, &name)
                .map_err(failed)?
                .unwrap_or(extent.first)
        }
    };
    if next < extent.first {
        return Err(reply::of_read(&ReadError::Trimmed {
            from: next,
            first: extent.first,
        }));
    }
    // One that goes on elsewhere may have seen what this copy is only about to learn.
    let resumes = open.incarnation.is_some() && end == End::Local;
    if next > extent.next && !resumes {
        return Err(reply::of_read(&ReadError::BeyondEnd {
            from: next,
            next: extent.next,
        }));
    }
    let until = match (open.follow, open.until) {
        (true, until) => until,
        (false, until) => Some(until.unwrap_or(last).min(last).max(next)),
    };
    Ok(Tail {
        topic: key,
        next,
        until,
    })
}

/// What the client is told, which goes on at another replica where it is about damage; that is healed meanwhile.
fn unreadable(shared: &Shared, error: &ReadError) -> Error {
    shared.note_damage(error);
    reply::of_read(error)
}

impl Tail {
    fn is_done(&self) -> bool {
        self.until.is_some_and(|until| self.next >= until)
    }
}

fn read(
    shared: &Arc<Shared>,
    topic: TopicKey,
    from: Offset,
) -> impl Future<Output = Option<Result<Vec<Bytes>, ReadError>>> + Send + use<> {
    let engine = Arc::clone(&shared.engine);
    blocking(move || engine.read(topic, from, TAIL_FRAME_BYTES))
}

/// Waits until there may be more to read.
async fn wait(
    shared: &Shared,
    partition: &Partition,
    writer: &mut FrameWriter,
    watch: &mut Watch,
) -> Result<(), Cut> {
    tokio::select! {
        () = watch.changed() => Ok(()),
        () = partition.ended() => Err(Cut::Refused(shared.not_replica(partition.id))),
        () = cut_off(shared, partition.id) => Err(Cut::Refused(shared.behind(partition.id))),
        () = shared.tasks.stopping() => Err(Cut::Refused(reply::stopping())),
        () = writer.delivered() => Err(Cut::Lost),
    }
}

/// Resolves when this node has not heard of the partition's leader for so long that another node may well know more.
async fn cut_off(shared: &Shared, id: PartitionId) {
    let is_lost = || {
        let map = shared.map();
        let leader = map.assignment(id).map(|assignment| assignment.leader);
        leader.is_some_and(|leader| {
            let cut_off = leader == shared.me() && shared.shortage(id).is_some();
            cut_off || !shared.is_alive(leader)
        })
    };
    let mut lives = shared.lives.clone();
    loop {
        if is_lost() {
            tokio::time::sleep(CUT_OFF_AFTER).await;
            if is_lost() {
                return;
            }
        }
        tokio::select! {
            Ok(()) = lives.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn end_of(batches: &[Bytes]) -> Result<Offset, Error> {
    let last = batches.last().ok_or_else(reply::internal)?;
    let header = BatchHeader::decode_prefix(last)
        .map_err(|error| reply::error(ErrorCode::Corrupt, error.to_string()))?;
    Ok(header.next_offset())
}

async fn send(
    writer: &mut FrameWriter,
    kind: Kind,
    body: impl AsRef<[Bytes]>,
) -> Result<(), FrameError> {
    writer.frame(&TailFrame { kind: Some(kind) }, body).await
}

impl From<TopicKey> for proto::TopicId {
    fn from(topic: TopicKey) -> Self {
        Self {
            partition: topic.partition.0.into(),
            id: topic.id.0,
        }
    }
}

impl TryFrom<&proto::TopicId> for TopicKey {
    type Error = std::num::TryFromIntError;

    fn try_from(topic: &proto::TopicId) -> Result<Self, Self::Error> {
        Ok(TopicKey {
            partition: PartitionId(topic.partition.try_into()?),
            id: TopicId(topic.id),
        })
    }
}
