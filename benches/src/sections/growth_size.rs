//! The same work on a small store and on ever larger ones: appends, reads, point lookups, restarts, memory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Run;
use crate::children::{Child, setting};
use crate::growth::{Growth, conclude};
use crate::outcome::Findings;
use crate::payload::{Payload, mix};
use crate::place::forget_cached;
use crate::process::resident_bytes_at_rest;
use crate::rounds::{Contender, Samples, alternate};
use crate::stores::{Meshlog, Store as _};
use crate::work::RECORD_BYTES;
use crate::{Result, say};

/// GiB of records. The smallest store is kept beside each of the larger ones, which is one that grows.
const GIB: &str = "1,10,40";
/// Left free on the disk when the largest is full.
const MARGIN_BYTES: u64 = 5 << 30;
/// Bytes on the disk for each byte of records at the worst moment: keys, journal, and files that are being merged.
const DISK_FACTOR: f64 = 1.05;
/// The write-ahead log and what else does not grow with the store, of both stores.
const FIXED_BYTES: u64 = 1 << 30;

/// Records of a batch: as many as a busy producer gathers, and few enough that a point lookup is not a read of 256 KiB.
const BATCH: usize = 16;
const IN_FLIGHT: usize = 256;

/// Records appended in a turn, which makes the small store larger by 1/32.
const APPENDED: u64 = 32 << 10;
/// Records read in a turn, from the middle of the store.
const READ: u64 = 256 << 10;
/// Records looked up in a turn, all over the store.
const LOOKED_UP: u64 = 2000;
/// Bytes that are appended before a store is killed.
const UNFLUSHED_BYTES: u64 = 32 << 20;

/// A store that stays, and how many records it has.
struct Grown {
    name: String,
    dir: PathBuf,
    store: Option<Meshlog>,
    records: u64,
}

/// Every kind of work.
struct Works {
    append: Growth,
    read: Growth,
    cold: Growth,
    warm: Growth,
    restart: Growth,
    memory: Growth,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let (sizes, mut notes) = sizes(run)?;
    let payload = Payload::new(RECORD_BYTES);
    let (mut small, mut large) = (Grown::new(run), Grown::new(run));
    small.grow_to(sizes[0], &payload)?;
    let mut works = Works::new();
    for size in &sizes[1..] {
        large.grow_to(*size, &payload)?;
        works.measure(run, &payload, [&mut small, &mut large])?;
    }
    for dir in [small.leave(), large.leave()] {
        run.place.clear(&dir)?;
    }
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "One topic, records of 1 KiB, {BATCH} a batch, {IN_FLIGHT} batches in flight. A store of the smallest size takes turns with one \
         that grows; each ratio is of turns side by side. A read goes through {} MiB in the middle of the store, which the \
         page cache holds; point lookups go all over it, the ones from the disk with page cache and block cache emptied \
         before each turn, the others to {LOOKED_UP} records that were looked up just before. A restart opens a store that was killed \
         (SIGKILL) some {} MiB after it was opened, with the page cache emptied. Memory is `VmRSS` at rest after 20,000 lookups and 32 MiB \
         of appends.",
        (READ * RECORD_BYTES as u64) >> 20,
        UNFLUSHED_BYTES >> 20,
    ));
    findings.notes.append(&mut notes);
    conclude(&mut findings, "growth-size", &works.all())?;
    Ok(findings)
}

