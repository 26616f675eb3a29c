//! Leaders that die, lose their majority, and come back.

use std::time::Instant;

use mesh_engine::RowChange;
use mesh_net::node::control::{Beginning, Life, ProposeError};

use crate::cluster::{Cluster, id, is_revoked, propose, propose_all, revoke, until};

#[tokio::test(flavor = "multi_thread")]
async fn another_leads_when_the_leader_dies() {
    let mut cluster = Cluster::found(3).await;
    propose(&cluster.node(1), revoke(1)).await;
    let leader = cluster.leader().await;
    let killed = Instant::now();
    cluster.kill(leader).await;
    let other = cluster.leader().await;
    println!("node {other} follows {leader} after {:?}", killed.elapsed());
    propose(&cluster.node(cluster.follower().await), revoke(2)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 2))
        .await;

    cluster.start(leader).await;
    cluster
        .all_see("it is told", |map| is_revoked(map, 2))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_makes_another_lead_sooner() {
    let mut cluster = Cluster::found(3).await;
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    cluster.hears(leader, Life::Dead);
    cluster.leader().await;
    cluster
        .all_see("the dead one is down", |map| !map.is_live(id(leader)))
        .await;
    cluster.hears(leader, Life::Alive);
    cluster
        .all_see("it is up again", |map| map.is_live(id(leader)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_may_die_and_a_majority_stops_all_change() {
    let mut cluster = Cluster::found(5).await;
    propose(&cluster.node(1), revoke(1)).await;
    let first = cluster.leader().await;
    cluster.kill(first).await;
    let second = cluster.leader().await;
    cluster.kill(second).await;
    let left = cluster.follower().await;
    propose(&cluster.node(left), revoke(2)).await;

    let third = cluster.leader().await;
    cluster.kill(third).await;
    let refused = cluster.node(left).propose(revoke(3)).await;
    assert!(
        matches!(refused, Err(ProposeError::Unavailable { .. })),
        "{refused:?}"
    );
    let node = cluster.node(left);
    until("it knows that there is no majority", || !node.has_quorum()).await;
    assert!(
        is_revoked(&node.map().borrow(), 2),
        "what was decided is still known"
    );

    cluster.start(first).await;
    propose(&node, revoke(3)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 3))
        .await;
    assert!(node.has_quorum());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_decides_nothing_and_is_told_when_it_is_back() {
    let cluster = Cluster::found(3).await;
    let old = cluster.leader().await;
    propose(&cluster.node(old), revoke(1)).await;
    cluster.isolate(old);
    let node = cluster.node(old);
    let refused = node.propose(revoke(2)).await;
    assert!(
        matches!(refused, Err(ProposeError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(!is_revoked(&node.map().borrow(), 2));
    let new = cluster.leader_except(Some(old)).await;
    assert_ne!(new, old);
    propose(&cluster.node(new), revoke(3)).await;
    assert!(!is_revoked(&node.map().borrow(), 3));

    cluster.heal();
    cluster
        .all_see("there is one history", |map| is_revoked(map, 3))
        .await;
    propose(&node, revoke(2)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 2))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_messages_are_made_good() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let cluster = Cluster::found(3).await;
    propose(&cluster.node(1), revoke(0)).await;
    cluster.lose(seed);
    for n in 1..=30 {
        propose(&cluster.node(n % 3 + 1), revoke(n.into())).await;
    }
    cluster
        .all_see("all are there", |map| (0..=30).all(|n| is_revoked(map, n)))
        .await;
}

/// The rows of a log from here on.
fn lost_end(from: u64) -> RowChange {
    let mut key = vec![5];
    key.extend_from_slice(&from.to_be_bytes());
    RowChange::DeleteRange {
        from: key,
        to: vec![6],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_the_end_of_its_log_is_made_whole_before_it_votes() {
    lose_the_end_and_recover(10, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn also_where_the_log_no_longer_reaches_back_to_its_beginning() {
    lose_the_end_and_recover(600, 590).await;
}

/// Of a log that ends a few entries behind `entries`, one follower's disk loses what comes `from` there on.
async fn lose_the_end_and_recover(entries: u16, from: u64) {
    let mut cluster = Cluster::found(3).await;
    propose_all(&cluster.node(1), 0..entries).await;
    let lame = cluster.follower().await;
    let last = entries - 1;
    cluster
        .all_see("all are there", |map| {
            (0..=last).all(|n| is_revoked(map, n))
        })
        .await;
    cluster.kill(lame).await;
    {
        let engine = cluster.open(lame);
        // How far the log was committed goes with the rest.
        let committed = RowChange::Delete { key: vec![2] };
        let (done, written) = std::sync::mpsc::sync_channel(1);
        engine.submit_rows(vec![lost_end(from), committed], move |outcome| {
            done.send(outcome).unwrap();
        });
        written.recv().unwrap().unwrap();
        engine.close().unwrap();
    }
    let map = cluster.node(cluster.leader().await).map().borrow().clone();
    cluster
        .start_as(lame, Beginning::Joining((*map).clone()), true)
        .await;
    propose(&cluster.node(lame), revoke(entries)).await;
    cluster
        .all_see("it has caught up", |map| is_revoked(map, entries))
        .await;

    // Its vote is worth something again: with one of the others it is a majority.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    propose(&cluster.node(lame), revoke(entries + 1)).await;
}
