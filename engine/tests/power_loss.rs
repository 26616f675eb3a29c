//! Power loss, by the method that kill -9 cannot stand in for: what lies beyond the log's length at the last
//! acknowledgement is cut or garbled, and everything acknowledged must be there. And damage *within* that length.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_engine::{Append, OpenError, Options, Solo, salvage};
use mesh_ring::ids::TopicKey;
use support::*;

/// The newest write-ahead log file and its length.
fn newest_log(data: &Path) -> (PathBuf, u64) {
    let log = support::newest_log(data);
    let bytes = written_bytes(&log);
    (log, bytes)
}

/// A small generator, so that a failing round can be run again from its number.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn a_power_loss_takes_nothing_that_was_acknowledged() {
    let rounds: u64 = std::env::var("MESHLOG_CRASH_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(60);
    let bench = Bench::new();
    let engine = open_late_marked(&bench);
    let topic = create(&engine, "t");
    let mut acknowledged: u64 = 0;
    let mut round = 0;
    while round < rounds {
        let mut random = Random(round + 1);
        // Half of the rounds lose power while the last acknowledged write has no marker behind it yet.
        let marked = round % 2 == 0;
        let mut began = Instant::now();
        for _ in 0..=random.below(4) {
            began = Instant::now();
            let (count, bytes) = (
                1 + random.below(20) as usize,
                1 + random.below(9_000) as usize,
            );
            let batch = noise_batch(round, count, bytes);
            acknowledged = engine
                .append(Append {
                    topic,
                    batch,
                    expected: None,
                })
                .unwrap()
                .last
                + 1;
        }
        let (log, mut safe_bytes) = newest_log(&bench.data());
        if marked {
            (safe_bytes, acknowledged) = append_and_await_marker(&bench, &engine, topic);
        }
        // The write that the power loss interrupts: complete in the copy, but never acknowledged.
        let batch = noise_batch(
            round + 7,
            1 + random.below(40) as usize,
            1 + random.below(5_000) as usize,
        );
        let submitted = Instant::now();
        let interrupted = engine
            .append(Append {
                topic,
                batch,
                expected: None,
            })
            .unwrap();
        let whole_bytes = newest_log(&bench.data()).1;
        let quiet_since = if marked { submitted } else { began };
        if quiet_since.elapsed() >= UNMARKED {
            // A marker may have come in between, which a power loss would not have let happen: take the round again.
            acknowledged = interrupted.last + 1;
            continue;
        }
        let data = bench.crashed_copy(&format!("round{round}"));
        let log = data.join("db").join(log.file_name().unwrap());
        lose_power(&log, safe_bytes, whole_bytes, &mut random);

        let reopened = bench.open_at(&data);
        let records = read_all(&reopened, topic, 0).len() as u64;
        assert!(
            records == acknowledged || records == interrupted.last + 1,
            "round {round}: {records} records, {acknowledged} acknowledged"
        );
        assert_eq!(
            append(&reopened, topic, &["on"]).unwrap().first,
            records,
            "round {round}"
        );
        drop(reopened);
        fs::remove_dir_all(data).unwrap();
        acknowledged = interrupted.last + 1;
        round += 1;
    }
}

/// The writer's time to its marker in these tests: long enough for two writes on a slow disk.
const MARKER_AFTER: Duration = Duration::from_millis(100);

/// Within this time after a write was begun, no marker is behind it yet.
const UNMARKED: Duration = Duration::from_millis(90);

/// A new store whose marker comes late.
fn open_late_marked(bench: &Bench) -> Solo {
    let options = Options {
        marker_after: MARKER_AFTER,
        ..bench.options()
    };
    Solo::open(bench.data(), options).unwrap()
}

/// Appends one record and waits until the marker is behind it. Returns the log's length and the topic's next offset then.
fn append_and_await_marker(bench: &Bench, engine: &Solo, topic: TopicKey) -> (u64, u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "no append was quick enough");
        let began = Instant::now();
        let next = append(engine, topic, &["m"]).unwrap().last + 1;
        let unmarked = newest_log(&bench.data()).1;
        if began.elapsed() >= UNMARKED {
            // The marker may be in that length already.
            continue;
        }
        loop {
            let marked = newest_log(&bench.data()).1;
            if marked > unmarked {
                return (marked, next);
            }
            assert!(Instant::now() < deadline, "no marker came");
            std::thread::yield_now();
        }
    }
}

