//! A leader: what commits, what is sent, when it gives up.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::replica::{
    Effect, Input, Lane, Limits, Message, NotLeading, Position, Report, ResignCause, Role,
};

use crate::cluster::{
    Cluster, Command, Machine, activated, at, config, entry, entry_bytes, node, sent,
};

fn acked(epoch: u64, index: u64) -> Message<Command> {
    Message::Acked {
        epoch: Epoch(epoch),
        boot: 1,
        index: Index(index),
        received: Index(index),
        commit: Index(1),
        suspect: false,
    }
}

#[test]
fn one_replica_commits_with_its_own_sync() {
    let mut machine = Machine::empty(0);
    let out = machine.configure(&config(1, &[0]));
    assert!(sent(&out).is_empty());
    assert_eq!(machine.writes(), 1, "the promise");
    machine.sync();
    let out = machine.sync();
    assert_eq!(out, [Effect::Commit(Index(1))]);
    assert_eq!(machine.reports, []);
    machine.serve(&out);
    assert_eq!(machine.reports, [Report::Activated(Epoch(1))]);
    let out = machine.configure(&activated(config(1, &[0])));
    assert_eq!(out, [Effect::Role(Role::Leading(Epoch(1)))]);

    let (first, out) = machine.propose([7, 8]);
    assert_eq!(first, Index(2));
    let entries = vec![entry(1, 2, Some(7)), entry(1, 3, Some(8))];
    let written = Effect::Persist {
        ticket: 3,
        promise: None,
        suspect: None,
        truncate: None,
        entries,
    };
    assert_eq!(out, [written]);
    assert_eq!(machine.sync(), [Effect::Commit(Index(3))]);
    assert!(machine.flush().is_empty());
    assert!(!machine.replica.wants_tick());
    assert_eq!(machine.replica.synced(Index(3)), [node(0)]);
}

#[test]
fn two_of_three_are_enough_and_the_third_follows() {
    let mut cluster = Cluster::serving(3);
    cluster.cut = vec![node(2)];
    let first = cluster.propose(0, [1, 2, 3]);
    cluster.run();
    assert_eq!(cluster.at(0).replica.commit(), Index(first.0 + 2));
    assert_eq!(
        cluster.at(1).replica.commit(),
        Index(first.0 + 2),
        "told by a flush"
    );
    assert_eq!(cluster.at(2).replica.commit(), Index(1));
    assert_eq!(cluster.at(0).replica.lag(), [(node(1), 0), (node(2), 3)]);
    assert_eq!(cluster.at(0).replica.synced(first), [node(0), node(1)]);
    assert!(
        cluster.at(0).replica.wants_tick(),
        "node 2 has not answered"
    );
    cluster.cut.clear();
    cluster.tick(100);
    cluster.assert_same();
    assert!(
        cluster
            .machines
            .values()
            .all(|machine| !machine.replica.wants_tick())
    );
}

#[test]
fn two_replicas_need_both() {
    let mut cluster = Cluster::serving(2);
    cluster.cut = vec![node(1)];
    cluster.propose(0, [1]);
    cluster.run();
    assert_eq!(cluster.at(0).replica.commit(), Index(1));
    cluster.cut.clear();
    cluster.tick(100);
    assert_eq!(cluster.at(0).replica.commit(), Index(2));
}

#[test]
fn an_idle_cluster_is_silent() {
    let mut cluster = Cluster::serving(3);
    cluster.propose(0, [1]);
    cluster.run();
    cluster.tick(100);
    let before = cluster.delivered;
    for _ in 0..50 {
        cluster.tick(1000);
    }
    assert_eq!(cluster.delivered, before);
    assert_eq!(cluster.at(0).reports, [Report::Activated(Epoch(1))]);
}

#[test]
fn a_commit_waits_until_it_is_durable_here() {
    let mut cluster = Cluster::serving(3);
    let leader = cluster.at(0);
    leader.propose([5]);
    let commits = |out: &Vec<Effect<Command>>| out.contains(&Effect::Commit(Index(2)));
    assert!(!commits(&leader.hear(1, acked(1, 2))));
    assert!(!commits(&leader.hear(2, acked(1, 2))));
    assert!(commits(&leader.sync()));
}

#[test]
fn entries_out_of_reach_of_the_majority_wait() {
    let mut cluster = Cluster::serving(3);
    let leader = cluster.at(0);
    leader.propose([5, 6]);
    leader.sync();
    assert_eq!(leader.replica.commit(), Index(1));
    // An acknowledgement of what was never sent, one of another epoch, and one of a stranger.
    leader.hear(1, acked(1, 9));
    leader.hear(1, acked(2, 3));
    leader.hear(7, acked(1, 3));
    assert_eq!(leader.replica.commit(), Index(1));
    leader.hear(1, acked(1, 2));
    assert_eq!(leader.replica.commit(), Index(2));
}

#[test]
fn only_a_leader_that_serves_takes_proposals() {
    let mut machine = Machine::empty(0);
    let propose = |machine: &mut Machine| {
        let mut out = Vec::new();
        machine.replica.propose(0, vec![Command(1)], &mut out)
    };
    assert_eq!(propose(&mut machine), Err(NotLeading { leader: None }));
    machine.configure(&config(1, &[0]));
    assert_eq!(propose(&mut machine), Err(NotLeading { leader: None }));
    machine.configure(&config(2, &[1, 0]));
    assert_eq!(
        propose(&mut machine),
        Err(NotLeading {
            leader: Some(node(1))
        })
    );
}

