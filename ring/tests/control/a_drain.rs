//! How a node is emptied.

use super::*;

#[test]
fn takes_leaderships_at_once_and_everything_in_the_end() {
    let mut map = cluster(&[0; 4], 64, 3);
    fill_all(&mut map);
    let drain = ControlCommand::Drain { node: id(3) };
    done(&mut map, drain.clone());
    assert_eq!(state(&map, 3), NodeState::Draining);
    assert_eq!(led_by(&map, 3), [0usize; 0]);
    nothing(&map, drain);
    // It goes down and comes back meanwhile, and is still drained.
    done(&mut map, down(3));
    done(&mut map, up(3));
    assert_eq!(state(&map, 3), NodeState::Draining);
    finish(&mut map);
    assert_eq!(state(&map, 3), NodeState::Drained);
    done(&mut map, ControlCommand::Remove { node: id(3) });
    assert!(map.node(id(3)).is_none());
    nothing(&map, ControlCommand::Remove { node: id(3) });
}

#[test]
fn of_the_last_node_is_refused() {
    let mut map = cluster(&[0; 2], 8, 3);
    done(&mut map, ControlCommand::Drain { node: id(1) });
    let last = ControlError::LastNode { node: id(2) };
    assert_eq!(refused(&map, ControlCommand::Drain { node: id(2) }), last);
    done(&mut map, down(2));
    assert_eq!(refused(&map, ControlCommand::Remove { node: id(2) }), last);
}

#[test]
fn waits_for_a_node_that_is_being_filled_and_turns_elsewhere_if_it_is_removed() {
    let mut map = cluster(&[0; 5], 64, 3);
    done(&mut map, ControlCommand::Drain { node: id(3) });
    activate_all(&mut map);
    let filled = |map: &ClusterMap, number| {
        let filled = |of: &&Assignment| of.learners.contains(&id(number));
        map.partitions().iter().filter(filled).count()
    };
    assert_eq!(filled(&map, 5), 4);
    done(&mut map, down(5));
    assert_eq!(filled(&map, 5), 4, "a transfer is resumed after a restart");
    done(&mut map, ControlCommand::Remove { node: id(5) });
    assert_eq!(filled(&map, 5), 0);
    finish(&mut map);
    for of in map.partitions() {
        assert!(!of.involves(id(3)) && !of.involves(id(5)));
        assert_eq!(of.replicas.len(), 3);
    }
}
