//! Members that were not told of a change before the group lost its majority.

use mesh_ring::map::ClusterMap;
use tokio::time::timeout;

use crate::cluster::{Cluster, PATIENCE, id, is_revoked, propose, propose_all, revoke, until};
use crate::salvaged::{committed, is_trusted, lose, start_suspect};

/// A cluster of three voters and one who only follows, and who that is.
async fn with_a_follower() -> (Cluster, [u8; 3], u8) {
    let cluster = Cluster::found(4).await;
    propose(&cluster.node(1), revoke(0)).await;
    let like = |map: &ClusterMap| is_revoked(map, 0) && map.voters().len() == 3;
    cluster.all_see("three vote", like).await;
    let map = cluster.node(1).map().borrow().clone();
    let (voters, others): (Vec<u8>, Vec<u8>) =
        (1..=4).partition(|n| map.voters().contains(&id(*n)));
    (cluster, voters.try_into().unwrap(), others[0])
}

/// Changes the map while the follower is cut off, ends two voters, and lets it meet the third, which does not lead.
async fn missed(cluster: &mut Cluster, voters: [u8; 3], late: u8) -> u8 {
    cluster.isolate(late);
    propose_all(&cluster.node(voters[0]), 1..9).await;
    let leader = cluster.leader_except(Some(late)).await;
    let mut voters = voters.to_vec();
    voters.sort_by_key(|n| *n == leader);
    let [ahead, second, last] = voters[..] else {
        panic!("{voters:?}")
    };
    let has_all = || has(cluster, ahead, 1..9);
    until("the voters know", has_all).await;
    cluster.kill(second).await;
    cluster.kill(last).await;
    cluster.heal();
    ahead
}

fn has(cluster: &Cluster, n: u8, mut changes: std::ops::Range<u16>) -> bool {
    let map = cluster.node(n).map();
    let map = map.borrow();
    changes.all(|change| is_revoked(&map, change))
}

fn version(cluster: &Cluster, n: u8) -> u64 {
    cluster.node(n).map().borrow().version()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_is_taken_from_a_node_that_has_heard_of_it() {
    let (mut cluster, voters, late) = with_a_follower().await;
    let ahead = missed(&mut cluster, voters, late).await;
    let newest = version(&cluster, ahead);
    let node = cluster.node(late);
    assert!(!has(&cluster, late, 1..2));
    assert!(node.has_map_in_log());
    // Nobody has this one, and somebody who is not in the map is not asked.
    assert!(!node.reach(newest + 1, id(9)).await);
    assert!(!has(&cluster, late, 1..2));
    assert!(!node.reach(newest + 1, id(ahead)).await);
    assert!(node.reach(newest, id(ahead)).await);
    assert_eq!(version(&cluster, late), newest);
    assert_eq!(*node.map().borrow(), *cluster.node(ahead).map().borrow());
    assert!(!node.has_map_in_log(), "a restart would not know it");
    drop(node);

    // The next start goes by its own log, and may ask again.
    cluster.kill(late).await;
    cluster.start(late).await;
    assert!(!has(&cluster, late, 1..2));
    assert!(cluster.node(late).reach(newest, id(ahead)).await);

    // The group goes on, and so does the log.
    for n in voters.into_iter().filter(|n| *n != ahead) {
        cluster.start(n).await;
    }
    propose(&cluster.node(late), revoke(50)).await;
    let goes_on = |map: &ClusterMap| (0..9).chain([50]).all(|n| is_revoked(map, n));
    cluster.all_see("it goes on", goes_on).await;
    let knows = || cluster.node(late).has_map_in_log();
    until("the log has what was taken over", knows).await;
    let newest = cluster.node(ahead).map().borrow().clone();
    let same = |map: &ClusterMap| *map == *newest;
    cluster.all_see("all have the same map", same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_over_is_told_on_and_outlives_the_voters_disks() {
    let (mut cluster, voters, late) = with_a_follower().await;
    let ahead = missed(&mut cluster, voters, late).await;
    let newest = version(&cluster, ahead);
    assert!(cluster.node(late).reach(newest, id(ahead)).await);
    let kept = committed(&cluster.engine(late));
    cluster.kill(ahead).await;
    for n in voters {
        lose(&cluster, n, kept + 2, &[&[2]]).await;
        start_suspect(&mut cluster, n).await;
    }
    propose(&cluster.node(ahead), revoke(50)).await;
    let all = |map: &ClusterMap| (0..9).chain([50]).all(|n| is_revoked(map, n));
    cluster.all_see("nothing is lost", all).await;
    for n in voters {
        is_trusted(&cluster, n).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_what_the_voters_have_lost_starts_anew() {
    let (mut cluster, voters, late) = with_a_follower().await;
    let ahead = missed(&mut cluster, voters, late).await;
    let newest = version(&cluster, ahead);
    assert!(cluster.node(late).reach(newest, id(ahead)).await);
    let kept = committed(&cluster.engine(late));
    cluster.isolate(late);
    cluster.kill(ahead).await;
    for n in voters {
        lose(&cluster, n, kept + 2, &[&[2]]).await;
        start_suspect(&mut cluster, n).await;
    }
    // As many as were lost, and more: their places are taken.
    propose_all(&cluster.node(ahead), 50..70).await;

    cluster.heal();
    let cause = timeout(PATIENCE, cluster.node(late).refuted())
        .await
        .unwrap();
    assert!(cause.contains("start this node again"), "{cause}");
    cluster.kill(late).await;
    cluster.start(late).await;
    let theirs = |map: &ClusterMap| (50..70).all(|n| is_revoked(map, n)) && !is_revoked(map, 8);
    cluster
        .all_see("all go by what the voters have", theirs)
        .await;
}
