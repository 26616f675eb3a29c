//! The moment between looking into the store and asking what of it is committed, which no test from outside can hit.

use std::cell::Cell;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_ring::command::{Command, TopicConfig};
use mesh_ring::ids::{ClusterId, Epoch, Index, NodeId, PartitionId, TopicId, TopicKey};

use super::{JournalEntry, Persist};
use crate::batch::{BatchBuilder, Compression, LeaderStamp, Record, records, stamp};
use crate::engine::Engine;
use crate::identity::{Identity, prepare};
use crate::options::Options;
use crate::read;

const P: PartitionId = PartitionId(0);
const TOPIC: TopicKey = TopicKey {
    partition: P,
    id: TopicId(1),
};

fn entry(index: u64, epoch: u64, command: Command) -> JournalEntry {
    JournalEntry {
        index: Index(index),
        epoch: Epoch(epoch),
        command,
        batch: None,
    }
}

/// An entry that appends one record, the first of the topic.
fn append(index: u64, epoch: u64, value: &'static str) -> JournalEntry {
    let mut builder = BatchBuilder::new(Compression::None);
    let record = Record {
        key: None,
        value: value.into(),
        headers: Vec::new(),
        timestamp_ms: 0,
    };
    builder.push(&record).unwrap();
    let mut batch = builder.finish(None).unwrap();
    let leader = LeaderStamp {
        base_offset: 0,
        base_position: 0,
        epoch: Epoch(epoch),
        append_time_ms: 1,
    };
    stamp(&mut batch, leader).unwrap();
    let command = Command::Append {
        topic: TOPIC.id,
        first: 0,
        last: 0,
        position: batch.len() as u64,
        time_ms: 1,
        producer: None,
    };
    JournalEntry {
        batch: Some(Bytes::from(batch)),
        ..entry(index, epoch, command)
    }
}

fn persist(engine: &Engine, persist: Persist) {
    let (sender, receiver) = sync_channel(1024);
    engine.submit_persist(persist, move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap();
}

fn commit(engine: &Engine, upto: u64) {
    let (sender, receiver) = sync_channel(1024);
    engine.submit_commit(P, Index(upto), move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap();
}

fn value(batch: &Bytes) -> Bytes {
    let (_, record) = records(batch).unwrap().next().unwrap().unwrap();
    record.value
}

#[test]
fn what_was_read_before_it_was_replaced_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let identity = Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId([2; 16]),
        name: "n".into(),
        partitions: 1,
    };
    prepare(&data, &identity).unwrap();
    let options = Options {
        reserve_bytes: 0,
        ..Options::default()
    };
    let engine = Engine::open(&data, options).unwrap();
    let create = Command::CreateTopic {
        name: "t".into(),
        config: TopicConfig::default(),
        created_ms: 0,
    };
    let entries = vec![entry(1, 1, create), append(2, 1, "never committed")];
    persist(&engine, Persist::entries(P, entries));
    commit(&engine, 1);

    let looks = Cell::new(0);
    let seen = engine.committed(TOPIC, |end| {
        let stored = read::batches(engine.store(), &|_| None, TOPIC, 0, 1)?;
        looks.set(looks.get() + 1);
        if looks.get() == 1 {
            assert_eq!(value(&stored[0]), "never committed");
            // Another leader's record takes the place and is committed, all before the reader asks.
            let replaced = Persist {
                truncate: Some(Index(2)),
                ..Persist::entries(P, vec![append(2, 2, "committed")])
            };
            persist(&engine, replaced);
            commit(&engine, 2);
        }
        assert_eq!(
            end(TOPIC.id),
            None,
            "all that is stored by now is committed"
        );
        Ok(value(&stored[0]))
    });
    assert_eq!(seen.unwrap(), "committed");
    assert_eq!(looks.get(), 2);
}
