//! Replicas whose disks did not come back whole.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::replica::{Activation, Config, Message, Report, ResignCause, Role};

use crate::cluster::{Cluster, Machine, activated, at, config, node, nodes};

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

/// An epoch of node 0 alone, with node 1 as its learner.
fn with_standby(epoch: u64) -> Config {
    Config {
        learners: nodes(&[1]),
        activated: Activation {
            epoch: Epoch(epoch - 1),
            replicas: nodes(&[0]),
        },
        ..config(epoch, &[0])
    }
}

/// Node 0 leads alone and loses entries 3 to 6, of which the last is on no other disk.
fn with_a_standby_that_knows_more() -> Cluster {
    let mut cluster = Cluster::new([0, 1].map(Machine::empty));
    cluster.lead(&with_standby(1));
    cluster.propose(0, [1, 2, 3, 4]);
    cluster.run();
    cluster.assert_same();
    cluster.cut = vec![node(1)];
    cluster.propose(0, [5]);
    cluster.run();
    assert_eq!(cluster.at(0).replica.commit(), Index(6));
    cluster.cut.clear();
    cluster.under_way.clear();
    cluster.at(0).restart_damaged(3);
    cluster
}

#[test]
fn a_sole_replica_comes_back_in_the_epoch_after_its_damage() {
    let mut cluster = Cluster::serving(1);
    cluster.propose(0, [1, 2, 3]);
    cluster.run();
    cluster.at(0).restart_damaged(3);
    cluster.configure(&epoch_of_one(2));
    let resign = Report::Resign {
        epoch: Epoch(2),
        to: Some(node(0)),
        why: ResignCause::Restarted,
    };
    assert_eq!(cluster.at(0).reports, std::slice::from_ref(&resign));
    assert!(cluster.at(0).replica.is_suspect());
    // It says so again, until the map has heard.
    cluster.tick(500);
    assert_eq!(cluster.at(0).reports, [resign.clone(), resign]);
    cluster.lead(&epoch_of_one(3));
    assert!(!cluster.at(0).replica.is_suspect());
    assert_eq!(
        cluster.at(0).replica.last(),
        at(3, 3),
        "what is left, and a barrier"
    );
    cluster.propose(0, [4]);
    cluster.run();
    assert_eq!(cluster.at(0).replica.commit(), Index(4));
}

fn epoch_of_one(epoch: u64) -> Config {
    Config {
        learners: Vec::new(),
        ..with_standby(epoch)
    }
}

#[test]
fn a_sole_replica_takes_back_what_its_learner_knows() {
    let mut cluster = with_a_standby_that_knows_more();
    cluster.configure(&with_standby(2));
    cluster.configure(&with_standby(3));
    cluster.tick(100);
    assert!(cluster.at(0).reports.contains(&Report::Activated(Epoch(3))));
    cluster.configure(&activated(with_standby(3)));
    for _ in 0..4 {
        cluster.tick(100);
    }
    assert_eq!(
        cluster.at(0).replica.last(),
        at(3, 6),
        "only the sixth is lost"
    );
    assert_eq!(cluster.at(0).replica.commit(), Index(6));
    assert_eq!(cluster.at(1).behind, []);
    cluster.assert_same();
}

#[test]
fn a_learner_that_knows_more_and_was_not_asked_is_given_a_copy() {
    let mut cluster = with_a_standby_that_knows_more();
    cluster.cut = vec![node(1)];
    // The learner hears of nothing, not even from the map.
    let tell = |cluster: &mut Cluster, of: u8, config: Config| {
        cluster.act(node(of), |machine| machine.configure(&config));
        cluster.run();
    };
    tell(&mut cluster, 0, with_standby(2));
    tell(&mut cluster, 0, with_standby(3));
    assert_eq!(cluster.at(0).replica.role(), Role::TakingOver(Epoch(3)));
    cluster.tick(1400);
    assert_eq!(
        cluster.at(0).replica.last(),
        at(1, 2),
        "the learner may come yet"
    );
    cluster.tick(100);
    assert!(cluster.at(0).reports.contains(&Report::Activated(Epoch(3))));
    tell(&mut cluster, 0, activated(with_standby(3)));
    cluster.propose(0, [7, 8]);
    cluster.run();
    let known = cluster.at(1).disk.clone();

    // Its leader tells it of the epoch before the map does.
    cluster.cut.clear();
    for _ in 0..3 {
        cluster.tick(100);
    }
    assert_eq!(cluster.at(1).behind, [], "it may have a vote in that epoch");
    tell(&mut cluster, 1, activated(with_standby(3)));
    for _ in 0..3 {
        cluster.tick(100);
    }
    assert!(
        cluster.at(1).behind.contains(&node(1)),
        "it is to be rebuilt"
    );
    assert_eq!(cluster.at(1).disk, known, "until then it keeps what it has");
    assert_eq!(cluster.at(0).replica.commit(), Index(5));
}

#[test]
fn a_learner_that_dies_while_it_gives_what_it_knows_holds_up_nobody() {
    let mut cluster = with_a_standby_that_knows_more();
    cluster.configure(&with_standby(2));
    cluster.cut = vec![node(1)];
    cluster.configure(&with_standby(3));
    let sealed = Message::Sealed {
        epoch: Epoch(3),
        boot: 1,
        suspect: false,
        first: Index(1),
        last: at(1, 5),
        commit: Index(5),
    };
    cluster.act(node(0), |machine| machine.hear(1, sealed));
    for _ in 0..29 {
        cluster.tick(100);
    }
    assert_eq!(cluster.at(0).replica.last(), at(1, 2));
    cluster.tick(100);
    assert_eq!(cluster.at(0).replica.last(), at(3, 3));
    assert_eq!(cluster.at(0).replica.commit(), Index(3), "and no further");
    assert!(cluster.at(0).reports.contains(&Report::Activated(Epoch(3))));
}
