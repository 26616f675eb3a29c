//! Running a simulation by its seeds: many of them, or the one that somebody wants to see.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Below, what happens how often is left to chance.
const SEEDS_THAT_SAY_MUCH: u64 = 100;

/// How often what happened.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seed whose run is to be shown, of all that there are.
fn wanted() -> Option<u64> {
    number("MESHLOG_SEED")
}

/// What `run` gives, or what was wrong if it fails.
fn attempt<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_default()
    })
}

/// Runs the first `seeds` seeds, or as many as `MESHLOG_SEEDS` says; all must pass, and what must happen must have happened so
/// often in a run on average. With `MESHLOG_SEED` that one is run and shown.
pub(crate) fn all_pass<T: Debug>(
    seeds: u64,
    happens: &[(&str, f64)],
    run: impl Fn(u64, bool) -> T,
    counts_of: impl Fn(T) -> Counts,
) {
    if let Some(seed) = wanted() {
        println!("{:?}", run(seed, true));
        return;
    }
    let seeds = number("MESHLOG_SEEDS").unwrap_or(seeds);
    let mut counts = Counts::new();
    let mut failures = 0;
    for seed in 0..seeds {
        match attempt(|| run(seed, false)) {
            Ok(summary) => {
                for (what, count) in counts_of(summary) {
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
    if seeds < SEEDS_THAT_SAY_MUCH {
        return;
    }
    // A simulation in which little happens proves little.
    for (what, per_seed) in happens {
        let count = counts.get(what).copied().unwrap_or(0);
        assert!(
            count as f64 >= per_seed * seeds as f64,
            "{what}: {count} in {seeds} seeds"
        );
    }
}

/// Fails unless some of these seeds shows that a rule is broken. With `MESHLOG_SEED` that one is run and shown.
pub(crate) fn is_noticed<T: Debug>(
    rule: impl Debug,
    seeds: Range<u64>,
    run: impl Fn(u64, bool) -> T,
) {
    if let Some(seed) = wanted() {
        println!("{:?}", run(seed, true));
        return;
    }
    let found = seeds.into_iter().find_map(|seed| {
        let cause = attempt(|| run(seed, false)).err()?;
        Some((seed, cause))
    });
    println!("{rule:?}: {found:?}");
    assert!(found.is_some(), "{rule:?}");
}
