//! What topics hold: where it lies, that it is written and read, and that every replica has the same.

use std::ops::Range;

use mesh_net::client::{Client, ClusterView, PartitionView, Producer, ProducerOptions};
use mesh_ring::{hash::partition_of, ids::PartitionId};

use super::{Cluster, PARTITIONS};
use crate::support::{read_all, record, texts, within};

impl Cluster {
    /// Every replica of a topic holds the same records, as each of them hashes what is on its disk.
    pub(crate) async fn assert_replicas_alike(&self, topic: &str, records: u64) {
        let some = self.running().next().unwrap();
        let view = self.view(some).await;
        let mut roots = Vec::new();
        for node in self.running() {
            if !partition(&view, topic).replicas.contains(&self.id(node)) {
                continue;
            }
            let client = self.client(&[node]).await;
            let described = within(client.describe_topic(topic)).await.unwrap();
            let hash = within(client.hash_topic(&described, 0, records))
                .await
                .unwrap();
            client.close().await;
            assert_eq!(
                (hash.records, hash.damaged),
                (records, 0),
                "of n{}",
                node + 1
            );
            roots.push(hash.root);
        }
        assert!(
            roots.windows(2).all(|pair| pair[0] == pair[1]),
            "{topic} differs"
        );
        assert_eq!(
            roots.len(),
            3.min(self.running().count()),
            "replicas of {topic}"
        );
    }
}

/// Where a topic lies.
pub(crate) fn partition<'a>(view: &'a ClusterView, topic: &str) -> &'a PartitionView {
    &view.partitions[usize::from(partition_id(topic).0)]
}

pub(crate) fn partition_id(topic: &str) -> PartitionId {
    partition_of(topic.as_bytes(), PARTITIONS)
}

/// Publishes `from..to` as texts, each acknowledged before the next.
pub(crate) async fn publish(client: &Client, topic: &str, numbers: Range<u64>) {
    let producer = client.producer(ProducerOptions::default());
    for number in numbers {
        publish_one(&producer, topic, number).await;
    }
}

pub(crate) async fn publish_one(producer: &Producer, topic: &str, number: u64) {
    let published = within(producer.publish(topic, record(number.to_string()))).await;
    assert_eq!(published.unwrap().first, number);
}

/// Reads a whole topic, of which `0..count` was acknowledged.
pub(crate) async fn assert_reads(client: &Client, topic: &str, count: u64) {
    let read = texts(&read_all(client, topic).await);
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(read.len(), expected.len(), "records of {topic}");
    assert!(
        read == expected,
        "{topic} reads otherwise than it was written"
    );
}
