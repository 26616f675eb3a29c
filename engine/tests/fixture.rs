//! A data directory of format 1, made once and kept: this version must read all of it back.
//!
//! Until format 1 is final the fixture follows the format: `MESHLOG_MAKE_FIXTURE=1 cargo test -p mesh-engine --test fixture`
//! makes it anew.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;
use std::path::PathBuf;

use mesh_engine::batch::{BatchBuilder, Compression, Record, records};
use mesh_engine::{
    Append, BindingWrite, Command, Engine, Persist, ReadError, RowChange, Solo, TopicConfig,
    prepare,
};
use mesh_ring::ids::{Epoch, Index, TopicKey};
use mesh_ring::name::{BindingKey, CursorName, TopicName};
use mesh_ring::version::VersionVector;
use support::journal::{Scribe, commit, persist};
use support::*;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../migrations/fixtures/v1/data")
}

fn full_record(n: u64) -> Record {
    Record {
        key: Some(format!("key{n}").into()),
        value: format!("value {n} {}", "x".repeat(n as usize * 20)).into(),
        headers: vec![
            ("source".into(), "fixture".into()),
            ("empty".into(), "".into()),
        ],
        timestamp_ms: n as i64 - 5,
    }
}

fn append_full(engine: &Solo, topic: TopicKey, from: u64, to: u64, compression: Compression) {
    let mut builder = BatchBuilder::new(compression);
    for n in from..to {
        builder.push(&full_record(n)).unwrap();
    }
    let batch = builder.finish(None).unwrap();
    engine
        .append(Append {
            topic,
            batch,
            expected: Some(from),
        })
        .unwrap();
}

fn put(
    engine: &Solo,
    key: &str,
    value: Option<&'static str>,
    context: Option<VersionVector>,
    ttl: Option<u64>,
) {
    engine
        .write_binding(BindingWrite {
            key: BindingKey::new(key.as_bytes()).unwrap(),
            value: value.map(Into::into),
            context,
            expires_ms: ttl.map(|ttl| START_MS + ttl),
        })
        .unwrap();
}

/// A topic name in a partition in which no other topic of the fixture lies.
fn lone_name(engine: &Engine) -> String {
    let others =
        ["plain", "a/trimmed", "gone", "retried"].map(|name| engine.partition_of(name.as_bytes()));
    (0..)
        .map(|n| format!("replicated{n}"))
        .find(|name| !others.contains(&engine.partition_of(name.as_bytes())))
        .unwrap()
}

/// A partition as a replica leaves it: promised ahead, and with an entry that is not committed.
fn replicate(engine: &Engine) {
    let name = lone_name(engine);
    let mut scribe = Scribe::new(engine, &name);
    let barrier = scribe.entry(Command::Barrier);
    let (create, mut end) = scribe.create(&name);
    let committed = scribe.append(&mut end, &["seen"]);
    let uncommitted = scribe.append(&mut end, &["unseen"]);
    persist(
        engine,
        Persist {
            promise: Some(Epoch(9)),
            ..Persist::entries(scribe.partition, vec![barrier, create, committed])
        },
    );
    commit(engine, scribe.partition, Index(3));
    let suspect = Persist {
        suspect: Some(true),
        ..Persist::entries(scribe.partition, vec![uncommitted])
    };
    persist(engine, suspect);
    let (sender, receiver) = std::sync::mpsc::sync_channel(1024);
    let row = RowChange::Put {
        key: b"row".to_vec(),
        value: b"of the control plane".to_vec(),
    };
    engine.submit_rows(vec![row], move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap();
}

/// Part of it reaches table and blob files, the rest stays in the write-ahead log of a node that was killed.
fn make() {
    let bench = Bench::new();
    let engine = bench.open();
    let plain = create(&engine, "plain");
    append_full(&engine, plain, 0, 10, Compression::None);
    append_full(&engine, plain, 10, 20, Compression::Lz4);
    let trimmed = create_with(
        &engine,
        "a/trimmed",
        TopicConfig {
            retention_age_ms: Some(7 << 40),
            retention_bytes: Some(1 << 30),
        },
    );
    for _ in 0..3 {
        append(&engine, trimmed, &["a", "b", "c"]).unwrap();
    }
    engine.trim(trimmed, 4).unwrap();
    let gone = create(&engine, "gone");
    append(&engine, gone, &["x"]).unwrap();
    engine.delete_topic(gone).unwrap();
    let retried = create(&engine, "retried");
    for sequence in 0..3 {
        let batch = batch(&["once"], stamp(7, 2, sequence));
        engine
            .append(Append {
                topic: retried,
                batch,
                expected: None,
            })
            .unwrap();
    }
    put(&engine, "single", Some("value"), None, None);
    put(&engine, "deleted", Some("value"), None, None);
    put(&engine, "deleted", None, None, None);
    put(&engine, "expiring", Some("soon"), None, Some(60_000));
    replicate(&engine);
    engine.close().unwrap();
    drop(engine);

    let engine = bench.open();
    append_full(&engine, plain, 20, 30, Compression::Zstd);
    engine
        .commit_cursor(plain, &CursorName::new("reader").unwrap(), 17)
        .unwrap();
    engine
        .append(Append {
            topic: retried,
            batch: batch(&["once"], stamp(7, 2, 3)),
            expected: None,
        })
        .unwrap();
    put(
        &engine,
        "siblings",
        Some("left"),
        Some(VersionVector::default()),
        None,
    );
    put(
        &engine,
        "siblings",
        Some("right"),
        Some(VersionVector::default()),
        None,
    );
    let copy = bench.crashed_copy("fixture");
    let _ = fs::remove_dir_all(fixture());
    for name in ["LOG", "LOCK"] {
        for entry in fs::read_dir(copy.join("db")).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(name)
            {
                fs::remove_file(path).unwrap();
            }
        }
    }
    copy_dir(&copy, &fixture());
}

