//! What a cluster costs that does nothing.

use std::time::{Duration, Instant};

use super::Run;
use crate::Result;
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::process::{cpu_time, resident_bytes};
use crate::rounds::Samples;
use crate::say;

/// What a node does at its start is over by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let dir = run.place.fresh();
    let mesh = Mesh::start(&dir, 3)?;
    let watched = if run.is_quick() {
        WATCHED / 10
    } else {
        WATCHED
    };
    std::thread::sleep(if run.is_quick() {
        WATCHED / 10
    } else {
        SETTLES_WITHIN
    });
    let mut samples: Vec<Samples> = mesh
        .processes()
        .iter()
        .map(|(name, _)| Samples {
            name: format!("meshctl serve, {name}"),
            values: Vec::new(),
        })
        .collect();
    for _ in 0..run.few_rounds() {
        for (percent, samples) in watch(&mesh, watched)?.into_iter().zip(&mut samples) {
            samples.values.push(percent);
        }
    }
    let resident: u64 = mesh
        .processes()
        .iter()
        .map(|(_, pid)| resident_bytes(*pid))
        .collect::<Result<Vec<u64>>>()?
        .into_iter()
        .max()
        .unwrap_or_default();
    drop(mesh);
    run.place.clear(&dir)?;

    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Three nodes with 64 partitions on each, without clients: user and system time of each process in {} s, three times. \
         The bar is held against the busiest. Resident memory of the largest: {} MiB.",
        watched.as_secs(),
        resident >> 20,
    ));
    let busiest = samples.iter().map(Samples::median).fold(0.0, f64::max);
    let each: Vec<String> = samples
        .iter()
        .map(|samples| format!("{:.2}", samples.median()))
        .collect();
    let measured = format!("{} % of one core", each.join(", "));
    say(&format!("  idle: {measured}"));
    findings.bar("ring-idle", busiest, measured);
    let baseline = samples[0].name.clone();
    let title = "CPU of an idle node";
    let unit = "% of one core";
    let comparison = Comparison::new(title, unit, false, &baseline, &samples)?;
    findings.comparisons.push(comparison);
    Ok(findings)
}

/// Percent of one core that each node uses in this time.
fn watch(mesh: &Mesh, time: Duration) -> Result<Vec<f64>> {
    let used = || -> Result<Vec<Duration>> {
        let processes = mesh.processes();
        processes.iter().map(|(_, pid)| cpu_time(*pid)).collect()
    };
    let (before, began) = (used()?, Instant::now());
    std::thread::sleep(time);
    let (after, took) = (used()?, began.elapsed());
    let percent = |(after, before): (&Duration, &Duration)| {
        (*after - *before).as_secs_f64() / took.as_secs_f64() * 100.0
    };
    Ok(after.iter().zip(&before).map(percent).collect())
}
