//! Readers see what is committed, and never anything else: not before a commit, not after a restart, not while entries
//! are replaced by others.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mesh_engine::batch::{BatchHeader, records};
use mesh_engine::{Command, Engine, Options, Persist, ReadError, TopicConfig};
use mesh_ring::ids::{Epoch, Index, Offset, TopicKey};
use support::journal::*;
use support::*;

/// Everything by which the end of a topic can be seen.
fn check_end(engine: &Engine, topic: TopicKey, next: Offset, bytes: u64) {
    let extent = engine.describe(topic).unwrap();
    assert_eq!((extent.next, extent.bytes), (next, bytes));
    assert_eq!(engine.offset_at_time(topic, u64::MAX).unwrap(), next);
    assert_eq!(engine.read(topic, next, 1 << 20), Ok(vec![]));
    let from = next + 1;
    assert_eq!(
        engine.read(topic, from, 1 << 20),
        Err(ReadError::BeyondEnd { from, next })
    );
    assert_eq!(read_all(engine, topic, 0).len() as u64, next);
    assert_eq!(engine.read_at_hand(topic, next, 1 << 20), None);
    assert_eq!(engine.read_at_hand(topic, from, 1 << 20), None);
    // All of it is in memory: it was written a moment ago.
    let (mut from, mut at_hand) = (0, Vec::new());
    while from < next {
        let (batches, is_all) = engine.read_at_hand(topic, from, 250).unwrap();
        from = BatchHeader::decode_prefix(batches.last().unwrap())
            .unwrap()
            .next_offset();
        assert!(!is_all || from == next);
        at_hand.extend(batches);
    }
    let all = engine.read_at_hand(topic, 0, 1 << 20);
    assert_eq!(all, (next > 0).then(|| (at_hand.clone(), true)));
    assert_eq!(Ok(at_hand), engine.read(topic, 0, 1 << 20));
}

#[test]
fn only_what_is_committed_is_seen() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let bench = Bench::new();
    let options = Options {
        on_committed: Some(Arc::new(move |topics| {
            tell.lock().unwrap().extend_from_slice(topics);
        })),
        ..bench.options()
    };
    let engine = Engine::open(bench.data(), options).unwrap();
    let (mut scribe, mut end) = begun(&engine, "t");
    let (p, topic) = (scribe.partition, end.topic);
    let committed = end;
    check_end(&engine, topic, 3, committed.position);
    told.lock().unwrap().clear();

    let d = scribe.append(&mut end, &["d", "d"]);
    let after_d = end;
    let e = scribe.append(&mut end, &["e"]);
    let (create, mut other) = scribe.create("other/of/this/partition");
    let in_other = scribe.append(&mut other, &["x"]);
    write(&engine, p, vec![d, e, create, in_other]);
    check_end(&engine, topic, 3, committed.position);
    assert_eq!(engine.describe(other.topic), Err(ReadError::TopicDeleted));
    assert_eq!(engine.list_topics("", None, 10).unwrap(), ["t"]);
    assert_eq!(*told.lock().unwrap(), []);

    // Neither is it after a crash, until someone says that it is committed.
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    check_end(&copy, topic, 3, committed.position);
    commit(&copy, p, Index(5));
    check_end(&copy, topic, 5, after_d.position);

    commit(&engine, p, Index(5));
    check_end(&engine, topic, 5, after_d.position);
    assert_eq!(std::mem::take(&mut *told.lock().unwrap()), [(topic, 5)]);
    commit(&engine, p, Index(7));
    check_end(&engine, topic, 6, end.position);
    check_end(&engine, other.topic, 0, 0);
    commit(&engine, p, Index(8));
    check_end(&engine, other.topic, 1, other.position);
    assert_eq!(*told.lock().unwrap(), [(topic, 6), (other.topic, 1)]);
}

