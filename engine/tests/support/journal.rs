//! Drives a partition's journal as a replica does: entries by hand, durable and committed when the test says so.

use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_engine::batch::{LeaderStamp, stamp};
use mesh_engine::{Command, Engine, JournalEntry, Persist, TopicConfig, TopicMeta};
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::name::TopicName;

use super::batch;

/// Writes entries of one epoch, one after the other.
#[derive(Clone)]
pub(crate) struct Scribe {
    pub(crate) partition: PartitionId,
    pub(crate) epoch: Epoch,
    pub(crate) next: Index,
}

/// Where a topic of a scribe ends.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) topic: TopicKey,
    pub(crate) next: Offset,
    pub(crate) position: u64,
}

impl Scribe {
    pub(crate) fn new(engine: &Engine, name: &str) -> Scribe {
        Scribe {
            partition: engine.partition_of(name.as_bytes()),
            epoch: Epoch(1),
            next: Index(1),
        }
    }

    /// Goes on at `from`, in a later epoch.
    pub(crate) fn again(&self, from: Index) -> Scribe {
        Scribe {
            epoch: self.epoch.next(),
            next: from,
            ..*self
        }
    }

    pub(crate) fn entry(&mut self, command: Command) -> JournalEntry {
        let index = self.next;
        self.next = index.next();
        JournalEntry {
            index,
            epoch: self.epoch,
            command,
            batch: None,
        }
    }

    pub(crate) fn create(&mut self, name: &str) -> (JournalEntry, End) {
        let id = TopicId(self.next.0);
        let entry = self.entry(Command::CreateTopic {
            name: name.into(),
            config: TopicConfig::default(),
            created_ms: 7,
        });
        let end = End {
            topic: TopicKey {
                partition: self.partition,
                id,
            },
            next: 0,
            position: 0,
        };
        (entry, end)
    }

    pub(crate) fn append(&mut self, end: &mut End, values: &[&str]) -> JournalEntry {
        let mut batch = batch(values, None);
        let leader = LeaderStamp {
            base_offset: end.next,
            base_position: end.position,
            epoch: self.epoch,
            append_time_ms: 1_000 + end.next,
        };
        stamp(&mut batch, leader).unwrap();
        let first = end.next;
        end.next += values.len() as u64;
        end.position += batch.len() as u64;
        let mut entry = self.entry(Command::Append {
            topic: end.topic.id,
            first,
            last: end.next - 1,
            position: end.position,
            time_ms: leader.append_time_ms,
            producer: None,
        });
        entry.batch = Some(Bytes::from(batch));
        entry.verify().unwrap();
        entry
    }
}

/// Makes it durable and waits for that.
pub(crate) fn persist(engine: &Engine, persist: Persist) {
    let (sender, receiver) = sync_channel(1024);
    engine.submit_persist(persist, move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap();
}

pub(crate) fn write(engine: &Engine, partition: PartitionId, entries: Vec<JournalEntry>) {
    persist(engine, Persist::entries(partition, entries));
}

pub(crate) fn rewrite(
    engine: &Engine,
    partition: PartitionId,
    truncate: Index,
    entries: Vec<JournalEntry>,
) {
    let truncate = Some(truncate);
    persist(
        engine,
        Persist {
            truncate,
            ..Persist::entries(partition, entries)
        },
    );
}

pub(crate) fn commit(engine: &Engine, partition: PartitionId, upto: Index) {
    let (sender, receiver) = sync_channel(1024);
    engine.submit_commit(partition, upto, move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap();
}

pub(crate) fn named(engine: &Engine, name: &str) -> Option<TopicMeta> {
    engine.topic(&TopicName::new(name).unwrap()).unwrap()
}

/// A partition with a committed topic of three records, in entries 1 to 4.
pub(crate) fn begun(engine: &Engine, name: &str) -> (Scribe, End) {
    let mut scribe = Scribe::new(engine, name);
    let barrier = scribe.entry(Command::Barrier);
    let (create, mut end) = scribe.create(name);
    let first = scribe.append(&mut end, &["a", "b"]);
    let second = scribe.append(&mut end, &["c"]);
    write(
        engine,
        scribe.partition,
        vec![barrier, create, first, second],
    );
    commit(engine, scribe.partition, Index(4));
    (scribe, end)
}
