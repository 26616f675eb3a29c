//! Disks that are not what they were: older, empty, another node's. None takes part, and each says why, and what to do.

use std::fs;

use mesh_net::client::Client;

use crate::cluster::{Cluster, assert_reads, publish};

/// Publishes to a topic of every node, so that each has led and followed.
async fn publish_everywhere(client: &Client, topics: &[String], numbers: std::ops::Range<u64>) {
    for topic in topics {
        publish(client, topic, numbers.clone()).await;
    }
}

async fn topics(cluster: &Cluster) -> Vec<String> {
    let mut topics = Vec::new();
    for node in cluster.running() {
        topics.push(cluster.topic_led_by(node).await);
    }
    topics
}

/// The sentence says what was found, and how to come back.
fn assert_says_how_to_rejoin(cause: &str) {
    for words in ["old copy", "meshctl node new", "meshctl node join"] {
        assert!(cause.contains(words), "{cause:?} does not say {words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_from_before_the_last_start_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let topics = topics(&cluster).await;
    let client = cluster.client(&[1, 2]).await;
    publish_everywhere(&client, &topics, 0..5).await;
    cluster.kill(0).await;
    let old = cluster.copy_disk(0, "old");
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    publish_everywhere(&client, &topics, 5..10).await;
    cluster.kill(0).await;
    let newest = cluster.put_disk(0, &old);
    let cause = cluster.ends(0).await;
    assert_says_how_to_rejoin(&cause);

    // Not even together with a node that lacks what it lacks does it lead anyone astray.
    publish_everywhere(&client, &topics, 10..12).await;
    let cause = cluster.ends(0).await;
    assert_says_how_to_rejoin(&cause);

    // The disk that it should have run on is as good as ever.
    fs::remove_dir_all(cluster.data(0)).unwrap();
    fs::rename(newest, cluster.data(0)).unwrap();
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    for topic in &topics {
        assert_reads(&client, topic, 12).await;
        cluster.assert_replicas_alike(topic, 12).await;
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_running_disk_is_refused_by_those_who_have_seen_beyond_it() {
    let mut cluster = Cluster::start(3).await;
    let topics = topics(&cluster).await;
    let client = cluster.client(&[1, 2]).await;
    publish_everywhere(&client, &topics, 0..5).await;
    cluster.all_caught_up().await;
    // The map knows the start that this copy knows: it cannot tell it from the disk itself.
    let snapshot = cluster.copy_disk(0, "snapshot");
    publish_everywhere(&client, &topics, 5..10).await;
    cluster.all_caught_up().await;
    // What is seen is written down soon; until then only memory has it.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    cluster.kill(0).await;
    let newest = cluster.put_disk(0, &snapshot);
    let cause = cluster.ends(0).await;
    assert_says_how_to_rejoin(&cause);
    assert!(cause.contains("has seen this node acknowledge"), "{cause}");

    // The others have been restarted, and know it still.
    for node in [1, 2] {
        cluster.kill(node).await;
        cluster.restart(node).await;
    }
    let cause = cluster.ends(0).await;
    assert!(cause.contains("has seen this node acknowledge"), "{cause}");

    // Nothing was registered by that: the disk that it should have run on comes back.
    fs::remove_dir_all(cluster.data(0)).unwrap();
    fs::rename(newest, cluster.data(0)).unwrap();
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    let client_too = cluster.client(&[0]).await;
    for topic in &topics {
        assert_reads(&client_too, topic, 10).await;
        cluster.assert_replicas_alike(topic, 10).await;
    }
    client_too.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_founds_nothing() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(1).await;
    let client = cluster.client(&[1, 2]).await;
    publish(&client, &topic, 0..3).await;
    cluster.kill(0).await;
    let empty = cluster.copy_disk(0, "empty");
    fs::remove_dir_all(empty.join("db")).unwrap();
    let disk = cluster.put_disk(0, &empty);
    let cause = cluster.ends(0).await;
    for words in ["holds no store", "meshctl node new", "meshctl node join"] {
        assert!(cause.contains(words), "{cause:?} does not say {words:?}");
    }
    assert!(
        !cluster.data(0).join("db/CURRENT").exists(),
        "a store was made"
    );
    publish(&client, &topic, 3..5).await;

    // Another node's disk is no substitute.
    cluster.kill(1).await;
    let others = cluster.copy_disk(1, "others");
    cluster.put_disk(0, &others);
    let cause = cluster.ends(0).await;
    assert!(cause.contains("is the store of node"), "{cause}");
    fs::remove_dir_all(cluster.data(0)).unwrap();
    fs::rename(disk, cluster.data(0)).unwrap();
    cluster.restart(0).await;
    cluster.restart(1).await;
    cluster.all_caught_up().await;
    assert_reads(&client, &topic, 5).await;
    client.close().await;
}
