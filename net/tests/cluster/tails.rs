//! Tails through the death of leaders and of the very node that they read from.

use mesh_net::client::{
    ClientError, ProducerOptions, Start, Tail, TailOptions, TailRecord, TopicConfig,
};
use tokio::task::JoinSet;

use crate::{
    cluster::Cluster,
    load::{Load, check},
    support::{from_start, read_all, record, texts, within},
};

/// Everything up to `until`.
async fn follow(mut tail: Tail) -> Vec<TailRecord> {
    let mut all = Vec::new();
    while let Some(batch) = tail.next().await.unwrap() {
        all.extend(batch.records);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn tails_outlive_leaders_and_their_own_nodes() {
    const RECORDS: u64 = 400;
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(0).await;
    let writers = [cluster.client(&[0, 1]).await, cluster.client(&[2, 1]).await];
    let mut load = Load::start(&writers, &topic);
    load.goes_on(20).await;
    // One at each node: at the leader, and at followers.
    let mut tails = JoinSet::new();
    for node in 0..3 {
        let client = cluster.client(&[node]).await;
        let tail = client.tail(
            &topic,
            TailOptions {
                until: Some(RECORDS),
                ..from_start(true)
            },
        );
        tails.spawn(follow(tail));
    }
    for node in [0, 1, 2] {
        load.goes_on(40).await;
        cluster.kill(node).await;
        load.goes_on(40).await;
        cluster.restart(node).await;
        // The next to die is not to be a third of those that have everything.
        cluster.all_lead().await;
    }
    let reader = cluster.client(&[1]).await;
    while within(reader.describe_topic(&topic)).await.unwrap().next < RECORDS {
        load.goes_on(10).await;
    }
    let sent = load.finish().await;
    let all = read_all(&reader, &topic).await;
    check(&all, &sent);
    let expected = &texts(&all)[..RECORDS as usize];
    for followed in within(tails.join_all()).await {
        let offsets: Vec<u64> = followed.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (0..RECORDS).collect::<Vec<_>>());
        assert_eq!(texts(&followed), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_is_another_one_for_tails_and_producers() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(2).await;
    let clients = [cluster.client(&[0]).await, cluster.client(&[1]).await];
    let old = clients[0].producer(ProducerOptions::default());
    for _ in 0..3 {
        within(old.publish(&topic, record("old"))).await.unwrap();
    }
    let mut tails = Vec::new();
    for client in &clients {
        let mut tail = client.tail(&topic, from_start(true));
        let mut seen = 0;
        while seen < 3 {
            seen += within(tail.next()).await.unwrap().unwrap().records.len();
        }
        tails.push(tail);
    }
    within(clients[1].delete_topic(&topic)).await.unwrap();
    let made = clients[0].create_topic(&topic, TopicConfig::default(), false);
    within(made).await.unwrap();
    let new = clients[1].producer(ProducerOptions::default());
    assert_eq!(
        within(new.publish(&topic, record("new")))
            .await
            .unwrap()
            .first,
        0
    );
    // Also for those who hear of it from another leader.
    cluster.kill(2).await;
    for tail in &mut tails {
        let told = within(tail.next()).await;
        assert!(
            matches!(told, Err(ClientError::TopicDeleted(_))),
            "{told:?}"
        );
    }
    let told = within(old.publish(&topic, record("lost"))).await;
    assert!(
        matches!(told, Err(ClientError::TopicDeleted(_))),
        "{told:?}"
    );
    assert_eq!(
        within(old.publish(&topic, record("newer")))
            .await
            .unwrap()
            .first,
        1
    );
    for client in &clients {
        assert_eq!(texts(&read_all(client, &topic).await), ["new", "newer"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readers_and_trims_have_left_behind_is_known_to_the_next_leader() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(0).await;
    let client = cluster.client(&[1, 2]).await;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..10 {
        let published = producer.publish_batch(&topic, vec![record(number.to_string())], None);
        within(published).await.unwrap();
    }
    within(client.commit_cursor(&topic, "reader", 7))
        .await
        .unwrap();
    assert_eq!(within(client.trim_topic(&topic, 4)).await.unwrap(), 4);
    cluster.kill(0).await;
    for node in [1, 2] {
        let client = cluster.client(&[node]).await;
        assert_eq!(
            within(client.describe_topic(&topic)).await.unwrap().first,
            4
        );
        let start = |start: Start| TailOptions {
            start,
            ..TailOptions::default()
        };
        let at_cursor = follow(client.tail(&topic, start(Start::Cursor("reader".into()))));
        assert_eq!(texts(&within(at_cursor).await), ["7", "8", "9"]);
        let below = within(client.tail(&topic, start(Start::Offset(2))).next()).await;
        assert!(
            matches!(below, Err(ClientError::Trimmed { first: 4, .. })),
            "{below:?}"
        );
    }
}
