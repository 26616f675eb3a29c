//! Voters whose logs lost their ends: too many of them to ask the others.

use std::time::Duration;

use mesh_engine::{Engine, RowChange};
use mesh_net::node::control::{Beginning, Control, ProposeError};
use mesh_ring::ids::Epoch;
use mesh_ring::map::ClusterMap;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, PATIENCE, is_revoked, propose, propose_all, revoke, until};

/// What was given out before is far below.
const LEAPT: Epoch = Epoch(1 << 20);

/// Keys of the rows that say how far the log was committed, where it begins, and what it made.
const VOTE: &[u8] = &[1];
const COMMITTED: &[u8] = &[2];
const PURGED: &[u8] = &[3];
const SNAPSHOT: &[u8] = &[4];
const SUSPECT: &[u8] = &[6];

/// A node that does not run loses the entries of its log from here on, and these rows.
pub(crate) async fn lose(cluster: &Cluster, n: u8, from: u64, rows: &[&[u8]]) {
    let mut first = vec![5];
    first.extend_from_slice(&from.to_be_bytes());
    let mut changes = vec![RowChange::DeleteRange {
        from: first,
        to: vec![6],
    }];
    changes.extend(
        rows.iter()
            .map(|key| RowChange::Delete { key: key.to_vec() }),
    );
    let engine = cluster.open(n);
    let (done, written) = tokio::sync::oneshot::channel();
    engine.submit_rows(changes, move |outcome| done.send(outcome).unwrap());
    written.await.unwrap().unwrap();
    engine.close().unwrap();
}

/// Up to which entry a node knows its log to be committed.
pub(crate) fn committed(engine: &Engine) -> u64 {
    let row = engine.row(COMMITTED).unwrap().unwrap();
    let committed: serde_json::Value = serde_json::from_slice(&row[1..]).unwrap();
    committed["index"].as_u64().unwrap()
}

/// Starts nodes whose disks did not come back whole, as they are started after a salvage.
pub(crate) async fn start_suspect(cluster: &mut Cluster, n: u8) {
    let map = {
        let engine = cluster.open(n);
        let map = Control::stored_map(&engine).unwrap();
        engine.close().unwrap();
        map
    };
    let beginning = map.map_or_else(|| cluster.founding(), Beginning::Joining);
    cluster.start_as(n, beginning, true).await;
}

fn has_leapt(map: &ClusterMap) -> bool {
    map.partitions().iter().all(|of| of.epoch > LEAPT)
}

/// Is it no longer suspect, durably?
pub(crate) async fn is_trusted(cluster: &Cluster, n: u8) {
    let engine = cluster.engine(n);
    until("the suspicion ends", || {
        engine.row(SUSPECT).unwrap().is_none()
    })
    .await;
}

/// What a node knows of the first `count` revocations.
fn known(cluster: &Cluster, n: u8, count: u16) -> Vec<u16> {
    let map = cluster.node(n).map();
    let map = map.borrow();
    (0..count).filter(|n| is_revoked(&map, *n)).collect()
}

