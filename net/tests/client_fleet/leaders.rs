//! Leaders move, die, and lose their majority: what is published finds its way.

use std::time::{Duration, Instant};

use mesh_net::{client::ProducerOptions, wire::proto::ErrorCode};
use tokio::time::sleep;

use crate::{
    SOON, TIMEOUT,
    fleet::{Fleet, PARTITIONS},
    records::{partition, publish, topic_of},
    support::{record, within},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_goes_to_its_leader_and_follows_it() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[0], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    let topics: Vec<String> = (0..3).map(|leader| topic_of(&fleet, leader)).collect();
    for topic in &topics {
        assert_eq!(publish(&producer, topic, "a").await, 0);
    }
    // With the new leader's address in the refusal, and without.
    for (turn, hints) in [(1, true), (2, false)] {
        fleet.world().hints = hints;
        for (at, topic) in topics.iter().enumerate() {
            fleet.lead(partition(topic), Some((at + turn) % 3));
            assert_eq!(publish(&producer, topic, "b").await, turn as u64);
        }
    }
    // While nobody leads it waits.
    fleet.lead(partition(&topics[0]), None);
    let waiting = publish(&producer, &topics[0], "c");
    let electing = async {
        sleep(Duration::from_millis(300)).await;
        fleet.lead(partition(&topics[0]), Some(0));
    };
    assert_eq!(tokio::join!(waiting, electing).0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_is_left_at_once() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[1, 0, 2], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    let topic = topic_of(&fleet, 1);
    publish(&producer, &topic, "before").await;
    fleet.relays[1].cut();
    let died = Instant::now();
    let waiting = publish(&producer, &topic, "after");
    let electing = async {
        sleep(Duration::from_millis(500)).await;
        fleet.world().down.insert(1);
        for led in (0..PARTITIONS).filter(|p| p % 3 == 1) {
            fleet.lead(led, Some(2));
        }
    };
    assert_eq!(tokio::join!(waiting, electing).0, 1);
    println!("appended again {:?} after the leader died", died.elapsed());
    assert!(died.elapsed() < SOON, "{:?}", died.elapsed());
    // What had not begun yet finds its way too, and so do other requests.
    let other = (0..)
        .map(|number| format!("other-{number}"))
        .find(|topic| fleet.leader(topic) == Some(2))
        .unwrap();
    let began = Instant::now();
    assert_eq!(publish(&producer, &other, "new").await, 0);
    within(client.describe_topic(&topic)).await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(fleet.values(&topic), ["before", "after"]);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_the_reason_is_told_and_it_goes_on_afterwards() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[0], Duration::from_secs(1)).await;
    let producer = client.producer(ProducerOptions::default());
    let topic = topic_of(&fleet, 2);
    publish(&producer, &topic, "a").await;
    fleet.world().refuse = Some(ErrorCode::NotEnoughReplicas);
    let error = within(producer.publish(&topic, record("b")))
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(
        error
            .to_string()
            .contains("the node says NotEnoughReplicas"),
        "{error}"
    );
    fleet.world().refuse = None;
    publish(&producer, &topic, "c").await;
    // The one in between was told that it may be written, and is.
    assert_eq!(fleet.values(&topic), ["a", "b", "c"]);
}
