//! Followers and learners that lag: what is read from the disk for them, and when that is not enough.

use mesh_ring::ids::{Epoch, Index, NodeId};
use mesh_ring::replica::{Durable, Effect, Input, Lane, Limits, Message, Report, Role};

use crate::cluster::{
    Cluster, Command, Effects, Machine, activated, at, config, entry_bytes, journal, node, nodes,
    sent,
};

/// A leader of nodes 0 and 1 that has 20 entries, of which node 1 has 2, and that keeps none in memory.
fn lagging() -> Cluster {
    let limits = Limits {
        recent_bytes: 0,
        message_bytes: 4 * entry_bytes(),
        window_entries: 8,
        ..Limits::default()
    };
    let full = Durable {
        promised: Epoch(1),
        commit: Index(2),
        last: at(1, 20),
        ..Durable::empty(1)
    };
    let leader = Machine::new(0, journal(&[(1, 20)]), full, limits);
    Cluster::new([leader, Machine::with_journal(1, &[(1, 2)], 2)])
}

fn reads(out: &Effects) -> Vec<(Index, usize)> {
    let read = |effect: &Effect<Command>| match effect {
        Effect::Read { from, bytes, .. } => Some((*from, *bytes)),
        _ => None,
    };
    out.iter().filter_map(read).collect()
}

fn lanes(out: &Effects) -> Vec<Lane> {
    let lane = |effect: &Effect<Command>| match effect {
        Effect::Send { lane, .. } => Some(*lane),
        _ => None,
    };
    out.iter().filter_map(lane).collect()
}

#[test]
fn old_entries_are_read_one_part_after_the_other_as_the_window_allows() {
    let mut cluster = lagging();
    cluster.lead(&config(2, &[0, 1]));
    cluster.tick(100);
    assert_eq!(cluster.at(0).disk.len(), 21);
    cluster.assert_same();

    let mut cluster = lagging();
    cluster.configure(&config(1, &[1, 0]));
    let leader = cluster.at(0);
    leader.configure(&config(2, &[0, 1]));
    leader.sync();
    let sealed = Message::Sealed {
        epoch: Epoch(2),
        boot: 1,
        suspect: false,
        first: Index(1),
        last: at(1, 2),
        commit: Index(2),
    };
    leader.hear(1, sealed);
    let refused = |prev, hint| Message::Rejected {
        epoch: Epoch(2),
        boot: 1,
        prev,
        promised: Epoch(2),
        hint,
    };
    let out = leader.hear(1, refused(at(1, 20), at(1, 2)));
    assert!(matches!(
        sent(&out)[..],
        [(_, Message::Append { answer: true, .. })]
    ));
    let acked = |index| Message::Acked {
        epoch: Epoch(2),
        boot: 1,
        index: Index(index),
        received: Index(index),
        commit: Index(2),
        suspect: false,
    };
    let out = leader.hear(1, acked(2));
    assert_eq!(reads(&out), [(Index(3), 4 * entry_bytes())]);
    assert!(
        reads(&leader.hear(1, acked(2))).is_empty(),
        "one read at a time"
    );
    let out = leader.serve(&out);
    assert_eq!(lanes(&out), [Lane::CatchUp]);
    assert_eq!(reads(&out), [(Index(7), 4 * entry_bytes())]);
    let out = leader.serve(&out);
    assert_eq!(lanes(&out), [Lane::CatchUp]);
    assert!(reads(&out).is_empty(), "the window is full");
    assert_eq!(
        reads(&leader.hear(1, acked(6))),
        [(Index(11), 4 * entry_bytes())]
    );
}

#[test]
fn what_was_read_for_an_epoch_that_is_over_is_dropped() {
    let mut cluster = lagging();
    cluster.lead(&config(2, &[0, 1]));
    let entries = journal(&[(1, 20)]).split_off(10);
    let stale = |epoch| Input::Read {
        to: node(1),
        epoch: Epoch(epoch),
        entries: entries.clone(),
    };
    assert!(cluster.at(0).step(stale(1)).is_empty());
    assert!(cluster.at(0).step(stale(2)).is_empty(), "nobody lacks them");
    cluster.at(0).configure(&config(3, &[1, 0]));
    assert!(cluster.at(0).step(stale(2)).is_empty());
}

