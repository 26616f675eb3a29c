//! Takeovers with the vote of a replica whose journal is on its way.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::replica::{Left, Message, Position, Role, Witness, WitnessEffect};

use crate::cluster::{Command, Machine, at, config, node, sent};

/// A leader to be that holds five entries of epoch 1 asks a witness whose journal had ended at `last`; the third replica is
/// away. What the leader to be is then.
fn takeover_beside(last: Position) -> Role {
    let new = config(2, &[0, 1, 2]);
    let mut leader = Machine::with_journal(0, &[(1, 5)], 1);
    let left = Left {
        promised: Epoch(1),
        suspect: false,
        last,
    };
    let mut witness = Witness::new(1, left);
    witness.configure(new.clone());

    let mut asked = leader.configure(&new);
    asked.extend(leader.sync());
    let mut said: Vec<WitnessEffect<Command>> = Vec::new();
    for (to, message) in sent(&asked) {
        if to == node(2) {
            witness.received(node(0), message, &mut said);
        }
    }
    assert_eq!(said, [WitnessEffect::Promise(Epoch(2))]);
    said.clear();
    witness.promised(Epoch(2), &mut said);
    let [WitnessEffect::Send { message, .. }] = &said[..] else {
        panic!("no promise was given: {said:?}");
    };
    assert!(matches!(message, Message::Sealed { .. }));
    leader.hear(2, message.clone());
    leader.sync();
    let has_written = leader.disk.last().map(|entry| entry.index) == Some(Index(6));
    assert_eq!(has_written, leader.replica.last() == at(2, 6));
    if has_written {
        Role::Leading(Epoch(2))
    } else {
        leader.replica.role()
    }
}

#[test]
fn a_journal_that_reaches_as_far_as_the_one_that_went_is_enough() {
    for last in [at(1, 1), at(1, 5)] {
        assert_eq!(takeover_beside(last), Role::Leading(Epoch(2)), "{last:?}");
    }
}

#[test]
fn nobody_writes_before_somebody_has_what_the_witness_had_acknowledged() {
    for last in [at(1, 6), at(2, 2)] {
        assert_eq!(
            takeover_beside(last),
            Role::TakingOver(Epoch(2)),
            "{last:?}"
        );
    }
}
