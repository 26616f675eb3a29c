//! Hinted handoff: writes go on while homes of a key are away, and reach them when they are back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod clocks;
#[path = "../support/cluster/mod.rs"]
mod cluster;
mod faults;
mod histories;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use cluster::{Cluster, partition};
use mesh_net::client::{Client, ClientError, WriteOptions};
use support::within;

/// How long a cluster may take to come to rest.
const AT_REST_WITHIN: Duration = support::PATIENCE;

fn write(copies: u32) -> WriteOptions {
    WriteOptions {
        write: Some(copies),
        ..WriteOptions::default()
    }
}

async fn value(client: &Client, key: &str, read: u32) -> Option<String> {
    let got = within(client.get(key.as_bytes(), Some(read)))
        .await
        .unwrap();
    got.map(|got| {
        assert_eq!(got.values.len(), 1, "{key} has siblings");
        String::from_utf8(got.values[0].value.to_vec()).unwrap()
    })
}

/// The homes of a key, and all other nodes.
async fn homes(cluster: &Cluster, key: &str) -> (Vec<usize>, Vec<usize>) {
    let view = cluster.view(0).await;
    let replicas = &partition(&view, key).replicas;
    let homes: Vec<usize> = replicas.iter().map(|id| cluster.number(*id)).collect();
    let others = cluster.running().filter(|node| !homes.contains(node));
    let others = others.collect();
    (homes, others)
}

async fn kill(cluster: &mut Cluster, nodes: &[usize]) {
    for node in nodes {
        cluster.kill(*node).await;
    }
    let gone = nodes.to_vec();
    let some = cluster.running().next().unwrap();
    cluster
        .eventually("their deaths are known", async || {
            let view = cluster.view(some).await;
            let down = |node: &usize| {
                let state = cluster.state_in(&view, *node);
                state == Some(mesh_net::client::NodeState::Down)
            };
            gone.iter().all(down)
        })
        .await;
}

async fn restart(cluster: &mut Cluster, nodes: &[usize]) {
    for node in nodes {
        cluster.restart(*node).await;
    }
}

/// Nobody keeps anything for anybody.
async fn all_delivered(cluster: &Cluster) {
    cluster
        .eventually("every hint is delivered", async || {
            for node in cluster.running().collect::<Vec<_>>() {
                if cluster.status(node).await.pending_hints > 0 {
                    return false;
                }
            }
            true
        })
        .await;
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_ins_take_what_two_homes_miss_and_hand_it_over() {
    let mut cluster = Cluster::start(5).await;
    let key = "watched";
    let client = cluster.any_client().await;
    within(client.put(key.as_bytes(), "first".into(), write(3)))
        .await
        .unwrap();
    within(client.put(b"doomed", "x".into(), write(3)))
        .await
        .unwrap();
    let (homes, others) = homes(&cluster, key).await;
    let away = [homes[0], homes[2]];
    let names = sorted(
        away.iter()
            .map(|node| cluster.name(*node).to_owned())
            .collect(),
    );
    kill(&mut cluster, &away).await;

    for (number, copies) in [(1, 2), (2, 3)] {
        let value = format!("value-{number}");
        let client = cluster.client(&[others[0]]).await;
        let ack = within(client.put(key.as_bytes(), value.into(), write(copies)))
            .await
            .unwrap();
        assert!(ack.acknowledged.len() >= copies as usize, "{ack:?}");
        if copies == 3 {
            assert_eq!(sorted(ack.hinted.clone()), names, "{ack:?}");
        }
    }
    let client = cluster.client(&[others[1]]).await;
    assert_eq!(value(&client, key, 2).await.unwrap(), "value-2");
    assert_eq!(value(&client, key, 3).await.unwrap(), "value-2");

    // What they keep outlives a restart.
    cluster.stop(others[0]).await;
    cluster.restart(others[0]).await;
    restart(&mut cluster, &away).await;
    all_delivered(&cluster).await;
    kill(&mut cluster, &others).await;
    cluster.kill(homes[1]).await;
    for node in away {
        let client = cluster.client(&[node]).await;
        assert_eq!(value(&client, key, 1).await.unwrap(), "value-2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_others_keep_a_key_whose_homes_are_all_away() {
    let mut cluster = Cluster::start(5).await;
    let key = "orphan";
    let (homes, others) = homes(&cluster, key).await;
    for home in &homes {
        cluster.kill(*home).await;
    }
    // The map says nothing of it, for three of five voters are gone: gossip has to.
    let client = cluster.client(&others).await;
    cluster
        .eventually("others stand in", async || {
            let put = within(client.put(key.as_bytes(), "probe".into(), write(2))).await;
            put.is_ok_and(|ack| ack.hinted.len() == 2)
        })
        .await;
    for number in 0..3 {
        let value = format!("value-{number}");
        let ack = within(client.put(key.as_bytes(), value.into(), write(2)))
            .await
            .unwrap();
        assert_eq!(ack.acknowledged.len(), 2, "{ack:?}");
        assert_eq!(ack.hinted.len(), 2, "{ack:?}");
    }
    let refused = within(client.put(key.as_bytes(), "x".into(), write(3))).await;
    let message = match refused.unwrap_err() {
        ClientError::Unavailable(message) => message,
        other => panic!("{other:?}"),
    };
    assert!(
        message.contains("not enough replicas (need 3, have 2)"),
        "{message}"
    );
    assert_eq!(value(&client, key, 2).await.unwrap(), "value-2");

    restart(&mut cluster, &homes).await;
    all_delivered(&cluster).await;
    kill(&mut cluster, &others).await;
    let client = cluster.client(&homes).await;
    assert_eq!(value(&client, key, 2).await.unwrap(), "value-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_a_home_missed_stays_deleted() {
    let mut cluster = Cluster::start(4).await;
    let client = cluster.any_client().await;
    for number in 0..20 {
        let key = format!("key-{number}");
        within(client.put(key.as_bytes(), "v".into(), write(3)))
            .await
            .unwrap();
    }
    kill(&mut cluster, &[3]).await;
    let client = cluster.client(&[0]).await;
    for number in 0..20 {
        let key = format!("key-{number}");
        within(client.delete(key.as_bytes(), write(2)))
            .await
            .unwrap();
    }
    restart(&mut cluster, &[3]).await;
    all_delivered(&cluster).await;
    for node in 0..4 {
        let client = cluster.client(&[node]).await;
        for number in 0..20 {
            let key = format!("key-{number}");
            assert_eq!(value(&client, &key, 1).await, None, "{key} at {node}");
        }
    }
}
