//! How soon a reader has a record, where nothing else is going on.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use bench_drive::{Deliver, Job};

use super::{
    NATS, NATS_THREE, OURS, OURS_THREE, Peers, Picked, REDIS, ROUNDS_MAX, Run, Shown, of_ours, show,
};
use crate::Result;
use crate::nats::Layout;
use crate::outcome::Findings;
use crate::payload::Payload;
use crate::rounds::{Contender, Samples, alternate_several, median, quantile};
use crate::work::RECORD_BYTES;

const RECORDS: u64 = 1_000;
const PAUSE_MS: u64 = 5;
/// What delivery may take beside one fsync, in milliseconds.
const BESIDE_FSYNC_MS: f64 = 0.5;

const FSYNC: &str = "one fsync of the same disk";
/// Both figures of a job.
const BOTH: Picked = &[0, 1];

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    findings.notes.push(format!(
        "Records of 1 KiB, one every {PAUSE_MS} ms or so, from the call to publish until a reader with a connection of its own \
         has the record: a tail of Meshlog, `XREAD BLOCK` of Redis, an ordered push consumer of NATS. One fsync is 1 KiB \
         appended to a file on the same disk at the same pace and synced (`fdatasync`). The bar is held against its median of \
         the same round; it is that of one server."
    ));
    let job = Job::Deliver(Deliver {
        records: run.sized(RECORDS).max(50),
        pause_ms: PAUSE_MS,
        ..Deliver::default()
    });
    let titles = [
        ["one server, median", "one server, p99"],
        ["three replicas, median", "three replicas, p99"],
    ];
    let shown = titles.map(|titles| {
        titles.map(|title| Shown {
            title,
            unit: "ms",
            more_is_better: false,
        })
    });
    let mut contenders = peers.with_ours(run, &job, BOTH);
    contenders.push(Contender::of_several(FSYNC, || fsync(run)));
    let rounds = run.rounds.min(ROUNDS_MAX);
    let all = alternate_several("delivered", rounds, &["p50", "p99"], contenders)?;
    bar(&mut findings, &all)?;
    show(&mut findings, &all, &shown[0], &[REDIS, NATS])?;

    let mut contenders = vec![of_ours(run, OURS_THREE, 3, job.clone(), BOTH)];
    let streams = (3, Layout::Streams);
    contenders.extend(peers.of_nats(run, NATS_THREE, streams, job, BOTH));
    let title = "delivered, three replicas";
    let all = alternate_several(title, run.few_rounds(), &["p50", "p99"], contenders)?;
    show(&mut findings, &all, &shown[1], &[NATS_THREE])?;
    Ok(findings)
}

/// Our p99 against the median fsync and what may be beside it, round by round.
fn bar(findings: &mut Findings, all: &[Vec<Samples>]) -> Result<()> {
    let of = |samples: &[Samples], name: &str| {
        let found = samples.iter().find(|of_one| of_one.name == name);
        found.cloned().ok_or("a contender is missing")
    };
    let (ours, fsync) = (of(&all[1], OURS)?, of(&all[0], FSYNC)?);
    let rounds = ours.values.iter().zip(&fsync.values);
    let ratios = rounds.map(|(ours, fsync)| ours / (fsync + BESIDE_FSYNC_MS));
    let (p99, fsync) = (ours.median(), fsync.median());
    let measured = format!(
        "p99 {p99:.3} ms against {:.3} ms; one fsync {fsync:.3} ms",
        fsync + BESIDE_FSYNC_MS
    );
    findings.bar("versus-delivered", median(ratios.collect()), measured);
    Ok(())
}

/// Milliseconds of an fsync: the median and the p99.
fn fsync(run: &Run<'_>) -> Result<Vec<f64>> {
    let (payload, path) = (Payload::new(RECORD_BYTES), run.place.fresh());
    let mut file = File::create(&path)?;
    let mut took = Vec::new();
    for number in 0..run.sized(RECORDS).max(50) {
        let began = Instant::now();
        file.write_all(payload.value(number))?;
        file.sync_data()?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(PAUSE_MS));
    }
    std::fs::remove_file(&path)?;
    Ok(vec![quantile(&took, 0.5), quantile(&took, 0.99)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_one_fsync_and_half_a_millisecond_round_by_round() {
        let samples = |name: &str, values: &[f64]| Samples {
            name: name.to_owned(),
            values: values.to_vec(),
        };
        let p50 = vec![samples(OURS, &[9.0; 3]), samples(FSYNC, &[0.5, 0.5, 1.5])];
        let p99 = vec![samples(OURS, &[0.5, 2.0, 2.0]), samples(FSYNC, &[9.0; 3])];
        let mut findings = Findings::default();
        bar(&mut findings, &[p50, p99]).unwrap();
        assert!((findings.bars[0].value - 1.0).abs() < 1e-9);
    }
}
