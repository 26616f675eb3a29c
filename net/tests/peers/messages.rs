//! Messages that the tests send.

use bytes::Bytes;
use mesh_engine::batch::{BatchBuilder, BatchHeader, Compression, LeaderStamp, stamp};
use mesh_net::node::Payload;
use mesh_ring::{
    command::Command,
    ids::{Epoch, Index, PartitionId, TopicId},
    replica::{self, Entry, Message, Position},
};

pub(crate) const PARTITION: PartitionId = PartitionId(3);

/// A stamped batch of `bytes` bytes, or a little more.
pub(crate) fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    // Header, and what the records have beside their values.
    let value = vec![bytes as u8; bytes.saturating_sub(160)];
    for part in value.chunks(1 << 19).chain([&[][..]]) {
        builder.push_parts(None, part, &[], 3).unwrap();
    }
    let mut batch = builder.finish(None).unwrap();
    let leader = LeaderStamp {
        base_offset: 5,
        base_position: 11,
        epoch: Epoch(2),
        append_time_ms: 7,
    };
    stamp(&mut batch, leader).unwrap();
    batch.into()
}

/// Entries from `first` on, one for each batch.
pub(crate) fn entries(first: u64, batches: &[Bytes]) -> Vec<Entry<Payload>> {
    let entry = |(index, batch): (u64, &Bytes)| {
        let header = BatchHeader::decode(batch).unwrap();
        let command = Command::Append {
            topic: TopicId(9),
            first: header.leader.base_offset,
            last: header.last_offset(),
            position: header.next_position(),
            time_ms: header.leader.append_time_ms,
            producer: None,
        };
        Entry {
            epoch: Epoch(2),
            index: Index(index),
            payload: replica::Payload::Command(Payload::new(command, Some(batch.clone()))),
        }
    };
    (first..).zip(batches).map(entry).collect()
}

/// An append of `batches`, the first at index `first`.
pub(crate) fn append(first: u64, batches: &[Bytes]) -> Message<Payload> {
    Message::Append {
        epoch: Epoch(2),
        boot: 1,
        prev: Position {
            epoch: Epoch(2),
            index: Index(first - 1),
        },
        entries: entries(first, batches),
        commit: Index(first - 1),
        activated: true,
        answer: false,
    }
}

pub(crate) fn acked(index: u64) -> Message<Payload> {
    Message::Acked {
        epoch: Epoch(2),
        boot: 1,
        index: Index(index),
        received: Index(index),
        commit: Index(0),
        suspect: false,
    }
}

/// The entries that a message carries.
pub(crate) fn carried(message: Message<Payload>) -> Vec<Entry<Payload>> {
    match message {
        Message::Append { entries, .. } | Message::Fetched { entries, .. } => entries,
        other => panic!("{other:?}"),
    }
}
