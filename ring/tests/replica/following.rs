//! A follower: what it accepts, what it acknowledges, what it promises.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::replica::{Effect, Entry, Message, Position};

use crate::cluster::{Command, Effects, Machine, at, config, entry, node, sent};

/// A follower of node 1 in epoch 2, with five entries of epoch 1, two of them committed.
fn follower() -> Machine {
    let mut machine = Machine::with_journal(0, &[(1, 5)], 2);
    machine.configure(&config(2, &[1, 0, 2]));
    machine
}

fn append(prev: Position, entries: Vec<Entry<Command>>, commit: u64) -> Message<Command> {
    Message::Append {
        epoch: Epoch(2),
        boot: 0,
        prev,
        entries,
        commit: Index(commit),
        activated: true,
        answer: false,
    }
}

fn probe(prev: Position) -> Message<Command> {
    Message::Append {
        epoch: Epoch(2),
        boot: 0,
        prev,
        entries: Vec::new(),
        commit: Index(0),
        activated: true,
        answer: true,
    }
}

/// The index and the commit index of the acknowledgements.
fn acks(out: &Effects) -> Vec<(u64, u64)> {
    let acked = |(to, message): (_, &Message<Command>)| match message {
        Message::Acked { index, commit, .. } => {
            assert_eq!(to, node(1));
            Some((index.0, commit.0))
        }
        _ => None,
    };
    sent(out).into_iter().filter_map(acked).collect()
}

#[test]
fn an_acknowledgement_waits_for_the_disk() {
    let mut machine = follower();
    let out = machine.hear(1, append(at(1, 5), vec![entry(2, 6, None)], 2));
    assert!(sent(&out).is_empty());
    let out = machine.hear(1, append(at(2, 6), vec![entry(2, 7, Some(1))], 6));
    assert!(sent(&out).is_empty());
    assert_eq!(
        machine.replica.commit(),
        Index(5),
        "the rest is not durable"
    );
    let out = machine.sync();
    assert_eq!(acks(&out), [(7, 6)]);
    assert!(out.contains(&Effect::Commit(Index(6))));
}

#[test]
fn a_first_entry_of_an_epoch_is_a_promise() {
    let mut machine = follower();
    let out = machine.hear(1, append(at(1, 5), vec![entry(2, 6, None)], 0));
    assert!(matches!(
        &out[..],
        [Effect::Persist {
            promise: Some(Epoch(2)),
            truncate: None,
            ..
        }]
    ));
    // An empty message is answered after the promise too.
    let mut machine = follower();
    let out = machine.hear(1, probe(at(1, 5)));
    assert!(matches!(
        &out[..],
        [Effect::Persist {
            promise: Some(Epoch(2)),
            ..
        }]
    ));
    assert_eq!(acks(&machine.sync()), [(5, 2)]);
}

#[test]
fn only_what_was_proven_is_acknowledged_and_committed() {
    let mut machine = follower();
    machine.hear(1, probe(at(1, 3)));
    assert_eq!(acks(&machine.sync()), [(3, 2)]);
    let out = machine.hear(1, append(at(1, 3), Vec::new(), 9));
    assert!(out.contains(&Effect::Commit(Index(3))), "{out:?}");
    assert_eq!(
        machine.replica.last(),
        at(1, 5),
        "what is not contradicted stays"
    );
}

#[test]
fn what_comes_twice_is_acknowledged_twice_and_written_once() {
    let mut machine = follower();
    let message = append(at(1, 5), vec![entry(2, 6, None)], 2);
    machine.hear(1, message.clone());
    let out = machine.hear(1, message.clone());
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(acks(&machine.sync()), [(6, 2)]);
    let out = machine.hear(1, message);
    assert_eq!(machine.writes(), 0);
    assert_eq!(acks(&out), [(6, 2)]);
}

#[test]
fn a_suffix_that_differs_is_truncated() {
    let mut machine = follower();
    let entries = vec![
        entry(1, 3, Some(3)),
        entry(2, 4, None),
        entry(2, 5, Some(9)),
    ];
    let out = machine.hear(1, append(at(1, 2), entries, 2));
    assert_eq!(out[0], Effect::Truncated(Index(4)));
    assert!(
        matches!(&out[1], Effect::Persist { truncate: Some(Index(4)), entries, .. } if entries.len() == 2)
    );
    assert_eq!(acks(&machine.sync()), [(5, 2)]);
    assert_eq!(machine.disk[3..], [entry(2, 4, None), entry(2, 5, Some(9))]);
}

