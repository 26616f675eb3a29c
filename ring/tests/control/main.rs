//! What each command of the control plane does to the map, and when it is refused.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod a_dead_node;
mod a_drain;
mod a_full_disk;
mod a_join;
mod a_removal;
mod a_report;
mod a_start;

use std::collections::BTreeMap;

use cluster::{
    activate_all, boot, cluster, fill_all, finish, id, join, loads, member, partition, register,
};
use mesh_ring::control::{ControlCommand, ControlError, Observed, Outcome, Patience, apply, due};
use mesh_ring::ids::{Epoch, NodeId};
use mesh_ring::map::{Assignment, ClusterMap, Leaving, NodeState, Settings};
use mesh_ring::placement::{Change, Move, plan};

fn done(map: &mut ClusterMap, command: ControlCommand) -> Outcome {
    let outcome = apply(map, &command).unwrap();
    assert!(outcome.changed, "{command:?}");
    assert_eq!(outcome.version, map.version());
    outcome
}

/// Asserts that the command is refused and changes nothing.
fn refused(map: &ClusterMap, command: ControlCommand) -> ControlError {
    let mut after = map.clone();
    let error = apply(&mut after, &command).unwrap_err();
    assert_eq!(after, *map);
    error
}

/// Asserts that the command is taken and changes nothing, not even the version.
fn nothing(map: &ClusterMap, command: ControlCommand) {
    let mut after = map.clone();
    assert!(!apply(&mut after, &command).unwrap().changed);
    assert_eq!(after, *map);
}

fn down(number: usize) -> ControlCommand {
    ControlCommand::NodeDown { node: id(number) }
}

fn up(number: usize) -> ControlCommand {
    ControlCommand::NodeUp { node: id(number) }
}

fn state(map: &ClusterMap, number: usize) -> NodeState {
    map.node(id(number)).unwrap().state
}

fn led_by(map: &ClusterMap, number: usize) -> Vec<usize> {
    let led = |(_, of): &(usize, &Assignment)| of.leader == id(number);
    let all = map.partitions().iter().enumerate();
    all.filter(led).map(|(at, _)| at).collect()
}

fn register_as(number: usize, count: u32, previous: &[u32]) -> ControlCommand {
    ControlCommand::Register {
        node: id(number),
        boot: boot(count),
        previous: previous.iter().copied().map(boot).collect(),
        address: format!("n{number}.example:7400"),
        zone: "z0".into(),
    }
}

fn admit(number: usize, name: &str) -> ControlCommand {
    ControlCommand::Admit {
        node: id(number),
        name: name.into(),
        address: "h:1".into(),
        zone: "z0".into(),
    }
}

#[test]
fn a_batch_is_one_version_and_keeps_its_refusals_apart() {
    let mut map = cluster(&[0; 3], 8, 3);
    let before = map.version();
    let commands = vec![down(1), down(9), down(2)];
    let outcome = done(&mut map, ControlCommand::Batch { commands });
    assert_eq!(outcome.version, before + 1);
    assert_eq!(
        outcome.refused,
        [(1, ControlError::UnknownNode { node: id(9) })]
    );
    assert_eq!(led_by(&map, 3).len(), 8);
    let nested = ControlCommand::Batch { commands: vec![] };
    let nested = ControlCommand::Batch {
        commands: vec![nested],
    };
    assert_eq!(refused(&map, nested), ControlError::Batch);
}

#[test]
fn voters_settings_and_revoked_certificates_are_noted_within_their_limits() {
    let mut map = cluster(&[0; 3], 8, 3);
    let voters = |voters: &[NodeId]| ControlCommand::SetVoters {
        voters: voters.to_vec(),
    };
    nothing(&map, voters(&[id(3), id(1), id(2)]));
    done(&mut map, voters(&[id(2)]));
    for wrong in [&[][..], &[id(1), id(1)], &[id(9)]] {
        assert_eq!(refused(&map, voters(wrong)), ControlError::Voters);
    }
    for (replication, fills_per_node) in [(0, 1), (8, 1), (3, 0)] {
        let settings = Settings {
            replication,
            fills_per_node,
        };
        let error = refused(&map, ControlCommand::Configure { settings });
        assert_eq!(error, ControlError::Settings);
    }
    let revoke = |number: u16| {
        let mut fingerprint = [0; 32];
        fingerprint[..2].copy_from_slice(&number.to_be_bytes());
        ControlCommand::Revoke {
            fingerprint,
            name: "lost".into(),
        }
    };
    for number in 0..1024 {
        done(&mut map, revoke(number));
    }
    nothing(&map, revoke(3));
    assert_eq!(refused(&map, revoke(1024)), ControlError::TooManyRevoked);
}