#[test]
fn a_newer_epoch_ends_serving_at_once() {
    let mut cluster = Cluster::serving(3);
    let out = cluster.at(0).configure(&config(2, &[1, 0, 2]));
    let follows = Role::Follower {
        leader: Some(node(1)),
    };
    assert!(out.contains(&Effect::Role(follows)));

    let mut cluster = Cluster::serving(3);
    let refused = Message::Rejected {
        epoch: Epoch(1),
        boot: 1,
        prev: Position::ZERO,
        promised: Epoch(2),
        hint: Position::ZERO,
    };
    let out = cluster.at(0).hear(1, refused);
    assert_eq!(out, [Effect::Role(Role::Follower { leader: None })]);
    assert_eq!(cluster.at(0).replica.epoch(), Epoch(2));

    let mut cluster = Cluster::serving(3);
    let out = cluster.at(0).hear(2, Message::Seal { epoch: Epoch(2) });
    let follows = Role::Follower {
        leader: Some(node(2)),
    };
    assert!(out.contains(&Effect::Role(follows)));
}

#[test]
fn a_window_holds_back_what_is_not_acknowledged() {
    let limits = Limits {
        window_entries: 3,
        message_bytes: 2 * entry_bytes(),
        ..Limits::default()
    };
    let empty = mesh_ring::replica::Durable::empty(1);
    let machines = (0..2).map(|me| Machine::new(me, Vec::new(), empty.clone(), limits.clone()));
    let mut cluster = Cluster::new(machines);
    cluster.lead(&config(1, &[0, 1]));
    let (_, out) = cluster.at(0).propose(1..=10);
    let counts: Vec<_> = sent(&out)
        .iter()
        .map(|(_, message)| entries_in(message))
        .collect();
    assert_eq!(counts, [2, 1]);
    let out = cluster.at(0).hear(1, acked(1, 3));
    let counts: Vec<_> = sent(&out)
        .iter()
        .map(|(_, message)| entries_in(message))
        .collect();
    assert_eq!(counts, [2]);
}

fn entries_in(message: &Message<Command>) -> usize {
    match message {
        Message::Append { entries, .. } => entries.len(),
        _ => 0,
    }
}

/// The one `Append` among the effects.
fn append(out: &[Effect<Command>]) -> (Position, usize, bool) {
    let mut appends = out.iter().filter_map(|effect| match effect {
        Effect::Send {
            message:
                Message::Append {
                    prev,
                    entries,
                    answer,
                    ..
                },
            lane: Lane::Live,
            ..
        } => Some((*prev, entries.len(), *answer)),
        _ => None,
    });
    let one = appends.next().unwrap();
    assert_eq!(appends.next(), None);
    one
}

#[test]
fn what_is_not_answered_is_asked_for_with_little_and_then_sent_again() {
    let mut cluster = Cluster::serving(2);
    let leader = cluster.at(0);
    let (_, out) = leader.propose([5, 6]);
    assert_eq!(append(&out), (at(1, 1), 2, false));
    assert!(sent(&leader.tick_after(99)).is_empty());
    let out = leader.tick_after(1);
    assert_eq!(append(&out), (at(1, 1), 0, true));
    assert!(sent(&leader.tick_after(99)).is_empty());
    assert_eq!(append(&leader.tick_after(1)), (at(1, 1), 0, true));
    let out = leader.hear(1, acked(1, 1));
    assert_eq!(append(&out), (at(1, 1), 2, false));
    // What has arrived is not sent again.
    let mut cluster = Cluster::serving(2);
    let leader = cluster.at(0);
    leader.propose([5, 6]);
    leader.tick_after(100);
    let received = Message::Acked {
        epoch: Epoch(1),
        boot: 1,
        index: Index(1),
        received: Index(3),
        commit: Index(1),
        suspect: false,
    };
    assert!(sent(&leader.hear(1, received)).is_empty());
}

#[test]
fn nothing_is_sent_to_who_is_not_there_and_the_first_thing_after_is_a_question() {
    let mut cluster = Cluster::serving(2);
    let leader = cluster.at(0);
    leader.step(Input::Disconnected(node(1)));
    let (_, out) = leader.propose([5]);
    assert!(sent(&out).is_empty());
    assert!(sent(&leader.tick_after(1000)).is_empty());
    let out = leader.step(Input::Connected(node(1)));
    assert_eq!(append(&out), (at(1, 1), 0, true));
}

#[test]
fn a_leader_without_a_majority_resigns_again_and_again() {
    let resign = Report::Resign {
        epoch: Epoch(1),
        to: None,
        why: ResignCause::NoMajority,
    };
    let mut cluster = Cluster::serving(3);
    let leader = cluster.at(0);
    leader.tick_after(10_000);
    leader.reports.clear();
    leader.propose([5]);
    leader.sync();
    leader.tick_after(2_999);
    assert_eq!(leader.reports, []);
    leader.tick_after(1);
    assert_eq!(leader.reports, std::slice::from_ref(&resign));
    leader.tick_after(2_999);
    assert_eq!(leader.reports, std::slice::from_ref(&resign));
    leader.tick_after(1);
    assert_eq!(leader.reports, [resign.clone(), resign]);
    leader.hear(1, acked(1, 2));
    leader.reports.clear();
    leader.tick_after(10_000);
    assert_eq!(leader.reports, []);
}