#[test]
fn a_truncation_takes_back_what_is_on_its_way() {
    let mut machine = follower();
    machine.hear(
        1,
        append(at(1, 5), vec![entry(2, 6, None), entry(2, 7, Some(1))], 2),
    );
    // Node 2 leads in epoch 3, and knows nothing of entry 7.
    machine.configure(&config(3, &[2, 0, 1]));
    let message = Message::Append {
        epoch: Epoch(3),
        boot: 0,
        prev: at(2, 6),
        entries: vec![entry(3, 7, None)],
        commit: Index(6),
        activated: false,
        answer: false,
    };
    machine.hear(2, message);
    let out = machine.sync();
    assert!(out.contains(&Effect::Commit(Index(6))));
    assert!(matches!(
        sent(&out)[..],
        [(
            _,
            Message::Acked {
                epoch: Epoch(3),
                index: Index(7),
                ..
            }
        )]
    ));
}

#[test]
fn what_does_not_follow_is_refused_with_a_hint() {
    for (prev, hint) in [
        (at(2, 9), at(1, 5)),
        (at(2, 4), at(1, 4)),
        (at(1, 8), at(1, 5)),
    ] {
        let mut machine = follower();
        let out = machine.hear(1, append(prev, Vec::new(), 2));
        let refused = Message::Rejected {
            epoch: Epoch(2),
            boot: 1,
            prev,
            promised: Epoch(2),
            hint,
        };
        assert_eq!(sent(&out), [(node(1), &refused)]);
        assert_eq!(machine.writes(), 0);
    }
}

#[test]
fn an_epoch_that_is_over_is_refused_with_the_newer_one() {
    let mut machine = follower();
    let mut old = append(at(1, 5), vec![entry(1, 6, Some(6))], 2);
    if let Message::Append { epoch, .. } = &mut old {
        *epoch = Epoch(1);
    }
    for message in [
        old,
        Message::Seal { epoch: Epoch(1) },
        Message::Fetch {
            epoch: Epoch(1),
            after: at(1, 2),
        },
    ] {
        let out = machine.hear(2, message);
        assert!(
            matches!(
                sent(&out)[..],
                [(
                    _,
                    Message::Rejected {
                        promised: Epoch(2),
                        ..
                    }
                )]
            ),
            "{out:?}"
        );
        assert_eq!(machine.writes(), 0);
    }
}

#[test]
fn another_node_does_not_lead_in_this_epoch() {
    let mut machine = follower();
    assert!(
        machine
            .hear(2, append(at(1, 5), vec![entry(2, 6, None)], 5))
            .is_empty()
    );
    assert!(
        machine
            .hear(2, Message::Seal { epoch: Epoch(2) })
            .is_empty()
    );
}

#[test]
fn entries_that_do_not_follow_each_other_are_ignored() {
    let mut machine = follower();
    for entries in [
        vec![entry(2, 7, None)],
        vec![entry(2, 6, None), entry(2, 8, Some(1))],
        vec![entry(2, 6, None), entry(1, 7, Some(1))],
        vec![entry(3, 6, None)],
    ] {
        assert!(machine.hear(1, append(at(1, 5), entries, 2)).is_empty());
    }
    assert_eq!(machine.writes(), 0);
}

#[test]
fn a_promise_is_answered_when_it_and_all_before_it_is_durable() {
    let mut machine = follower();
    machine.hear(1, append(at(1, 5), vec![entry(2, 6, None)], 2));
    let out = machine.hear(2, Message::Seal { epoch: Epoch(3) });
    assert!(sent(&out).is_empty());
    // The leader of epoch 2 is too late.
    let out = machine.hear(1, append(at(2, 6), vec![entry(2, 7, Some(1))], 6));
    assert!(matches!(
        sent(&out)[..],
        [(
            _,
            Message::Rejected {
                promised: Epoch(3),
                ..
            }
        )]
    ));
    let out = machine.sync();
    let sealed = Message::Sealed {
        epoch: Epoch(3),
        boot: 1,
        suspect: false,
        first: Index(1),
        last: at(2, 6),
        commit: Index(2),
    };
    assert_eq!(sent(&out), [(node(2), &sealed)]);
    // Asked again, it answers again.
    let out = machine.hear(2, Message::Seal { epoch: Epoch(3) });
    assert_eq!(sent(&out), [(node(2), &sealed)]);
}

#[test]
fn nothing_is_heard_before_the_map() {
    let mut machine = Machine::with_journal(0, &[(1, 5)], 2);
    assert!(
        machine
            .hear(1, Message::Seal { epoch: Epoch(9) })
            .is_empty()
    );
    assert!(
        machine
            .hear(1, append(at(1, 5), vec![entry(2, 6, None)], 2))
            .is_empty()
    );
}

#[test]
fn a_follower_asks_for_no_ticks() {
    let mut machine = follower();
    machine.hear(1, append(at(1, 5), vec![entry(2, 6, None)], 2));
    assert!(!machine.replica.wants_tick());
}

#[test]
#[should_panic(expected = "asked to truncate from 2, and everything up to 2 is committed")]
fn what_is_committed_is_never_truncated() {
    let mut machine = follower();
    machine.hear(1, append(at(1, 1), vec![entry(2, 2, None)], 2));
}
