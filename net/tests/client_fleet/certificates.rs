//! Certificates of either side that change under way.

use std::time::{Duration, Instant};

use mesh_net::{client::ProducerOptions, identity::Fingerprint};
use tokio::time::sleep;

use crate::{
    SOON, TIMEOUT,
    fleet::Fleet,
    records::{partition, publish, topic_of},
    support::within,
};

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
