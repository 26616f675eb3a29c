//! Durable publishing to one server, by the number of topics.

use bench_drive::{Job, Publish};

use super::{
    NATS, OURS, Peers, RATE_AND_P99, REDIS, REDIS_SPREAD, ROUNDS_MAX, Run, Shown, bar_against,
    of_ours, publishing, show,
};
use crate::Result;
use crate::nats::Layout;
use crate::outcome::Findings;
use crate::rounds::alternate_several;

const SOME: usize = 200;
const MANY: u64 = 10_000;

const ONE_TOPIC: &str = "Meshlog, one topic";
const SUBJECTS: &str = "NATS JetStream, one stream";

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    let many = run.sized(MANY) as usize;
    findings.notes.push(format!(
        "Every record goes to the next topic. All topics are there and have a record before the clock runs. NATS has 200 \
         streams for 200 topics; {many} topics are {many} subjects of one of its streams: one order and one retention for all \
         of them, which is less than a topic."
    ));
    let of_topics = |topics| {
        Job::Publish(Publish {
            topics,
            ..publishing(run)
        })
    };
    let shown = |title| Shown {
        title,
        unit: "records/s",
        more_is_better: true,
    };
    for (topics, title, rounds) in [
        (1, "one topic, 256 in flight", run.few_rounds()),
        (SOME, "200 topics, 256 in flight", run.few_rounds()),
    ] {
        let contenders = peers.with_ours(run, &of_topics(topics), RATE_AND_P99);
        let all = alternate_several(title, rounds, &["records/s"], contenders)?;
        show(&mut findings, &all, &[shown(title)], &[REDIS, NATS])?;
    }
    let title = "10,000 topics, 256 in flight";
    let mut contenders = vec![
        of_ours(run, OURS, 1, of_topics(many), RATE_AND_P99),
        of_ours(run, ONE_TOPIC, 1, of_topics(1), RATE_AND_P99),
    ];
    for name in [REDIS, REDIS_SPREAD] {
        contenders.extend(peers.of_redis(run, name, &of_topics(many), RATE_AND_P99));
    }
    let subjects = (1, Layout::Subjects);
    contenders.extend(peers.of_nats(run, SUBJECTS, subjects, of_topics(many), RATE_AND_P99));
    let rounds = run.rounds.min(ROUNDS_MAX);
    let all = alternate_several(title, rounds, &["records/s"], contenders)?;
    bar_against(
        &mut findings,
        "versus-topics",
        &all[0],
        OURS,
        ONE_TOPIC,
        "records/s",
    )?;
    show(&mut findings, &all, &[shown(title)], &[REDIS, SUBJECTS])?;
    Ok(findings)
}
