//! Deletions are remembered for as long as anything may be left that they delete, and then forgotten by every node. Nothing that
//! was deleted comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod by_hand;
#[path = "../support/cluster/mod.rs"]
mod cluster;
mod maps;
mod moving;
mod salvaged;
mod stale;
#[path = "../support/mod.rs"]
mod support;

use std::{ops::Range, time::Duration};

use by_hand::AsNode;
use bytes::Bytes;
use cluster::{Cluster, LOOK_AGAIN, PARTITIONS};
use mesh_engine::{Engine, Options};
use mesh_net::client::{Client, ClientError, NodeState, WriteOptions};
use mesh_ring::{ids::PartitionId, merkle::LeafSum, name::BindingKey};
use support::within;

/// How long a cluster may take to come to rest: copies that move need longer than elections.
const AT_REST_WITHIN: Duration = support::PATIENCE.saturating_mul(2);

/// Rounds begin as soon as something is deleted, and copies are compared often.
const AT_ONCE: &str = "tombstone_age_seconds = 0\nrepair_every_seconds = 1\n";

fn key(n: u64) -> String {
    format!("key-{n:06}")
}

fn write(copies: u32) -> WriteOptions {
    WriteOptions {
        write: Some(copies),
        ..WriteOptions::default()
    }
}

/// Writes to so many nodes, however often that has to be tried: one of them may seem to be away for a moment.
async fn put(client: &Client, numbers: Range<u64>, copies: u32) {
    for n in numbers {
        let name = key(n);
        let value = Bytes::from(format!("value-{n}"));
        within(until_done(async || {
            client
                .put(name.as_bytes(), value.clone(), write(copies))
                .await
        }))
        .await;
    }
}

/// Deletes from so many nodes.
async fn delete(client: &Client, numbers: Range<u64>, copies: u32) {
    for n in numbers {
        let name = key(n);
        within(until_done(async || {
            client.delete(name.as_bytes(), write(copies)).await
        }))
        .await;
    }
}

async fn until_done<T>(mut attempt: impl AsyncFnMut() -> Result<T, ClientError>) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(ClientError::Unavailable(_)) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn is_there(client: &Client, n: u64, read: u32) -> bool {
    let name = key(n);
    let reading = until_done(async || client.get(name.as_bytes(), Some(read)).await);
    within(reading)
        .await
        .is_some_and(|got| !got.values.is_empty())
}

/// Every node says that the keys are not there.
async fn assert_absent(cluster: &Cluster, numbers: Range<u64>, read: u32) {
    for node in cluster.running().collect::<Vec<_>>() {
        let client = cluster.client(&[node]).await;
        for n in numbers.clone() {
            assert!(!is_there(&client, n, read).await, "{} is back", key(n));
        }
        client.close().await;
    }
}

/// Waits until no running node knows anything of these keys.
async fn forgotten(cluster: &Cluster, numbers: Range<u64>) {
    let running: Vec<usize> = cluster.running().collect();
    let mut peers = Vec::new();
    for node in &running {
        let another = running.iter().find(|other| *other != node);
        let another = another.unwrap_or(node);
        peers.push(AsNode::connect(cluster, *node, *another).await);
    }
    cluster
        .eventually("tombstones are forgotten", async || {
            for peer in &peers {
                for n in numbers.clone() {
                    if peer.holds(&key(n)).await {
                        return false;
                    }
                }
            }
            true
        })
        .await;
}

/// Tombstones that the running nodes have forgotten since they started.
async fn count_forgotten(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for node in cluster.running().collect::<Vec<_>>() {
        sum += cluster.status(node).await.tombstones.forgotten;
    }
    sum
}

/// Waits until the tombstones of some partition are held up for a reason with this in it.
async fn held_up_by(cluster: &Cluster, cause: &str) {
    let what = format!("tombstones are held up: {cause}");
    cluster
        .eventually(&what, async || {
            for node in cluster.running().collect::<Vec<_>>() {
                let status = cluster.status(node).await.tombstones;
                if status.held_up.is_some_and(|(_, why)| why.contains(cause)) {
                    return true;
                }
            }
            false
        })
        .await;
}

