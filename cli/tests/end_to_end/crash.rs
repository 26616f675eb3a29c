//! `kill -9` in a loop while producers publish and tails follow: no acknowledged record is lost, no offset changes, no
//! retried record is there twice.
//!
//! `MESHLOG_CRASH_ROUNDS` sets the number of rounds (50).

use std::time::Duration;

use crate::load::{Load, TOPICS, topic};
use crate::mesh::{Mesh, free_port, until};

/// Acknowledgements that a round waits for before it may kill.
const ROUND_ACKS: usize = 150;

#[test]
fn kill_nine_in_a_loop_under_load_loses_changes_and_repeats_nothing() {
    let rounds: u32 =
        std::env::var("MESHLOG_CRASH_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    let mut mesh = Mesh::with(&["--port", &free_port().to_string()]);
    mesh.serve();
    for number in 0..TOPICS {
        mesh.ok(&["topic", "create", &topic(number)]);
    }
    let load = Load::start(&mesh.path("mesh/client/client.toml"));
    for round in 0..rounds {
        let before = load.acknowledged();
        assert!(
            until(|| load.acknowledged() >= before + ROUND_ACKS),
            "round {round}: the load stands still"
        );
        // Anywhere between two acknowledgements and in the middle of anything else.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 7_919 % 30_000));
        mesh.kill();
        mesh.serve();
        load.check();
    }
    load.finish();
    assert!(mesh.stop().success());
}
