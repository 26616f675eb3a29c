//! Resident memory of a process that has a store with very many topics open and does nothing.

use std::path::Path;

use super::Run;
use crate::Result;
use crate::children::Child;
use crate::node::Cluster;
use crate::outcome::{Comparison, Findings};
use crate::process::resident_bytes_at_rest;
use crate::rounds::Samples;
use crate::say;

const TOPICS: u64 = 100_000;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let topics = run.sized(TOPICS);
    let dir = run.place.fresh();
    let cluster = Cluster::init(&dir)?;
    let writer = resident_mib(Child::start(
        "make-topics",
        &[text(&cluster.data())?, &topics.to_string()],
    )?)?;
    let opened = resident_mib(Child::start("idle", &[text(&cluster.data())?])?)?;
    let node = cluster.serve()?;
    let serving = mebibytes(resident_bytes_at_rest(node.id())?);
    node.stop()?;
    run.place.clear(&dir)?;

    let empty = run.place.fresh();
    let nothing = resident_mib(Child::start("make-topics", &[text(&empty)?, "0"])?)?;
    run.place.clear(&empty)?;

    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{topics} topics with one record of 1 KiB each, `VmRSS` once it has come to rest. The bar is held against the largest."
    ));
    let measured = format!(
        "{writer:.0} MiB after making and writing them, {opened:.0} after opening, {serving:.0} as a node"
    );
    findings.bar("memory", writer.max(opened).max(serving), measured);
    let samples = [
        ("Meshlog, made and wrote the topics", writer),
        ("Meshlog, opened", opened),
        ("meshctl serve", serving),
        ("Meshlog, no topics", nothing),
    ]
    .map(|(name, mib)| Samples {
        name: name.to_owned(),
        values: vec![mib],
    });
    say(&format!(
        "  memory: {writer:.1} · {opened:.1} · {serving:.1} · {nothing:.1} MiB"
    ));
    let title = format!("resident memory, {topics} topics");
    findings.comparisons.push(Comparison::new(
        &title,
        "MiB",
        false,
        "Meshlog, no topics",
        &samples,
    )?);
    Ok(findings)
}

fn resident_mib(mut child: Child) -> Result<f64> {
    child.line()?;
    let bytes = resident_bytes_at_rest(child.id())?;
    child.finish()?;
    Ok(mebibytes(bytes))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| "the folder's name is not UTF-8".into())
}
