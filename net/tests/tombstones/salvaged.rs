//! Disks that come back without their end.

use std::fs;

use mesh_net::client::Client;

use crate::support::within;
use crate::{
    AT_ONCE, assert_absent,
    by_hand::AsNode,
    cluster::{Cluster, PARTITIONS},
    delete, disks, forgotten, is_there, key, put, until_done, write,
};

/// As a salvage leaves it: what was written since is gone, and a note says so.
async fn return_without_its_end(cluster: &mut Cluster, node: usize, disk: &std::path::Path) {
    if cluster.running().any(|running| running == node) {
        cluster.kill(node).await;
    }
    cluster.put_disk(node, disk);
    let note = "the log was damaged, and what was behind that was put aside";
    fs::write(cluster.data(node).join("suspect"), note).unwrap();
}

/// Waits until a node has nothing left that may be too old: it takes part in rounds again.
async fn all_trusted(cluster: &Cluster, node: usize) {
    let peer = AsNode::connect(cluster, node, (node + 1) % 3).await;
    cluster
        .eventually("its bindings are trusted", async || {
            for id in (0..PARTITIONS).map(mesh_ring::ids::PartitionId) {
                if peer.raise(id, 0).await.is_some_and(|void| void.arriving) {
                    return false;
                }
            }
            true
        })
        .await;
}

async fn all_there(client: &Client, numbers: std::ops::Range<u64>, read: u32) {
    for n in numbers {
        assert!(is_there(client, n, read).await, "{} is lost", key(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_its_end_brings_back_nothing_that_was_forgotten() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..60, 3).await;
    // Some rounds have been before that, and their fences are on the disk.
    put(&client, 100..110, 3).await;
    delete(&client, 100..110, 3).await;
    forgotten(&cluster, 100..110).await;
    let disk = cluster.copy_disk(2, "without-its-end");
    delete(&client, 0..40, 3).await;
    forgotten(&cluster, 0..40).await;
    put(&client, 60..80, 3).await;
    client.close().await;

    return_without_its_end(&mut cluster, 2, &disk).await;
    cluster.restart(2).await;
    cluster.all_lead().await;
    all_trusted(&cluster, 2).await;
    // By two rounds everything has been compared with everything that is left.
    for node in 0..3 {
        let rounds = cluster.status(node).await.repair.rounds;
        cluster
            .eventually("rounds have been", async || {
                cluster.status(node).await.repair.rounds > rounds + 2
            })
            .await;
    }
    assert_absent(&cluster, 0..40, 3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    all_there(&client, 40..80, 3).await;
    // Rounds pass there again.
    delete(&client, 40..80, 3).await;
    client.close().await;
    forgotten(&cluster, 40..80).await;
    crate::assert_forgotten(&mut cluster, 0..80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_disk_without_its_end_has_stays_where_nothing_was_forgotten_since() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..20, 3).await;
    put(&client, 100..110, 3).await;
    delete(&client, 100..110, 3).await;
    forgotten(&cluster, 100..110).await;
    client.close().await;
    for node in [0, 1] {
        cluster.kill(node).await;
    }
    let client = cluster.client(&[2]).await;
    put(&client, 20..30, 1).await;
    client.close().await;
    cluster.kill(2).await;
    let disk = cluster.copy_disk(2, "without-its-end");
    return_without_its_end(&mut cluster, 2, &disk).await;
    for node in 0..3 {
        cluster.restart(node).await;
    }
    cluster.all_lead().await;
    all_trusted(&cluster, 2).await;
    let client = cluster.client(&[0, 1, 2]).await;
    all_there(&client, 0..30, 3).await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_disks_that_have_all_lost_their_ends_the_newest_stays() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..40, 3).await;
    let old: Vec<_> = [0, 1]
        .map(|node| cluster.copy_disk(node, &format!("old-{node}")))
        .into();
    delete(&client, 0..20, 3).await;
    forgotten(&cluster, 0..20).await;
    put(&client, 40..60, 3).await;
    client.close().await;
    let new = cluster.copy_disk(2, "new");
    for (node, disk) in [&old[0], &old[1], &new].into_iter().enumerate() {
        return_without_its_end(&mut cluster, node, disk).await;
    }
    for node in 0..3 {
        cluster.restart(node).await;
    }
    cluster.all_lead().await;
    for node in 0..3 {
        all_trusted(&cluster, node).await;
    }
    let client = cluster.client(&[0, 1, 2]).await;
    all_there(&client, 20..60, 3).await;
    assert_absent(&cluster, 0..20, 3).await;
    // A write as ever.
    let name = key(0);
    within(until_done(async || {
        client.put(name.as_bytes(), "again".into(), write(3)).await
    }))
    .await;
    client.close().await;
    for engine in disks(&mut cluster).await {
        let name = mesh_ring::name::BindingKey::new(key(1).as_bytes()).unwrap();
        assert_eq!(engine.binding(&name).unwrap(), None);
    }
}
