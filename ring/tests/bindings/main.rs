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

#[path = "../simulation/chance.rs"]
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
mod shared;
mod store;
mod trouble;
mod wish;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::Breakage;
use world::{Summary, run};

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

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; what was wrong if it fails.
fn attempt(seed: u64, breakage: Option<Breakage>) -> Result<Summary, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, breakage, false))).map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_default()
    })
}

#[test]
fn simulation_keeps_what_was_acknowledged_and_brings_nothing_back() {
    if let Some(seed) = number("MESHLOG_SEED") {
        println!("{:?}", run(seed, None, true));
        return;
    }
    let seeds = number("MESHLOG_SEEDS").unwrap_or(SEEDS);
    let mut counts = BTreeMap::new();
    let mut failures = 0;
    for seed in 0..seeds {
        match attempt(seed, None) {
            Ok(summary) => {
                for (what, count) in summary.counts {
                    *counts.entry(what).or_insert(0) += count;
                }
            }
            Err(cause) => {
                failures += 1;
                let line = cause.lines().next().unwrap_or_default();
                println!("seed {seed} fails; MESHLOG_SEED={seed} shows what happens in it: {line}");
            }
        }
    }
    println!("{seeds} seeds: {counts:?}");
    assert_eq!(failures, 0, "of {seeds} seeds");
    if seeds < 100 {
        return;
    }
    // A simulation in which little happens proves little.
    for (what, per_seed) in HAPPENS {
        let count = counts.get(what).copied().unwrap_or(0);
        assert!(
            count as f64 >= per_seed * seeds as f64,
            "{what}: {count} in {seeds} seeds"
        );
    }
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

/// Fails unless some seed, of those from this one on, shows that the rule is broken.
fn is_noticed(breakage: Breakage, from: u64) {
    if let Some(seed) = number("MESHLOG_SEED") {
        println!("{:?}", run(seed, Some(breakage), true));
        return;
    }
    let found = (from..from + 400).find_map(|seed| {
        let cause = attempt(seed, Some(breakage)).err()?;
        Some((seed, cause))
    });
    println!("{breakage:?}: {found:?}");
    assert!(found.is_some(), "{breakage:?}");
}

macro_rules! noticed {
    ($($test:ident: $breakage:ident from $seed:literal,)*) => {
        $(#[test] fn $test() { is_noticed(Breakage::$breakage, $seed); })*
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
