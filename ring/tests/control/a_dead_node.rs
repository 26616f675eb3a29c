//! What a node that gossip calls dead loses, keeps, and gets back.

use super::*;

#[test]
fn loses_its_leaderships_to_live_replicas_evenly_in_one_version() {
    let mut map = cluster(&[0; 3], 64, 3);
    let (before, led) = (map.clone(), led_by(&map, 1));
    done(&mut map, down(1));
    assert_eq!(map.version(), before.version() + 1);
    assert_eq!(state(&map, 1), NodeState::Down);
    for (at, (old, new)) in before.partitions().iter().zip(map.partitions()).enumerate() {
        assert_eq!(old.replicas, new.replicas);
        assert_eq!(old.activated, new.activated);
        if led.contains(&at) {
            assert_eq!(new.epoch, old.epoch.next());
            assert!(new.leader != id(1) && new.replicas.contains(&new.leader));
        } else {
            assert_eq!(old, new);
        }
    }
    assert_eq!([led_by(&map, 2).len(), led_by(&map, 3).len()], [32, 32]);
    nothing(&map, down(1));
}

#[test]
fn stays_leader_where_no_other_replica_is_alive_until_one_is() {
    let mut map = cluster(&[0; 3], 8, 3);
    done(&mut map, down(1));
    done(&mut map, down(2));
    assert_eq!(led_by(&map, 3).len(), 8);
    done(&mut map, down(3));
    assert_eq!(led_by(&map, 3).len(), 8);
    done(&mut map, up(2));
    assert_eq!(led_by(&map, 2).len(), 8);
}

#[test]
fn leads_again_what_it_should_when_it_has_returned_a_few_at_a_time() {
    let mut map = cluster(&[0; 3], 64, 3);
    let should = led_by(&map, 1);
    done(&mut map, down(1));
    activate_all(&mut map);
    done(&mut map, up(1));
    assert_eq!(led_by(&map, 1), [0usize; 0]);
    let balance = ControlCommand::Balance { most: 4 };
    // It may lack what was appended meanwhile.
    nothing(&map, balance.clone());
    fill_all(&mut map);
    for round in 1..=should.len().div_ceil(4) {
        done(&mut map, balance.clone());
        let expected = should.len().min(round * 4);
        assert_eq!(led_by(&map, 1).len(), expected);
        activate_all(&mut map);
    }
    assert_eq!(led_by(&map, 1), should);
    nothing(&map, balance);
}

#[test]
fn is_replaced_only_if_as_many_copies_can_be_kept() {
    let mut map = cluster(&[0; 3], 16, 3);
    let replace = ControlCommand::Replace { node: id(1) };
    let error = refused(&map, replace.clone());
    assert!(matches!(error, ControlError::WrongState { .. }), "{error}");
    done(&mut map, down(1));
    let error = refused(&map, replace.clone());
    assert_eq!(error, ControlError::TooFewNodes { left: 2, needed: 3 });

    let mut map = cluster(&[0; 4], 16, 3);
    done(&mut map, down(1));
    done(&mut map, replace.clone());
    nothing(&map, replace);
    finish(&mut map);
    assert!(map.partitions().iter().all(|of| !of.involves(id(1))));
    assert!(map.partitions().iter().all(|of| of.replicas.len() == 3));
    assert_eq!(state(&map, 1), NodeState::Down);
    // It is welcome: it takes part, and a plan gives it its share.
    done(&mut map, up(1));
    assert_eq!(map.node(id(1)).unwrap().leaving, None);
    done(&mut map, ControlCommand::Plan);
    finish(&mut map);
    assert_eq!(loads(&map, &[id(1)])[0].0, 12);
}

#[test]
fn that_returns_while_it_is_replaced_keeps_what_nobody_has_begun_to_take_over() {
    let mut map = cluster(&[0; 4], 64, 3);
    done(&mut map, down(1));
    activate_all(&mut map);
    done(&mut map, ControlCommand::Replace { node: id(1) });
    let begun = map.partitions().iter().filter(|of| !of.learners.is_empty());
    let begun = begun.count();
    // Each of the three others is filled with four at a time.
    assert_eq!(begun, 12);
    done(&mut map, up(1));
    let waits = |of: &&Assignment| of.target.is_some() && of.learners.is_empty();
    assert_eq!(map.partitions().iter().filter(waits).count(), 0);
    finish(&mut map);
    assert_eq!(loads(&map, &[id(1)])[0].0, 48 - begun);
}
