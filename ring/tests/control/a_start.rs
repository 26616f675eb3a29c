//! What the start of a node changes, and how an old copy of a disk is told from the disk.

use super::*;

#[test]
fn of_a_leader_begins_new_epochs() {
    let mut map = cluster(&[0; 3], 9, 3);
    let (before, led) = (map.clone(), led_by(&map, 1));
    register(&mut map, 1, 2).unwrap();
    assert_eq!(
        led_by(&map, 1),
        led,
        "a quick restart keeps its leaderships"
    );
    for (at, (old, new)) in before.partitions().iter().zip(map.partitions()).enumerate() {
        let raised = u64::from(led.contains(&at));
        assert_eq!(new.epoch.0, old.epoch.0 + raised);
    }
    // The same start again changes nothing.
    nothing(&map, register_as(1, 2, &[1]));
}

#[test]
fn brings_up_a_node_that_was_down_and_notes_its_new_address() {
    let mut map = cluster(&[0; 3], 9, 3);
    done(&mut map, down(2));
    let mut command = register_as(2, 2, &[1]);
    if let ControlCommand::Register { address, .. } = &mut command {
        *address = "elsewhere:1".into();
    }
    done(&mut map, command);
    let node = map.node(id(2)).unwrap();
    assert_eq!(
        (node.state, node.address.as_str()),
        (NodeState::Up, "elsewhere:1")
    );
    assert_eq!(node.boot, boot(2));
}

#[test]
fn from_an_old_copy_is_refused_and_tells_both_starts() {
    let mut map = cluster(&[0; 3], 9, 3);
    for count in 2..=5 {
        register(&mut map, 1, count).unwrap();
    }
    let error = refused(&map, register_as(1, 4, &[3]));
    assert_eq!(
        error,
        ControlError::OldCopy {
            node: id(1),
            registered: 5,
            presented: 4
        }
    );
    // A copy that was started more often does not know the start that was registered since.
    let error = refused(&map, register_as(1, 9, &[3, 4, 6, 7, 8]));
    assert!(error.to_string().contains("started 9 times"), "{error}");
    // Another disk with the same counts.
    let twin = ControlCommand::Register {
        node: id(1),
        boot: mesh_ring::map::Boot {
            count: 5,
            token: [77; 16],
        },
        previous: vec![boot(4)],
        address: "h:1".into(),
        zone: String::new(),
    };
    assert!(matches!(refused(&map, twin), ControlError::OldCopy { .. }));
    // Starts that were never registered do no harm.
    done(&mut map, register_as(1, 9, &[5, 6, 7, 8]));
}

#[test]
fn of_a_node_that_is_none_is_refused() {
    let map = cluster(&[0; 3], 9, 3);
    let error = refused(&map, register_as(9, 1, &[]));
    assert_eq!(error, ControlError::UnknownNode { node: id(9) });
    assert!(matches!(
        refused(&map, register_as(1, 0, &[])),
        ControlError::OldCopy { .. }
    ));
}

#[test]
fn after_a_salvage_leaps_beyond_all_that_may_have_been_given_out() {
    let mut before = cluster(&[0; 3], 9, 3);
    done(&mut before, down(3));
    activate_all(&mut before);
    let mut map = before.clone();
    let salvaged = |node| ControlCommand::Salvaged { node };
    done(&mut map, salvaged(id(1)));

    // What was decided since and is forgotten.
    let mut forgotten = before.clone();
    for count in 2..200 {
        register(&mut forgotten, 1, count).unwrap();
        register(&mut forgotten, 2, count).unwrap();
        activate_all(&mut forgotten);
    }
    assert!(map.version() > forgotten.version());
    for (at, of) in map.partitions().iter().enumerate() {
        assert!(of.epoch > forgotten.partitions()[at].epoch);
        let old = &before.partitions()[at];
        assert_eq!((of.leader, &of.replicas), (old.leader, &old.replicas));
        assert_eq!(of.activated, old.activated, "majorities are as they were");
    }
    assert!(activate_all(&mut map));
    assert!(map.partitions().iter().all(Assignment::is_activated));
    let unknown = refused(&map, salvaged(id(9)));
    assert_eq!(unknown, ControlError::UnknownNode { node: id(9) });
}
