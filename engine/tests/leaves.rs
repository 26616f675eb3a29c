//! Merkle leaves and their index agree with the bindings after any crash: they are made of rows that say what changed,
//! pages of sums and index rows, which are written at different times.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use mesh_engine::{BindingWrite, Engine, OnDamage, Options};
use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafSum, MERKLE_LEAVES, binding_digest, leaf_of};
use mesh_ring::name::BindingKey;
use support::damage::{data_bytes, files, flip, scrub};
use support::*;

const PARTITIONS: u16 = 8;
const KEYS: u64 = 4_000;

fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("key {n}").as_bytes()).unwrap()
}

fn options(bench: &Bench) -> Options {
    Options {
        // Small, so that families are written out at different times, and the log is begun anew often.
        write_buffer_bytes: 256 << 10,
        // No marker within the test: each round knows what the log was when it was acknowledged.
        marker_after: std::time::Duration::from_secs(600),
        ..bench.options()
    }
}

/// Some writes and deletes that may share a group.
fn burst(engine: &Engine, dice: &mut impl FnMut(u64) -> u64) {
    // Digests of large groups are made beside the writer.
    let count = match dice(12) {
        0 => 80 + dice(120),
        _ => 1 + dice(12),
    };
    let (sender, done) = sync_channel(count as usize);
    for _ in 0..count {
        let n = dice(KEYS);
        let value = (dice(6) > 0).then(|| noise(n, 20 + dice(60) as usize).into());
        let write = BindingWrite {
            key: key(n),
            value,
            context: None,
            expires_ms: None,
        };
        let sender = sender.clone();
        engine.submit_write(write, move |result| sender.send(result).unwrap());
    }
    (0..count).for_each(|_| drop(done.recv().unwrap().unwrap()));
}

/// Removes what is a tombstone of some keys.
fn collect(engine: &Engine, dice: &mut impl FnMut(u64) -> u64) {
    let n = dice(KEYS);
    for n in n..n + 40 {
        let name = key(n);
        let Some(encoded) = engine.binding_encoded(&name).unwrap() else {
            continue;
        };
        if !Binding::decode(&encoded).unwrap().is_collectable() {
            continue;
        }
        let (sender, done) = sync_channel(1);
        let gone = vec![(
            name.as_bytes().to_vec(),
            binding_digest(name.as_bytes(), &encoded),
        )];
        engine.submit_collect(engine.partition_of(name.as_bytes()), gone, move |result| {
            sender.send(result).unwrap()
        });
        assert_eq!(done.recv().unwrap().unwrap(), 1);
    }
}

fn assert_leaves_agree(engine: &Engine, place: &str) -> usize {
    let bindings = assert_sums_agree(engine, place);
    assert_eq!(scrub(engine).damages, [], "{place}");
    bindings
}

fn assert_sums_agree(engine: &Engine, place: &str) -> usize {
    let mut bindings = 0;
    for partition in (0..PARTITIONS).map(PartitionId) {
        let mut sums = Box::new([LeafSum::ZERO; MERKLE_LEAVES as usize]);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = engine.bindings_page(partition, b"", after.as_deref(), 1 << 16);
            let page = page.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.to_vec());
            for (name, binding) in page {
                let (leaf, digest) = (leaf_of(&name), binding_digest(&name, &binding.encode()));
                let sum = &mut sums[usize::from(leaf.0)];
                *sum = sum.add(digest);
                let under = engine.leaf_bindings(partition, leaf, None, 1_000).unwrap();
                let found = under.iter().filter(|found| found.key == *name);
                let digests: Vec<_> = found.map(|found| found.digest).collect();
                assert_eq!(digests, [Some(digest)], "{place}: {name:?}");
                bindings += 1;
            }
        }
        assert!(
            sums == engine.leaf_sums(partition).unwrap(),
            "{place}: leaves of partition {partition}"
        );
    }
    bindings
}

/// Cuts what lies behind `safe_bytes` of `written` somewhere, or garbles it.
fn lose(log: &Path, safe_bytes: u64, written: u64, round: u64) {
    let mut file = OpenOptions::new().write(true).open(log).unwrap();
    let beyond = written.saturating_sub(safe_bytes);
    match (beyond, round % 3) {
        (0, _) | (_, 0) => {}
        (_, 1) => file.set_len(safe_bytes + round * 13 % beyond).unwrap(),
        _ => {
            file.seek(SeekFrom::Start(safe_bytes)).unwrap();
            file.write_all(&noise(round, beyond as usize)).unwrap();
        }
    }
}