/// Cuts or garbles what lies beyond `safe_bytes` and before `whole_bytes`.
fn lose_power(log: &Path, safe_bytes: u64, whole_bytes: u64, random: &mut Random) {
    let mut file = OpenOptions::new().write(true).open(log).unwrap();
    let long_bytes = file.metadata().unwrap().len();
    let beyond = whole_bytes - safe_bytes;
    assert!(beyond > 0 && long_bytes >= whole_bytes);
    // Not every file system has made the file longer ahead of the write, and kept that.
    let is_longer = random.below(2) == 0;
    if !is_longer {
        file.set_len(whole_bytes).unwrap();
    }
    match random.below(4) {
        0 => {
            file.set_len(safe_bytes + random.below(beyond)).unwrap();
            if is_longer {
                file.set_len(long_bytes).unwrap();
            }
        }
        1 => {
            // A lost sector in the middle of the write.
            let at = random.below(beyond);
            file.seek(SeekFrom::Start(safe_bytes + at)).unwrap();
            file.write_all(&vec![0; 512.min((beyond - at) as usize)])
                .unwrap();
        }
        2 => {
            let at = random.below(beyond);
            file.seek(SeekFrom::Start(safe_bytes + at)).unwrap();
            file.write_all(&noise(random.below(1 << 30), (beyond - at) as usize))
                .unwrap();
        }
        _ => {
            file.seek(SeekFrom::Start(safe_bytes)).unwrap();
            file.write_all(&noise(random.below(1 << 30), beyond as usize))
                .unwrap();
            file.write_all(&noise(3, random.below(70_000) as usize))
                .unwrap();
        }
    }
}

fn flip(file: &Path, at: u64) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// A store with `count` acknowledged appends in its log, and the log's length after each.
fn logged(count: usize) -> (Bench, Solo, TopicKey, Vec<u64>) {
    let bench = Bench::new();
    let engine = open_late_marked(&bench);
    let topic = create(&engine, "t");
    let lengths = (0..count)
        .map(|n| {
            engine
                .append(Append {
                    topic,
                    batch: noise_batch(n as u64, 2, 700),
                    expected: None,
                })
                .unwrap();
            newest_log(&bench.data()).1
        })
        .collect();
    (bench, engine, topic, lengths)
}

#[test]
fn a_flipped_byte_in_the_middle_of_the_log_stops_the_start_and_salvage_accepts_the_loss() {
    let (bench, _engine, topic, lengths) = logged(40);
    let log_name = newest_log(&bench.data()).0.file_name().unwrap().to_owned();
    for kept in [3_usize, 20, 38] {
        let data = bench.crashed_copy(&format!("flip{kept}"));
        flip(&data.join("db").join(&log_name), lengths[kept - 1] + 40);
        let error = Solo::open(&data, bench.options()).err().unwrap();
        assert!(matches!(error, OpenError::WalDamaged { .. }), "{error}");
        assert!(error.to_string().contains("meshctl salvage"), "{error}");

        let looked = salvage(&data, false).unwrap();
        assert!(
            looked.damaged.is_some() && looked.kept.is_empty() && looked.lost_bytes > 0,
            "{looked:?}"
        );
        assert!(
            Solo::open(&data, bench.options()).is_err(),
            "a look changes nothing"
        );

        let report = salvage(&data, true).unwrap();
        assert_eq!(
            (report.lost_bytes, report.kept.len()),
            (looked.lost_bytes, 1)
        );
        let engine = bench.open_at(&data);
        assert_eq!(read_all(&engine, topic, 0).len(), kept * 2);
        append(&engine, topic, &["on"]).unwrap();
        drop(engine);
        assert_eq!(salvage(&data, false).unwrap().damaged, None);
        assert_eq!(
            salvage(&data, true).unwrap().kept,
            [""; 0].map(PathBuf::from),
            "once more does no harm"
        );
        assert_eq!(
            read_all(&bench.open_at(&data), topic, 0).len(),
            kept * 2 + 1
        );
    }
}

#[test]
fn damage_to_the_last_acknowledged_write_is_told_apart_from_a_torn_one_once_the_writer_was_idle() {
    let (bench, engine, topic, lengths) = logged(5);
    append_and_await_marker(&bench, &engine, topic);
    let data = bench.crashed_copy("flip");
    let log = data
        .join("db")
        .join(newest_log(&bench.data()).0.file_name().unwrap());
    // The write behind the fifth: no more than the marker need follow it.
    flip(&log, lengths[4] + 30);
    assert!(matches!(
        Solo::open(&data, bench.options()),
        Err(OpenError::WalDamaged { .. })
    ));
    assert!(read_all(&engine, topic, 0).len() > 10);
}
