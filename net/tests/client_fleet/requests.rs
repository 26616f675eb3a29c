//! Requests that are no appends: they go to nodes that answer.

use std::time::{Duration, Instant};

use mesh_net::client::{ClientError, TopicConfig};

use crate::{
    SOON, TIMEOUT,
    fleet::Fleet,
    records::{partition, topic_of},
    support::within,
};

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
async fn a_dead_node_is_not_asked_first_for_ever() {
    const REQUESTS: u32 = 20;
    /// Less than the time after which another node is asked beside one that is silent.
    const WITHOUT_DETOUR: Duration = Duration::from_millis(200);
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[1, 2], TIMEOUT).await;
    let topic = topic_of(&fleet, 0);
    within(client.create_topic(&topic, TopicConfig::default(), false))
        .await
        .unwrap();
    fleet.relays[0].cut();
    fleet.lead(partition(&topic), Some(1));
    // Each is answered, by a detour where the client still thinks that the dead node leads: nothing fails.
    let began = Instant::now();
    for _ in 0..REQUESTS {
        within(client.describe_topic(&topic)).await.unwrap();
    }
    let took = began.elapsed();
    assert!(took < REQUESTS * WITHOUT_DETOUR, "{took:?}");
}

/// What a request takes that begins at a node that does not answer, at least.
const DETOUR: Duration = Duration::from_millis(250);
/// Requests after the first one.
const LATER: u32 = 10;
/// Those of them that may take long because the machine is busy.
const SLOW_MAX: usize = 3;

/// How many requests take as long as one that begins at a dead node.
async fn slow_ones(mut request: impl AsyncFnMut(u32)) -> usize {
    let mut slow = 0;
    for n in 0..LATER {
        let began = Instant::now();
        request(n).await;
        slow += usize::from(began.elapsed() >= DETOUR);
    }
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_first_read_waits_for_a_node_of_whose_death_no_map_tells() {
    for is_connected in [true, false] {
        let fleet = Fleet::start(3).await;
        let client = fleet.client(&[1, 2], TIMEOUT).await;
        let topic = topic_of(&fleet, 0);
        let maker = fleet.client(&[0], TIMEOUT).await;
        within(maker.create_topic(&topic, TopicConfig::default(), false))
            .await
            .unwrap();
        if is_connected {
            let described = within(client.describe_topic(&topic)).await.unwrap();
            assert_eq!(described.leader, "n0");
        }
        fleet.relays[0].cut();
        let read = async |_| drop(within(client.describe_topic(&topic)).await.unwrap());
        read(0).await;
        let slow = slow_ones(read).await;
        assert!(slow <= SLOW_MAX, "{slow}, connected: {is_connected}");
        // Once it is back it is asked again, and soon.
        fleet.relays[0].mend();
        let back = Instant::now();
        while within(client.describe_topic(&topic)).await.unwrap().leader != "n0" {
            assert!(back.elapsed() < 2 * SOON, "it is not asked any more");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_first_change_waits_for_a_node_of_whose_death_no_map_tells() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[1, 2], TIMEOUT).await;
    let topics: Vec<String> = (0..)
        .map(|number| format!("topic-{number}"))
        .filter(|topic| fleet.leader(topic) == Some(0))
        .take(LATER as usize + 1)
        .collect();
    fleet.relays[0].cut();
    let make = async |n: u32| {
        let made = client.create_topic(&topics[n as usize], TopicConfig::default(), false);
        within(made).await.unwrap();
    };
    make(LATER).await;
    let slow = slow_ones(make).await;
    assert!(slow <= SLOW_MAX, "{slow}");
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