fn dice() -> impl FnMut(u64) -> u64 {
    let seed: u64 = std::env::var("MESHLOG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    eprintln!("seed {seed}");
    let mut state = seed;
    move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn leaves_agree_with_bindings_after_every_power_loss() {
    let mut dice = dice();
    let bench = Bench::new();
    let mut data = bench.data();
    let mut engine = Engine::open(&data, options(&bench)).unwrap();
    let mut most = 0;
    for round in 0..24 {
        // More rows of changes in all than are removed at once, several times over.
        for _ in 0..200 {
            match dice(100) {
                0..=2 => collect(&engine, &mut dice),
                3 if dice(20) == 0 => {
                    let partition = PartitionId(dice(PARTITIONS.into()) as u16);
                    engine.wipe_bindings(partition).unwrap();
                }
                _ => burst(&engine, &mut dice),
            }
        }
        let log = newest_log(&data);
        let safe_bytes = written_bytes(&log);
        burst(&engine, &mut dice);
        let copy = bench.crashed_copy_of(&data, &format!("round{round}"));
        let copied_log = copy.join("db").join(log.file_name().unwrap());
        // Where a new log was begun, the old one is whole.
        if newest_log(&copy) == copied_log {
            let written = written_bytes(&copied_log);
            lose(&copied_log, safe_bytes, written, round);
        }
        let reopened = Engine::open(&copy, options(&bench)).unwrap();
        most = most.max(assert_leaves_agree(
            &reopened,
            &format!("round {round}, reopened"),
        ));
        if dice(2) == 0 {
            // What the crash left is gone on with, now and then after a clean stop.
            drop(reopened);
            drop(engine);
            data = copy;
            engine = Engine::open(&data, options(&bench)).unwrap();
            assert_leaves_agree(&engine, &format!("round {round}, stopped"));
        } else if dice(2) == 0 {
            drop(engine);
            (data, engine) = (copy, reopened);
        } else {
            drop(reopened);
            std::fs::remove_dir_all(copy).unwrap();
        }
    }
    assert!(most > 2_000, "only {most} bindings");
    assert_leaves_agree(&engine, "at the end");
}

#[test]
fn a_wipe_that_is_the_first_after_a_crash_keeps_what_waits_of_other_partitions() {
    let mut dice = dice();
    let bench = Bench::new();
    let engine = bench.open_engine();
    (0..60).for_each(|_| burst(&engine, &mut dice));
    let data = bench.crashed_copy("crashed");
    let engine = bench.open_engine_at(&data);
    engine.wipe_bindings(PartitionId(3)).unwrap();
    assert!(assert_leaves_agree(&engine, "wiped") > 100);
    burst(&engine, &mut dice);
    let again = bench.crashed_copy_of(&data, "again");
    assert!(assert_leaves_agree(&bench.open_engine_at(&again), "crashed again") > 100);
}

#[test]
fn leaves_agree_with_what_is_left_of_a_log_that_was_cut() {
    let mut dice = dice();
    let bench = Bench::new();
    let data = bench.data();
    let engine = Engine::open(&data, options(&bench)).unwrap();
    for round in 0..6 {
        (0..400).for_each(|_| burst(&engine, &mut dice));
        let copy = bench.crashed_copy(&format!("cut{round}"));
        // Old enough that some families have what follows in files, and others do not.
        let log = files(&copy, "log").remove(0);
        flip(&log, written_bytes(&log) as usize / 4);
        let suspecting = Options {
            on_damage: OnDamage::Suspect,
            ..options(&bench)
        };
        let reopened = Engine::open(&copy, suspecting).unwrap();
        assert!(reopened.found_damage().is_some());
        assert!(assert_leaves_agree(&reopened, &format!("round {round}")) > 0);
        burst(&reopened, &mut dice);
        drop(reopened);
        let again = Engine::open(&copy, options(&bench)).unwrap();
        assert_leaves_agree(&again, &format!("round {round}, again"));
    }
}

#[test]
fn writes_go_on_where_what_changed_before_a_crash_cannot_be_read() {
    let mut dice = dice();
    let bench = Bench::new();
    let engine = bench.open_engine();
    (0..60).for_each(|_| burst(&engine, &mut dice));
    let crashed = bench.crashed_copy("crashed");
    // An opening writes out what the log has.
    let recovered = bench.open_engine_at(&crashed);
    let data = bench.crashed_copy_of(&crashed, "recovered");
    drop(recovered);
    let tables = files(&data, "sst");
    let of_leaves = tables.iter().filter(|file| {
        let bytes = std::fs::read(file).unwrap();
        let properties = bytes.windows(8).position(|at| at == b"rocksdb.");
        let mut words = bytes[properties.unwrap()..].windows(6);
        words.any(|word| word == b"merkle")
    });
    let of_leaves: Vec<_> = of_leaves.collect();
    assert_eq!(of_leaves.len(), 1);
    flip(of_leaves[0], data_bytes(of_leaves[0]));
    let reopened = bench.open_engine_at(&data);
    assert!(assert_sums_agree(&reopened, "reopened") > 100);
    burst(&reopened, &mut dice);
    reopened.wipe_bindings(PartitionId(3)).unwrap();
    let again = bench.crashed_copy_of(&data, "again");
    for engine in [reopened, bench.open_engine_at(&again)] {
        assert!(assert_sums_agree(&engine, "written to, and crashed") > 100);
    }
}
