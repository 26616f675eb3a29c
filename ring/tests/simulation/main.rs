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
mod chance;
mod clients;
mod control;
mod disk;
mod duties;
mod node;
mod oracle;
mod requests;
mod shared;
mod store;
mod trouble;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::Breakage;
use world::{Summary, run};

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
fn simulation_loses_nothing_that_was_acknowledged() {
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

/// The first seed in which the breakage is noticed.
fn noticed(breakage: Breakage) -> Option<(u64, String)> {
    (0..300).find_map(|seed| {
        let cause = attempt(seed, Some(breakage)).err()?;
        Some((seed, cause))
    })
}

#[test]
fn a_disk_that_loses_what_it_synced_is_noticed() {
    let found = noticed(Breakage::SyncedWritesLost);
    println!("{found:?}");
    assert!(found.is_some());
}

#[test]
fn a_write_that_is_confirmed_too_early_is_noticed() {
    let found = noticed(Breakage::ConfirmedBeforeSync);
    println!("{found:?}");
    assert!(found.is_some());
}

#[test]
fn windows_that_go_with_a_truncation_are_noticed() {
    let found = noticed(Breakage::WindowsForgottenAtTruncation);
    println!("{found:?}");
    assert!(found.is_some());
}

#[test]
fn readers_that_see_what_is_not_committed_are_noticed() {
    let found = noticed(Breakage::UncommittedShown);
    println!("{found:?}");
    assert!(found.is_some());
}
