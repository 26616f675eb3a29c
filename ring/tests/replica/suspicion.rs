//! Replicas whose disks did not come back whole.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::replica::{Activation, Config, Message, Report, ResignCause, Role};

use crate::cluster::{Cluster, activated, at, config, node, nodes};

/// An epoch of nodes 0, 1 and 2, of which `leader` leads.
fn epoch(epoch: u64, leader: u8) -> Config {
    Config {
        leader: node(leader),
        activated: Activation {
            epoch: Epoch(epoch - 1),
            replicas: nodes(&[0, 1, 2]),
        },
        ..config(epoch, &[0, 1, 2])
    }
}

/// Entries 2 to 4 are on nodes 0 and 2, and then the disk of node 2 loses them.
fn damaged() -> Cluster {
    let mut cluster = Cluster::serving(3);
    cluster.cut = vec![node(1)];
    cluster.propose(0, [1, 2, 3]);
    cluster.run();
    assert_eq!(cluster.at(2).replica.commit(), Index(4));
    cluster.cut.clear();
    cluster.under_way.clear();
    cluster.at(2).restart_damaged(2);
    cluster.at(2).configure(&activated(config(1, &[0, 1, 2])));
    cluster
}

#[test]
fn a_suspect_replicas_promise_does_not_count() {
    let mut cluster = damaged();
    cluster.cut = vec![node(0)];
    cluster.configure(&epoch(2, 1));
    cluster.tick(100);
    assert_eq!(cluster.at(1).replica.role(), Role::TakingOver(Epoch(2)));
    assert_eq!(cluster.at(1).replica.last(), at(1, 1), "no barrier");
    // The one who knows is back.
    cluster.cut.clear();
    cluster.tick(100);
    assert_eq!(cluster.at(1).replica.last(), at(2, 5));
    assert_eq!(cluster.at(1).reports, [Report::Activated(Epoch(2))]);
}

#[test]
fn a_leader_in_office_clears_it() {
    let mut cluster = damaged();
    assert!(cluster.at(2).replica.is_suspect());
    for _ in 0..4 {
        cluster.tick(100);
    }
    cluster.assert_same();
    assert!(!cluster.at(2).replica.is_suspect());
    assert!(!cluster.at(0).replica.wants_tick());
    // From now on it counts.
    cluster.cut = vec![node(1)];
    cluster.propose(0, [4]);
    cluster.run();
    assert_eq!(cluster.at(0).replica.commit(), Index(5));
}

#[test]
fn its_acknowledgements_count_for_nothing_meanwhile() {
    let mut cluster = damaged();
    cluster.cut = vec![node(1)];
    cluster.propose(0, [4]);
    // It accepts what it gets, from a leader that has not heard of its new start and cannot clear it.
    let acked = Message::Acked {
        epoch: Epoch(1),
        boot: 2,
        index: Index(5),
        received: Index(5),
        commit: Index(1),
        suspect: true,
    };
    cluster.at(0).sync();
    cluster.at(0).hear(2, acked);
    assert_eq!(cluster.at(0).replica.commit(), Index(4));
}

#[test]
fn what_it_acknowledged_before_the_damage_counts_no_more() {
    let mut cluster = Cluster::serving(3);
    cluster.cut = vec![node(1), node(2)];
    cluster.propose(0, [4]);
    cluster.run();
    let acked = |boot, index, suspect| Message::Acked {
        epoch: Epoch(1),
        boot,
        index: Index(index),
        received: Index(index),
        commit: Index(1),
        suspect,
    };
    let leader = cluster.at(0);
    leader.hear(2, acked(2, 1, true));
    leader.hear(2, acked(1, 2, false));
    assert_eq!(leader.replica.commit(), Index(1));
    leader.hear(2, acked(2, 2, true));
    assert_eq!(leader.replica.commit(), Index(1));
    leader.hear(2, acked(2, 2, false));
    assert_eq!(leader.replica.commit(), Index(2));
}

#[test]
fn a_leader_that_does_not_know_of_the_start_does_not_clear_it() {
    let mut cluster = damaged();
    let append = |boot| Message::Append {
        epoch: Epoch(1),
        boot,
        prev: at(1, 1),
        entries: Vec::new(),
        commit: Index(1),
        activated: true,
        answer: true,
    };
    let machine = cluster.at(2);
    machine.hear(0, append(1));
    machine.sync();
    assert!(machine.replica.is_suspect());
    machine.hear(0, append(2));
    machine.sync();
    assert!(!machine.replica.is_suspect());
}

#[test]
fn when_everyone_has_answered_the_longest_wins() {
    let mut cluster = Cluster::serving(3);
    cluster.propose(0, [1, 2, 3]);
    cluster.run();
    for of in 0..3 {
        cluster.at(of).restart_damaged(2 + u64::from(of));
    }
    // Each may have led before: the first epoch after a damage is not theirs.
    cluster.cut = vec![node(2)];
    cluster.configure(&epoch(2, 0));
    let resign = Report::Resign {
        epoch: Epoch(2),
        to: None,
        why: ResignCause::Restarted,
    };
    assert_eq!(cluster.at(0).reports, [resign]);
    cluster.configure(&epoch(3, 0));
    cluster.tick(100);
    assert_eq!(cluster.at(0).replica.role(), Role::TakingOver(Epoch(3)));
    assert_eq!(cluster.at(0).replica.last(), at(1, 1));
    cluster.cut.clear();
    cluster.tick(100);
    cluster.tick(100);
    assert_eq!(cluster.at(0).replica.last(), at(3, 4));
    assert!(cluster.at(0).reports.contains(&Report::Activated(Epoch(3))));
    cluster.configure(&activated(epoch(3, 0)));
    for _ in 0..4 {
        cluster.tick(100);
    }
    cluster.assert_same();
    assert!((0..3).all(|of| !cluster.at(of).replica.is_suspect()));
}
