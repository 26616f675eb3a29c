//! Takeovers: whose journal is adopted, who has to agree, and when it is over.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::replica::{
    Activation, Config, Durable, Effect, Input, Limits, Message, Report, ResignCause, Role,
};

use crate::cluster::{
    Cluster, Machine, activated, at, config, entry, entry_bytes, journal, node, nodes, sent,
};

/// An epoch after epoch `activated`, which had other replicas.
fn changed(epoch: u64, replicas: &[u8], activated: (u64, &[u8])) -> Config {
    Config {
        activated: Activation {
            epoch: Epoch(activated.0),
            replicas: nodes(activated.1),
        },
        ..config(epoch, replicas)
    }
}

#[test]
fn the_journal_that_ends_in_the_latest_epoch_wins_not_the_longest() {
    let mut cluster = Cluster::new([
        Machine::with_journal(0, &[(1, 1)], 1),
        Machine::with_journal(1, &[(1, 9)], 1),
        Machine::with_journal(2, &[(1, 2), (2, 2)], 1),
    ]);
    let long = node(1);
    let sealed = |(from, _, message): &(_, _, Message<_>)| {
        *from == long && matches!(message, Message::Sealed { .. })
    };
    // The long one answers first.
    let new = config(3, &[2, 0, 1]);
    for of in nodes(&[0, 1, 2]) {
        cluster.act(of, |machine| machine.configure(&new));
    }
    while !cluster.under_way.iter().any(sealed) {
        let (from, to, message) = cluster.under_way.pop_front().unwrap();
        let input = Input::Received { from, message };
        cluster.act(to, |machine| machine.step(input));
        cluster.act(to, Machine::sync);
    }
    cluster.under_way.retain(sealed);
    cluster.run();
    cluster.lead(&new);
    cluster.tick(100);
    let mut expected = journal(&[(1, 2), (2, 2)]);
    expected.push(entry(3, 5, None));
    assert_eq!(cluster.at(0).disk, expected);
    cluster.assert_same();
}

#[test]
fn of_one_epoch_the_longest_wins_and_is_fetched_in_parts() {
    let limits = Limits {
        message_bytes: 2 * entry_bytes(),
        ..Limits::default()
    };
    let source = Machine::with_journal(1, &[(1, 9)], 4);
    let durable = source.durable();
    let source = Machine::new(1, source.disk, durable, limits.clone());
    let empty = Durable::empty(1);
    let mut cluster = Cluster::new([
        Machine::new(0, Vec::new(), empty, limits),
        source,
        Machine::with_journal(2, &[(1, 5)], 4),
    ]);
    cluster.lead(&config(2, &[0, 1, 2]));
    cluster.tick(100);
    assert_eq!(cluster.at(0).disk.len(), 10);
    cluster.assert_same();
}

#[test]
fn both_step_back_to_where_they_part() {
    for (mine, other) in [
        (&[(1, 1), (2, 3)][..], &[(1, 3), (3, 2)][..]),
        (&[(1, 2), (2, 2), (4, 2)], &[(1, 2), (3, 1), (5, 9)]),
        (&[(2, 7)], &[(3, 1)]),
        (&[(1, 4), (2, 1)], &[(1, 2), (3, 1)]),
    ] {
        let mut cluster = Cluster::new([
            Machine::with_journal(0, mine, 0),
            Machine::with_journal(1, other, 0),
        ]);
        cluster.lead(&config(6, &[0, 1]));
        let mut expected = journal(other);
        expected.push(entry(6, expected.len() as u64 + 1, None));
        assert_eq!(cluster.at(0).disk, expected);
        cluster.tick(100);
        cluster.assert_same();
    }
}

#[test]
fn the_longer_own_journal_is_kept() {
    let mut cluster = Cluster::new([
        Machine::with_journal(0, &[(1, 5)], 1),
        Machine::with_journal(1, &[(1, 3)], 1),
        Machine::with_journal(2, &[(1, 1)], 1),
    ]);
    cluster.lead(&config(2, &[0, 1, 2]));
    cluster.tick(100);
    assert_eq!(cluster.at(0).disk.len(), 6);
    cluster.assert_same();
}

