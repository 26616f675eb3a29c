//! A store that lost what it had acknowledged: it opens where there are other copies, and none of its replicas is trusted
//! until a leader has caught it up.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mesh_engine::{
    Engine, JournalEntry, OnDamage, OpenError, Options, Persist, ReadRows, Remains, RowChange,
    damage_is_noted, salvage,
};
use mesh_ring::ids::{Epoch, Index, PartitionId};
use support::journal::*;
use support::*;

fn suspecting(bench: &Bench) -> Options {
    Options {
        on_damage: OnDamage::Suspect,
        ..bench.options()
    }
}

/// A row that is named and filled with this byte.
fn put_row(engine: &Engine, row: u8) {
    let (done, written) = std::sync::mpsc::sync_channel(1);
    let put = RowChange::Put {
        key: vec![row],
        value: vec![row; 300],
    };
    engine.submit_rows(vec![put], move |outcome| done.send(outcome).unwrap());
    written.recv().unwrap().unwrap();
}

/// The database's own files, but for what it writes for people.
fn files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(data.join("db")).unwrap();
    let files = files.map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, fs::read(file.path()).unwrap())
    });
    files.filter(|(name, _)| !name.starts_with("LOG")).collect()
}

/// A store with a topic of which the write at `damaged` was acknowledged, and is flipped in the log.
fn damaged(bench: &Bench) -> (std::path::PathBuf, Scribe, End) {
    let engine = bench.open_engine();
    let (mut scribe, mut end) = begun(&engine, "t");
    for row in 0..3 {
        put_row(&engine, row);
    }
    let log = newest_log(&bench.data());
    let flipped = written_bytes(&log) + 50;
    for _ in 0..5 {
        let entry = scribe.append(&mut end, &["x", "y"]);
        write(&engine, scribe.partition, vec![entry]);
    }
    let promise = Persist {
        promise: Some(Epoch(30)),
        ..Persist::entries(PartitionId(7), Vec::<JournalEntry>::new())
    };
    persist(&engine, promise);
    let data = bench.crashed_copy("damaged");
    let log = data.join("db").join(log.file_name().unwrap());
    let mut bytes = fs::read(&log).unwrap();
    bytes[flipped as usize] ^= 1;
    fs::write(&log, bytes).unwrap();
    (data, scribe, end)
}

fn suspects(engine: &Engine) -> Vec<bool> {
    (0..8)
        .map(|partition| engine.replica(PartitionId(partition)).unwrap().suspect)
        .collect()
}

#[test]
fn damage_makes_every_replica_suspect_and_keeps_what_is_lost_beside() {
    let bench = Bench::new();
    let (data, scribe, end) = damaged(&bench);
    let refused = Engine::open(&data, bench.options()).err().unwrap();
    assert!(matches!(refused, OpenError::WalDamaged { .. }), "{refused}");
    assert_eq!(beside(&data), 0);

    let engine = Engine::open(&data, suspecting(&bench)).unwrap();
    let found = engine.found_damage().unwrap().to_owned();
    assert!(found.contains("damaged at byte"), "{found}");
    assert_eq!(beside(&data), 1);
    assert_eq!(suspects(&engine), [true; 8]);
    let replica = engine.replica(scribe.partition).unwrap();
    assert_eq!(replica.last.index, Index(4), "the rest is lost");
    assert_eq!(engine.replica(PartitionId(7)).unwrap().promised, Epoch(0));
    assert_eq!(values(&engine, end.topic), ["a", "b", "c"]);
    drop(engine);
    let engine = Engine::open(&data, bench.options()).unwrap();
    let again = engine.found_damage().unwrap();
    assert_eq!(again, found, "nobody has said that it is noted");
    damage_is_noted(&data).unwrap();
    drop(engine);

    // A leader catches one up; the others stay as they are, also in later runs.
    let engine = Engine::open(&data, suspecting(&bench)).unwrap();
    assert_eq!(engine.found_damage(), None, "the damage is known by now");
    assert_eq!(suspects(&engine), [true; 8]);
    let cleared = Persist {
        suspect: Some(false),
        ..Persist::entries(PartitionId(2), vec![])
    };
    persist(&engine, cleared);
    drop(engine);
    let engine = Engine::open(&data, bench.options()).unwrap();
    let mut expected = [true; 8];
    expected[2] = false;
    assert_eq!(suspects(&engine), expected);
}

