//! Deletions while nodes come and go.

use std::time::Duration;

use mesh_net::client::{ClientError, ClusterChange};
use mesh_ring::name::BindingKey;

use crate::{
    AT_ONCE,
    cluster::{Cluster, LOOK_AGAIN},
    count_forgotten, delete, disks, is_there, key, put,
    support::within,
    without, write,
};

/// Keys that are written and deleted over and over, and others that stay.
const CHURNED: u64 = 60;
const KEPT: u64 = 40;

/// Waits until nothing moves, and nobody has anything left to hand over.
async fn settled(cluster: &Cluster) {
    cluster.all_placed().await;
    cluster
        .eventually("old copies are handed over", async || {
            let mut leaving = 0;
            for node in cluster.running().collect::<Vec<_>>() {
                leaving += cluster.status(node).await.leaving;
            }
            leaving == 0
        })
        .await;
}

/// Joins one node and drains another, while keys are written and deleted; the last that is done to each is a deletion.
async fn move_under_deletions(cluster: &mut Cluster, leaves: usize) {
    let running: Vec<usize> = cluster.running().collect();
    let client = cluster.client(&running).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let churn = tokio::spawn(async move {
        let mut rounds = 0;
        while !*stopped.borrow() {
            for n in 0..CHURNED {
                let name = key(n);
                // What has no answer may be there or not: it is deleted after it in any case.
                let value = format!("{rounds}").into();
                let _ = within(client.put(name.as_bytes(), value, write(2))).await;
                let deleting = async {
                    while let Err(ClientError::Unavailable(_)) =
                        client.delete(name.as_bytes(), write(2)).await
                    {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                };
                within(deleting).await;
            }
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.close().await;
        rounds
    });
    let joined = cluster.admit(AT_ONCE).await;
    cluster.restart(joined).await;
    cluster
        .eventually("the new node holds partitions", async || {
            let view = cluster.view(joined).await;
            let id = cluster.id(joined);
            view.partitions.iter().any(|of| of.replicas.contains(&id))
        })
        .await;
    settled(cluster).await;
    let leaver = cluster.id(leaves);
    cluster.change(ClusterChange::Drain(leaver)).await;
    cluster
        .eventually("it holds nothing any more", async || {
            let view = cluster.view(joined).await;
            let mut partitions = view.partitions.iter();
            partitions.all(|of| !of.replicas.contains(&leaver) && !of.learners.contains(&leaver))
        })
        .await;
    settled(cluster).await;
    cluster.stop(leaves).await;
    cluster.change(ClusterChange::Remove(leaver)).await;
    stop.send_replace(true);
    let rounds = churn.await.unwrap();
    assert!(rounds > 2, "{rounds} rounds of writes and deletions");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_back_when_partitions_move_under_deletions() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, CHURNED..CHURNED + KEPT, 3).await;
    client.close().await;
    for leaves in 0..2 {
        move_under_deletions(&mut cluster, leaves).await;
    }
    settled(&cluster).await;
    assert!(count_forgotten(&cluster).await > 0);
    assert_as_it_should_be(&mut cluster).await;
}

/// Deletions are forgotten on every disk, and what was not deleted is there.
async fn assert_as_it_should_be(cluster: &mut Cluster) {
    cluster
        .eventually("every deletion is forgotten", async || {
            let mut waiting = 0;
            for node in cluster.running().collect::<Vec<_>>() {
                waiting += cluster.status(node).await.tombstones.waiting;
            }
            waiting == 0
        })
        .await;
    let running: Vec<usize> = cluster.running().collect();
    let client = cluster.client(&running).await;
    for n in 0..CHURNED + KEPT {
        assert_eq!(is_there(&client, n, 3).await, n >= CHURNED, "{}", key(n));
    }
    client.close().await;
    for engine in disks(cluster).await {
        for n in 0..CHURNED + KEPT {
            let name = BindingKey::new(key(n).as_bytes()).unwrap();
            let held = engine.binding(&name).unwrap();
            let is_live = held.is_some_and(|held| held.newest_live(engine.now_ms()).is_some());
            assert!(!is_live || n >= CHURNED, "{} is on a disk", key(n));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_back_when_nodes_die_and_return_under_deletions() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..CHURNED + KEPT, 3).await;
    client.close().await;
    for node in [2, 0, 1] {
        without(&mut cluster, node).await;
        let running: Vec<usize> = cluster.running().collect();
        let client = cluster.client(&running).await;
        let from = u64::try_from(node).unwrap() * CHURNED / 3;
        delete(&client, from..from + CHURNED / 3, 2).await;
        client.close().await;
        cluster.restart(node).await;
        cluster.all_lead().await;
    }
    settled(&cluster).await;
    assert_as_it_should_be(&mut cluster).await;
}