#[test]
fn a_source_that_no_longer_keeps_what_is_needed_is_to_lead_itself() {
    let mut source = Machine::with_journal(1, &[(1, 9)], 9);
    let durable = Durable {
        first: Index(6),
        before: at(1, 5),
        ..source.durable()
    };
    source = Machine::new(1, source.disk.split_off(5), durable, Limits::default());
    let mut cluster = Cluster::new([Machine::empty(0), source]);
    cluster.configure(&config(2, &[0, 1]));
    let resign = Report::Resign {
        epoch: Epoch(2),
        to: Some(node(1)),
        why: ResignCause::SourceForgot,
    };
    assert_eq!(cluster.at(0).reports, std::slice::from_ref(&resign));
    cluster.at(0).tick_after(3_000);
    assert_eq!(cluster.at(0).reports, [resign.clone(), resign]);
}

#[test]
fn nothing_begins_without_promises_of_both_sets() {
    let mut cluster = Cluster::new([
        Machine::with_journal(0, &[(1, 3)], 3),
        Machine::empty(1),
        Machine::empty(2),
    ]);
    cluster.cut = vec![node(0)];
    let new = changed(2, &[1, 2], (1, &[0]));
    cluster.configure(&new);
    cluster.tick(100);
    assert_eq!(cluster.at(1).replica.role(), Role::TakingOver(Epoch(2)));
    assert_eq!(cluster.at(1).replica.last(), at(0, 0));
    cluster.at(1).tick_after(3_000);
    let resign = Report::Resign {
        epoch: Epoch(2),
        to: None,
        why: ResignCause::NoMajority,
    };
    assert_eq!(cluster.at(1).reports, [resign]);
    cluster.cut.clear();
    cluster.tick(100);
    assert_eq!(cluster.at(1).replica.last(), at(2, 4));
}

#[test]
fn until_activation_a_commit_needs_both_sets_and_after_it_only_the_new_one() {
    let mut cluster = Cluster::new([
        Machine::with_journal(0, &[(1, 3)], 3),
        Machine::empty(1),
        Machine::empty(2),
    ]);
    let new = changed(2, &[1, 2], (1, &[0]));
    cluster.at(0).configure(&new);
    cluster.at(2).configure(&new);
    cluster.act(node(1), |machine| machine.configure(&new));
    // Everything goes through but the old replica's acknowledgement of the barrier.
    let from_old = |(from, _, message): &(_, _, Message<_>)| {
        *from == node(0) && matches!(message, Message::Acked { .. } | Message::Rejected { .. })
    };
    for _ in 0..40 {
        cluster.under_way.retain(|message| !from_old(message));
        if let Some((from, to, message)) = cluster.under_way.pop_front() {
            let input = Input::Received { from, message };
            cluster.act(to, |machine| machine.step(input));
        }
        for of in nodes(&[0, 1, 2]) {
            cluster.act(of, Machine::sync);
        }
    }
    assert_eq!(cluster.at(1).replica.last(), at(2, 4));
    assert_eq!(cluster.at(2).replica.last(), at(2, 4));
    assert_eq!(
        cluster.at(1).replica.commit(),
        Index(3),
        "as the old replica said"
    );
    assert_eq!(cluster.at(1).reports, []);
    cluster.tick(100);
    assert_eq!(cluster.at(1).reports, [Report::Activated(Epoch(2))]);
    cluster.configure(&activated(new));
    cluster.cut = vec![node(0)];
    cluster.propose(1, [8]);
    cluster.run();
    assert_eq!(cluster.at(1).replica.commit(), Index(5));
    assert_eq!(
        cluster.at(1).replica.lag(),
        [(node(2), 0)],
        "the old one is let go"
    );
}

#[test]
fn activation_is_reported_when_the_barrier_is_applied_and_until_the_map_knows() {
    let mut machine = Machine::empty(0);
    machine.configure(&config(1, &[0]));
    machine.sync();
    let out = machine.sync();
    machine.tick_after(10_000);
    assert_eq!(machine.reports.len(), 0);
    machine.serve(&out);
    assert_eq!(machine.reports.len(), 1);
    machine.tick_after(499);
    assert_eq!(machine.reports.len(), 1);
    machine.tick_after(1);
    assert_eq!(machine.reports.len(), 2);
    machine.configure(&activated(config(1, &[0])));
    machine.tick_after(10_000);
    assert_eq!(machine.reports.len(), 2);
}