#[test]
fn a_crash_between_the_cut_and_the_mark_forgets_nothing() {
    let bench = Bench::new();
    let (data, ..) = damaged(&bench);
    // The salvage cuts and dies before any store is opened: what an operator does by hand.
    assert_eq!(salvage(&data, true).unwrap().kept.len(), 1);
    let engine = Engine::open(&data, bench.options()).unwrap();
    assert!(engine.found_damage().is_some());
    assert_eq!(suspects(&engine), [true; 8]);
    drop(engine);
    damage_is_noted(&data).unwrap();
    assert_eq!(bench.open_engine_at(&data).found_damage(), None);
}

#[test]
fn what_is_left_can_be_read_before_anybody_decides_and_stays_as_it_is() {
    let bench = Bench::new();
    // The second damage is to a log of which the manifest knows.
    let (salvaged, ..) = damaged(&bench);
    salvage(&salvaged, true).unwrap();
    let engine = Engine::open(&salvaged, bench.options()).unwrap();
    for row in 20..23 {
        put_row(&engine, row);
    }
    let data = bench.dir.path().join("damaged again");
    copy_dir(&salvaged, &data);
    drop(engine);
    let log = newest_log(&data);
    let mut bytes = fs::read(&log).unwrap();
    let row = bytes.windows(300).position(|window| window == [21; 300]);
    bytes[row.unwrap()] ^= 1;
    fs::write(&log, bytes).unwrap();
    let before = files(&data);
    let remains = Remains::open(&data).unwrap();
    assert_eq!(remains.identity().unwrap().name, "n1");
    assert_eq!(remains.founding().unwrap(), None);
    let rows = remains.rows(&[], &[], 10).unwrap();
    let keys: Vec<u8> = rows.iter().map(|(key, _)| key[0]).collect();
    assert!(keys.starts_with(&[0, 1, 2, 20]), "{keys:?}");
    assert!(!keys.contains(&21), "{keys:?}");
    assert_eq!(remains.row(&[1]).unwrap().unwrap(), &[1; 300][..]);
    assert!(Remains::open(&data).is_err(), "it is locked");
    drop(remains);
    assert_eq!(files(&data), before);
    let refused = Engine::open(&data, bench.options()).err().unwrap();
    assert!(matches!(refused, OpenError::WalDamaged { .. }), "{refused}");
}

#[test]
fn the_boot_count_outlives_the_log() {
    let bench = Bench::new();
    let (data, ..) = damaged(&bench);
    let engine = Engine::open(&data, suspecting(&bench)).unwrap();
    let count = engine.boot();
    drop(engine);
    let copy = bench.dir.path().join("logless");
    let engine = bench.open_engine_at(&data);
    write(
        &engine,
        PartitionId(1),
        vec![JournalEntry {
            index: Index(1),
            epoch: Epoch(1),
            command: mesh_engine::Command::Barrier,
            batch: None,
        }],
    );
    copy_dir(&data, &copy);
    // All that the last run wrote to its log is garbage.
    let log = newest_log(&copy);
    let bytes = written_bytes(&log);
    assert!(bytes > 0);
    fs::write(&log, noise(1, bytes as usize)).unwrap();
    let engine = Engine::open(&copy, suspecting(&bench)).unwrap();
    assert_eq!(engine.boot(), count + 2);
    assert_eq!(engine.earlier_boots().next().unwrap().count, count + 1);
}

/// Files that hold what was cut off.
fn beside(data: &Path) -> usize {
    let files = fs::read_dir(data.join("db")).unwrap();
    files
        .filter(|file| {
            let name = file.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(".torn-")
        })
        .count()
}
