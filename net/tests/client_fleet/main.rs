//! A client among several nodes: leaders move, nodes die without a word, replicas lag.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod fleet;
mod relay;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fleet::{Fleet, PARTITIONS};
use mesh_net::{
    client::{
        Client, ClientError, Producer, ProducerOptions, Record, Start, Tail, TailOptions,
        TopicConfig,
    },
    identity::Fingerprint,
    wire::proto::ErrorCode,
};
use mesh_ring::hash::partition_of;
use tokio::{task::JoinSet, time::sleep};

const PATIENCE: Duration = Duration::from_secs(30);
/// The timeout of most clients here.
const TIMEOUT: Duration = Duration::from_secs(10);
/// QUIC calls a connection lost after ten seconds. Whoever leaves a dead node sooner has found out otherwise; a machine
/// under load may take some seconds for what usually takes one.
const SOON: Duration = Duration::from_secs(5);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it took too long")
}

fn record(value: impl Into<String>) -> Record {
    Record {
        value: value.into().into(),
        ..Record::default()
    }
}

async fn publish(producer: &Producer, topic: &str, value: &str) -> u64 {
    let published = within(producer.publish(topic, record(value))).await;
    published.unwrap().first
}

/// A topic that `leader` leads.
fn topic_of(fleet: &Fleet, leader: usize) -> String {
    (0..)
        .map(|number| format!("topic-{number}"))
        .find(|topic| fleet.leader(topic) == Some(leader))
        .unwrap()
}

fn partition(topic: &str) -> u16 {
    partition_of(topic.as_bytes(), PARTITIONS).0
}

fn following(start: Start) -> TailOptions {
    TailOptions {
        start,
        follow: true,
        until: None,
    }
}

/// The next `count` records, which must be `start`, `start` + 1 … and have these numbers as their values.
async fn expect(tail: &mut Tail, start: u64, count: u64) {
    let mut next = start;
    while next < start + count {
        let batch = within(tail.next()).await.unwrap().unwrap();
        for record in batch.records {
            assert_eq!(record.offset, next);
            assert_eq!(record.record.value, next.to_string());
            next += 1;
        }
    }
}

async fn numbers(producer: &Producer, topic: &str, range: std::ops::Range<u64>) {
    for number in range {
        assert_eq!(publish(producer, topic, &number.to_string()).await, number);
    }
}

/// The pseudo-random numbers of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit
    }
}

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
async fn requests_do_not_wait_for_a_dead_node() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[0, 1, 2], TIMEOUT).await;
    let topic = topic_of(&fleet, 0);
    within(client.create_topic(&topic, TopicConfig::default(), false))
        .await
        .unwrap();
    fleet.relays[0].cut();
    // Nobody has noticed yet: the map still names the dead node.
    let began = Instant::now();
    within(client.describe_topic(&topic)).await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // A client that begins now finds another contact.
    let began = Instant::now();
    let late = within(fleet.client(&[0, 1, 2], TIMEOUT)).await;
    within(late.describe_topic(&topic)).await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // One that must not be repeated is not, and says so.
    let unlucky = topic_of(&fleet, 0) + "-2";
    fleet.lead(partition(&unlucky), Some(0));
    let made = within(client.create_topic(&unlucky, TopicConfig::default(), false)).await;
    match made {
        Ok(_) => assert_eq!(fleet.world().created.iter().sum::<usize>(), 2),
        Err(ClientError::Unavailable(message)) => {
            assert!(message.contains("may have been done"), "{message}");
            assert_eq!(fleet.world().created.iter().sum::<usize>(), 1);
        }
        Err(other) => panic!("{other:?}"),
    }
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

/// How much each publisher publishes while leaders move: about two seconds' worth.
const NUMBERS: u64 = 1_500;

/// What one topic's publisher saw: each number and where it was acknowledged, if it was.
type Seen = Vec<(u64, Option<u64>)>;

