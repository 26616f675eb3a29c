//! Copies of bindings that differ, and what brings them to the same: by themselves, and when somebody asks for it. Nothing is
//! lost on the way when partitions move.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use std::{
    fs,
    ops::{ControlFlow, Range},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh_engine::{BindingWrite, Engine, Options, ReadError};
use mesh_net::client::{Client, ClusterChange, NodeState, RepairReport, WriteOptions};
use mesh_ring::{ids::PartitionId, name::BindingKey};

use crate::{
    cluster::{Cluster, NEVER, PARTITIONS, sum},
    support::{noise, within},
};

/// How long a cluster may take to come to rest: copies that move need longer than elections.
const AT_REST_WITHIN: Duration = support::PATIENCE.saturating_mul(2);

/// A key of 20 bytes.
fn key(n: u64) -> String {
    format!("binding-{n:012}")
}

/// A value of 100 bytes that does not compress much.
fn value(n: u64, version: u64) -> Bytes {
    let hex = noise(n * 7 + version + 1, 50).into_iter();
    hex.map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into()
}

/// Writes to so many replicas.
async fn put(client: &Client, numbers: Range<u64>, version: u64, write: u32) {
    for n in numbers {
        let options = WriteOptions {
            write: Some(write),
            ..WriteOptions::default()
        };
        within(client.put(key(n).as_bytes(), value(n, version), options))
            .await
            .unwrap();
    }
}

async fn delete(client: &Client, numbers: Range<u64>) {
    for n in numbers {
        within(client.delete(key(n).as_bytes(), WriteOptions::default()))
            .await
            .unwrap();
    }
}

/// Kills a node, and waits until the others know; a client that knows, too.
async fn without(cluster: &mut Cluster, node: usize) -> Client {
    cluster.kill(node).await;
    cluster
        .eventually("the others know that a node is away", async || {
            let mut known = true;
            for other in cluster.running() {
                let view = cluster.view(other).await;
                known &= cluster.state_in(&view, node) == Some(NodeState::Down);
            }
            known
        })
        .await;
    cluster.all_lead().await;
    cluster.any_client().await
}

fn healed(report: &RepairReport) -> u64 {
    sum(report, |node| node.sent + node.received)
}

/// What a node that is stopped has on its disk.
fn disk(cluster: &Cluster, node: usize) -> Engine {
    Engine::open(cluster.data(node), Options::default()).unwrap()
}

fn binding_key(n: u64) -> BindingKey {
    BindingKey::new(key(n).as_bytes()).unwrap()
}

/// The value that a disk has of a key; `None`: it is deleted.
fn held(engine: &Engine, n: u64) -> Option<Bytes> {
    let binding = engine.binding(&binding_key(n)).unwrap();
    let binding = binding.unwrap_or_else(|| panic!("nothing of {}", key(n)));
    assert_eq!(binding.versions().len(), 1, "{}", key(n));
    let newest = binding.newest_live(engine.now_ms());
    newest.and_then(|version| version.live(engine.now_ms()).cloned())
}

