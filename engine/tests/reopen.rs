//! What is there after a crash, a clean stop, and the refusals of an open.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;

use mesh_engine::{BindingWrite, OpenError, Options, Solo, prepare};
use mesh_ring::ids::ClusterId;
use mesh_ring::name::BindingKey;
use support::*;

fn put(engine: &Solo, key: &str, value: &'static str) -> mesh_engine::Written {
    engine
        .write_binding(BindingWrite {
            key: BindingKey::new(key.as_bytes()).unwrap(),
            value: Some(value.into()),
            context: None,
            expires_ms: None,
        })
        .unwrap()
}

#[test]
fn everything_acknowledged_survives_a_crash_at_any_moment() {
    let bench = Bench::new();
    let engine = bench.open();
    let topics: Vec<_> = (0..5).map(|n| create(&engine, &format!("t{n}"))).collect();
    for round in 0..20_usize {
        let topic = topics[round % topics.len()];
        append(&engine, topic, &[&format!("r{round}")]).unwrap();
        put(&engine, &format!("k{round}"), "v");
        let crashed = bench.open_at(&bench.crashed_copy(&format!("crash{round}")));
        for (n, topic) in topics.iter().enumerate() {
            let expected: Vec<String> = (0..=round)
                .filter(|r| r % 5 == n)
                .map(|r| format!("r{r}"))
                .collect();
            assert_eq!(values(&crashed, *topic), expected, "round {round}");
        }
        assert_eq!(
            crashed.list_bindings(b"k", None, 100).unwrap().len(),
            round + 1
        );
    }
}

#[test]
fn each_open_is_a_new_boot_and_epoch_and_no_dot_or_timestamp_comes_twice() {
    let bench = Bench::new();
    let mut last = None;
    for boot in 1..=4 {
        let engine = bench.open();
        assert_eq!((engine.boot(), engine.epoch().0), (boot, boot.into()));
        let topic = create(&engine, &format!("t{boot}"));
        assert_eq!(append(&engine, topic, &["x"]).unwrap().epoch.0, boot.into());
        for _ in 0..3 {
            let written = put(&engine, "k", "v");
            if let Some((dot, hlc)) = last {
                assert!(written.dot > dot && written.hlc > hlc);
            }
            last = Some((written.dot, written.hlc));
        }
        // A clock that jumps back between runs must not take timestamps with it.
        bench
            .clock
            .fetch_sub(3_600_000, std::sync::atomic::Ordering::Relaxed);
        if boot % 2 == 0 {
            engine.close().unwrap();
        }
    }
}

#[test]
fn an_empty_directory_is_not_made_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Solo::open(dir.path().join("none"), Options::default());
    assert!(matches!(missing, Err(OpenError::Missing(_))));
    let empty = Solo::open(dir.path(), Options::default());
    assert!(matches!(empty, Err(OpenError::Missing(_))));
    assert!(!dir.path().join("db").exists(), "nothing was written");
}

#[test]
fn a_store_is_open_in_one_place_at_a_time() {
    let bench = Bench::new();
    let engine = bench.open();
    assert!(matches!(
        Solo::open(bench.data(), bench.options()),
        Err(OpenError::Locked(_))
    ));
    engine.close().unwrap();
    drop(engine);
    bench.open();
}

#[test]
fn a_store_of_another_cluster_is_refused() {
    let bench = Bench::new();
    drop(bench.open());
    let options = Options {
        expect_cluster: Some(ClusterId([9; 16])),
        ..bench.options()
    };
    assert!(matches!(
        Solo::open(bench.data(), options),
        Err(OpenError::OtherCluster { .. })
    ));
}

#[test]
fn other_formats_are_refused_by_name_and_left_alone() {
    let bench = Bench::new();
    drop(bench.open());
    for (version, newer) in [(2_u32, true), (0, false)] {
        let data = bench.crashed_copy(&format!("v{version}"));
        set_meta(&data, b"format", &version.to_be_bytes());
        let outcome = Solo::open(&data, bench.options());
        match outcome {
            Err(OpenError::Newer {
                found: 2,
                current: 1,
                ..
            }) => assert!(newer),
            Err(OpenError::Older {
                found: 0,
                current: 1,
                ..
            }) => assert!(!newer),
            other => panic!("{:?}", other.err()),
        }
    }
}