#[test]
fn a_plan_shows_what_a_join_would_move_and_changes_nothing() {
    let map = cluster(&[0; 3], 64, 3);
    let change = Change::Join {
        node: id(4),
        name: "n4".into(),
        zone: "z0".into(),
    };
    let plan = plan(&map, &change).unwrap();
    assert_eq!(plan.moves.len(), 48);
    assert!(
        plan.moves
            .iter()
            .all(|to| to.to == Some(id(4)) && to.from.is_some())
    );
    assert_eq!(plan.exposed, []);
    assert_eq!(plan.leaders.len(), 16);

    let one = cluster(&[0], 2, 3);
    let change = Change::Join {
        node: id(2),
        name: "n2".into(),
        zone: "z0".into(),
    };
    let copy = |number| Move {
        partition: partition(number),
        from: None,
        to: Some(id(2)),
    };
    let plan = mesh_ring::placement::plan(&one, &change).unwrap();
    assert_eq!(plan.moves, [copy(0), copy(1)]);
}

/// Does what is due, which is that leaders return, until nothing is.
fn balanced(map: &mut ClusterMap, seen: &BTreeMap<NodeId, Observed>, patience: &Patience) {
    for _ in 0..10 {
        let commands = due(map, seen, patience);
        let Some(command) = commands.first() else {
            return;
        };
        assert_eq!(commands, [ControlCommand::Balance { most: 4 }]);
        done(map, command.clone());
        assert_eq!(due(map, seen, patience), [], "one after another");
        activate_all(map);
    }
    panic!("leaders never come to rest");
}

#[test]
fn what_is_due_follows_gossip_and_ends() {
    let mut map = cluster(&[0; 4], 16, 3);
    let patience = Patience {
        dead_after_ms: 1000,
        ..Patience::default()
    };
    let long = 60_000;
    let mut seen: BTreeMap<NodeId, Observed> = map
        .nodes()
        .iter()
        .map(|node| {
            let alive = Observed {
                alive: true,
                for_ms: long,
            };
            (node.id, alive)
        })
        .collect();
    let dead = |for_ms| Observed {
        alive: false,
        for_ms,
    };
    assert_eq!(due(&map, &seen, &patience), []);
    assert_eq!(due(&map, &BTreeMap::new(), &patience), []);

    seen.insert(id(1), dead(0));
    assert_eq!(due(&map, &seen, &patience), [down(1)]);
    done(&mut map, down(1));
    assert_eq!(due(&map, &seen, &patience), []);
    seen.insert(id(1), dead(1000));
    let commands = due(&map, &seen, &patience);
    assert_eq!(commands, [ControlCommand::Replace { node: id(1) }]);
    done(&mut map, commands[0].clone());
    finish(&mut map);
    balanced(&mut map, &seen, &patience);

    // It comes back: it is up, gets its share, and leads what it should.
    let alive = Observed {
        alive: true,
        for_ms: 10,
    };
    seen.insert(id(1), alive);
    assert_eq!(due(&map, &seen, &patience), [up(1)]);
    done(&mut map, up(1));
    assert_eq!(due(&map, &seen, &patience), [ControlCommand::Plan]);
    done(&mut map, ControlCommand::Plan);
    finish(&mut map);
    assert_eq!(due(&map, &seen, &patience), []);
    seen.insert(
        id(1),
        Observed {
            alive: true,
            for_ms: long,
        },
    );
    balanced(&mut map, &seen, &patience);
    let led: Vec<usize> = (1..=4).map(|number| led_by(&map, number).len()).collect();
    assert_eq!(led, [4; 4]);
}

#[test]
fn a_node_that_was_drained_by_hand_is_never_called_back() {
    let mut map = cluster(&[0; 4], 16, 3);
    done(&mut map, down(2));
    done(&mut map, ControlCommand::Replace { node: id(2) });
    done(&mut map, ControlCommand::Drain { node: id(2) });
    assert_eq!(map.node(id(2)).unwrap().leaving, Some(Leaving::Drained));
    finish(&mut map);
    register(&mut map, 2, 2).unwrap();
    assert_eq!(state(&map, 2), NodeState::Drained);
    let name = member(2, 0).name;
    assert_eq!(map.named(&name).map(|node| node.id), Some(id(2)));
}