/// Records of each size that fits on the disk, and what is to be said of those that do not.
fn sizes(run: &Run<'_>) -> Result<(Vec<u64>, Vec<String>)> {
    const RECORDS_A_GIB: u64 = (1 << 30) / RECORD_BYTES as u64;
    let asked: String = setting("MESHLOG_BENCH_GROWTH_GIB", GIB.to_owned())?;
    let gib = asked.split(',').map(|size| size.trim().parse::<u64>());
    let gib: Vec<u64> = gib.collect::<std::result::Result<_, _>>()?;
    if gib.len() < 2 || gib[0] == 0 || !gib.is_sorted_by(|a, b| a < b) {
        let wanted = "two or more ascending numbers of GiB, as in 1,10,40";
        return Err(format!("MESHLOG_BENCH_GROWTH_GIB={asked} is not {wanted}").into());
    }
    let free = run.place.free_bytes()?;
    let most = largest_gib(free, gib[0]);
    let mut notes = Vec::new();
    let mut fitting: Vec<u64> = gib.iter().copied().filter(|size| *size <= most).collect();
    for size in gib.iter().filter(|size| **size > most) {
        notes.push(format!(
            "{size} GiB did not fit: {} GiB are free, of which {} stay so.",
            free >> 30,
            MARGIN_BYTES >> 30
        ));
    }
    if !notes.is_empty() && fitting.last().is_some_and(|largest| *largest < most) {
        notes.push(format!("{most} GiB were taken instead."));
        fitting.push(most);
    }
    notes.iter().for_each(|note| say(&format!("  {note}")));
    if fitting.len() < 2 {
        return Err(notes.join(" ").into());
    }
    let records = fitting.iter().map(|gib| run.sized(gib * RECORDS_A_GIB));
    let records = records.map(|records| records.next_multiple_of(BATCH as u64));
    Ok((records.collect(), notes))
}

/// The largest store, in GiB, that fits beside one of `smallest` GiB.
fn largest_gib(free: u64, smallest: u64) -> u64 {
    let gib = f64::from(1 << 30);
    let room = free.saturating_sub(MARGIN_BYTES + FIXED_BYTES) as f64 / gib;
    (room / DISK_FACTOR) as u64 - smallest.min((room / DISK_FACTOR) as u64)
}

impl Works {
    fn new() -> Works {
        Works {
            append: Growth::new("append", "records/s", true),
            read: Growth::new("read", "records/s", true),
            cold: Growth::new("point lookup, from the disk", "µs", false),
            warm: Growth::new("point lookup, from memory", "µs", false),
            restart: Growth::new("restart", "ms", false),
            memory: Growth::new("memory", "MiB", false),
        }
    }

    fn measure(
        &mut self,
        run: &Run<'_>,
        payload: &Payload,
        mut stores: [&mut Grown; 2],
    ) -> Result<()> {
        let records = run.sized(APPENDED);
        self.append.add(turns(run, "append", &mut stores, |store| {
            store.append(records, payload)
        })?);
        let records = run.sized(READ);
        self.read.add(turns(run, "read", &mut stores, |store| {
            store.read(records)
        })?);
        self.cold.add(turns(
            run,
            "lookup, disk",
            &mut stores,
            Grown::look_up_cold,
        )?);
        self.warm.add(turns(
            run,
            "lookup, memory",
            &mut stores,
            Grown::look_up_warm,
        )?);
        self.restart
            .add(turns(run, "restart", &mut stores, Grown::restart)?);
        self.memory
            .add(turns(run, "memory", &mut stores, Grown::memory)?);
        Ok(())
    }

    fn all(self) -> [Growth; 6] {
        [
            self.append,
            self.read,
            self.cold,
            self.warm,
            self.restart,
            self.memory,
        ]
    }
}

fn turns(
    run: &Run<'_>,
    title: &str,
    stores: &mut [&mut Grown; 2],
    turn: impl Fn(&mut Grown) -> Result<f64>,
) -> Result<Vec<Samples>> {
    let turn = &turn;
    let contenders = stores.iter_mut().map(|store| {
        let name = store.name.clone();
        Contender::new(name, move || turn(store))
    });
    alternate(title, run.few_rounds(), contenders.collect())
}

impl Grown {
    fn new(run: &Run<'_>) -> Grown {
        Grown {
            name: String::new(),
            dir: run.place.fresh(),
            store: None,
            records: 0,
        }
    }

    /// Fills it up to `records`, and closes it, so that its background work is done.
    fn grow_to(&mut self, records: u64, payload: &Payload) -> Result<()> {
        let bytes = records * RECORD_BYTES as u64;
        self.name = format!("Meshlog, {}", size_text(bytes));
        say(&format!("  filling {}", self.name));
        if !self.dir.exists() {
            self.store = Some(Meshlog::create(&self.dir, 1)?);
        }
        self.append(records.saturating_sub(self.records), payload)?;
        self.close()
    }

    /// Appends so many records; returns records a second.
    fn append(&mut self, records: u64, payload: &Payload) -> Result<f64> {
        let from = self.records;
        let began = Instant::now();
        let mut flight = self.open()?.in_flight(IN_FLIGHT);
        for first in (from..from + records).step_by(BATCH) {
            flight.append(0, &payload.values(first, BATCH))?;
        }
        flight.finish()?;
        let seconds = began.elapsed().as_secs_f64();
        let appended = records.next_multiple_of(BATCH as u64);
        self.records = from + appended;
        Ok(appended as f64 / seconds)
    }