async fn publish_numbers(producer: Producer, topic: String, count: u64) -> (String, Seen) {
    let mut seen = Vec::new();
    let mut calls = JoinSet::new();
    for number in 0..count {
        let (producer, topic) = (producer.clone(), topic.clone());
        // In the order of the numbers: a call takes its place before its first wait.
        let mut call = Box::pin(async move {
            let published = producer.publish(&topic, record(number.to_string())).await;
            (number, published.ok().map(|published| published.first))
        });
        if let Some(done) = poll_once(&mut call).await {
            seen.push(done);
        } else {
            calls.spawn(call);
        }
        if number % 5 == 0 {
            sleep(Duration::from_millis(7)).await;
        }
    }
    while let Some(done) = calls.join_next().await {
        seen.push(done.unwrap());
    }
    seen.sort_unstable();
    (topic, seen)
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_leaders_do_each_record_is_there_once_and_in_order() {
    let seed = std::env::var("MESHLOG_SEED").map_or_else(
        |_| std::process::id().into(),
        |seed| seed.parse::<u64>().unwrap(),
    );
    println!("MESHLOG_SEED={seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[0, 1, 2], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    let mut publishers = JoinSet::new();
    for number in 0..12 {
        publishers.spawn(publish_numbers(
            producer.clone(),
            format!("t{number}"),
            NUMBERS,
        ));
    }
    // Leaders move in every manner while the publishers publish.
    let mut seen = BTreeMap::new();
    let mut cut = None;
    while !publishers.is_empty() {
        let moved = dice.below(u64::from(PARTITIONS)) as u16;
        let to = dice.below(3) as usize;
        match dice.below(6) {
            0 | 1 => fleet.lead(moved, Some(to)),
            // The old leader goes on for a while, denies it, and what it took is there.
            2 => {
                let old = fleet.world().leaders[usize::from(moved)];
                fleet.lead(moved, None);
                if let Some(old) = old {
                    fleet.world().deposed.insert(moved, old);
                }
                sleep(Duration::from_millis(dice.below(60))).await;
                fleet.lead(moved, Some(to));
            }
            3 => fleet.hang_up(to),
            4 => {
                let hints = dice.below(2) == 0;
                fleet.world().hints = hints;
            }
            _ => {
                if let Some(node) = cut.take() {
                    let relay: &relay::Relay = &fleet.relays[node];
                    relay.mend();
                } else if dice.below(3) == 0 {
                    fleet.relays[to].cut();
                    cut = Some(to);
                    let mut world = fleet.world();
                    world.version += 1;
                    for leader in &mut world.leaders {
                        if *leader == Some(to) {
                            *leader = Some((to + 1) % 3);
                        }
                    }
                }
            }
        }
        let pause = sleep(Duration::from_millis(dice.below(50)));
        tokio::select! {
            () = pause => {}
            Some(done) = publishers.join_next() => {
                let (topic, numbers) = done.unwrap();
                seen.insert(topic, numbers);
            }
        }
    }
    assert_eq!(seen.len(), 12);
    for (topic, numbers) in seen {
        let values: Vec<u64> = fleet
            .values(&topic)
            .iter()
            .map(|value| value.parse().unwrap())
            .collect();
        assert!(
            values.is_sorted_by(|a, b| a < b),
            "seed {seed}: {topic} is out of order or repeats: {values:?}"
        );
        for (number, offset) in numbers {
            let offset = offset.unwrap_or_else(|| panic!("seed {seed}: {number} was not taken"));
            assert_eq!(values[offset as usize], number, "seed {seed}: {topic}");
        }
        assert_eq!(values.len() as u64, NUMBERS, "seed {seed}: {topic}");
    }
}

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
    let whole = TailOptions {
        start: Start::First,
        follow: false,
        until: None,
    };
    let mut tail = reader.tail(&topic, whole);
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

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_a_node_are_answered_by_that_node() {
    let fleet = Fleet::start(3).await;
    for node in 0..3 {
        let client = fleet.client(&[node], TIMEOUT).await;
        // It knows the others, and does not ask them.
        let _ = within(client.describe_topic("x")).await;
        assert_eq!(
            within(client.info()).await.unwrap().name,
            format!("n{node}")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_certificate_is_revoked_is_left() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[0, 1, 2], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    let topic = topic_of(&fleet, 1);
    publish(&producer, &topic, "a").await;
    let stolen = Fingerprint::of_file(&fleet.path("n1/cert.pem")).unwrap();
    {
        let mut world = fleet.world();
        world.revoked.push(stolen);
        world.version += 1;
        world.down.insert(1);
    }
    // It moves, and the client learns of the revocation with the map.
    fleet.lead(partition(&topic), Some(2));
    publish(&producer, &topic, "b").await;
    let began = Instant::now();
    fleet.lead(partition(&topic), Some(1));
    let moving = async {
        sleep(Duration::from_millis(200)).await;
        fleet.lead(partition(&topic), Some(0));
    };
    let (offset, ()) = tokio::join!(publish(&producer, &topic, "c"), moving);
    assert_eq!(offset, 2);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_dials_with_the_certificate_that_it_has_now() {
    let fleet = Fleet::start(1).await;
    let client = fleet.client(&[0], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    publish(&producer, "t", "a").await;
    fleet.issue_client("renewed");
    for file in ["key.pem", "cert.pem"] {
        let renewed = fleet.path("renewed").join(file);
        std::fs::rename(renewed, fleet.path("client").join(file)).unwrap();
    }
    let new = Fingerprint::of_file(&fleet.path("client/cert.pem")).unwrap();
    within(async {
        while fleet.world().came.last() != Some(&new) {
            fleet.hang_up(0);
            publish(&producer, "t", "b").await;
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