async fn changes_one_by_one(cluster: &Cluster, n: u8, count: u16) {
    for change in 0..count {
        propose(&cluster.node(n), revoke(change)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_alone_leads_on_with_what_it_has() {
    let mut cluster = Cluster::found(1).await;
    changes_one_by_one(&cluster, 1, 12).await;
    cluster.kill(1).await;
    lose(&cluster, 1, 9, &[COMMITTED]).await;
    start_suspect(&mut cluster, 1).await;
    propose(&cluster.node(1), revoke(50)).await;
    let kept = known(&cluster, 1, 12);
    assert!((1..12).contains(&kept.len()), "{kept:?}");
    assert_eq!(kept, (0..kept.len() as u16).collect::<Vec<_>>());
    cluster.all_see("its epochs leap", has_leapt).await;
    is_trusted(&cluster, 1).await;

    // That was once.
    cluster.kill(1).await;
    cluster.start(1).await;
    propose(&cluster.node(1), revoke(51)).await;
    let map = cluster.node(1).map();
    let map = map.borrow();
    assert!(
        map.partitions()
            .iter()
            .all(|of| of.epoch < Epoch(2 * LEAPT.0))
    );
    assert!(is_revoked(&map, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_alone_and_has_lost_everything_begins_anew() {
    let mut cluster = Cluster::found(1).await;
    changes_one_by_one(&cluster, 1, 5).await;
    cluster.kill(1).await;
    lose(&cluster, 1, 0, &[&[1], COMMITTED, PURGED, SNAPSHOT]).await;
    start_suspect(&mut cluster, 1).await;
    propose(&cluster.node(1), revoke(50)).await;
    assert!(known(&cluster, 1, 5).is_empty());
    cluster.all_see("its epochs leap", has_leapt).await;
    is_trusted(&cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_back_what_a_member_without_a_vote_knows() {
    let mut cluster = Cluster::found(2).await;
    changes_one_by_one(&cluster, 1, 12).await;
    cluster
        .all_see("all are there", |map| (0..12).all(|n| is_revoked(map, n)))
        .await;
    cluster.kill(1).await;
    lose(&cluster, 1, 6, &[COMMITTED]).await;
    start_suspect(&mut cluster, 1).await;
    propose(&cluster.node(2), revoke(50)).await;
    cluster
        .all_see("nothing is lost", |map| {
            (0..12).all(|n| is_revoked(map, n)) && is_revoked(map, 50) && has_leapt(map)
        })
        .await;
    is_trusted(&cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_and_knows_more_starts_anew() {
    let mut cluster = Cluster::found(2).await;
    changes_one_by_one(&cluster, 1, 12).await;
    cluster
        .all_see("all are there", |map| (0..12).all(|n| is_revoked(map, n)))
        .await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    lose(&cluster, 1, 6, &[COMMITTED]).await;
    start_suspect(&mut cluster, 1).await;
    // As many as were lost, and more: their places are taken.
    propose_all(&cluster.node(1), 50..70).await;

    cluster.start(2).await;
    let cause = timeout(PATIENCE, cluster.node(2).refuted()).await.unwrap();
    assert!(cause.contains("start this node again"), "{cause}");
    assert!(!known(&cluster, 1, 12).contains(&11));
    cluster.kill(2).await;
    cluster.start(2).await;
    cluster
        .all_see("both know the same", |map| {
            (50..70).all(|n| is_revoked(map, n)) && !is_revoked(map, 11) && has_leapt(map)
        })
        .await;
    propose(&cluster.node(2), revoke(90)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 90))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_suspects_wait_for_the_third_voter_and_then_nothing_is_lost() {
    let mut cluster = Cluster::found(3).await;
    changes_one_by_one(&cluster, 1, 12).await;
    cluster
        .all_see("all are there", |map| (0..12).all(|n| is_revoked(map, n)))
        .await;
    for n in 1..=3 {
        cluster.kill(n).await;
    }
    for (n, from) in [(1, 6), (2, 9)] {
        lose(&cluster, n, from, &[COMMITTED]).await;
        start_suspect(&mut cluster, n).await;
    }
    let refused = timeout(PATIENCE, cluster.node(1).propose(revoke(50)))
        .await
        .unwrap();
    assert!(
        matches!(refused, Err(ProposeError::Unavailable { .. })),
        "{refused:?}"
    );

    cluster.start(3).await;
    propose(&cluster.node(1), revoke(51)).await;
    cluster
        .all_see("nothing is lost", |map| {
            (0..12).all(|n| is_revoked(map, n)) && is_revoked(map, 51) && has_leapt(map)
        })
        .await;
    for n in 1..=2 {
        is_trusted(&cluster, n).await;
    }
    // Their votes are worth something again.
    cluster.kill(3).await;
    propose(&cluster.node(2), revoke(52)).await;
}

/// Two have decided on without the leader of before. One of them comes back without that, and only the leader of before, who
/// goes on as one, is there to ask.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_does_not_follow_a_leader_of_before() {
    let mut cluster = Cluster::found(3).await;
    changes_one_by_one(&cluster, 1, 6).await;
    cluster
        .all_see("all are there", |map| (0..6).all(|n| is_revoked(map, n)))
        .await;
    let before = cluster.leader().await;
    let lost_from = committed(&cluster.engine(before)) + 1;
    cluster.kill(before).await;
    let later = cluster.leader_except(Some(before)).await;
    for change in 6..12 {
        propose(&cluster.node(later), revoke(change)).await;
    }
    let victim = (1..=3).find(|n| *n != before && *n != later).unwrap();
    for n in [later, victim] {
        cluster.kill(n).await;
    }
    lose(&cluster, victim, lost_from, &[VOTE, COMMITTED]).await;
    cluster.start(before).await;
    start_suspect(&mut cluster, victim).await;
    let refused = timeout(PATIENCE, cluster.node(before).propose(revoke(50)))
        .await
        .unwrap();
    assert!(refused.is_err(), "{refused:?}");

    cluster.start(later).await;
    propose(&cluster.node(victim), revoke(51)).await;
    cluster
        .all_see("nothing is lost", |map| {
            (0..12).all(|n| is_revoked(map, n)) && is_revoked(map, 51)
        })
        .await;
    is_trusted(&cluster, victim).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_voters_are_suspect_the_longest_log_wins() {
    let mut cluster = Cluster::found(3).await;
    changes_one_by_one(&cluster, 1, 12).await;
    cluster
        .all_see("all are there", |map| (0..12).all(|n| is_revoked(map, n)))
        .await;
    for n in 1..=3 {
        cluster.kill(n).await;
    }
    for (n, from) in [(1, 6), (2, 11), (3, 8)] {
        lose(&cluster, n, from, &[COMMITTED]).await;
    }
    for n in [1, 3] {
        start_suspect(&mut cluster, n).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.node(1).leader(), None);
    start_suspect(&mut cluster, 2).await;
    propose(&cluster.node(3), revoke(50)).await;
    cluster
        .all_see("it goes on", |map| is_revoked(map, 50) && has_leapt(map))
        .await;
    let kept = known(&cluster, 1, 12);
    assert!(kept.len() > 5, "{kept:?}");
    for n in 1..=3 {
        assert_eq!(known(&cluster, n, 12), kept);
        is_trusted(&cluster, n).await;
    }
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    let left = cluster.leader_except(Some(leader)).await;
    propose(&cluster.node(left), revoke(51)).await;
}
