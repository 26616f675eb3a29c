//! The disk: retention by age and bytes, space that comes back, the reserve, and a write that fails.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use mesh_engine::{Append, AppendError, Options, Solo, TopicConfig, prepare};
use mesh_ring::ids::TopicKey;
use support::*;

const MIB: u64 = 1 << 20;

fn fill(engine: &Solo, topic: TopicKey, seed: u64, batches: u64) {
    for n in 0..batches {
        let batch = noise_batch(seed + n, 32, 1 << 10);
        engine
            .append(Append {
                topic,
                batch,
                expected: None,
            })
            .unwrap();
    }
}

fn disk_bytes(path: &Path) -> u64 {
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            // A file may go while compaction runs.
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
                Ok(meta) => meta.len(),
                Err(_) => 0,
            }
        })
        .sum()
}

#[test]
fn retention_by_age_and_by_bytes_keeps_what_the_limits_allow() {
    let bench = Bench::new();
    let engine = bench.open();
    let aged = create_with(
        &engine,
        "aged",
        TopicConfig {
            retention_age_ms: Some(10_000),
            retention_bytes: None,
        },
    );
    let sized = create_with(
        &engine,
        "sized",
        TopicConfig {
            retention_age_ms: None,
            retention_bytes: Some(4_000),
        },
    );
    let eternal = create(&engine, "eternal");
    for _ in 0..20 {
        for topic in [aged, sized, eternal] {
            engine
                .append(Append {
                    topic,
                    batch: noise_batch(1, 1, 1_000),
                    expected: None,
                })
                .unwrap();
        }
        bench.advance(1_000);
    }
    assert_eq!(engine.keep_house().unwrap().trimmed, 2);
    assert_eq!(engine.describe(aged).unwrap().first, 10);
    let extent = engine.describe(sized).unwrap();
    assert!(extent.bytes <= 4_000 && extent.first == 17, "{extent:?}");
    assert_eq!(engine.describe(eternal).unwrap().first, 0);
    assert_eq!(
        engine.keep_house().unwrap().trimmed,
        0,
        "a second pass finds nothing"
    );
    bench.advance(100_000);
    engine.keep_house().unwrap();
    let extent = engine.describe(aged).unwrap();
    assert_eq!((extent.first, extent.next, extent.bytes), (20, 20, 0));
}

#[test]
fn disk_space_comes_back_though_an_eternal_topic_lies_among_expiring_ones() {
    let bench = Bench::new();
    let options = Options {
        write_buffer_bytes: 4 << 20,
        ..bench.options()
    };
    let engine = Solo::open(bench.data(), options).unwrap();
    let config = TopicConfig {
        retention_age_ms: Some(60_000),
        retention_bytes: None,
    };
    let expiring: Vec<_> = (0..15)
        .map(|n| create_with(&engine, &format!("e{n}"), config))
        .collect();
    let eternal = create(&engine, "eternal");
    for round in 0..12 {
        for (n, topic) in expiring.iter().chain([&eternal]).enumerate() {
            fill(&engine, *topic, round * 100 + n as u64, 20);
        }
    }
    let full = disk_bytes(&bench.data());
    assert!(full > 120 * MIB, "{full}");
    bench.advance(100_000);
    assert_eq!(engine.keep_house().unwrap().trimmed, 15);
    let reclaimed = engine.reclaim(false);
    assert!(reclaimed.moved, "{reclaimed:?}");
    // 7.5 MiB live; the write-ahead log and files not yet deleted are the rest.
    let left = disk_bytes(&bench.data());
    assert!(left < 40 * MIB, "{} of {} MiB left", left / MIB, full / MIB);
    assert_eq!(
        read_all(&engine, eternal, 0).len(),
        12 * 20 * 32,
        "what is kept is whole"
    );
    assert_eq!(engine.scrub(&mut |_| ControlFlow::Continue(())).damages, []);
    for topic in expiring {
        assert_eq!(
            append(&engine, topic, &["on"]).unwrap().first,
            12 * 20 * 32,
            "offsets go on"
        );
    }
}

#[test]
fn a_restart_forgets_no_garbage() {
    let bench = Bench::new();
    let options = Options {
        write_buffer_bytes: 4 << 20,
        ..bench.options()
    };
    let engine = Solo::open(bench.data(), options.clone()).unwrap();
    let (deleted, trimmed) = (create(&engine, "deleted"), create(&engine, "trimmed"));
    fill(&engine, deleted, 1, 1_000);
    fill(&engine, trimmed, 2, 1_000);
    engine.delete_topic(deleted).unwrap();
    engine.trim(trimmed, 1_000 * 32).unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = Solo::open(bench.data(), options).unwrap();
    engine.reclaim(false);
    let left = disk_bytes(&bench.data());
    assert!(left < 12 * MIB, "{} MiB left", left / MIB);
}

