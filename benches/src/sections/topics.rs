//! Records appended with many of them waiting for the disk, to one topic and to many.

use std::time::Duration;

use super::Run;
use crate::Result;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Contender, alternate};
use crate::stores::{Kind, Meshlog};
use crate::work::{Appending, RECORD_BYTES, append_rate, in_flight_rate};

const IN_FLIGHT: usize = 256;
const WARM_UP: Duration = Duration::from_millis(200);
const ONE: &str = "Meshlog, 1 topic";
const MANY: &str = "Meshlog, 1,000 topics";
const BARE: &str = "bare RocksDB, 256 a commit";

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Batches are submitted one by one, to the topics in turn, {IN_FLIGHT} of them waiting for the disk. A batch of one \
         record carries its own header and journal entry; bare RocksDB is given the best case, 256 records in one commit."
    ));
    for batch in [1, 16] {
        let payload = Payload::new(RECORD_BYTES);
        let meshlog = |name: &str, topics: usize| {
            let payload = &payload;
            Contender::new(name, move || {
                let dir = run.place.fresh();
                let store = Meshlog::create(&dir, topics)?;
                let work = Appending { batch, topics };
                in_flight_rate(&store, payload, work, IN_FLIGHT, WARM_UP)?;
                let rate = in_flight_rate(&store, payload, work, IN_FLIGHT, run.turn)?;
                drop(store);
                run.place.clear(&dir)?;
                Ok(rate)
            })
        };
        let bare = Contender::new(BARE, || {
            run.with_new(Kind::RocksDb, 1, |store| {
                let work = Appending {
                    batch: 256,
                    topics: 1,
                };
                append_rate(store, &payload, work, WARM_UP)?;
                append_rate(store, &payload, work, run.turn)
            })
        });
        let contenders = vec![meshlog(ONE, 1), meshlog(MANY, 1000), bare];
        let rounds = if batch == 1 {
            run.rounds
        } else {
            run.few_rounds()
        };
        let samples = alternate(
            &format!("in flight, batches of {batch}"),
            rounds,
            contenders,
        )?;
        if batch == 1 {
            findings.bar_ratio("topics", &samples, MANY, ONE, "records/s")?;
        }
        let title = format!("{IN_FLIGHT} batches of {batch} × 1 KiB in flight");
        findings
            .comparisons
            .push(Comparison::new(&title, "records/s", true, BARE, &samples)?);
    }
    Ok(findings)
}
