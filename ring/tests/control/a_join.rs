//! What a new node needs, and how it gets its share.

use super::*;

#[test]
fn gives_nothing_to_a_node_that_never_started() {
    let mut map = cluster(&[0; 3], 16, 3);
    done(&mut map, admit(4, "n4"));
    assert_eq!(state(&map, 4), NodeState::Joining);
    nothing(&map, admit(4, "n4"));
    nothing(&map, ControlCommand::Plan);
    for command in [down(4), up(4)] {
        let error = refused(&map, command);
        assert!(error.to_string().contains("is joining"), "{error}");
    }
    register(&mut map, 4, 1).unwrap();
    assert_eq!(state(&map, 4), NodeState::Up);
    done(&mut map, ControlCommand::Plan);
    finish(&mut map);
    assert_eq!(loads(&map, &[id(4)])[0].0, 12);
}

#[test]
fn needs_a_name_and_an_id_of_its_own() {
    let mut map = cluster(&[0; 4], 16, 3);
    let taken = |name: &str, number| ControlError::NameTaken {
        name: name.into(),
        node: id(number),
    };
    assert_eq!(refused(&map, admit(9, "n2")), taken("n2", 2));
    assert_eq!(refused(&map, admit(2, "other")), taken("n2", 2));
    for name in [String::new(), "x".repeat(256)] {
        let error = refused(&map, admit(9, &name));
        assert!(matches!(error, ControlError::NodeText { .. }), "{error}");
    }
    // A removed node's name may be used again, its id never.
    done(&mut map, down(2));
    done(&mut map, ControlCommand::Remove { node: id(2) });
    done(&mut map, admit(9, "n2"));
    for _ in 0..2 {
        let gone = ControlError::NodeRemoved { node: id(2) };
        assert_eq!(refused(&map, admit(2, "again")), gone);
        assert_eq!(refused(&map, register_as(2, 2, &[1])), gone);
        finish(&mut map);
    }
    assert!(map.node(id(2)).is_none() && map.is_removed(id(2)));
}

#[test]
fn of_too_many_is_refused() {
    let mut map = cluster(&[0; 3], 1, 3);
    for number in 4..=256 {
        done(&mut map, admit(number, &format!("n{number}")));
    }
    assert_eq!(
        refused(&map, admit(257, "n257")),
        ControlError::TooManyNodes
    );
}

#[test]
fn moves_few_partitions_at_a_time_and_never_before_the_epoch_is_activated() {
    let mut map = cluster(&[0; 3], 64, 3);
    done(&mut map, down(1));
    done(&mut map, up(1));
    join(&mut map, 4, 0);
    done(&mut map, ControlCommand::Plan);
    let filling = |map: &ClusterMap| {
        let filling = map.partitions().iter().filter(|of| !of.learners.is_empty());
        filling.map(Assignment::is_activated).collect::<Vec<_>>()
    };
    assert_eq!(filling(&map), [true; 4]);
    let settings = Settings {
        replication: 3,
        fills_per_node: 7,
    };
    done(&mut map, ControlCommand::Configure { settings });
    assert_eq!(filling(&map), [true; 7]);
    fill_all(&mut map);
    let switched = map
        .partitions()
        .iter()
        .filter(|of| of.replicas.contains(&id(4)));
    let switched: Vec<_> = switched.collect();
    assert_eq!(switched.len(), 7);
    for of in switched {
        assert!(!of.is_activated() && of.activated.replicas.len() == 3);
        assert!(of.learners.is_empty() && of.target.is_none());
    }
}

#[test]
fn waits_for_no_replica_that_is_down() {
    let mut map = cluster(&[0; 3], 16, 3);
    done(&mut map, down(3));
    join(&mut map, 4, 0);
    done(&mut map, ControlCommand::Plan);
    finish(&mut map);
    assert!(map.partitions().iter().all(|of| of.target.is_none()));
    assert_eq!(loads(&map, &[id(3), id(4)])[1].0, 12);
    for of in map.partitions() {
        let live = of.replicas.iter().filter(|node| map.is_live(**node));
        assert!(live.count() > of.replicas.len() / 2);
    }
}

#[test]
fn waits_where_what_lives_would_be_no_majority() {
    let mut map = cluster(&[0; 4], 1, 3);
    let held = map.partitions()[0].replicas.clone();
    let spare = (1..=4).find(|n| !held.contains(&id(*n))).unwrap();
    // The new node is to hold the partition in place of one that leaves, and of the two others one is down.
    let [leaves, lost] = [held[0], held[1]];
    done(&mut map, ControlCommand::NodeDown { node: lost });
    activate_all(&mut map);
    done(&mut map, ControlCommand::Drain { node: leaves });
    done(&mut map, down(spare));
    finish(&mut map);
    assert!(map.partitions()[0].replicas.contains(&leaves));
    done(&mut map, up(spare));
    finish(&mut map);
    assert!(!map.partitions()[0].replicas.contains(&leaves));
    assert!(map.partitions()[0].replicas.contains(&lost));
}

#[test]
fn of_a_second_node_gives_a_learner_that_stands_by() {
    let mut map = cluster(&[0], 8, 3);
    join(&mut map, 2, 0);
    done(&mut map, ControlCommand::Plan);
    finish(&mut map);
    for of in map.partitions() {
        assert_eq!((of.replicas.len(), of.learners.len()), (1, 1));
        assert!(of.target.is_none());
    }
    // The death of either leaves the leaders of the other alone.
    let before = map.clone();
    done(&mut map, down(2));
    assert_eq!(before.partitions(), map.partitions());
}
