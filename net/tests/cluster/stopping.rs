//! Nodes that are asked to stop.

use std::time::Duration;

use mesh_net::node::{HAND_OVER_TIMEOUT, SHUTDOWN_TIMEOUT};

use crate::{
    cluster::Cluster,
    load::{Load, check, longest},
    support::read_all,
};

/// How long a call may wait while leadership moves in order, on a machine that is busy with other things.
const PAUSE_MAX: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_hands_over_what_it_leads() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(0).await;
    let writers = [
        cluster.client(&[0, 1, 2]).await,
        cluster.client(&[1, 2]).await,
    ];
    let mut load = Load::start(&writers, &topic);
    for node in [0, 1] {
        load.goes_on(50).await;
        let took = cluster.stop(node).await;
        assert!(took < SHUTDOWN_TIMEOUT, "{took:?}");
        assert_ne!(cluster.leader_of(&topic).await, node);
        load.goes_on(50).await;
        cluster.restart(node).await;
        cluster.all_lead().await;
    }
    let sent = load.finish().await;
    check(&read_all(&writers[1], &topic).await, &sent);
    let longest = longest(&sent);
    assert!(longest < PAUSE_MAX, "a call took {longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_in_time_when_nobody_is_left_to_hand_over_to() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(0).await;
    let writers = [cluster.client(&[0, 1, 2]).await];
    let mut load = Load::start(&writers, &topic);
    load.goes_on(50).await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    let took = cluster.stop(0).await;
    assert!(took < HAND_OVER_TIMEOUT + SHUTDOWN_TIMEOUT, "{took:?}");
    for node in 0..3 {
        cluster.restart(node).await;
    }
    load.goes_on(50).await;
    let sent = load.finish().await;
    check(&read_all(&writers[0], &topic).await, &sent);
}
