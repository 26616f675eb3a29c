//! Messages that the tests send.

use bytes::Bytes;
use mesh_net::node::Payload;
use mesh_ring::{
    command::Command,
    ids::{Epoch, Index, PartitionId, TopicId},
    replica::{self, Entry, Message, Position},
};

pub(crate) const PARTITION: PartitionId = PartitionId(3);

/// Entries from `first` on, one for each batch.
pub(crate) fn entries(first: u64, batches: &[Bytes]) -> Vec<Entry<Payload>> {
    let entry = |(index, batch): (u64, &Bytes)| {
        let command = Command::Append {
            topic: TopicId(9),
            first: index,
            last: index,
            position: 10 * index,
            time_ms: 7,
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
