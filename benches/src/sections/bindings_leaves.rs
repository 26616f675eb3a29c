//! What keeping Merkle leaves and their index costs a put: the same puts into a store that keeps them and one that does not.

use std::path::Path;
use std::time::{Duration, Instant};

use mesh_engine::Options;

use super::Run;
use crate::Result;
use crate::outcome::{Comparison, Findings};
use crate::payload::{Payload, mix};
use crate::process::cpu_time;
use crate::rounds::{Contender, Samples, alternate};
use crate::stores::Meshlog;
use crate::work::key;

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 100;
const IN_FLIGHT: usize = 256;

const WITH: &str = "Meshlog";
const WITHOUT: &str = "Meshlog without leaves";

/// A store, and how many puts it has had.
struct Measured {
    store: Meshlog,
    puts: u64,
}

/// Which keys are put.
#[derive(Clone, Copy)]
enum Keys {
    /// Each for the first time.
    New,
    /// All over so many that have a value.
    Old(u64),
}

impl Keys {
    fn at(self, number: u64) -> [u8; 16] {
        match self {
            Keys::New => key(number),
            Keys::Old(count) => key(mix(&mut number.clone()) % count),
        }
    }
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let keys = run.sized(KEYS);
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "The engine alone, values of {VALUE_BYTES} bytes, {IN_FLIGHT} puts in flight, into a store that keeps the leaves that \
         replicas compare, with their index, and one that does not, in turns. The bar is held against the worse of keys that \
         are new and {keys} that have a value. On a ring, where a put costs more besides, it is a smaller part."
    ));
    let mut worst: Option<(f64, String)> = None;
    for (what, of) in [("new keys", Keys::New), ("old keys", Keys::Old(keys))] {
        let (rates, cpu) = measure(run, what, of, keys)?;
        let taken = 100.0 * (1.0 - rates[0].ratio_to(&rates[1]));
        if worst.as_ref().is_none_or(|(most, _)| taken > *most) {
            let text = |samples: &Samples| crate::markdown::figure(samples.median());
            let (with, without) = (text(&rates[0]), text(&rates[1]));
            worst = Some((taken, format!("{what}: {with} against {without} puts/s")));
        }
        for (title, unit, more_is_better, samples) in [
            (format!("put, {what}"), "puts/s", true, &rates),
            (
                format!("put, {what}, processor time of all threads"),
                "µs",
                false,
                &cpu,
            ),
        ] {
            let comparison = Comparison::new(&title, unit, more_is_better, WITHOUT, samples)?;
            findings.comparisons.push(comparison);
        }
    }
    if let Some((taken, measured)) = worst {
        findings.bar("bindings-leaves", taken, measured);
    }
    Ok(findings)
}

/// Puts a second, and processor time of a put.
fn measure(run: &Run<'_>, what: &str, of: Keys, keys: u64) -> Result<(Vec<Samples>, Vec<Samples>)> {
    let dirs = [run.place.fresh(), run.place.fresh()];
    let payload = Payload::new(VALUE_BYTES);
    let (mut with, mut without) = (open(&dirs[0], true)?, open(&dirs[1], false)?);
    if let Keys::Old(_) = of {
        for measured in [&mut with, &mut without] {
            fill(&measured.store, &payload, keys)?;
        }
    }
    let turn = |measured: &mut Measured| put_for(measured, &payload, of, run.turn);
    let rates = alternate(
        &format!("put, {what}"),
        run.rounds,
        vec![
            Contender::new(WITH, || Ok(turn(&mut with)?.0)),
            Contender::new(WITHOUT, || Ok(turn(&mut without)?.0)),
        ],
    )?;
    let cpu = alternate(
        &format!("put, {what}, µs of processor time"),
        run.few_rounds(),
        vec![
            Contender::new(WITH, || Ok(turn(&mut with)?.1)),
            Contender::new(WITHOUT, || Ok(turn(&mut without)?.1)),
        ],
    )?;
    drop((with, without));
    for dir in dirs {
        run.place.clear(&dir)?;
    }
    Ok((rates, cpu))
}

fn open(dir: &Path, with_leaves: bool) -> Result<Measured> {
    let options = Options {
        with_leaves,
        ..Options::default()
    };
    Ok(Measured {
        store: Meshlog::create_with(dir, 0, options)?,
        puts: 0,
    })
}

fn fill(store: &Meshlog, payload: &Payload, keys: u64) -> Result<()> {
    let mut flight = store.in_flight(IN_FLIGHT);
    for number in 0..keys {
        flight.put(&key(number), payload.value(number))?;
    }
    flight.finish()
}

/// Puts for so long; puts a second, and microseconds of processor time of each.
fn put_for(
    measured: &mut Measured,
    payload: &Payload,
    keys: Keys,
    time: Duration,
) -> Result<(f64, f64)> {
    let cpu = || cpu_time(std::process::id());
    let (before, began, first) = (cpu()?, Instant::now(), measured.puts);
    let mut flight = measured.store.in_flight(IN_FLIGHT);
    while began.elapsed() < time {
        flight.put(&keys.at(measured.puts), payload.value(measured.puts))?;
        measured.puts += 1;
    }
    flight.finish()?;
    let (took, used) = (began.elapsed(), cpu()? - before);
    let puts = (measured.puts - first) as f64;
    Ok((puts / took.as_secs_f64(), used.as_secs_f64() * 1e6 / puts))
}
