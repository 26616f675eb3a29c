//! Bindings written and read, and what keeping a Merkle leaf costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mesh_ring::merkle::{LeafSum, binding_digest};

use super::Run;
use crate::Result;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Contender, Samples, alternate};
use crate::stores::{Kind, Meshlog};
use crate::work::{RECORD_BYTES, get_rate, key, put_all, put_in_flight_rate, put_rate};

const KEYS: u64 = 100_000;
const IN_FLIGHT: usize = 256;
const WARM_UP: Duration = Duration::from_millis(200);

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{KEYS} keys, values of 1 KiB. A put reads the held binding, decides, and writes it with its Merkle leaf; the peers \
         only write a value under a key. {IN_FLIGHT} in flight: Meshlog is given puts one by one, {IN_FLIGHT} of them waiting \
         for the disk, and the peers commit {IN_FLIGHT} at a time."
    ));
    let base = Kind::RocksDb.name();
    let title = "put, one in flight";
    findings.comparisons.push(Comparison::new(
        title,
        "puts/s",
        true,
        base,
        &puts(run, 1)?,
    )?);
    let title = format!("put, {IN_FLIGHT} in flight");
    findings.comparisons.push(Comparison::new(
        &title,
        "puts/s",
        true,
        base,
        &puts(run, IN_FLIGHT)?,
    )?);
    findings.comparisons.push(Comparison::new(
        "get, at random",
        "gets/s",
        true,
        base,
        &gets(run)?,
    )?);
    let samples = leaves(run)?;
    let title = "Merkle leaf update for a binding of 1 KiB";
    findings.comparisons.push(Comparison::new(
        title,
        "ns",
        false,
        "blake3 of the bytes alone",
        &samples,
    )?);
    Ok(findings)
}

fn puts(run: &Run<'_>, in_flight: usize) -> Result<Vec<Samples>> {
    let (payload, keys) = (Payload::new(RECORD_BYTES), run.sized(KEYS));
    let meshlog = Contender::new(Kind::Meshlog.name(), || {
        let dir = run.place.fresh();
        let store = Meshlog::create(&dir, 0)?;
        put_in_flight_rate(&store, &payload, keys, in_flight, WARM_UP)?;
        let rate = put_in_flight_rate(&store, &payload, keys, in_flight, run.short_turn())?;
        drop(store);
        run.place.clear(&dir)?;
        Ok(rate)
    });
    let mut contenders = vec![meshlog];
    for kind in &Kind::ALL[1..] {
        let payload = &payload;
        contenders.push(Contender::new(kind.name(), move || {
            run.with_new(*kind, 1, |store| {
                put_rate(store, payload, keys, in_flight as u64, WARM_UP)?;
                put_rate(store, payload, keys, in_flight as u64, run.short_turn())
            })
        }));
    }
    alternate(
        &format!("put, {in_flight} in flight"),
        run.few_rounds(),
        contenders,
    )
}

fn gets(run: &Run<'_>) -> Result<Vec<Samples>> {
    let (payload, keys) = (Payload::new(RECORD_BYTES), run.sized(KEYS));
    let (mut contenders, mut dirs) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let dir = run.place.fresh();
        run.fill(kind, &dir, |store| put_all(store, &payload, keys))?;
        let mut store = kind.open(&dir, 1)?;
        contenders.push(Contender::new(kind.name(), move || {
            get_rate(store.as_mut(), keys, run.short_turn())
        }));
        dirs.push(dir);
    }
    let samples = alternate("get", run.few_rounds(), contenders)?;
    for dir in dirs {
        run.place.clear(&dir)?;
    }
    Ok(samples)
}

/// The old digest out, the new one in: two hashes of 1 KiB, beside the hashes alone.
fn leaves(run: &Run<'_>) -> Result<Vec<Samples>> {
    let payload = Payload::new(RECORD_BYTES);
    let time = run.turn / 4;
    let update = Contender::new("Meshlog", || {
        let mut sum = LeafSum::ZERO;
        nanoseconds(time, |number| {
            let key = key(number);
            sum = sum
                .sub(binding_digest(&key, payload.value(number)))
                .add(binding_digest(&key, payload.value(number + 1)));
            black_box(&sum);
        })
    });
    let hash = Contender::new("blake3 of the bytes alone", || {
        nanoseconds(time, |number| {
            black_box(blake3::hash(payload.value(number)));
            black_box(blake3::hash(payload.value(number + 1)));
        })
    });
    alternate("leaf update", run.rounds, vec![update, hash])
}

fn nanoseconds(time: Duration, mut work: impl FnMut(u64)) -> Result<f64> {
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < time {
        for number in done..done + 64 {
            work(number);
        }
        done += 64;
    }
    Ok(started.elapsed().as_secs_f64() * 1e9 / done as f64)
}
