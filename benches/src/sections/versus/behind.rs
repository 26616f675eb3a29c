//! A reader that begins a GiB behind writers that go on.

use std::cell::RefCell;
use std::collections::BTreeSet;

use bench_drive::{CatchUp, Done, Job};

use super::{NATS, OURS, Peers, REDIS, Run, Shown, ms, show};
use crate::Result;
use crate::nats::Layout;
use crate::ours;
use crate::outcome::Findings;
use crate::rounds::{Contender, alternate_several};
use crate::work::RECORD_BYTES;

/// Records that it has to catch up: 1 GiB.
const RECORDS: u64 = 1 << 20;

/// Those of the job, and the part of the writers' rate that is left.
const FIGURES: [Shown<'_>; 4] = [
    Shown {
        title: "what the reader gets while it catches up",
        unit: "MiB/s",
        more_is_better: true,
    },
    Shown {
        title: "writers alone, 256 in flight",
        unit: "records/s",
        more_is_better: true,
    },
    Shown {
        title: "writers meanwhile",
        unit: "records/s",
        more_is_better: true,
    },
    Shown {
        title: "writers meanwhile, of what they have alone",
        unit: "%",
        more_is_better: true,
    },
];

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    // Redis has what was put in twice while it rewrites its file, and writers add to it.
    run.place
        .need(4 * run.sized(RECORDS) * RECORD_BYTES as u64)?;
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    let job = CatchUp {
        records: run.sized(RECORDS),
        warm_up_ms: ms(run) / 3,
        time_ms: ms(run),
        limit_ms: 4 * ms(run),
        ..CatchUp::default()
    };
    findings.notes.push(format!(
        "A topic has {} records of 1 KiB, put in before the clock runs, by peers without an fsync each. Then 256 records are in \
         flight to it all the time, fsynced, and a reader with a connection of its own begins at the first record. It is \
         measured until it has what is acknowledged, or for {} s; the writers just before that, and meanwhile.",
        job.records,
        job.limit_ms as f64 / 1e3,
    ));
    let late = RefCell::new(BTreeSet::new());
    let figures = |name: &'static str, done: &Done| {
        if matches!(
            done,
            Done::CaughtUp {
                is_at_end: false,
                ..
            }
        ) {
            late.borrow_mut().insert(name);
        }
        let mut figures = done.figures();
        figures.push(100.0 * figures[2] / figures[1].max(1.0));
        figures
    };
    let job = Job::CatchUp(job);
    let mut contenders = vec![Contender::of_several(OURS, || {
        Ok(figures(OURS, &ours::run(run.place, 1, &job)?))
    })];
    contenders.extend(peers.redis.as_ref().map(|redis| {
        Contender::of_several(REDIS, || {
            let dir = run.place.fresh();
            let done = redis.run(&dir, 1, &job)?;
            run.place.clear(&dir)?;
            Ok(figures(REDIS, &done))
        })
    }));
    contenders.extend(peers.nats.as_ref().map(|nats| {
        Contender::of_several(NATS, || {
            let dir = run.place.fresh();
            let done = nats.run(&dir, 1, Layout::Streams, &job)?;
            run.place.clear(&dir)?;
            Ok(figures(NATS, &done))
        })
    }));
    let names = ["MiB/s", "writers alone", "writers meanwhile", "% left"];
    let all = alternate_several("a reader behind", run.few_rounds(), &names, contenders)?;
    for name in late.take() {
        findings.notes.push(format!(
            "The reader of {name} had not caught up in that time in at least one turn."
        ));
    }
    show(&mut findings, &all, &FIGURES, &[REDIS, NATS])?;
    Ok(findings)
}