/// Stops all, and looks at their disks: they are alike.
async fn disks(cluster: &mut Cluster) -> Vec<Engine> {
    let running: Vec<usize> = cluster.running().collect();
    for node in &running {
        cluster.stop(*node).await;
    }
    let disks: Vec<Engine> = running.iter().map(|node| disk(cluster, *node)).collect();
    for partition in (0..PARTITIONS).map(PartitionId) {
        let first = disks[0].leaf_sums(partition).unwrap();
        for other in &disks[1..] {
            assert!(
                other.leaf_sums(partition).unwrap() == first,
                "partition {partition} differs"
            );
        }
    }
    disks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_is_brought_up_to_date_when_it_is_back() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1]).await;
    put(&client, 0..60, 1, 3).await;
    client.close().await;
    let client = without(&mut cluster, 2).await;
    put(&client, 0..20, 2, 2).await;
    delete(&client, 20..40).await;
    put(&client, 60..80, 1, 2).await;
    client.close().await;
    cluster.restart(2).await;
    cluster
        .eventually("it has what it missed", async || {
            let status = cluster.status(2).await.repair;
            status.received >= 60 && status.healed_ago.is_some()
        })
        .await;
    for engine in disks(&mut cluster).await {
        for n in 0..80 {
            let expected = match n {
                0..20 => Some(value(n, 2)),
                20..40 => None,
                _ => Some(value(n, 1)),
            };
            assert_eq!(held(&engine, n), expected, "{}", key(n));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_by_the_clock_heal_both_ways() {
    let mut cluster = Cluster::start_with(3, "repair_every_seconds = 1\n").await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..30, 1, 3).await;
    client.close().await;
    for node in 0..3 {
        cluster.stop(node).await;
    }
    // Each has something that the others have not; the first has deleted what all had.
    for node in 0..3 {
        let engine = disk(&cluster, node);
        let write = |n: u64, value: Option<Bytes>| {
            let write = BindingWrite {
                key: binding_key(n),
                value,
                context: None,
                expires_ms: None,
            };
            engine.write_binding(write).unwrap();
        };
        let from = 100 * (node as u64 + 1);
        (from..from + 20).for_each(|n| write(n, Some(value(n, 1))));
        if node == 0 {
            (0..10).for_each(|n| write(n, None));
        }
        engine.close().unwrap();
    }
    for node in 0..3 {
        cluster.restart(node).await;
    }
    cluster
        .eventually("everyone has what everyone had", async || {
            let mut all = true;
            for node in 0..3 {
                let status = cluster.status(node).await.repair;
                let missed = if node == 0 { 40 } else { 50 };
                all &= status.received >= missed && status.rounds >= 2;
            }
            all
        })
        .await;
    for engine in disks(&mut cluster).await {
        for n in 0..30 {
            let expected = (n >= 10).then(|| value(n, 1));
            assert_eq!(held(&engine, n), expected, "{}", key(n));
        }
        for n in (100..120).chain(200..220).chain(300..320) {
            assert_eq!(held(&engine, n), Some(value(n, 1)), "{}", key(n));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_costs_bytes_and_what_does_not_next_to_none() {
    let mut cluster = Cluster::start_with(3, NEVER).await;
    let client = cluster.client(&[0, 1]).await;
    put(&client, 0..400, 1, 3).await;
    let in_sync = cluster.repair().await;
    assert_eq!((healed(&in_sync), in_sync.nodes.len()), (0, 3));
    assert_eq!(sum(&in_sync, |node| node.differing_leaves), 0);
    for node in &in_sync.nodes {
        assert_eq!(node.partitions, u32::from(PARTITIONS));
        // Each with two others.
        let of_one = node.bytes / u64::from(PARTITIONS) / 2;
        assert!((1..=1024).contains(&of_one), "{of_one} bytes in sync");
    }
    client.close().await;
    let client = without(&mut cluster, 2).await;
    put(&client, 300..400, 2, 2).await;
    client.close().await;
    cluster.restart(2).await;
    cluster.all_lead().await;
    assert_eq!(
        cluster.status(2).await.repair.received,
        0,
        "it was not asked to"
    );
    let report = cluster.repair().await;
    let differences = healed(&report);
    assert_eq!(differences, 100);
    assert!((80..=100).contains(&sum(&report, |node| node.differing_leaves)));
    let bytes = sum(&report, |node| node.bytes);
    assert!(bytes <= 100 << 10, "{bytes} bytes for 100 differences");
    eprintln!("{bytes} bytes for 100 differences");
    let again = cluster.repair().await;
    assert_eq!(healed(&again), 0);
    for engine in disks(&mut cluster).await {
        assert_eq!(held(&engine, 350), Some(value(350, 2)));
    }
}

/// Flips a byte in the largest table of a node that is stopped.
fn damage(cluster: &Cluster, node: usize) {
    let files = fs::read_dir(cluster.data(node).join("db")).unwrap();
    let tables = files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|found| found == "sst"));
    let bytes = |table: &PathBuf| fs::metadata(table).unwrap().len();
    let largest = tables.max_by_key(bytes).unwrap();
    let mut content = fs::read(&largest).unwrap();
    let at = content.len() / 3;
    content[at] ^= 0x04;
    fs::write(largest, content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_that_cannot_be_read_are_healed_from_other_replicas() {
    let keys = 600;
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..keys, 1, 3).await;
    client.close().await;
    cluster.stop(0).await;
    damage(&cluster, 0);
    let engine = disk(&cluster, 0);
    let unreadable =
        |n: &u64| matches!(engine.binding(&binding_key(*n)), Err(ReadError::Damaged(_)));
    let lost = (0..keys).filter(unreadable).count() as u64;
    assert!((1..keys).contains(&lost), "{lost} cannot be read");
    let report = engine.scrub(&mut |_| ControlFlow::Continue(()));
    for (partition, leaf) in report.leaves {
        assert!(engine.recount_leaf(partition, leaf).unwrap() > 0);
    }
    engine.close().unwrap();
    drop(engine);
    cluster.restart(0).await;
    cluster
        .eventually("what could not be read is replaced", async || {
            cluster.status(0).await.repair.damaged >= lost
        })
        .await;
    let status = cluster.status(0).await.repair;
    assert_eq!((status.damaged, status.sent), (lost, 0));
    for engine in disks(&mut cluster).await {
        for n in 0..keys {
            assert_eq!(held(&engine, n), Some(value(n, 1)), "{}", key(n));
        }
    }
}

/// Writes one key after the other until it is told to end.
struct Writes {
    stop: Arc<AtomicBool>,
    acknowledged: tokio::task::JoinHandle<Vec<u64>>,
}

impl Writes {
    fn start(client: Client) -> Writes {
        let stop = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&stop);
        let acknowledged = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if ending.load(Ordering::Relaxed) {
                    break;
                }
                let key = key(n);
                let put = client.put(key.as_bytes(), value(n, 1), WriteOptions::default());
                // What has no answer may be there or not.
                if within(put).await.is_ok() {
                    acknowledged.push(n);
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            acknowledged
        });
        Writes { stop, acknowledged }
    }

    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        within(self.acknowledged).await.unwrap()
    }
}