#[test]
fn a_half_migrated_store_is_refused() {
    let bench = Bench::new();
    drop(bench.open());
    set_meta(&bench.data(), b"migration", b"anything");
    let error = Solo::open(bench.data(), bench.options()).err().unwrap();
    assert!(matches!(error, OpenError::HalfMigrated(_)), "{error}");
}

fn set_meta(data: &std::path::Path, key: &[u8], value: &[u8]) {
    let path = data.join("db");
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, &path).unwrap();
    let db = rocksdb::DB::open_cf(&options, &path, families).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), key, value)
        .unwrap();
}

#[test]
fn a_crash_while_the_store_is_made_is_finished_by_the_next_open() {
    let bench = Bench::new();
    drop(bench.open());
    // The store carries its identity already, the bootstrap file is still there.
    let spare = tempfile::tempdir().unwrap();
    prepare(&spare.path().join("data"), &identity()).unwrap();
    fs::copy(
        spare.path().join("data/bootstrap"),
        bench.data().join("bootstrap"),
    )
    .unwrap();
    drop(bench.open());
    assert!(!bench.data().join("bootstrap").exists());
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    fs::write(&file, "in the way").unwrap();
    assert!(matches!(
        Solo::open(&file, Options::default()),
        Err(OpenError::Missing(_))
    ));
    let bench = Bench::new();
    drop(bench.open());
    fs::remove_file(bench.data().join("lock")).unwrap();
    fs::create_dir(bench.data().join("lock")).unwrap();
    assert!(matches!(
        Solo::open(bench.data(), bench.options()),
        Err(OpenError::Io { .. })
    ));
}

#[test]
fn a_start_after_a_crash_writes_under_another_name_and_one_after_a_clean_stop_does_not() {
    let bench = Bench::new();
    let name = |engine: &Solo| put(engine, "k", "v").dot.node;
    let first = bench.open();
    let original = name(&first);
    assert_eq!(original, first.identity().node);
    let crashed = bench.open_at(&bench.crashed_copy("crash"));
    let after_crash = name(&crashed);
    assert_ne!(after_crash, original);
    first.close().unwrap();
    drop(first);
    assert_eq!(name(&bench.open()), original);
    drop(crashed);
    let again = bench.open_at(&bench.dir.path().join("crash"));
    assert_eq!(name(&again), after_crash, "it was closed");
}

#[test]
fn a_write_is_told_of_before_it_is_durable_and_is_then_what_was_told() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (told, early) = std::sync::mpsc::sync_channel(2);
    let durable = told.clone();
    let key = BindingKey::new(b"k").unwrap();
    let write = BindingWrite {
        key: key.clone(),
        value: Some("v".into()),
        context: None,
        expires_ms: None,
    };
    engine.submit_write_early(
        write,
        move |binding, written| told.send((Some(binding.clone()), written.clone())).unwrap(),
        move |result| durable.send((None, result.unwrap())).unwrap(),
    );
    let (binding, decided) = early.recv().unwrap();
    let (none, written) = early.recv().unwrap();
    assert_eq!((none, &written), (None, &decided));
    assert_eq!(engine.binding(&key).unwrap(), binding);
}

#[test]
fn files_that_are_made_reach_the_disk_piece_by_piece() {
    let bench = Bench::new();
    drop(bench.open());
    let files = fs::read_dir(bench.data().join("db")).unwrap();
    let newest = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("OPTIONS-"))
        .max()
        .unwrap();
    let options = fs::read_to_string(newest).unwrap();
    for line in ["strict_bytes_per_sync=true", "  bytes_per_sync=262144"] {
        assert!(options.contains(line), "no {line} in {options}");
    }
}
