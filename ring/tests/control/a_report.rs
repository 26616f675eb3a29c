//! What leaders report, and which reports are too late.

use super::*;

#[test]
fn of_another_epoch_or_node_is_refused() {
    let mut map = cluster(&[0; 3], 4, 3);
    let of = map.assignment(partition(0)).unwrap().clone();
    let report = |epoch, leader| ControlCommand::Activated {
        partition: partition(0),
        epoch,
        leader,
    };
    nothing(&map, report(of.epoch, of.leader));
    let other = of.replicas[1];
    let stale = ControlError::StaleEpoch {
        partition: partition(0),
        epoch: of.epoch,
        current: of.epoch.next(),
    };
    done(
        &mut map,
        ControlCommand::Resign {
            partition: partition(0),
            epoch: of.epoch,
            to: Some(other),
        },
    );
    assert_eq!(refused(&map, report(of.epoch, of.leader)), stale);
    let resign = ControlCommand::Resign {
        partition: partition(0),
        epoch: of.epoch,
        to: None,
    };
    assert_eq!(refused(&map, resign), stale);
    let not = ControlError::NotLeader {
        partition: partition(0),
        node: of.leader,
        leader: other,
    };
    assert_eq!(refused(&map, report(of.epoch.next(), of.leader)), not);
    done(&mut map, report(of.epoch.next(), other));
    let unknown = ControlCommand::Activated {
        partition: partition(4),
        epoch: Epoch(1),
        leader: other,
    };
    let error = refused(&map, unknown);
    assert_eq!(error.to_string(), "the cluster has no partition 4");
    join(&mut map, 4, 0);
    let caught_up = ControlCommand::CaughtUp {
        partition: partition(0),
        epoch: of.epoch.next(),
        node: id(4),
    };
    let error = refused(&map, caught_up);
    assert!(matches!(error, ControlError::NotLearner { .. }), "{error}");
}

#[test]
fn of_a_leader_that_resigns_is_refused_if_nobody_else_lives() {
    let mut map = cluster(&[0; 3], 4, 3);
    let of = map.assignment(partition(0)).unwrap().clone();
    for node in &of.replicas[1..] {
        done(&mut map, ControlCommand::NodeDown { node: *node });
    }
    let resign = |to: Option<NodeId>| ControlCommand::Resign {
        partition: partition(0),
        epoch: of.epoch,
        to,
    };
    let error = refused(&map, resign(None));
    assert_eq!(
        error,
        ControlError::NoSuccessor {
            partition: partition(0)
        }
    );
    // One that is down is not taken, although it was asked for.
    done(
        &mut map,
        ControlCommand::NodeUp {
            node: of.replicas[1],
        },
    );
    done(&mut map, resign(Some(of.replicas[2])));
    assert_eq!(map.assignment(partition(0)).unwrap().leader, of.replicas[1]);
}

#[test]
fn of_a_leader_that_restarted_gives_it_a_new_epoch() {
    for nodes in [1, 3] {
        let mut map = cluster(&vec![0; nodes], 4, 3);
        let of = map.assignment(partition(1)).unwrap().clone();
        done(
            &mut map,
            ControlCommand::Resign {
                partition: partition(1),
                epoch: of.epoch,
                to: Some(of.leader),
            },
        );
        let new = map.assignment(partition(1)).unwrap();
        assert_eq!((new.leader, new.epoch), (of.leader, of.epoch.next()));
        assert_eq!(new.activated, of.activated);
    }
}

#[test]
fn that_a_learner_has_caught_up_counts_only_in_its_epoch() {
    let mut map = cluster(&[0; 3], 1, 3);
    join(&mut map, 4, 0);
    done(&mut map, ControlCommand::Drain { node: id(3) });
    activate_all(&mut map);
    let of = map.assignment(partition(0)).unwrap().clone();
    assert_eq!(of.learners, [id(4)]);
    let report = |epoch| ControlCommand::CaughtUp {
        partition: partition(0),
        epoch,
        node: id(4),
    };
    done(&mut map, ControlCommand::NodeDown { node: of.leader });
    let error = refused(&map, report(of.epoch));
    assert!(matches!(error, ControlError::StaleEpoch { .. }), "{error}");
    // Early, it is noted; the set changes when the epoch is activated and all of it that live keep up.
    done(&mut map, report(of.epoch.next()));
    assert_eq!(map.assignment(partition(0)).unwrap().replicas, of.replicas);
    apply(&mut map, &ControlCommand::NodeUp { node: of.leader }).unwrap();
    activate_all(&mut map);
    assert_eq!(map.assignment(partition(0)).unwrap().replicas, of.replicas);
    fill_all(&mut map);
    let new = map.assignment(partition(0)).unwrap();
    assert!(new.replicas.contains(&id(4)) && !new.replicas.contains(&id(3)));
    assert_eq!(new.epoch, of.epoch.next().next());
}
