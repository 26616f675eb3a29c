//! Nodes that join, that are replaced as voters, and that leave.

use std::time::Duration;

use mesh_net::node::control::{Beginning, Control, Life};
use mesh_ring::control::ControlCommand;
use mesh_ring::map::{ClusterMap, Leaving};

use crate::cluster::{
    Cluster, boot, id, is_revoked, propose, propose_all, register, revoke, until,
};

/// Has node `n` admitted, and starts it with the map that it is told.
async fn join(cluster: &mut Cluster, n: u8) {
    let contact = cluster.node(1);
    let admit = ControlCommand::Admit {
        node: id(n),
        name: format!("n{n}"),
        address: format!("h{n}:1"),
        zone: String::new(),
    };
    propose(&contact, admit).await;
    let mut map = contact.map();
    let admitted = map.wait_for(|map| map.node(id(n)).is_some()).await;
    let admitted = ClusterMap::clone(&admitted.unwrap());
    let beginning = Beginning::Joining(admitted);
    cluster.start_as(n, beginning, false).await;
    cluster.hears(n, Life::Alive);
    propose(&cluster.node(n), register(n, boot(1, n), vec![])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_the_map_and_may_propose() {
    let mut cluster = Cluster::found(3).await;
    propose(&cluster.node(1), revoke(1)).await;
    join(&mut cluster, 4).await;
    cluster
        .all_see("node 4 is up", |map| {
            map.is_live(id(4)) && is_revoked(map, 1)
        })
        .await;
    propose(&cluster.node(4), revoke(2)).await;
    cluster
        .all_see("it proposes", |map| is_revoked(map, 2))
        .await;

    // It goes on from its own disk.
    cluster.kill(4).await;
    propose(&cluster.node(2), revoke(3)).await;
    cluster.start(4).await;
    cluster
        .all_see("it follows", |map| is_revoked(map, 3))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::found(3).await;
    let away = cluster.follower().await;
    cluster.kill(away).await;
    let node = cluster.node(cluster.leader().await);
    // Two snapshots, and more than is kept behind the last.
    propose_all(&node, 0..600).await;
    let version = node.map().borrow().version();
    assert!(version > 600, "{version}");
    cluster.start(away).await;
    cluster
        .all_see("it has caught up", |map| map.version() >= version)
        .await;
    until("the store has a snapshot", || {
        let engine = cluster.engine(away);
        Control::stored_map(&engine).unwrap().is_some()
    })
    .await;

    cluster.kill(away).await;
    cluster.start(away).await;
    propose(&cluster.node(away), revoke(700)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 700))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_down_is_replaced_and_the_group_survives_another() {
    let mut cluster = Cluster::found(3).await;
    join(&mut cluster, 4).await;
    let dead = cluster.follower().await;
    let dead = if dead == 4 { 1 } else { dead };
    cluster.kill(dead).await;
    cluster.hears(dead, Life::Dead);
    cluster
        .all_see("others vote", |map| {
            map.voters().len() == 3
                && map.voters().contains(&id(4))
                && !map.voters().contains(&id(dead))
        })
        .await;

    // Of the first three voters only one is left now: it and the new one are a majority.
    let second = (1..=3).find(|n| *n != dead).unwrap();
    cluster.kill(second).await;
    propose(&cluster.node(4), revoke(1)).await;

    // Without another node to take its place, a dead voter stays one.
    cluster.hears(second, Life::Dead);
    cluster
        .all_see("it is down", |map| !map.is_live(id(second)))
        .await;
    cluster.start(second).await;
    cluster.hears(second, Life::Alive);
    cluster
        .all_see("it is up and votes", |map| {
            map.is_live(id(second)) && map.voters().contains(&id(second))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_to_three_voters() {
    let mut cluster = Cluster::found(1).await;
    join(&mut cluster, 2).await;
    join(&mut cluster, 3).await;
    cluster
        .all_see("three vote", |map| map.voters().len() == 3)
        .await;
    cluster.kill(1).await;
    propose(&cluster.node(2), revoke(1)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 1))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_dead_for_long_is_replaced_unless_it_returns() {
    let mut cluster = Cluster::prepare(4);
    cluster.dead_after = Duration::from_secs(2);
    for n in 1..=4 {
        cluster.hears(n, Life::Alive);
        cluster.start(n).await;
    }
    cluster.leader().await;
    cluster.hears(4, Life::Dead);
    cluster
        .all_see("it is down, and not yet replaced", |map| {
            !map.is_live(id(4)) && map.node(id(4)).unwrap().leaving.is_none()
        })
        .await;
    cluster
        .all_see("it is replaced", |map| {
            map.node(id(4)).unwrap().leaving == Some(Leaving::Replaced)
        })
        .await;
    cluster.hears(4, Life::Alive);
    cluster
        .all_see("it is welcome", |map| {
            map.is_live(id(4)) && map.node(id(4)).unwrap().leaving.is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_never_came_is_down_after_a_while() {
    let mut cluster = Cluster::prepare(3);
    cluster.hears(1, Life::Alive);
    cluster.hears(2, Life::Alive);
    cluster.start(1).await;
    cluster.start(2).await;
    propose(&cluster.node(1), revoke(1)).await;
    cluster
        .all_see("the third is down", |map| !map.is_live(id(3)))
        .await;

    cluster.start(3).await;
    cluster.hears(3, Life::Alive);
    propose(&cluster.node(3), register(3, boot(1, 3), vec![])).await;
    cluster
        .all_see("it takes part", |map| {
            map.is_live(id(3)) && is_revoked(map, 1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_map_is_the_one_that_was_last_known() {
    let mut cluster = Cluster::found(1).await;
    join(&mut cluster, 2).await;
    propose(&cluster.node(1), revoke(1)).await;
    cluster
        .all_see("it is revoked", |map| is_revoked(map, 1))
        .await;
    cluster.kill(2).await;
    let engine = cluster.open(2);
    let stored = Control::stored_map(&engine).unwrap().unwrap();
    assert!(stored.is_live(id(2)));
    engine.close().unwrap();

    let engine = cluster.open(3);
    assert_eq!(Control::stored_map(&engine).unwrap(), None);
}