/// Kills a node, and waits until the others know.
async fn without(cluster: &mut Cluster, node: usize) {
    cluster.kill(node).await;
    cluster
        .eventually("the others know that a node is away", async || {
            let mut known = true;
            for other in cluster.running().collect::<Vec<_>>() {
                let view = cluster.view(other).await;
                known &= cluster.state_in(&view, node) == Some(NodeState::Down);
            }
            known
        })
        .await;
    cluster.all_lead().await;
}

/// Stops all, and looks at their disks.
async fn disks(cluster: &mut Cluster) -> Vec<Engine> {
    let running: Vec<usize> = cluster.running().collect();
    for node in &running {
        cluster.stop(*node).await;
    }
    let data = running.iter().map(|node| cluster.data(*node));
    data.map(|data| Engine::open(data, Options::default()).unwrap())
        .collect()
}

/// Nothing is left of any binding on any disk.
async fn assert_forgotten(cluster: &mut Cluster, numbers: Range<u64>) {
    for engine in disks(cluster).await {
        for n in numbers.clone() {
            let name = BindingKey::new(key(n).as_bytes()).unwrap();
            assert_eq!(engine.binding(&name).unwrap(), None, "{}", key(n));
        }
        for partition in (0..PARTITIONS).map(PartitionId) {
            let sums = engine.leaf_sums(partition).unwrap();
            let left = sums.iter().filter(|sum| **sum != LeafSum::ZERO).count();
            assert_eq!(left, 0, "leaves of partition {partition}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_that_every_node_has_are_forgotten_by_all() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..60, 3).await;
    delete(&client, 0..60, 3).await;
    forgotten(&cluster, 0..60).await;
    assert!(count_forgotten(&cluster).await >= 3 * 60);
    assert_absent(&cluster, 0..60, 3).await;
    // A key that was forgotten is as good as new.
    put(&client, 0..60, 3).await;
    assert!(is_there(&client, 7, 3).await);
    delete(&client, 0..60, 2).await;
    client.close().await;
    forgotten(&cluster, 0..60).await;
    assert_absent(&cluster, 0..60, 3).await;
    assert_forgotten(&mut cluster, 0..60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_alone_forgets_too() {
    let mut cluster = Cluster::start_with(1, AT_ONCE).await;
    let client = cluster.client(&[0]).await;
    put(&client, 0..20, 1).await;
    delete(&client, 0..20, 1).await;
    client.close().await;
    forgotten(&cluster, 0..20).await;
    assert_forgotten(&mut cluster, 0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_forgotten_while_a_node_is_away_that_may_hold_it() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..60, 3).await;
    client.close().await;
    without(&mut cluster, 2).await;
    let client = cluster.client(&[0, 1]).await;
    delete(&client, 0..60, 2).await;
    held_up_by(&cluster, "n3 is away").await;
    assert_eq!(count_forgotten(&cluster).await, 0);
    assert_absent(&cluster, 0..60, 2).await;
    client.close().await;
    // With the values on its disk.
    cluster.restart(2).await;
    forgotten(&cluster, 0..60).await;
    assert_absent(&cluster, 0..60, 3).await;
    assert_forgotten(&mut cluster, 0..60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_young_is_not_asked_about() {
    let cluster = Cluster::start_with(3, "repair_every_seconds = 1\n").await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..10, 3).await;
    delete(&client, 0..10, 3).await;
    client.close().await;
    let rounds = cluster.status(0).await.repair.rounds;
    cluster
        .eventually("some time has gone by", async || {
            cluster.status(0).await.repair.rounds > rounds + 1
        })
        .await;
    for node in 0..3 {
        let status = cluster.status(node).await.tombstones;
        assert_eq!((status.waiting, status.forgotten), (0, 0));
    }
}
