//! What these tests publish and expect: numbers, each at its own offset.

use std::ops::Range;

use mesh_net::client::{Producer, Start, Tail, TailOptions};
use mesh_ring::hash::partition_of;

use crate::{
    fleet::{Fleet, PARTITIONS},
    support::{record, within},
};

/// A topic that `leader` leads.
pub(crate) fn topic_of(fleet: &Fleet, leader: usize) -> String {
    (0..)
        .map(|number| format!("topic-{number}"))
        .find(|topic| fleet.leader(topic) == Some(leader))
        .unwrap()
}

pub(crate) fn partition(topic: &str) -> u16 {
    partition_of(topic.as_bytes(), PARTITIONS).0
}

pub(crate) async fn publish(producer: &Producer, topic: &str, value: &str) -> u64 {
    let published = within(producer.publish(topic, record(value.to_owned()))).await;
    published.unwrap().first
}

pub(crate) async fn numbers(producer: &Producer, topic: &str, range: Range<u64>) {
    for number in range {
        assert_eq!(publish(producer, topic, &number.to_string()).await, number);
    }
}

pub(crate) fn following(start: Start) -> TailOptions {
    TailOptions {
        start,
        follow: true,
        until: None,
    }
}

/// The next `count` records, which must be `start`, `start` + 1 … and have these numbers as their values.
pub(crate) async fn expect(tail: &mut Tail, start: u64, count: u64) {
    let mut next = start;
    while next < start + count {
        let batch = within(tail.next()).await.unwrap().unwrap();
        for record in batch.records {
            assert_eq!(record.offset, next);
            assert_eq!(record.record.value, next.to_string());
            next += 1;
        }
    }
}
