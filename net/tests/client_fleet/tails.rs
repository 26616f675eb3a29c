//! Tails go on at another replica, and believe none that lags.

use std::time::Instant;

use mesh_net::client::{Client, ClientError, Producer, ProducerOptions, Start};

use crate::{
    SOON, TIMEOUT,
    fleet::Fleet,
    records::{expect, following, numbers, topic_of},
    support::{from_start, within},
};

async fn filled(fleet: &Fleet, topic: &str, count: u64) -> (Client, Producer) {
    let client = fleet.client(&[1], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    numbers(&producer, topic, 0..count).await;
    (client, producer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_at_another_replica_when_its_node_dies() {
    let fleet = Fleet::start(3).await;
    let topic = topic_of(&fleet, 0);
    let (_client, producer) = filled(&fleet, &topic, 10).await;
    // Its contact is a replica, so that it reads there and not from the leader.
    let reader = fleet.client(&[2, 1], TIMEOUT).await;
    let mut tail = reader.tail(&topic, following(Start::First));
    expect(&mut tail, 0, 10).await;
    fleet.relays[2].cut();
    let died = Instant::now();
    numbers(&producer, &topic, 10..20).await;
    expect(&mut tail, 10, 10).await;
    println!("the tail went on {:?} after its node died", died.elapsed());
    assert!(died.elapsed() < SOON, "{:?}", died.elapsed());
    // A node that ends its connections is left too, and one that is not the leader is as good as it.
    for node in [0, 1] {
        fleet.hang_up(node);
        let next = 20 + 5 * node as u64;
        numbers(&producer, &topic, next..next + 5).await;
        expect(&mut tail, next, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_is_not_believed() {
    let fleet = Fleet::start(3).await;
    let topic = topic_of(&fleet, 0);
    let (_client, producer) = filled(&fleet, &topic, 10).await;
    let reader = fleet.client(&[2], TIMEOUT).await;
    // It has never heard of the topic, and then not of the offset.
    for lag in [10, 4] {
        fleet.world().lag.insert(2, lag);
        let mut tail = reader.tail(&topic, following(Start::Offset(8)));
        expect(&mut tail, 8, 2).await;
    }
    // A tail that was promised ten records gets ten, although the node that it goes on at has six.
    fleet.world().lag.insert(2, 0);
    let mut tail = reader.tail(&topic, from_start(false));
    expect(&mut tail, 0, 1).await;
    fleet.world().lag.insert(2, 4);
    fleet.hang_up(2);
    expect(&mut tail, 1, 9).await;
    assert!(within(tail.next()).await.unwrap().is_none());
    // Where the leader says so too, it is so.
    let mut missing = reader.tail("no-such-topic", following(Start::First));
    assert!(matches!(
        within(missing.next()).await.map(|_| ()),
        Err(ClientError::NotFound(_))
    ));
    let mut beyond = reader.tail(&topic, following(Start::Offset(99)));
    assert!(matches!(
        within(beyond.next()).await.map(|_| ()),
        Err(ClientError::OffsetBeyondEnd { .. })
    ));
    // A node that catches up delivers what it had not.
    let mut tail = reader.tail(&topic, following(Start::First));
    expect(&mut tail, 0, 6).await;
    fleet.world().lag.insert(2, 0);
    fleet.tell();
    expect(&mut tail, 6, 4).await;
    numbers(&producer, &topic, 10..11).await;
    expect(&mut tail, 10, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_copy_sends_the_tail_elsewhere() {
    let fleet = Fleet::start(3).await;
    let topic = topic_of(&fleet, 0);
    let (_client, producer) = filled(&fleet, &topic, 5).await;
    let reader = fleet.client(&[2], TIMEOUT).await;
    let mut tail = reader.tail(&topic, following(Start::First));
    expect(&mut tail, 0, 5).await;
    // The copy moves away from node 2 while the tail reads there; an old map still says otherwise.
    fleet.world().outsiders.insert(2);
    fleet.hang_up(2);
    numbers(&producer, &topic, 5..8).await;
    expect(&mut tail, 5, 3).await;
}