#[test]
fn retention_looks_at_committed_records_only() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let mut scribe = Scribe::new(&engine, "t");
    let p = scribe.partition;
    let (mut create, mut end) = scribe.create("t");
    create.command = Command::CreateTopic {
        name: "t".into(),
        config: TopicConfig {
            retention_age_ms: None,
            retention_bytes: Some(400),
        },
        created_ms: 0,
    };
    let mut entries = vec![create];
    entries.extend((0..8).map(|_| scribe.append(&mut end, &["0123456789"])));
    write(&engine, p, entries);
    commit(&engine, p, Index(1));
    assert_eq!(engine.retention_due(p, bench.now_ms()), []);
    commit(&engine, p, Index(5));
    let each = end.position / 8;
    assert!(each * 3 < 400 && each * 4 > 400, "{each} bytes a batch");
    assert_eq!(engine.retention_due(p, bench.now_ms()), [(end.topic, 1)]);
    commit(&engine, p, Index(9));
    assert_eq!(engine.retention_due(p, bench.now_ms()), [(end.topic, 5)]);
}

/// Readers run while a suffix is replaced again and again, under new epochs; parts of it are committed before the rest is
/// replaced. Each value says what it is: `c` for a batch that will be committed, `u` for one that never is.
#[test]
fn a_reader_never_sees_what_is_replaced() {
    const ROUNDS: u64 = 300;
    let bench = Bench::new();
    let engine = Arc::new(bench.open_engine());
    let (scribe, end) = begun(&engine, "t");
    let (p, topic) = (scribe.partition, end.topic);
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (engine, stop, reads) =
                (Arc::clone(&engine), Arc::clone(&stop), Arc::clone(&reads));
            std::thread::spawn(move || {
                let mut seen: Vec<String> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    read_on(&engine, topic, &mut seen);
                    let next = engine.describe(topic).unwrap().next;
                    assert!(next >= seen.len() as u64, "the end never moves back");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                seen
            })
        })
        .collect();

    let (mut at, mut from, mut expected) = (end, Index(5), vec!["a", "b", "c"]);
    for round in 0..ROUNDS {
        let mut scribe = Scribe {
            epoch: Epoch(2 + round),
            next: from,
            ..scribe.clone()
        };
        let kept = scribe.append(&mut at, &["c", "c"]);
        let mut lost = at;
        let entries = vec![
            kept,
            scribe.append(&mut lost, &["u"]),
            scribe.append(&mut lost, &["u", "u", "u"]),
        ];
        let persist = Persist {
            truncate: Some(from),
            ..Persist::entries(p, entries)
        };
        engine.submit_persist(persist, |result| result.unwrap());
        engine.submit_commit(p, from, |result| result.unwrap());
        expected.extend(["c", "c"]);
        from = from.next();
    }
    rewrite(&engine, p, from, vec![]);
    let least = reads.load(Ordering::Relaxed) + 3;
    while reads.load(Ordering::Relaxed) < least {
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let seen = reader.join().unwrap();
        assert!(expected.starts_with(&seen.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    assert_eq!(values(&engine, topic), expected);
}

/// Reads what has come since, and all of it once more: nothing that was seen may change.
fn read_on(engine: &Engine, topic: TopicKey, seen: &mut Vec<String>) {
    let came = seen.len() as u64;
    let at_hand = engine.read_at_hand(topic, came, 1 << 20);
    let fresh = at_hand.map_or_else(Vec::new, |(batches, _)| batches);
    let mut reads = vec![fresh];
    reads.extend([came, 0].map(|from| engine.read(topic, from, 1 << 20).unwrap()));
    for batches in reads {
        for batch in batches {
            for item in records(&batch).unwrap() {
                let (offset, record) = item.unwrap();
                let value = String::from_utf8_lossy(&record.value).into_owned();
                assert_ne!(value, "u", "offset {offset} was never committed");
                match seen.get(offset as usize) {
                    Some(before) => assert_eq!(before, &value, "offset {offset} changed"),
                    None => {
                        assert_eq!(offset, seen.len() as u64);
                        seen.push(value);
                    }
                }
            }
        }
    }
}
