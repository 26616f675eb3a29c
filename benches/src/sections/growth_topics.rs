//! The same work over few topics and over very many: appends, reads, restarts, memory.

use std::path::PathBuf;
use std::time::Instant;

use super::Run;
use super::growth_size::{killed_and_opened, memory_of};
use crate::children::setting;
use crate::growth::{Growth, conclude};
use crate::markdown::figure;
use crate::outcome::Findings;
use crate::payload::{Payload, mix};
use crate::rounds::{Contender, alternate};
use crate::stores::{Meshlog, Store as _};
use crate::work::RECORD_BYTES;
use crate::{Result, say};

const TOPICS: &str = "10,10000,1000000";
const IN_FLIGHT: usize = 256;
/// Records appended in a turn.
const APPENDED: u64 = 100_000;
/// Topics looked up in a turn.
const LOOKED_UP: u64 = 20_000;
/// Bytes that are appended before a store is killed.
const UNFLUSHED_BYTES: u64 = 32 << 20;

/// A store with so many topics.
struct Spread {
    name: String,
    dir: PathBuf,
    topics: usize,
    store: Option<Meshlog>,
    /// Records appended so far, to the topics in turn.
    appended: u64,
}

/// One turn of a kind of work, which returns its figure.
type Turn<'a> = &'a dyn Fn(&mut Spread) -> Result<f64>;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let topics = topics(run)?;
    let records = topics.last().copied().unwrap_or_default() as u64;
    run.place
        .need(topics.len() as u64 * 4 * records * RECORD_BYTES as u64)?;
    let payload = Payload::new(RECORD_BYTES);
    let mut stores = Vec::new();
    let mut making = Vec::new();
    for topics in topics {
        let (store, micros) = Spread::make(run, topics, records, &payload)?;
        making.push(format!(
            "{} µs with {}",
            figure(micros),
            figure(topics as f64)
        ));
        stores.push(store);
    }
    let growths = measure(run, &payload, &mut stores)?;
    for store in stores {
        run.place.clear(&store.leave())?;
    }
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Stores with {records} records of 1 KiB each, one a batch, in few topics or in many. Appends go to the topics in turn, \
         {IN_FLIGHT} of them in flight. A read finds a topic, chosen at random, by its name, and reads its last record; the page \
         cache holds the files. A restart opens a store that was killed (SIGKILL) some {} MiB after it was opened, with the page \
         cache emptied. Memory is `VmRSS` at rest after 20,000 lookups and 32 MiB of appends. Making a topic took {}.",
        UNFLUSHED_BYTES >> 20,
        making.join(", "),
    ));
    conclude(&mut findings, "growth-topics", &growths)?;
    Ok(findings)
}

fn topics(run: &Run<'_>) -> Result<Vec<usize>> {
    let asked: String = setting("MESHLOG_BENCH_GROWTH_TOPICS", TOPICS.to_owned())?;
    let topics = asked.split(',').map(|topics| topics.trim().parse::<u64>());
    let topics: Vec<u64> = topics.collect::<std::result::Result<_, _>>()?;
    if topics.len() < 2 || topics[0] == 0 || !topics.is_sorted_by(|a, b| a < b) {
        let wanted = "two or more ascending numbers, as in 10,10000,1000000";
        return Err(format!("MESHLOG_BENCH_GROWTH_TOPICS={asked} is not {wanted}").into());
    }
    // The smallest stays as it is, also where all is to be quick.
    let sized = |topics: &u64| run.sized(*topics).max(topics.min(&10).to_owned()) as usize;
    Ok(topics.iter().map(sized).collect())
}

fn measure(run: &Run<'_>, payload: &Payload, stores: &mut [Spread]) -> Result<[Growth; 4]> {
    let mut growths = [
        Growth::new("append", "records/s", true),
        Growth::new("read", "µs", false),
        Growth::new("restart", "ms", false),
        Growth::new("memory", "MiB", false),
    ];
    let records = run.sized(APPENDED);
    let append = |store: &mut Spread| store.append(records, payload);
    let turns: [Turn<'_>; 4] = [&append, &Spread::read, &Spread::restart, &Spread::memory];
    for (growth, turn) in growths.iter_mut().zip(turns) {
        let contenders = stores.iter_mut().map(|store| {
            let name = store.name.clone();
            Contender::new(name, move || turn(store))
        });
        growth.add(alternate(
            &growth.title,
            run.few_rounds(),
            contenders.collect(),
        )?);
    }
    Ok(growths)
}

impl Spread {
    /// Makes it, with one record after the other in every topic; returns the microseconds that a topic took, too.
    fn make(
        run: &Run<'_>,
        topics: usize,
        records: u64,
        payload: &Payload,
    ) -> Result<(Spread, f64)> {
        let name = format!("Meshlog, {} topics", figure(topics as f64));
        say(&format!("  making {name}"));
        let (dir, began) = (run.place.fresh(), Instant::now());
        let store = Meshlog::create(&dir, topics)?;
        let micros = began.elapsed().as_secs_f64() * 1e6 / topics as f64;
        let mut made = Spread {
            name,
            dir,
            topics,
            store: Some(store),
            appended: 0,
        };
        made.append(records, payload)?;
        made.close()?;
        Ok((made, micros))
    }

    /// Appends so many records, the next one to the next topic; returns records a second.
    fn append(&mut self, records: u64, payload: &Payload) -> Result<f64> {
        let (topics, from) = (self.topics as u64, self.appended);
        let store = self.open()?;
        let began = Instant::now();
        let mut flight = store.in_flight(IN_FLIGHT);
        for number in from..from + records {
            flight.append((number % topics) as usize, &[payload.value(number)])?;
        }
        flight.finish()?;
        let rate = records as f64 / began.elapsed().as_secs_f64();
        self.appended += records;
        Ok(rate)
    }

    /// Reads the last record of topics chosen at random, twice; returns µs of each of the second time.
    fn read(&mut self) -> Result<f64> {
        let topics = self.topics as u64;
        let store = self.open()?;
        let read = || -> Result<f64> {
            let (began, mut random) = (Instant::now(), 1);
            for _ in 0..LOOKED_UP {
                store.read_last((mix(&mut random) % topics) as usize)?;
            }
            Ok(began.elapsed().as_secs_f64() * 1e6 / LOOKED_UP as f64)
        };
        read()?;
        read()
    }

    fn restart(&mut self) -> Result<f64> {
        self.close()?;
        killed_and_opened(&self.dir, UNFLUSHED_BYTES, self.topics)
    }

    fn memory(&mut self) -> Result<f64> {
        self.close()?;
        memory_of(&self.dir, 1, self.topics)
    }

    fn open(&mut self) -> Result<&mut Meshlog> {
        if self.store.is_none() {
            self.store = Some(Meshlog::open(&self.dir, self.topics)?);
        }
        self.store
            .as_mut()
            .ok_or_else(|| "the store is not open".into())
    }

    fn close(&mut self) -> Result<()> {
        match self.store.take() {
            Some(store) => Box::new(store).close(),
            None => Ok(()),
        }
    }

    fn leave(mut self) -> PathBuf {
        drop(self.store.take());
        self.dir
    }
}
