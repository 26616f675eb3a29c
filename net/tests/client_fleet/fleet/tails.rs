//! Tails: of what a node has of the one log.

use bytes::Bytes;
use mesh_engine::batch::BatchHeader;
use mesh_net::wire::{
    frame::FrameWriter,
    proto::{self, Error, ErrorCode, TailFrame, TailStarted, tail_frame::Kind},
};

use super::{
    Shared,
    world::{World, error, topic_id},
};

/// Sends a tail until its end. `None`: the client is gone.
pub(super) async fn serve(
    node: usize,
    shared: &Shared,
    writer: &mut FrameWriter,
    open: proto::TailOpen,
) -> Option<()> {
    let mut changes = shared.1.subscribe();
    let frame = |kind| TailFrame { kind: Some(kind) };
    let begun = shared.0.lock().unwrap().begin_tail(node, &open);
    let started = match begun {
        Ok(started) => started,
        Err(error) => return writer.header(&frame(Kind::Error(error))).await.ok(),
    };
    let (mut next, until) = (started.from, started.until);
    writer.header(&frame(Kind::Started(started))).await.ok()?;
    while until.is_none_or(|until| next < until) {
        changes.mark_unchanged();
        let found = shared.0.lock().unwrap().batch_from(node, &open.topic, next);
        match found {
            Some((batch, end)) => {
                next = end;
                let batches = Kind::Batches(proto::TailBatches {});
                writer.frame(&frame(batches), [batch]).await.ok()?;
            }
            None if until.is_some() => break,
            None => tokio::select! {
                changed = changes.changed() => changed.ok()?,
                () = writer.delivered() => return None,
            },
        }
    }
    let end = Kind::End(proto::TailEnd { next });
    writer.header(&frame(end)).await.ok()
}

impl World {
    fn begin_tail(&self, node: usize, open: &proto::TailOpen) -> Result<TailStarted, Error> {
        let from = match open.start {
            Some(proto::tail_open::Start::Offset(offset)) => offset,
            _ => 0,
        };
        if self.outsiders.contains(&node) {
            return Err(error(ErrorCode::NotReplica));
        }
        let topic = self.topics.get(&open.topic);
        // One that lags behind a topic's first record has never heard of it.
        let knows = |end: u64| end > 0 || !self.lag.contains_key(&node);
        let (topic, end) = topic
            .map(|topic| (topic, self.end(node, topic)))
            .filter(|(_, end)| knows(*end))
            .ok_or_else(|| error(ErrorCode::TopicNotFound))?;
        if from > end {
            return Err(error(ErrorCode::OffsetBeyondEnd));
        }
        Ok(TailStarted {
            topic: Some(topic_id(0, topic.id)),
            from,
            until: (!open.follow).then(|| open.until.unwrap_or(end).min(end)),
            leaderless: false,
        })
    }

    /// The batch that holds this offset, if the node has it, and the offset behind it.
    fn batch_from(&self, node: usize, topic: &str, offset: u64) -> Option<(Bytes, u64)> {
        let topic = &self.topics[topic];
        let end = self.end(node, topic);
        let mut batches = topic.batches.iter().map(|batch| {
            let header = BatchHeader::decode(batch).unwrap();
            (batch.clone(), header.next_offset())
        });
        batches.find(|(_, next)| *next > offset && *next <= end)
    }
}
