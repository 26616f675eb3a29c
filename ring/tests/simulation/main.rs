//! The topics of a cluster, simulated: replicas, ledgers and the control plane over a network and disks that fail.
//!
//! A run is a function of its seed. `MESHLOG_SEEDS=n` runs the first n seeds, `MESHLOG_SEED=n` one, and says what happens
//! in it.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and name their seeds"
)]

#[path = "../ledger/model.rs"]
#[allow(dead_code, reason = "the ledger's own test uses the rest of it")]
mod model;

mod actor;
mod arriving;
#[path = "../support/chance.rs"]
mod chance;
mod clients;
mod control;
mod disk;
mod duties;
mod node;
mod oracle;
mod requests;
#[path = "../support/seeds.rs"]
mod seeds;
mod shared;
mod store;
mod trouble;
mod world;

use shared::Breakage;
use world::run;

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 400;

/// What must happen, and how often in a run on average.
const HAPPENS: [(&str, f64); 15] = [
    ("acknowledged batches", 500.0),
    ("reads", 300.0),
    ("leaders", 5.0),
    ("truncations", 0.4),
    ("resignations", 0.5),
    ("transfers", 1.0),
    ("imports", 0.5),
    ("votes of witnesses", 0.05),
    ("copies dropped", 0.3),
    ("damaged disks", 0.1),
    ("removed nodes", 0.1),
    ("drained nodes", 0.2),
    ("joined nodes", 0.2),
    ("refused conditions", 1.0),
    ("forgotten producers", 1.0),
];

#[test]
fn simulation_loses_nothing_that_was_acknowledged() {
    let counts = |summary: world::Summary| summary.counts;
    seeds::all_pass(
        SEEDS,
        &HAPPENS,
        |seed, shown| run(seed, None, shown),
        counts,
    );
}

#[test]
fn a_seed_runs_twice_alike() {
    for seed in [3, 4, 5] {
        assert_eq!(
            run(seed, None, false),
            run(seed, None, false),
            "seed {seed}"
        );
    }
}

macro_rules! noticed {
    ($($test:ident: $breakage:ident,)*) => {
        $(#[test] fn $test() {
            let breakage = Breakage::$breakage;
            seeds::is_noticed(breakage, 0..300, |seed, shown| run(seed, Some(breakage), shown));
        })*
    };
}

noticed! {
    a_disk_that_loses_what_it_synced_is_noticed: SyncedWritesLost,
    a_write_that_is_confirmed_too_early_is_noticed: ConfirmedBeforeSync,
    windows_that_go_with_a_truncation_are_noticed: WindowsForgottenAtTruncation,
    readers_that_see_what_is_not_committed_are_noticed: UncommittedShown,
}
