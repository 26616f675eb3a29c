//! The criterion benches: `cargo bench -p mesh-benches`. Each group holds Meshlog and its peers doing the same work on the
//! same disk, so that figures are read beside each other; the binary `report` turns such figures into ratios.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may stop at the first surprise; criterion's macros make items"
)]

mod append;
mod bindings;
mod open;
mod read;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};

/// A group for work that waits for a disk: few samples, all of the same length.
fn disk_group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
    group
}

criterion_group!(
    benches,
    append::one_in_flight,
    append::many_in_flight,
    read::replay,
    read::point,
    bindings::put,
    bindings::get,
    bindings::merkle_leaf,
    open::after_a_crash
);
criterion_main!(benches);
