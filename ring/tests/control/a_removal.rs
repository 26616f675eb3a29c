//! How a node goes for good, and when it cannot.

use super::*;

#[test]
fn of_a_running_node_that_holds_something_is_refused() {
    let map = cluster(&[0; 4], 16, 3);
    let error = refused(&map, ControlCommand::Remove { node: id(1) });
    assert_eq!(
        error.to_string(),
        format!(
            "node {} is up; drain it first, so that others hold what it holds: 'meshctl node drain'",
            id(1)
        )
    );
}

#[test]
fn never_takes_the_majority_of_a_partition() {
    let mut map = cluster(&[0; 3], 16, 3);
    done(&mut map, down(1));
    done(&mut map, down(2));
    done(&mut map, ControlCommand::Remove { node: id(1) });
    let error = refused(&map, ControlCommand::Remove { node: id(2) });
    assert!(
        matches!(error, ControlError::LosesMajority { .. }),
        "{error}"
    );

    let mut map = cluster(&[0; 2], 16, 3);
    done(&mut map, down(1));
    let error = refused(&map, ControlCommand::Remove { node: id(1) });
    assert!(
        matches!(error, ControlError::LosesMajority { .. }),
        "{error}"
    );
}

#[test]
fn of_a_dead_node_is_made_good_elsewhere() {
    let mut map = cluster(&[0; 4], 64, 3);
    done(&mut map, down(2));
    let removal = plan(&map, &Change::Remove { node: id(2) }).unwrap();
    assert_eq!(removal.moves.len(), 48);
    assert_eq!(removal.exposed.len(), 48, "they have two live copies");
    assert!(
        removal
            .moves
            .iter()
            .all(|to| to.from == Some(id(2)) && to.to.is_some())
    );
    done(&mut map, ControlCommand::Remove { node: id(2) });
    finish(&mut map);
    assert!(map.node(id(2)).is_none());
    assert!(map.partitions().iter().all(|of| of.replicas.len() == 3));
}