#[test]
fn a_clock_that_jumps_ahead_ends_nothing_that_is_not_old() {
    let bench = Bench::new();
    let engine = bench.open();
    let config = TopicConfig {
        retention_age_ms: Some(30 * 24 * 3_600_000),
        retention_bytes: None,
    };
    let topic = create_with(&engine, "t", config);
    let first = Append {
        topic,
        batch: batch(&["once"], stamp(1, 0, 0)),
        expected: None,
    };
    engine.append(first.clone()).unwrap();
    engine.keep_house().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = bench.open();
    let jump = 40 * 24 * 3_600_000;
    bench
        .clock
        .fetch_add(jump, std::sync::atomic::Ordering::Relaxed);
    bench
        .steady
        .fetch_add(5_000, std::sync::atomic::Ordering::Relaxed);
    let done = engine.keep_house().unwrap();
    assert_eq!((done.trimmed, done.producers), (0, 0));
    bench
        .clock
        .fetch_sub(jump, std::sync::atomic::Ordering::Relaxed);
    engine.keep_house().unwrap();
    assert_eq!(values(&engine, topic), ["once"]);
    assert!(
        engine.append(first).unwrap().duplicate,
        "the window is there still"
    );
}

#[test]
fn records_of_a_time_when_the_clock_was_behind_are_not_old_once_it_is_right() {
    let bench = Bench::new();
    let engine = bench.open();
    engine.keep_house().unwrap();
    drop(engine);
    let behind = 40 * 24 * 3_600_000;
    bench
        .clock
        .fetch_sub(behind, std::sync::atomic::Ordering::Relaxed);
    let engine = bench.open();
    let config = TopicConfig {
        retention_age_ms: Some(24 * 3_600_000),
        retention_bytes: None,
    };
    let topic = create_with(&engine, "t", config);
    append(&engine, topic, &["fresh"]).unwrap();
    engine.keep_house().unwrap();
    bench
        .clock
        .fetch_add(behind, std::sync::atomic::Ordering::Relaxed);
    bench.advance(1_000);
    let done = engine.keep_house().unwrap();
    assert_eq!((done.trimmed, done.producers), (0, 0));
    assert_eq!(values(&engine, topic), ["fresh"]);
}

#[test]
fn a_deleted_topic_gives_its_space_back() {
    let bench = Bench::new();
    let options = Options {
        write_buffer_bytes: 4 << 20,
        ..bench.options()
    };
    let engine = Solo::open(bench.data(), options).unwrap();
    let topic = create(&engine, "t");
    fill(&engine, topic, 1, 1_000);
    assert!(disk_bytes(&bench.data()) > 30 * MIB);
    engine.delete_topic(topic).unwrap();
    engine.reclaim(false);
    let left = disk_bytes(&bench.data());
    assert!(left < 12 * MIB, "{} MiB left", left / MIB);
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if mounted {
            return Some(SmallDisk(dir));
        }
        eprintln!("skipped: mounting a small tmpfs needs root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn at_the_reserve_appends_are_refused_reads_go_on_and_a_trim_brings_appends_back() {
    let Some(disk) = SmallDisk::mount(96) else {
        return;
    };
    let data = disk.0.path().join("data");
    prepare(&data, &identity()).unwrap();
    let options = Options {
        reserve_bytes: 32 * MIB,
        write_buffer_bytes: 2 << 20,
        ..Options::default()
    };
    let engine = Solo::open(&data, options).unwrap();
    let topic = create(&engine, "t");
    let mut acknowledged = 0;
    let refusal = loop {
        match engine.append(Append {
            topic,
            batch: noise_batch(acknowledged, 64, 1 << 10),
            expected: None,
        }) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the disk never filled");
    };
    assert!(
        matches!(refusal, AppendError::DiskFull { reserve, .. } if reserve == 32 * MIB),
        "{refusal}"
    );
    assert_eq!(engine.stopped(), None);
    assert_eq!(read_all(&engine, topic, 0).len() as u64, acknowledged * 64);
    engine.trim(topic, acknowledged * 64).unwrap();
    engine.reclaim(true);
    let appended = append(&engine, topic, &["again"]).unwrap();
    assert_eq!(appended.first, acknowledged * 64);
}

#[test]
fn a_write_that_fails_stops_the_store_with_the_reason_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount(24) else {
        return;
    };
    let data = disk.0.path().join("data");
    prepare(&data, &identity()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let options = Options {
        reserve_bytes: 0,
        on_stopped: Some(Arc::new(move |cause: &str| {
            listener.lock().unwrap().push(cause.to_owned())
        })),
        ..Options::default()
    };
    let engine = Solo::open(&data, options.clone()).unwrap();
    let topic = create(&engine, "t");
    let mut acknowledged = 0;
    let refusal = loop {
        match engine.append(Append {
            topic,
            batch: noise_batch(acknowledged, 64, 1 << 10),
            expected: None,
        }) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    let AppendError::Stopped(stopped) = refusal else {
        panic!("{refusal}")
    };
    assert!(stopped.cause.contains("No space left"), "{}", stopped.cause);
    assert_eq!(
        told.lock().unwrap().as_slice(),
        std::slice::from_ref(&stopped.cause),
        "told once"
    );
    assert!(
        matches!(append(&engine, topic, &["x"]), Err(AppendError::Stopped(_))),
        "never retried"
    );
    assert_eq!(
        read_all(&engine, topic, 0).len() as u64,
        acknowledged * 64,
        "reads go on"
    );
    drop(engine);

    // On a disk with room, everything acknowledged is there.
    let roomy = tempfile::tempdir().unwrap();
    copy_dir(&data, &roomy.path().join("data"));
    let engine = Solo::open(
        roomy.path().join("data"),
        Options {
            on_stopped: None,
            ..options
        },
    )
    .unwrap();
    let records = read_all(&engine, topic, 0).len() as u64;
    assert!(
        records == acknowledged * 64 || records == (acknowledged + 1) * 64,
        "{records} of {acknowledged} batches"
    );
}
