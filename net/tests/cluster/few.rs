//! Too few nodes: of three, of two, of one.

use mesh_net::{
    client::{ClientError, ProducerOptions},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, Request, TailFrame, request, tail_frame},
    },
};
use quinn::Connection;

use crate::{
    cluster::Cluster,
    load::{Load, check},
    support::{read_all, record, texts, within},
};

/// What ends a tail that follows on this connection.
async fn end_of_tail(connection: Connection, topic: String) -> proto::Error {
    let (send, receive) = connection.open_bi().await.unwrap();
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive));
    let open = proto::TailOpen {
        topic,
        follow: true,
        ..proto::TailOpen::default()
    };
    let request = Request::new(request::Kind::Tail(open));
    writer.header(&request).await.unwrap();
    loop {
        let (frame, _) = within(reader.frame::<TailFrame>()).await.unwrap().unwrap();
        match frame.kind.unwrap() {
            tail_frame::Kind::Error(error) => return error,
            tail_frame::Kind::Started(started) => assert!(started.leaderless),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_says_what_it_lacks_and_recovers_by_itself() {
    let mut cluster = Cluster::start(3).await;
    let topics = [cluster.topic_led_by(0).await, cluster.topic_led_by(1).await];
    let client = cluster.client(&[0, 1, 2]).await;
    let producer = client.producer(ProducerOptions::default());
    for topic in &topics {
        within(producer.publish(topic, record("1"))).await.unwrap();
    }
    // A follower shows what it has heard to be committed.
    cluster.all_caught_up().await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    // Both what it leads and what it cannot lead.
    for topic in &topics {
        cluster
            .eventually("it is known how few there are", async || {
                let hasty = cluster.hasty_client(&[0]).await;
                let producer = hasty.producer(ProducerOptions::default());
                let told = within(producer.publish(topic, record("lost?"))).await;
                hasty.close().await;
                match told {
                    Err(ClientError::Unavailable(message)) => {
                        message.contains("not enough replicas (need 2, have 1)")
                    }
                    other => panic!("{other:?}"),
                }
            })
            .await;
        let hasty = cluster.hasty_client(&[0]).await;
        let all = texts(&read_all(&hasty, topic).await);
        assert_eq!(
            all,
            ["1"],
            "what is committed can be read, and nothing else"
        );
    }
    // Other nodes may be cut off from this one alone: whoever waits here is told to look there.
    let tail = end_of_tail(cluster.connection(0).await, topics[1].clone());
    let told = within(tail).await;
    assert_eq!(told.code(), proto::ErrorCode::Unavailable, "{told:?}");
    let waiting = tokio::spawn({
        let patient = cluster
            .client_with(&[0, 1, 2], |config| {
                config.timeout = crate::support::PATIENCE
            })
            .await;
        let topics = topics.clone();
        async move {
            let producer = patient.producer(ProducerOptions::default());
            for topic in &topics {
                producer.publish(topic, record("2")).await.unwrap();
            }
        }
    });
    cluster.restart(2).await;
    within(waiting).await.unwrap();
    let client = cluster.client(&[2]).await;
    for topic in &topics {
        let all = texts(&read_all(&client, topic).await);
        assert_eq!((&all[0][..], &all[all.len() - 1][..]), ("1", "2"));
        assert!(
            all[1..all.len() - 1].iter().all(|value| value == "lost?"),
            "{all:?}"
        );
    }
    cluster.restart(1).await;
    cluster.all_lead().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_one_learns_and_is_not_missed() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic_led_by(0).await;
    let clients = [cluster.client(&[0]).await, cluster.client(&[1]).await];
    let mut load = Load::start(&clients, &topic);
    load.goes_on(30).await;
    cluster
        .eventually("the other node has a copy", async || {
            !cluster.status(1).await.partitions.is_empty()
        })
        .await;
    cluster.kill(1).await;
    load.goes_on(30).await;
    cluster.restart(1).await;
    load.goes_on(30).await;
    let sent = load.finish().await;
    let client = cluster.client(&[0]).await;
    check(&read_all(&client, &topic).await, &sent);
    let described = within(client.describe_topic(&topic)).await.unwrap();
    assert_eq!(described.replicas, ["n1"]);
    let mine = within(client.hash_topic(&described, 0, described.next))
        .await
        .unwrap();
    let learner = cluster.client(&[1]).await;
    cluster
        .eventually("the learner has everything", async || {
            let its = within(learner.hash_topic(&described, 0, described.next)).await;
            its.is_ok_and(|its| its == mine)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_that_dies_comes_back_with_everything() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client(&[0]).await;
    let mut load = Load::start(std::slice::from_ref(&client), "t");
    for _ in 0..3 {
        load.goes_on(30).await;
        cluster.kill(0).await;
        cluster.restart(0).await;
    }
    load.goes_on(30).await;
    let sent = load.finish().await;
    check(&read_all(&client, "t").await, &sent);
}
