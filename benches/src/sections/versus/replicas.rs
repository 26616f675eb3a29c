//! Durable publishing with three replicas.

use bench_drive::{Job, Publish};

use super::{
    LATENCIES, NATS_THREE, OURS_THREE, Peers, Picked, RATE_AND_P99, ROUNDS_MAX, Run, Shown,
    bar_against, of_ours, publishing, show,
};
use crate::Result;
use crate::nats::Layout;
use crate::outcome::Findings;
use crate::rounds::alternate_several;

const SUBJECTS: &str = "NATS JetStream, one stream";
const MANY: u64 = 10_000;

/// A load with three replicas, and its bar.
struct Load {
    title: &'static str,
    job: Publish,
    picked: Picked,
    figures: [&'static str; 2],
    bar: Option<&'static str>,
    nats: (&'static str, Layout),
    rounds: usize,
}

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    findings.notes.push(
        "Three servers on one machine. Meshlog acknowledges a record when two of three nodes have it fsynced, and so does NATS \
         with three replicas. 10,000 topics are subjects of one stream there. Redis has no counterpart: its replicas do not \
         acknowledge what they have fsynced."
            .to_owned(),
    );
    for load in loads(run) {
        measure(run, &peers, &load, &mut findings)?;
    }
    Ok(findings)
}

fn loads(run: &Run<'_>) -> [Load; 5] {
    let (rounds, few) = (run.rounds.min(ROUNDS_MAX), run.few_rounds());
    let base = Load {
        title: "256 in flight",
        job: publishing(run),
        picked: RATE_AND_P99,
        figures: ["records/s", "p99"],
        bar: None,
        nats: (NATS_THREE, Layout::Streams),
        rounds: few,
    };
    let with = |in_flight, topics| Publish {
        in_flight,
        topics,
        ..publishing(run)
    };
    [
        Load {
            bar: Some("versus-nats"),
            rounds,
            ..base
        },
        Load {
            title: "one in flight",
            job: with(1, 1),
            picked: LATENCIES,
            figures: ["p50", "p99"],
            bar: Some("versus-nats-latency"),
            rounds,
            ..base
        },
        Load {
            title: "4,096 in flight",
            job: with(4_096, 1),
            ..base
        },
        Load {
            title: "256 in flight, 200 topics",
            job: with(256, 200),
            bar: Some("versus-nats-topics"),
            ..base
        },
        Load {
            title: "256 in flight, 10,000 topics",
            job: with(256, run.sized(MANY) as usize),
            nats: (SUBJECTS, Layout::Subjects),
            ..base
        },
    ]
}

fn measure(run: &Run<'_>, peers: &Peers, load: &Load, findings: &mut Findings) -> Result<()> {
    let job = Job::Publish(load.job.clone());
    let mut contenders = vec![of_ours(run, OURS_THREE, 3, job.clone(), load.picked)];
    let (name, layout) = load.nats;
    contenders.extend(peers.of_nats(run, name, (3, layout), job, load.picked));
    let all = alternate_several(load.title, load.rounds, &load.figures, contenders)?;
    let titles = load
        .figures
        .map(|figure| format!("{}, {figure}", load.title));
    for (samples, (title, figure)) in all.iter().zip(titles.iter().zip(load.figures)) {
        let is_rate = figure == "records/s";
        let unit = if is_rate { "records/s" } else { "ms" };
        let shown = Shown {
            title: if is_rate { load.title } else { title },
            unit,
            more_is_better: is_rate,
        };
        show(findings, std::slice::from_ref(samples), &[shown], &[name])?;
    }
    let unit = if load.figures[0] == "p50" {
        "ms"
    } else {
        "records/s"
    };
    match load.bar {
        Some(bar) => bar_against(findings, bar, &all[0], OURS_THREE, name, unit),
        None => Ok(()),
    }
}
