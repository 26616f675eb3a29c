//! How a node without room is kept from leading.

use super::*;

fn room(number: usize, full: bool) -> ControlCommand {
    ControlCommand::Room {
        node: id(number),
        full,
    }
}

#[test]
fn takes_leaderships_as_soon_as_others_keep_up_and_keeps_them_away() {
    let mut map = cluster(&[0; 3], 12, 3);
    activate_all(&mut map);
    let should = led_by(&map, 1);
    done(&mut map, room(1, true));
    nothing(&map, room(1, true));
    assert_eq!(led_by(&map, 1), should, "nobody is known to keep up");
    fill_all(&mut map);
    assert_eq!(led_by(&map, 1), [0usize; 0]);
    finish(&mut map);
    // It still holds what it held, and leads nothing.
    assert!(map.partitions().iter().all(|of| of.replicas.len() == 3));
    let balance = ControlCommand::Balance { most: 64 };
    nothing(&map, balance.clone());
    done(&mut map, down(2));
    finish(&mut map);
    assert_eq!(led_by(&map, 1), [0usize; 0]);
    done(&mut map, up(2));
    finish(&mut map);

    done(&mut map, room(1, false));
    done(&mut map, balance);
    assert_eq!(led_by(&map, 1), should);
}

#[test]
fn of_all_nodes_moves_nothing_round_in_circles() {
    let mut map = cluster(&[0; 3], 12, 3);
    finish(&mut map);
    for number in 1..=3 {
        done(&mut map, room(number, true));
        finish(&mut map);
    }
    let leaders: Vec<NodeId> = map.partitions().iter().map(|of| of.leader).collect();
    nothing(&map, ControlCommand::Balance { most: 64 });
    // The last one can still lead when nobody else is alive.
    done(&mut map, down(1));
    finish(&mut map);
    assert_eq!(led_by(&map, 1), [0usize; 0]);
    assert_eq!(leaders.len(), 12);
}
