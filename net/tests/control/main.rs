//! The control plane through its public doors: every node in this process, over real stores and wires that can be cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod cluster;
mod elections;
mod learning;
mod membership;
mod salvaged;
mod wake_ups;

use cluster::{Cluster, boot, is_revoked, propose, register, revoke};
use mesh_net::node::control::{Control, ProposeError};
use mesh_ring::control::ControlError;

#[tokio::test(flavor = "multi_thread")]
async fn any_node_proposes_and_every_node_sees_it() {
    let cluster = Cluster::found(3).await;
    for n in 1..=3 {
        let outcome = propose(&cluster.node(n), revoke(n.into())).await;
        assert!(outcome.changed, "{outcome:?}");
    }
    cluster
        .all_see("three are revoked", |map| {
            (1..=3).all(|n| is_revoked(map, n))
        })
        .await;
    let again = propose(&cluster.node(1), revoke(2)).await;
    assert!(
        !again.changed,
        "a command that was carried out may come again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_same_from_everywhere() {
    let cluster = Cluster::found(3).await;
    let node = cluster.node(cluster.follower().await);
    propose(&node, register(1, boot(1, 1), vec![])).await;
    propose(&node, register(1, boot(2, 2), vec![boot(1, 1)])).await;
    // A copy of the disk as it was before the second start.
    let copy = register(1, boot(2, 9), vec![boot(1, 1)]);
    for n in 1..=3 {
        let refused = cluster.node(n).propose(copy.clone()).await;
        assert!(
            matches!(
                refused,
                Err(ProposeError::Refused(ControlError::OldCopy {
                    registered: 2,
                    ..
                }))
            ),
            "{refused:?}"
        );
    }
    let map = node.map();
    let map = map.borrow();
    assert_eq!(map.node(cluster::id(1)).unwrap().boot, boot(2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_restarted_at_once_come_back() {
    let mut cluster = Cluster::found(3).await;
    for n in 1..=20 {
        propose(&cluster.node(2), revoke(n)).await;
    }
    let version = cluster.node(2).map().borrow().version();
    for n in 1..=3 {
        cluster.kill(n).await;
    }
    for n in 1..=3 {
        cluster.start(n).await;
    }
    cluster
        .all_see("nothing is lost", |map| {
            map.version() >= version && is_revoked(map, 20)
        })
        .await;
    propose(&cluster.node(1), revoke(21)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 21))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_decides_alone_and_remembers() {
    let mut cluster = Cluster::found(1).await;
    propose(&cluster.node(1), revoke(1)).await;
    assert!(cluster.node(1).has_quorum());
    cluster.kill(1).await;
    cluster.start(1).await;
    // What is known to be committed is there before anyone is elected.
    cluster
        .all_see("it is revoked", |map| is_revoked(map, 1))
        .await;
    propose(&cluster.node(1), revoke(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_and_changes_nothing() {
    let cluster = Cluster::found(1).await;
    let node: Control = cluster.node(1);
    propose(&node, revoke(1)).await;
    let version = node.map().borrow().version();
    for garbage in [
        &b""[..],
        b"\x01",
        b"\x02\x01",
        b"\x01\x04\0\0\0\x02{}",
        b"\x01\x09\0\0\0\0",
    ] {
        let answer = node.handle(garbage.to_vec().into()).await;
        assert_eq!(&answer[..2], b"\x01\x00", "{garbage:?}");
    }
    assert_eq!(node.map().borrow().version(), version);
}
