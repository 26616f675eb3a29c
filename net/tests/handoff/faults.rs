//! Stand-ins that die, and a cluster in two halves.

use mesh_net::client::{Client, NodeState, WriteOptions};

use crate::cluster::Cluster;
use crate::support::within;
use crate::{all_delivered, homes, kill, restart, value, write};

#[tokio::test(flavor = "multi_thread")]
async fn what_stand_ins_took_with_them_comes_from_the_home_that_stayed() {
    let mut cluster = Cluster::start(5).await;
    let key = "watched";
    let (homes, others) = homes(&cluster, key).await;
    let away = [homes[0], homes[2]];
    kill(&mut cluster, &away).await;
    let client = cluster.client(&[homes[1]]).await;
    let ack = within(client.put(key.as_bytes(), "kept".into(), write(3)))
        .await
        .unwrap();
    assert_eq!(ack.hinted.len(), 2, "{ack:?}");
    // They never return, and with them nothing of what they keep.
    for node in &others {
        cluster.kill(*node).await;
    }
    restart(&mut cluster, &away).await;
    cluster
        .eventually("both are brought up to date by comparing", async || {
            for node in away {
                if cluster.status(node).await.repair.received == 0 {
                    return false;
                }
            }
            true
        })
        .await;
    cluster.kill(homes[1]).await;
    for node in away {
        let client = cluster.client(&[node]).await;
        assert_eq!(value(&client, key, 1).await.unwrap(), "kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_stand_ins_have_returns_with_them() {
    let mut cluster = Cluster::start(5).await;
    let key = "orphan";
    let (homes, others) = homes(&cluster, key).await;
    let client = cluster.any_client().await;
    within(client.put(key.as_bytes(), "old".into(), write(3)))
        .await
        .unwrap();
    for home in &homes {
        cluster.kill(*home).await;
    }
    let client = cluster.client(&others).await;
    cluster
        .eventually("others stand in", async || {
            let put = within(client.put(key.as_bytes(), "new".into(), write(2))).await;
            put.is_ok_and(|ack| ack.hinted.len() == 2)
        })
        .await;
    for node in &others {
        cluster.kill(*node).await;
    }
    restart(&mut cluster, &homes).await;
    let client = cluster.client(&homes).await;
    cluster
        .eventually("the homes are at work", async || {
            let got = within(client.get(key.as_bytes(), Some(2))).await;
            got.is_ok()
        })
        .await;
    assert_eq!(value(&client, key, 2).await.unwrap(), "old");
    cluster.restart(others[1]).await;
    all_delivered(&cluster).await;
    // The stand-in that wrote without a context had not seen what the homes had: both are there, and nothing is lost.
    for node in &homes {
        let client = cluster.client(&[*node]).await;
        let mut values = all_values(&client, key, 3).await;
        values.dedup();
        assert_eq!(values, ["new", "old"], "at {node}");
    }
}

/// All that is there of a key, in the order of the alphabet.
async fn all_values(client: &Client, key: &str, read: u32) -> Vec<String> {
    let got = within(client.get(key.as_bytes(), Some(read)))
        .await
        .unwrap();
    let values = got.map(|got| got.values).unwrap_or_default();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let mut values: Vec<String> = values.iter().map(|value| text(&value.value)).collect();
    values.sort();
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_that_never_saw_each_other_converge_to_siblings() {
    let mut cluster = Cluster::start(3).await;
    let key = "contested";
    let client = cluster.any_client().await;
    let first = within(client.put(key.as_bytes(), "base".into(), write(3)))
        .await
        .unwrap();
    let seen = || WriteOptions {
        write: Some(1),
        context: Some(first.context.clone()),
        ttl: None,
    };
    // One half is down while the other writes: to each of them that is a network in two parts.
    kill(&mut cluster, &[1]).await;
    cluster.kill(2).await;
    let alone = cluster.client(&[0]).await;
    cluster
        .eventually("one alone takes a write", async || {
            let put = within(alone.put(key.as_bytes(), "left".into(), seen())).await;
            put.is_ok()
        })
        .await;
    cluster.kill(0).await;
    restart(&mut cluster, &[1, 2]).await;
    let others = cluster.client(&[1, 2]).await;
    cluster
        .eventually("two of three take a write", async || {
            let put = within(others.put(key.as_bytes(), "right".into(), seen())).await;
            put.is_ok()
        })
        .await;
    cluster.restart(0).await;
    cluster
        .eventually("all are there", async || {
            let view = cluster.view(0).await;
            (0..3).all(|node| cluster.state_in(&view, node) == Some(NodeState::Up))
        })
        .await;
    all_delivered(&cluster).await;
    for node in 0..3 {
        let client = cluster.client(&[node]).await;
        let mut values = all_values(&client, key, 3).await;
        values.dedup();
        assert_eq!(values, ["left", "right"], "at {node}");
    }
    let client = cluster.client(&[1]).await;
    let got = within(client.get(key.as_bytes(), Some(3))).await.unwrap();
    let settled = WriteOptions {
        write: Some(3),
        context: Some(got.unwrap().context),
        ttl: None,
    };
    within(client.put(key.as_bytes(), "settled".into(), settled))
        .await
        .unwrap();
    for node in 0..3 {
        let client = cluster.client(&[node]).await;
        assert_eq!(value(&client, key, 1).await.unwrap(), "settled");
    }
}