    /// Reads so many records from the middle on, twice; returns records a second of the second time.
    fn read(&mut self, records: u64) -> Result<f64> {
        let first = self.records / 2;
        let until = (first + records).min(self.records);
        let store = self.open()?;
        store.read_range(0, first, until)?;
        let began = Instant::now();
        store.read_range(0, first, until)?;
        Ok((until - first) as f64 / began.elapsed().as_secs_f64())
    }

    /// Looks records up with nothing of them in memory; returns µs of each.
    fn look_up_cold(&mut self) -> Result<f64> {
        self.close()?;
        forget_cached(&self.dir)?;
        self.look_up()
    }

    /// Looks up what was looked up a moment ago; returns µs of each.
    fn look_up_warm(&mut self) -> Result<f64> {
        self.look_up()?;
        self.look_up()
    }

    fn look_up(&mut self) -> Result<f64> {
        let (records, store) = (self.records, self.open()?);
        let (mut random, mut bytes) = (records, 0);
        let began = Instant::now();
        for _ in 0..LOOKED_UP {
            let offset = mix(&mut random) % records;
            store.read(0, offset, &mut |value| bytes += value.len())?;
        }
        std::hint::black_box(bytes);
        Ok(began.elapsed().as_secs_f64() * 1e6 / LOOKED_UP as f64)
    }

    /// Has it killed while it is written to, and opens it; returns the milliseconds of that.
    fn restart(&mut self) -> Result<f64> {
        self.close()?;
        let took = killed_and_opened(&self.dir, UNFLUSHED_BYTES, 1)?;
        // The killed process has appended some more; how much is in the log.
        self.records = self.open()?.next_offset(0)?;
        Ok(took)
    }

    fn memory(&mut self) -> Result<f64> {
        self.close()?;
        let used = memory_of(&self.dir, self.records, 1)?;
        self.records = self.open()?.next_offset(0)?;
        Ok(used)
    }

    fn open(&mut self) -> Result<&mut Meshlog> {
        if self.store.is_none() {
            self.store = Some(Meshlog::open(&self.dir, 1)?);
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

/// Milliseconds of an open after a kill, with nothing of the store in memory.
pub(super) fn killed_and_opened(dir: &Path, bytes: u64, topics: usize) -> Result<f64> {
    let numbers = [bytes.to_string(), topics.to_string()];
    let mut child = Child::start("grow", &[text(dir)?, &numbers[0], &numbers[1]])?;
    child.line()?;
    child.kill()?;
    forget_cached(dir)?;
    let began = Instant::now();
    let store = Meshlog::open(dir, 0)?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    Box::new(store).close()?;
    Ok(took)
}

/// MiB of a process at rest that has read all over the store and appended to it.
pub(super) fn memory_of(dir: &Path, records: u64, topics: usize) -> Result<f64> {
    let numbers = [records.to_string(), topics.to_string()];
    let mut child = Child::start("exercise", &[text(dir)?, &numbers[0], &numbers[1]])?;
    child.line()?;
    let bytes = resident_bytes_at_rest(child.id())?;
    child.finish()?;
    Ok(bytes as f64 / f64::from(1 << 20))
}

fn text(dir: &Path) -> Result<&str> {
    dir.to_str()
        .ok_or_else(|| "the folder's name is not UTF-8".into())
}

fn size_text(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{} GiB", bytes >> 30)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_store_leaves_the_margin() {
        let gib = |number: u64| number << 30;
        assert_eq!(largest_gib(gib(48), 1), 39);
        assert_eq!(largest_gib(gib(60), 1), 50);
        assert_eq!(largest_gib(gib(4), 1), 0);
        let (free, most) = (gib(48), largest_gib(gib(48), 1));
        assert!(
            (most + 1) as f64 * DISK_FACTOR * f64::from(1 << 30) < (free - MARGIN_BYTES) as f64
        );
        assert_eq!(
            [size_text(gib(10)), size_text(gib(1) / 64)],
            ["10 GiB", "16 MiB"]
        );
    }
}
