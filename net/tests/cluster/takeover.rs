//! Leaders die, stand still and come back.

use std::time::Duration;

use mesh_net::client::{ProducerOptions, TopicDescription};
use tokio::task::JoinHandle;

use crate::{
    cluster::{Cluster, partition},
    load::{Load, check},
    support::{PATIENCE, read_all, record, texts, within},
};

/// A client at every node.
async fn clients(cluster: &Cluster) -> Vec<mesh_net::client::Client> {
    let mut clients = Vec::new();
    for node in cluster.running() {
        clients.push(cluster.client(&[node]).await);
    }
    clients
}

/// Every running node stores the same records of the topic.
async fn same_everywhere(cluster: &Cluster, topic: &str) {
    let mut digests = Vec::new();
    for node in cluster.running() {
        let client = cluster.client(&[node]).await;
        let described: TopicDescription = within(client.describe_topic(topic)).await.unwrap();
        let digest = within(client.hash_topic(&described, described.first, described.next));
        digests.push(digest.await.unwrap());
        client.close().await;
    }
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    assert_eq!(digests[0].damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_what_is_published() {
    let cluster = Cluster::start(3).await;
    for leader in 0..3 {
        let topic = cluster.topic_led_by(leader).await;
        let mut expected = Vec::new();
        for (offset, client) in (0..).zip(clients(&cluster).await) {
            let value = format!("through {}", client.info().await.unwrap().name);
            let producer = client.producer(ProducerOptions::default());
            let published = within(producer.publish(&topic, record(value.clone())))
                .await
                .unwrap();
            assert_eq!(published.first, offset);
            assert!(published.synced.len() >= 2, "{published:?}");
            expected.push(value);
        }
        for client in clients(&cluster).await {
            assert_eq!(texts(&read_all(&client, &topic).await), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_die_under_load_lose_and_repeat_nothing() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(0).await;
    let reader = cluster.client(&[0, 1, 2]).await;
    let mut load = Load::start(&clients(&cluster).await, &topic);
    load.goes_on(50).await;
    for _ in 0..2 {
        let leader = cluster.leader_of(&topic).await;
        cluster.kill(leader).await;
        load.goes_on(50).await;
        cluster.restart(leader).await;
        load.goes_on(50).await;
    }
    let sent = load.finish().await;
    check(&read_all(&reader, &topic).await, &sent);
    same_everywhere(&cluster, &topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_is_fenced() {
    let cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(1).await;
    let reader = cluster.client(&[0, 1, 2]).await;
    let mut load = Load::start(&clients(&cluster).await, &topic);
    load.goes_on(50).await;
    let epoch = partition(&cluster.view(0).await, &topic).epoch;
    cluster.pause(1, Duration::from_secs(3));
    cluster
        .eventually("another node leads", async || {
            let view = cluster.view(0).await;
            let partition = partition(&view, &topic);
            partition.epoch > epoch && partition.active && partition.leader != Some(cluster.id(1))
        })
        .await;
    load.goes_on(50).await;
    cluster.all_lead().await;
    load.goes_on(50).await;
    let sent = load.finish().await;
    check(&read_all(&reader, &topic).await, &sent);
    same_everywhere(&cluster, &topic).await;
}

/// A topic led by node 0 that holds "1", and a call that publishes "2" under way, which only node 0 has on its disk, and
/// no node any more that runs.
async fn stranded(cluster: &mut Cluster) -> (String, JoinHandle<u64>) {
    let topic = cluster.topic_led_by(0).await;
    let patient = cluster
        .client_with(&[0, 1, 2], |config| config.timeout = PATIENCE)
        .await;
    let producer = patient.producer(ProducerOptions::default());
    within(producer.publish(&topic, record("1"))).await.unwrap();
    cluster.kill(1).await;
    cluster.kill(2).await;
    let call = tokio::spawn({
        let topic = topic.clone();
        async move { producer.publish(&topic, record("2")).await.unwrap().first }
    });
    let id = partition(&cluster.view(0).await, &topic).id;
    cluster
        .eventually("the record is on the leader's disk", async || {
            let status = cluster.status(0).await;
            let copy = status.partitions.iter().find(|copy| copy.partition == id);
            copy.is_some_and(|copy| copy.last > copy.committed)
        })
        .await;
    assert!(!call.is_finished(), "acknowledged by one of three");
    cluster.kill(0).await;
    (topic, call)
}

/// The record survives, uncommitted, and its retry meets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_the_next_leader_inherits_is_there_once() {
    let mut cluster = Cluster::start(3).await;
    let (topic, call) = stranded(&mut cluster).await;
    cluster.restart(1).await;
    cluster.restart(0).await;
    assert_eq!(within(call).await.unwrap(), 1);
    let reader = cluster.client(&[0, 1]).await;
    assert_eq!(texts(&read_all(&reader, &topic).await), ["1", "2"]);
    cluster.restart(2).await;
    same_everywhere(&cluster, &topic).await;
}

/// The record is cut off where it was, and its retry appends it elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_the_next_leader_never_had_is_there_once() {
    let mut cluster = Cluster::start(3).await;
    let (topic, call) = stranded(&mut cluster).await;
    cluster.restart(1).await;
    cluster.restart(2).await;
    assert_eq!(within(call).await.unwrap(), 1);
    cluster.restart(0).await;
    let reader = cluster.client(&[0]).await;
    assert_eq!(texts(&read_all(&reader, &topic).await), ["1", "2"]);
    same_everywhere(&cluster, &topic).await;
}