/// Waits until nothing moves, and nobody has anything left to hand over.
async fn settled(cluster: &Cluster) {
    cluster.all_placed().await;
    cluster
        .eventually("old copies are handed over", async || {
            let mut leaving = 0;
            for node in cluster.running() {
                leaving += cluster.status(node).await.leaving;
            }
            leaving == 0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_partitions_move_again_and_again_under_writes() {
    let mut cluster = Cluster::start(3).await;
    let writes = Writes::start(cluster.client(&[0, 1, 2]).await);
    for leaves in 0..2 {
        let joined = cluster.admit("").await;
        cluster.restart(joined).await;
        cluster
            .eventually("the new node holds partitions", async || {
                let view = cluster.view(joined).await;
                let id = cluster.id(joined);
                view.partitions.iter().any(|of| of.replicas.contains(&id))
            })
            .await;
        settled(&cluster).await;
        cluster
            .change(ClusterChange::Drain(cluster.id(leaves)))
            .await;
        cluster
            .eventually("it holds nothing any more", async || {
                let view = cluster.view(joined).await;
                let id = cluster.id(leaves);
                let mut partitions = view.partitions.iter();
                partitions.all(|of| !of.replicas.contains(&id) && !of.learners.contains(&id))
            })
            .await;
        settled(&cluster).await;
        // What it had is with the others: it is not needed any more.
        cluster.stop(leaves).await;
        cluster
            .change(ClusterChange::Remove(cluster.id(leaves)))
            .await;
    }
    let acknowledged = writes.end().await;
    eprintln!("{} keys were acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 200);
    settled(&cluster).await;
    let running: Vec<usize> = cluster.running().collect();
    let client = cluster.client(&running).await;
    for n in &acknowledged {
        let got = within(client.get(key(*n).as_bytes(), Some(2)))
            .await
            .unwrap();
        let got = got.unwrap_or_else(|| panic!("{} is lost", key(*n)));
        assert_eq!(got.values[0].value, value(*n, 1), "{}", key(*n));
    }
    client.close().await;
    cluster.repair().await;
    assert_eq!(healed(&cluster.repair().await), 0);
    for engine in disks(&mut cluster).await {
        for n in &acknowledged {
            assert_eq!(held(&engine, *n), Some(value(*n, 1)));
        }
    }
}