#[test]
fn the_same_leader_in_a_new_epoch_keeps_what_was_proposed() {
    let mut cluster = Cluster::serving(3);
    cluster.cut = vec![node(1), node(2)];
    cluster.propose(0, [7]);
    cluster.run();
    cluster.cut.clear();
    let new = changed(2, &[0, 1, 2], (1, &[0, 1, 2]));
    cluster.lead(&new);
    cluster.tick(100);
    assert_eq!(
        cluster.at(1).disk,
        [entry(1, 1, None), entry(1, 2, Some(7)), entry(2, 3, None)]
    );
    cluster.assert_same();
}

#[test]
fn a_newer_epoch_overtakes_a_takeover() {
    let mut cluster = Cluster::new((0..3).map(Machine::empty));
    cluster.cut = vec![node(1), node(2)];
    cluster.configure(&config(1, &[0, 1, 2]));
    cluster.cut.clear();
    cluster.configure(&config(2, &[0, 1, 2]));
    cluster.lead(&config(3, &[0, 1, 2]));
    assert_eq!(cluster.at(0).replica.epoch(), Epoch(3));
    assert!(!cluster.at(0).reports.contains(&Report::Activated(Epoch(1))));
}

#[test]
fn an_older_map_changes_nothing() {
    let mut cluster = Cluster::serving(2);
    assert!(cluster.at(0).configure(&config(1, &[0, 1])).is_empty());
    cluster.lead(&config(2, &[0, 1]));
    assert!(
        cluster
            .at(0)
            .configure(&activated(config(1, &[0, 1])))
            .is_empty()
    );
    assert_eq!(cluster.at(0).replica.role(), Role::Leading(Epoch(2)));
}

#[test]
fn a_leader_that_was_restarted_asks_for_another_epoch() {
    let mut cluster = Cluster::serving(3);
    cluster.at(0).restart();
    let config_1 = activated(config(1, &[0, 1, 2]));
    cluster.at(0).configure(&config_1);
    let resign = Report::Resign {
        epoch: Epoch(1),
        to: Some(node(0)),
        why: ResignCause::Restarted,
    };
    assert_eq!(cluster.at(0).reports, std::slice::from_ref(&resign));
    assert_eq!(
        cluster.at(0).replica.role(),
        Role::Follower { leader: None }
    );
    assert!(cluster.at(0).replica.wants_tick());
    cluster.at(0).tick_after(500);
    assert_eq!(cluster.at(0).reports, [resign.clone(), resign]);
    cluster.lead(&config(2, &[0, 1, 2]));
}

#[test]
fn a_leader_restarted_before_its_promise_was_durable_takes_over() {
    let mut machine = Machine::empty(0);
    machine.configure(&config(1, &[0]));
    machine.restart();
    machine.configure(&config(1, &[0]));
    assert_eq!(machine.replica.role(), Role::TakingOver(Epoch(1)));
}

#[test]
fn promises_are_asked_for_again() {
    let mut machine = Machine::empty(0);
    let seals = |out: &Vec<Effect<_>>| {
        let seals = sent(out)
            .into_iter()
            .filter(|(_, m)| matches!(m, Message::Seal { .. }));
        seals.map(|(to, _)| to).collect::<Vec<_>>()
    };
    let out = machine.configure(&changed(2, &[0, 1, 2], (1, &[1, 2, 3])));
    assert_eq!(seals(&out), nodes(&[1, 2, 3]));
    let sealed = Message::Sealed {
        epoch: Epoch(2),
        boot: 1,
        suspect: false,
        first: Index(1),
        last: at(0, 0),
        commit: Index(0),
    };
    machine.hear(1, sealed);
    assert!(seals(&machine.tick_after(99)).is_empty());
    assert_eq!(seals(&machine.tick_after(1)), nodes(&[2, 3]));
}

#[test]
fn a_source_that_is_silent_is_left_for_another() {
    let mut machine = Machine::empty(0);
    machine.configure(&config(2, &[0, 1, 2]));
    machine.sync();
    let sealed = Message::Sealed {
        epoch: Epoch(2),
        boot: 1,
        suspect: false,
        first: Index(1),
        last: at(1, 3),
        commit: Index(0),
    };
    let out = machine.hear(1, sealed.clone());
    let fetch = Message::Fetch {
        epoch: Epoch(2),
        after: at(0, 0),
    };
    assert_eq!(sent(&out), [(node(1), &fetch)]);
    machine.hear(2, sealed);
    assert_eq!(sent(&machine.tick_after(100)), [(node(2), &fetch)]);
}