#[test]
fn a_read_that_fails_is_tried_again() {
    let mut cluster = lagging();
    // The journal's disk is gone for a moment.
    let disk = std::mem::take(&mut cluster.at(0).disk);
    cluster.configure(&config(2, &[0, 1]));
    assert_eq!(cluster.at(1).disk.len(), 2);
    let barrier = std::mem::replace(&mut cluster.at(0).disk, disk);
    cluster.at(0).disk.extend(barrier);
    cluster.tick(100);
    cluster.tick(100);
    assert_eq!(cluster.at(1).disk.len(), 21);
}

#[test]
fn a_follower_behind_what_is_kept_needs_a_transfer() {
    let mut cluster = lagging();
    let disk = cluster.at(0).disk.split_off(10);
    let durable = Durable {
        first: Index(11),
        before: at(1, 10),
        commit: Index(12),
        promised: Epoch(1),
        ..Durable::empty(1)
    };
    let leader = Machine::new(0, disk, durable, Limits::default());
    cluster.machines.insert(node(0), leader);
    cluster.configure(&config(2, &[0, 1]));
    assert_eq!(cluster.at(0).behind, [node(1)]);
    cluster.tick(100);
    cluster.tick(100);
    assert_eq!(cluster.at(0).behind, [node(1)], "said once");
    // Another replica's copy is what the transfer leaves.
    let copy = Machine::with_journal(1, &[(1, 15)], 12);
    cluster.machines.insert(node(1), copy);
    cluster.at(1).configure(&config(2, &[0, 1]));
    cluster.act(node(0), |leader| leader.step(Input::Connected(node(1))));
    cluster.run();
    assert_eq!(cluster.at(1).replica.last(), at(2, 21));
    assert_eq!(cluster.at(0).reports, [Report::Activated(Epoch(2))]);
}

#[test]
fn what_the_leader_lets_go_of_meanwhile_makes_a_follower_behind() {
    let mut cluster = Cluster::serving(3);
    cluster.cut = vec![node(2)];
    cluster.propose(0, 1..=9);
    cluster.run();
    cluster.act(node(0), |leader| leader.step(Input::Forgotten(Index(8))));
    cluster.act(node(0), |leader| leader.step(Input::Connected(node(2))));
    assert_eq!(cluster.at(0).behind, [node(2)]);
    cluster.propose(0, [10]);
    cluster.run();
    assert_eq!(cluster.at(1).replica.last(), at(1, 11));
}

#[test]
#[should_panic(expected = "12 is not committed")]
fn what_is_not_committed_is_never_let_go_of() {
    let mut cluster = Cluster::serving(1);
    cluster.at(0).step(Input::Forgotten(Index(12)));
}

fn learners(
    of: &NodeId,
    cluster: &mut Cluster,
    config: &mesh_ring::replica::Config,
) -> Vec<Report> {
    cluster.machines.get_mut(of).unwrap().reports.clear();
    cluster.configure(config);
    cluster.tick(100);
    cluster.machines[of].reports.clone()
}

#[test]
fn a_learner_gets_everything_has_no_vote_and_is_reported_when_it_keeps_up() {
    let mut cluster = Cluster::serving(2);
    cluster.propose(0, 1..=50);
    cluster.run();
    cluster.machines.insert(node(2), Machine::empty(2));
    let mut with_learner = activated(config(1, &[0, 1]));
    with_learner.learners = nodes(&[2]);
    let caught_up = Report::CaughtUp {
        epoch: Epoch(1),
        node: node(2),
    };
    assert_eq!(
        learners(&node(0), &mut cluster, &with_learner),
        std::slice::from_ref(&caught_up)
    );
    cluster.assert_same();
    // It is reported again when the map asks again.
    assert_eq!(learners(&node(0), &mut cluster, &with_learner), [caught_up]);

    cluster.cut = vec![node(1)];
    cluster.propose(0, [51]);
    cluster.run();
    assert_eq!(cluster.at(2).replica.last(), at(1, 52));
    assert_eq!(cluster.at(0).replica.commit(), Index(51));
    assert_eq!(cluster.at(0).replica.synced(Index(52)), [node(0)]);

    // It becomes a replica, and counts once the next epoch is activated.
    cluster.cut.clear();
    cluster.tick(100);
    let mut promoted = config(2, &[0, 2]);
    promoted.activated.epoch = Epoch(1);
    promoted.activated.replicas = nodes(&[0, 1]);
    cluster.lead(&promoted);
    cluster.cut = vec![node(1)];
    cluster.propose(0, [52]);
    cluster.run();
    assert_eq!(cluster.at(0).replica.commit(), Index(54));
    assert_eq!(cluster.at(0).replica.role(), Role::Leading(Epoch(2)));
}
