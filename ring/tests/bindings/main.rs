//! The bindings of a cluster, simulated: quorums, hints, walks, moves and the collection of tombstones over a network
//! and disks that fail.
//!
//! A run is a function of its seed. `MESHLOG_SEEDS=n` runs the first n seeds, `MESHLOG_SEED=n` one, and says what happens
//! in it.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and name their seeds"
)]

#[path = "../support/chance.rs"]
mod chance;
mod control;
mod coordinator;
mod duties;
mod keeping;
mod message;
mod node;
mod oracle;
mod reads;
mod rounds;
#[path = "../support/seeds.rs"]
mod seeds;
mod shared;
mod store;
mod trouble;
mod wish;
mod world;

use shared::Breakage;
use world::run;

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 200;

/// What must happen, and how often in a run on average.
const HAPPENS: [(&str, f64); 18] = [
    ("acknowledged writes", 100.0),
    ("writes with hints", 5.0),
    ("writes with too few nodes", 1.0),
    ("writes that were not kept", 0.01),
    ("promised reads", 20.0),
    ("read repairs", 5.0),
    ("hints delivered", 5.0),
    ("hints rerouted", 0.3),
    ("hints refused at the bound", 0.1),
    ("repairs sent", 5.0),
    ("expired values", 2.0),
    ("collected tombstones", 5.0),
    ("refused states", 5.0),
    ("fills", 0.3),
    ("copies dropped", 0.2),
    ("owners that return", 0.05),
    ("removed nodes", 0.05),
    ("stray messages", 20.0),
];

#[test]
fn simulation_keeps_what_was_acknowledged_and_brings_nothing_back() {
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
    ($($test:ident: $breakage:ident from $seed:literal,)*) => {
        $(#[test] fn $test() {
            let breakage = Breakage::$breakage;
            let run = |seed, shown| run(seed, Some(breakage), shown);
            // From the first seed on, or from near one that is known to show it.
            seeds::is_noticed(breakage, $seed..$seed + 400, run);
        })*
    };
}

noticed! {
    stamps_that_are_ignored_are_noticed: StampsIgnored from 0,
    repairs_that_are_stamped_anew_are_noticed: RepairsStampedAnew from 600,
    hints_that_no_round_asks_about_are_noticed: HintsNotAsked from 0,
    rounds_among_the_replicas_alone_are_noticed: ReplicasAskedAlone from 0,
    answers_before_the_sync_are_noticed: LookedBeforeSync from 290,
    hints_that_go_when_they_are_sent_are_noticed: HintsGoneWhenSent from 0,
    a_name_that_is_kept_after_a_crash_is_noticed: StartsNotCounted from 0,
    a_name_that_is_kept_after_forgetting_is_noticed: GenerationKept from 0,
    old_copies_that_are_wiped_are_noticed: OldCopyWiped from 0,
    old_copies_that_are_dropped_at_once_are_noticed: OldCopyDropped from 0,
    stand_ins_that_count_as_homes_are_noticed: StandInsCountAsHomes from 0,
}
