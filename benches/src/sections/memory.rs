//! Resident memory of a process that has a store with very many topics open and does nothing.

use super::Run;
use crate::Result;
use crate::children::Child;
use crate::outcome::{Comparison, Findings};
use crate::process::resident_bytes_at_rest;
use crate::rounds::Samples;
use crate::say;

const TOPICS: u64 = 100_000;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let topics = run.sized(TOPICS);
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{topics} topics with one record of 1 KiB each, `VmRSS` once it has come to rest. The bar is held against the process \
         that made and wrote the topics, which is the larger; the others opened the store, and an empty one."
    ));
    let (many, none) = (run.place.fresh(), run.place.fresh());
    let (many_text, none_text) = (many.to_str().unwrap_or_default(), none.to_str().unwrap_or_default());
    let writer = resident_mib("make-topics", &[many_text, &topics.to_string()])?;
    let reader = resident_mib("idle", &[many_text])?;
    resident_mib("make-topics", &[none_text, "0"])?;
    let empty = resident_mib("idle", &[none_text])?;
    findings.bar("memory", writer.max(reader), format!("{reader:.0} MiB after it was opened anew, {empty:.0} MiB without topics"));
    let samples = [("Meshlog, made and wrote the topics", writer), ("Meshlog, opened", reader), ("Meshlog, no topics", empty)]
        .map(|(name, mib)| Samples { name: name.to_owned(), values: vec![mib] });
    say(&format!("  memory: {writer:.1} · {reader:.1} · {empty:.1} MiB"));
    let title = format!("resident memory, {topics} topics");
    findings.comparisons.push(Comparison::new(&title, "MiB", false, "Meshlog, no topics", &samples)?);
    run.place.clear(&many)?;
    run.place.clear(&none)?;
    Ok(findings)
}

fn resident_mib(work: &str, arguments: &[&str]) -> Result<f64> {
    let mut child = Child::start(work, arguments)?;
    child.line()?;
    let bytes = resident_bytes_at_rest(child.id())?;
    child.finish()?;
    Ok(bytes as f64 / f64::from(1 << 20))
}
