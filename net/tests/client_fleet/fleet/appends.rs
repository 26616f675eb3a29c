//! Appends: into the one log, unless the node denies that it leads.

use mesh_engine::batch::{BatchHeader, LeaderStamp, stamp};
use mesh_net::wire::{
    frame::{FrameReader, FrameWriter},
    proto::{self, Appended, Appends, Error, ErrorCode},
};
use mesh_ring::{
    hash::partition_of,
    ids::Epoch,
    producer::{SequenceError, Verdict},
};
use quinn::RecvStream;

use super::{
    Shared,
    world::{PARTITIONS, Topic, World, error, topic_id},
};

pub(super) async fn serve(
    node: usize,
    shared: Shared,
    mut reader: FrameReader<RecvStream>,
    mut writer: FrameWriter,
) {
    while let Ok(Some((append, length))) = reader.header::<proto::Append>().await {
        let Ok(batch) = reader.body_vec(length).await else {
            return;
        };
        let appended = shared.0.lock().unwrap().append(node, &append, batch);
        shared.1.send_modify(|changes| *changes += 1);
        let answers = Appends {
            appended: vec![appended],
            ..Default::default()
        };
        if writer.header(&answers).await.is_err() {
            return;
        }
    }
    writer.finish();
    writer.delivered().await;
}

impl World {
    fn append(&mut self, node: usize, append: &proto::Append, batch: Vec<u8>) -> Appended {
        let partition = partition_of(append.topic.as_bytes(), PARTITIONS).0;
        let leader = self.leader(&append.topic);
        let is_deposed = self.deposed.get(&partition) == Some(&node);
        let not_leader = refused(
            append.request,
            Error {
                leader: leader
                    .filter(|_| self.hints)
                    .map(|leader| self.addresses[leader].clone()),
                ..error(ErrorCode::NotLeader)
            },
        );
        if leader != Some(node) && !is_deposed {
            return not_leader;
        }
        if let Some(code) = self.refuse {
            return refused(append.request, error(code));
        }
        let epoch = Epoch(self.version);
        let topic = self.topic(&append.topic);
        let (first, last) = match topic.take(epoch, batch) {
            Ok(offsets) => offsets,
            Err(code) => return refused(append.request, error(code)),
        };
        let topic = topic_id(partition, topic.id);
        if is_deposed {
            return not_leader;
        }
        Appended {
            request: append.request,
            first,
            last,
            topic: Some(topic),
            ..Default::default()
        }
    }
}

impl Topic {
    /// The first and the last offset of a batch, which may have been taken before.
    fn take(&mut self, epoch: Epoch, mut batch: Vec<u8>) -> Result<(u64, u64), ErrorCode> {
        let header = BatchHeader::decode(&batch).unwrap();
        let producer = header.producer.unwrap();
        let window = self.windows.entry(producer.id).or_default();
        match window.check(producer.epoch, producer.sequence) {
            Ok(Verdict::Duplicate { first, last }) => Ok((first, last)),
            Ok(Verdict::Next) => {
                let stamped = LeaderStamp {
                    base_offset: self.next,
                    base_position: 0,
                    epoch,
                    append_time_ms: 0,
                };
                stamp(&mut batch, stamped).unwrap();
                let (first, last) = (self.next, self.next + u64::from(header.record_count) - 1);
                window.record(producer.epoch, producer.sequence, first, last);
                self.next = last + 1;
                self.batches.push(batch.into());
                Ok((first, last))
            }
            Err(SequenceError::Gap { .. }) => Err(ErrorCode::SequenceGap),
            Err(SequenceError::Fenced { .. }) => Err(ErrorCode::Fenced),
            Err(SequenceError::Unknown) => Err(ErrorCode::UnknownProducer),
        }
    }
}

fn refused(request: u64, error: Error) -> Appended {
    Appended {
        request,
        error: Some(error),
        ..Default::default()
    }
}
