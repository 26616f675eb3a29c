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
