//! Partitions that move to a node that joins and away from one that leaves, while appends and reads go on, and while
//! whoever gives or takes is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_net::client::{Client, ClusterChange, NodeState, ProducerOptions, TransferStatus};
use mesh_ring::ids::PartitionId;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, PARTITIONS, assert_reads};
use crate::support::{from_start, noise, record, texts, within};

/// Slow enough that something can happen meanwhile.
const SLOWLY: &str = "transfer_bytes_per_second = 3000000\n";

/// Slow enough that what goes on is seen before it ends.
const MORE_SLOWLY: &str = "transfer_bytes_per_second = 1500000\n";

/// Appends numbers to a topic and follows them with a tail, until it is told to end.
struct Traffic {
    stop: Arc<AtomicBool>,
    appends: JoinHandle<u64>,
    tail: JoinHandle<()>,
}

impl Traffic {
    async fn start(client: &Client, topic: &str) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let (producer, ending) = (
            client.producer(ProducerOptions::default()),
            Arc::clone(&stop),
        );
        let name = topic.to_owned();
        // The tail needs a topic that is there.
        let published = within(producer.publish(&name, record("0".to_owned()))).await;
        assert_eq!(published.unwrap().first, 0);
        let appends = tokio::spawn(async move {
            let mut count = 1;
            while !ending.load(Ordering::Relaxed) {
                let published = within(producer.publish(&name, record(count.to_string()))).await;
                assert_eq!(published.unwrap().first, count, "once, and in order");
                count += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            count
        });
        let mut tail = client.tail(topic, from_start(true));
        let tail = tokio::spawn(async move {
            let mut next = 0;
            loop {
                let batch = tail.next().await.unwrap().unwrap();
                for (text, read) in texts(&batch.records).iter().zip(&batch.records) {
                    assert_eq!((read.offset, text), (next, &next.to_string()));
                    next += 1;
                }
            }
        });
        Traffic {
            stop,
            appends,
            tail,
        }
    }

    /// How many were appended; every one was acknowledged.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let count = within(self.appends).await.unwrap();
        assert!(!self.tail.is_finished(), "the tail has failed");
        self.tail.abort();
        count
    }
}

/// A topic in each partition, with some data.
async fn fill(client: &Client, records: u64, bytes: usize) -> Vec<String> {
    let mut topics: Vec<Option<String>> = vec![None; usize::from(PARTITIONS)];
    for name in (0..1_000).map(|number| format!("data-{number}")) {
        let PartitionId(partition) = crate::cluster::partition_id(&name);
        topics[usize::from(partition)].get_or_insert(name);
    }
    let topics: Vec<String> = topics.into_iter().map(Option::unwrap).collect();
    let producer = client.producer(ProducerOptions::default());
    for topic in &topics {
        for seed in 0..records {
            let value = noise(seed * 2 + 1, bytes);
            within(producer.publish(topic, record(value)))
                .await
                .unwrap();
        }
    }
    topics
}

/// Waits until a copy to `to` is under way with at least `bytes` of it there; returns it.
async fn copying(cluster: &Cluster, to: usize, bytes: u64) -> TransferStatus {
    let mut found = None;
    cluster
        .eventually("a copy is under way", async || {
            let transfers = cluster.status(to).await.transfers;
            let mut copying = transfers
                .into_iter()
                .filter(|transfer| transfer.to == cluster.id(to) && transfer.bytes_done >= bytes);
            found = copying.next();
            found.is_some()
        })
        .await;
    found.unwrap()
}