fn topic(engine: &Solo, name: &str) -> TopicKey {
    engine
        .topic(&TopicName::new(name).unwrap())
        .unwrap()
        .unwrap()
        .key
}

fn live(engine: &Solo, key: &str, now_ms: u64) -> Vec<String> {
    let binding = engine
        .binding(&BindingKey::new(key.as_bytes()).unwrap())
        .unwrap()
        .unwrap();
    let text = |version: &&mesh_ring::binding::Version| {
        String::from_utf8(version.live(now_ms).unwrap().to_vec()).unwrap()
    };
    binding.live(now_ms).iter().map(text).collect()
}

#[test]
fn a_data_directory_of_format_1_is_read_back_fully() {
    if std::env::var_os("MESHLOG_MAKE_FIXTURE").is_some() {
        make();
    }
    let bench = Bench::new();
    let data = bench.dir.path().join("fixture");
    copy_dir(&fixture(), &data);
    let engine = bench.open_at(&data);
    assert_eq!((engine.identity(), engine.boot()), (&identity(), 3));
    assert_eq!(
        (engine.earlier_boots().count(), engine.founding()),
        (2, None)
    );
    let name = lone_name(&engine);
    assert_eq!(
        engine.list_topics("", None, 10).unwrap(),
        ["a/trimmed", "plain", &name, "retried"]
    );
    let row = engine.row(b"row").unwrap();
    assert_eq!(row.as_deref(), Some(&b"of the control plane"[..]));

    let plain = topic(&engine, "plain");
    let mut next = 0;
    for stored in engine.read(plain, 0, usize::MAX).unwrap() {
        for item in records(&stored).unwrap() {
            assert_eq!(item.unwrap(), (next, full_record(next)));
            next += 1;
        }
    }
    assert_eq!(next, 30);
    assert_eq!(
        engine
            .cursor(plain, &CursorName::new("reader").unwrap())
            .unwrap(),
        Some(17)
    );
    assert_eq!(engine.offset_at_time(plain, START_MS).unwrap(), 0);

    let trimmed = topic(&engine, "a/trimmed");
    let meta = engine
        .topic(&TopicName::new("a/trimmed").unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(
        (meta.config.retention_age_ms, meta.config.retention_bytes),
        (Some(7 << 40), Some(1 << 30))
    );
    assert_eq!(
        (meta.created_ms, engine.describe(trimmed).unwrap().first),
        (START_MS, 4)
    );
    assert!(matches!(
        engine.read(trimmed, 3, 1),
        Err(ReadError::Trimmed { first: 4, .. })
    ));
    assert_eq!(values(&engine, trimmed), ["b", "c", "a", "b", "c"]);

    let retried = topic(&engine, "retried");
    for sequence in 0..4 {
        let retry = Append {
            topic: retried,
            batch: batch(&["once"], stamp(7, 2, sequence)),
            expected: None,
        };
        let answer = engine.append(retry).unwrap();
        assert_eq!((answer.first, answer.duplicate), (sequence.into(), true));
    }

    assert_eq!(
        engine.list_bindings(b"", None, 10).unwrap(),
        ["expiring", "siblings", "single"]
    );
    assert_eq!(live(&engine, "single", START_MS), ["value"]);
    assert_eq!(live(&engine, "siblings", START_MS), ["right", "left"]);
    assert_eq!(live(&engine, "expiring", START_MS + 59_999), ["soon"]);
    assert_eq!(live(&engine, "expiring", START_MS + 60_000), [""; 0]);
    assert_eq!(live(&engine, "deleted", START_MS), [""; 0]);
    let report = engine.scrub(&mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!((report.bindings, report.damages), (4, vec![]));
}

#[test]
fn a_replica_of_format_1_is_read_back_fully() {
    let bench = Bench::new();
    let data = bench.dir.path().join("fixture");
    copy_dir(&fixture(), &data);
    let engine = bench.open_engine_at(&data);
    let replicated = engine
        .topic(&TopicName::new(&lone_name(&engine)).unwrap())
        .unwrap()
        .unwrap()
        .key;
    let replica = engine.replica(replicated.partition).unwrap();
    assert_eq!((replica.promised, replica.suspect), (Epoch(9), true));
    assert_eq!((replica.last.index, replica.commit), (Index(4), Index(3)));
    assert_eq!(replica.epochs, [(Epoch(1), Index(1))]);
    assert_eq!(values(&engine, replicated), ["seen"]);
    let entries = engine.read_entries(replicated.partition, Index(1), 1 << 20);
    assert_eq!(entries.unwrap().len(), 4);
}

#[test]
fn what_a_new_store_says_of_itself_is_what_the_fixture_says() {
    let dir = tempfile::tempdir().unwrap();
    prepare(&dir.path().join("data"), &identity()).unwrap();
    let made = fs::read(dir.path().join("data/bootstrap")).unwrap();
    assert_eq!(
        String::from_utf8(made).unwrap(),
        format!(
            "meshlog bootstrap 1\ncluster {}\nnode {}\npartitions 8\nname n1\n",
            "01".repeat(16),
            "02".repeat(16)
        )
    );
}