/// Every node holds what the map gives it, and nothing else; the copies are balanced.
async fn assert_settled(cluster: &Cluster) {
    cluster.all_placed().await;
    cluster
        .eventually("old copies are dropped", async || {
            let some = cluster.running().next().unwrap();
            let view = cluster.view(some).await;
            for node in cluster.running() {
                let held = cluster.status(node).await.partitions;
                let mut held: Vec<_> = held.into_iter().map(|copy| copy.partition).collect();
                held.sort_unstable();
                let given = view.partitions.iter();
                let given =
                    given.filter(|partition| partition.replicas.contains(&cluster.id(node)));
                if held != given.map(|partition| partition.id).collect::<Vec<_>>() {
                    return false;
                }
            }
            true
        })
        .await;
    let mut counts = Vec::new();
    for node in cluster.running() {
        counts.push(cluster.status(node).await.partitions.len());
    }
    let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
    assert!(spread <= 1, "copies per node: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_another_leaves_while_everything_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    let topics = fill(&client, 4, 2_000).await;
    client
        .put(b"bound", "before".into(), Default::default())
        .await
        .unwrap();
    let traffic = Traffic::start(&client, "traffic").await;
    let joining = cluster.admit("").await;
    cluster.restart(joining).await;
    cluster
        .eventually("the new node holds partitions", async || {
            let view = cluster.view(joining).await;
            let mut partitions = view.partitions.iter();
            partitions.any(|partition| partition.replicas.contains(&cluster.id(joining)))
        })
        .await;
    assert_settled(&cluster).await;

    // And now without the first.
    cluster.change(ClusterChange::Drain(cluster.id(0))).await;
    cluster
        .eventually("the drained node holds nothing", async || {
            let status = cluster.status(0).await;
            let view = cluster.view(1).await;
            let mut partitions = view.partitions.iter();
            status.partitions.is_empty()
                && partitions.all(|partition| {
                    partition.active && !partition.replicas.contains(&cluster.id(0))
                })
        })
        .await;
    cluster.change(ClusterChange::Remove(cluster.id(0))).await;
    let cause = cluster.end_of(0).await;
    for words in ["was removed", "meshctl node new", "meshctl node join"] {
        assert!(cause.contains(words), "{cause:?} does not say {words:?}");
    }
    cluster.kill(0).await;
    let cause = cluster.ends(0).await;
    assert!(cause.contains("was removed"), "{cause}");
    assert_settled(&cluster).await;

    let count = traffic.end().await;
    cluster.all_caught_up().await;
    let client_too = cluster.client(&[joining]).await;
    assert_reads(&client_too, "traffic", count).await;
    cluster.assert_replicas_alike("traffic", count).await;
    for topic in &topics {
        cluster.assert_replicas_alike(topic, 4).await;
    }
    assert!(client_too.get(b"bound", None).await.unwrap().is_some());
    client_too.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_a_copy_may_be_killed_and_goes_on() {
    let mut cluster = Cluster::start_with(3, SLOWLY).await;
    let client = cluster.client(&[0, 1, 2]).await;
    let topics = fill(&client, 40, 100_000).await;
    let traffic = Traffic::start(&client, "traffic").await;
    let joining = cluster.admit(SLOWLY).await;
    cluster.restart(joining).await;
    for _ in 0..2 {
        let transfer = copying(&cluster, joining, 1).await;
        assert_eq!(transfer.state, "copying");
        assert!(transfer.bytes_total >= transfer.bytes_done, "{transfer:?}");
        cluster.kill(joining).await;
        cluster.restart(joining).await;
    }
    assert_settled(&cluster).await;
    let count = traffic.end().await;
    cluster.all_caught_up().await;
    cluster.assert_replicas_alike("traffic", count).await;
    for topic in &topics {
        cluster.assert_replicas_alike(topic, 40).await;
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_a_copy_may_be_killed_and_another_leader_goes_on() {
    a_giver_dies_and_its_copy_goes_on(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_a_copy_may_be_killed_and_it_goes_on() {
    a_giver_dies_and_its_copy_goes_on(true).await;
}

async fn a_giver_dies_and_its_copy_goes_on(and_the_taker: bool) {
    let mut cluster = Cluster::start_with(3, MORE_SLOWLY).await;
    let client = cluster.client(&[0, 1, 2]).await;
    let topics = fill(&client, 50, 100_000).await;
    let joining = cluster.admit(MORE_SLOWLY).await;
    cluster.restart(joining).await;
    let before = copying(&cluster, joining, 2 << 20).await;
    let giver = cluster.number(before.from);
    let led_by_giver = cluster.topic_led_by(giver).await;
    cluster.kill(giver).await;
    if and_the_taker {
        cluster.kill(joining).await;
        cluster.restart(joining).await;
    }
    // Another one leads, and sends no more of the log than is not there yet.
    let mut after = None;
    cluster
        .eventually("another leader's copy is taken", async || {
            let transfers = cluster.status(joining).await.transfers;
            after = transfers.into_iter().find(|other| {
                let is_another = other.from != before.from && other.to == before.to;
                other.partition == before.partition && is_another && other.bytes_done > 0
            });
            after.is_some()
        })
        .await;
    let traffic = Traffic::start(&client, &led_by_giver).await;
    let after = after.unwrap();
    assert!(
        after.bytes_done >= before.bytes_done,
        "it did not go on: {before:?}, then {after:?}"
    );
    cluster.restart(giver).await;
    assert_settled(&cluster).await;
    traffic.end().await;
    cluster.all_caught_up().await;
    let view = cluster.view(giver).await;
    assert_eq!(cluster.state_in(&view, joining), Some(NodeState::Up));
    for topic in &topics {
        cluster.assert_replicas_alike(topic, 50).await;
    }
    client.close().await;
}
