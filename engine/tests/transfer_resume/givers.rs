//! Givers that took turns: cut between any two chunks, on either side, the copy ends as if the last giver had sent it all.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use mesh_engine::{
    Append, BindingWrite, Engine, Export, ExportHeader, Holding, ReadError, Solo, TopicConfig,
};
use mesh_ring::ids::{Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::name::{BindingKey, CursorName, TopicName};

use crate::support::*;
use crate::{CHUNK, copied, empty};

const P: PartitionId = PartitionId(3);

/// The number of the log among the families that travel.
const LOG: u8 = 7;

fn name_in(engine: &Engine, stem: &str) -> TopicName {
    (0..)
        .map(|n| TopicName::new(&format!("{stem}{n}")).unwrap())
        .find(|name| engine.partition_of(name.as_bytes()) == P)
        .unwrap()
}

fn bind(engine: &Solo, stem: &str, value: Option<&'static str>) {
    let key = (0..)
        .map(|n| format!("{stem}{n}").into_bytes())
        .find(|key| engine.partition_of(key) == P)
        .unwrap();
    let write = BindingWrite {
        key: BindingKey::new(&key).unwrap(),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
        context: None,
        expires_ms: None,
    };
    engine.write_binding(write).unwrap();
}

fn publish(engine: &Solo, topic: TopicKey, batches: u64, seed: u64) {
    for n in 0..batches {
        let append = Append {
            topic,
            batch: noise_batch(seed + n, 2, 300),
            expected: None,
        };
        engine.append(append).unwrap();
    }
}

struct Topics {
    plain: TopicKey,
    trimmed: TopicKey,
    passed: TopicKey,
    emptied: TopicKey,
    deleted: TopicKey,
    again: TopicKey,
}

fn new_topic(engine: &Solo, stem: &str) -> TopicKey {
    let config = TopicConfig::default();
    let made = engine.create_topic(&name_in(engine, stem), config);
    made.unwrap().key
}

/// What the first giver has.
fn fill(engine: &Solo) -> Topics {
    let topics = Topics {
        plain: new_topic(engine, "plain"),
        trimmed: new_topic(engine, "trimmed"),
        passed: new_topic(engine, "passed"),
        emptied: new_topic(engine, "emptied"),
        deleted: new_topic(engine, "deleted"),
        again: new_topic(engine, "again"),
    };
    let all = [
        topics.plain,
        topics.trimmed,
        topics.passed,
        topics.emptied,
        topics.deleted,
        topics.again,
    ];
    for (seed, topic) in (1..).zip(all) {
        publish(engine, topic, 8, seed * 100);
    }
    let once = Append {
        topic: topics.plain,
        batch: batch(&["once"], stamp(1, 2, 0)),
        expected: None,
    };
    engine.append(once).unwrap();
    engine.trim(topics.trimmed, 3).unwrap();
    let reader = CursorName::new("reader").unwrap();
    engine.commit_cursor(topics.plain, &reader, 5).unwrap();
    for stem in ["kept", "changed", "removed"] {
        bind(engine, stem, Some("first"));
    }
    topics
}

/// What has happened by the time that the second giver leads.
fn go_on(engine: &Solo, topics: &Topics) {
    publish(engine, topics.plain, 3, 1_000);
    publish(engine, topics.trimmed, 3, 1_100);
    engine.trim(topics.trimmed, 9).unwrap();
    // Past everything that the first giver had; its batches begin before, in and behind the trimmed part.
    publish(engine, topics.passed, 6, 1_200);
    engine.trim(topics.passed, 21).unwrap();
    publish(engine, topics.emptied, 1, 1_300);
    engine.trim(topics.emptied, 18).unwrap();
    engine.delete_topic(topics.deleted).unwrap();
    engine.delete_topic(topics.again).unwrap();
    let again = new_topic(engine, "again");
    assert_ne!(again, topics.again);
    publish(engine, again, 4, 1_400);
    let late = new_topic(engine, "late");
    publish(engine, late, 4, 1_500);
    let reader = CursorName::new("reader").unwrap();
    engine.commit_cursor(topics.plain, &reader, 18).unwrap();
    bind(engine, "changed", Some("second"));
    bind(engine, "removed", None);
    bind(engine, "added", Some("second"));
}

/// And by the time that the third does.
fn go_on_again(engine: &Solo, topics: &Topics) {
    publish(engine, topics.plain, 2, 2_000);
    engine.trim(topics.plain, 7).unwrap();
    publish(engine, topics.passed, 2, 2_100);
    publish(engine, topics.emptied, 2, 2_200);
    let again = engine.topic(&name_in(engine, "again")).unwrap().unwrap();
    engine.delete_topic(again.key).unwrap();
}

/// Three givers, each with the disk of the one before and what came since.
fn givers(bench: &Bench) -> [Solo; 3] {
    let first = bench.open();
    let topics = fill(&first);
    let second = bench.open_at(&bench.crashed_copy("second"));
    go_on(&second, &topics);
    let third = copied(bench, &bench.dir.path().join("second"), "third");
    let third = bench.open_at(&third);
    go_on_again(&third, &topics);
    [first, second, third]
}

/// The log rows of a chunk: topic and last offset of each.
fn log_rows(mut rows: &[u8]) -> Vec<(TopicId, Offset)> {
    let mut found = Vec::new();
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    while let Some((head, rest)) = rows.split_first_chunk::<7>() {
        let (key_bytes, value_bytes) = (number(&head[1..3]) as usize, number(&head[3..]) as usize);
        let (key, rest) = rest.split_at(key_bytes);
        if head[0] == LOG {
            found.push((TopicId(number(&key[2..10])), number(&key[10..])));
        }
        rows = &rest[value_bytes..];
    }
    found
}

/// Everything of the partition that travels, and what it is a copy of.
fn everything(engine: &Engine) -> (ExportHeader, Bytes) {
    let export = engine.export(P).unwrap();
    let header = ExportHeader {
        id: [0; 16],
        ..export.header().clone()
    };
    let all = export.chunk_of(&[], 1 << 30).unwrap();
    assert!(all.is_last());
    (header, all.rows)
}

/// As a node does it: goes on with the export if it is the one that was begun, or else lets it go on from what is held.
fn export_for<'e>(from: &'e Engine, to: &Engine) -> Export<'e> {
    let holding = to.import_holding(P).unwrap();
    // Across the wire.
    let holding = holding.map(|holding| Holding::decode(&holding.encode()).unwrap());
    let export = from.export_behind(P, holding.as_ref()).unwrap();
    let header = ExportHeader::decode(&export.header().encode()).unwrap();
    assert_eq!(&header, export.header());
    export
}

/// Takes at most `limit` chunks. Returns the log rows that came, and whether the last chunk has.
fn take(export: &Export<'_>, to: &Engine, limit: usize) -> (Vec<(TopicId, Offset)>, bool) {
    let mut came = Vec::new();
    let mut cursor = to.import_begin(export.header()).unwrap();
    for _ in 0..limit {
        let chunk = export.chunk_of(&cursor, CHUNK).unwrap();
        to.import_chunk(export.header(), &chunk).unwrap();
        came.extend(log_rows(&chunk.rows));
        if chunk.is_last() {
            return (came, true);
        }
        cursor = chunk.upto;
    }
    (came, false)
}

fn finish(export: &Export<'_>, to: &Engine) {
    assert_eq!(to.replica(P), Err(ReadError::Incomplete));
    to.import_finish(export.header()).unwrap();
    assert_eq!(to.import_state(P).unwrap(), None);
    let report = to.scrub(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.damages, []);
}

/// None of the rows was held before, and none comes twice.
fn assert_none_again(held: &Holding, came: &[(TopicId, Offset)]) {
    let held: HashMap<_, _> = held.topics.iter().copied().collect();
    let mut once = HashSet::new();
    for row in came {
        assert!(once.insert(row), "{row:?} came twice");
        let next = held.get(&row.0).copied().unwrap_or(0);
        assert!(row.1 >= next, "{row:?} came, and it is held up to {next}");
    }
}

fn whole_from(bench: &Bench, from: &Engine, name: &str) -> (ExportHeader, Bytes) {
    let to = bench.open_engine_at(&empty(bench, name));
    let export = export_for(from, &to);
    take(&export, &to, usize::MAX);
    finish(&export, &to);
    let all = everything(&to);
    assert_eq!(all.0.commit, export.header().commit);
    all
}

fn chunks(export: &Export<'_>) -> usize {
    let mut cursor = Vec::new();
    for count in 1.. {
        let chunk = export.chunk_of(&cursor, CHUNK).unwrap();
        if chunk.is_last() {
            return count;
        }
        cursor = chunk.upto;
    }
    unreachable!()
}

#[test]
fn a_second_giver_goes_on_from_wherever_the_first_one_stopped() {
    let bench = Bench::new();
    let [first, second, _] = givers(&bench);
    let expected = whole_from(&bench, &second, "whole");
    let all_rows = log_rows(&expected.1).len();
    let first_export = first.export(P).unwrap();
    let total = chunks(&first_export);
    assert!(total > 20, "{total} chunks");
    let data = empty(&bench, "taker");
    let mut saved = HashSet::new();
    for sent in 0..=total {
        let name = format!("taker{sent}");
        if sent > 0 {
            let taker = bench.open_engine_at(&data);
            take(&first_export, &taker, 1);
        }
        // It dies as well: what it holds is on its disk.
        let taker = bench.open_engine_at(&copied(&bench, &data, &name));
        let held = taker.import_holding(P).unwrap();
        assert_eq!(held.is_none(), sent == 0);
        let state = taker.import_state(P).unwrap();
        let export = export_for(&second, &taker);
        assert_eq!(
            export.header().continues,
            held.as_ref().map(|held| held.token)
        );
        let (came, last) = take(&export, &taker, usize::MAX);
        assert!(last);
        if let Some(held) = &held {
            assert_none_again(held, &came);
            saved.insert(all_rows - came.len());
            let now = taker.import_state(P).unwrap().unwrap();
            assert!(now.log_bytes >= state.unwrap().log_bytes);
        }
        finish(&export, &taker);
        assert_eq!(everything(&taker), expected, "after {sent} chunks");
    }
    assert!(saved.len() > 5, "the later, the less is sent: {saved:?}");
}

#[test]
fn a_taker_may_die_between_any_two_chunks_of_any_giver() {
    let bench = Bench::new();
    let [first, second, third] = givers(&bench);
    let expected = whole_from(&bench, &third, "whole");
    let first_export = first.export(P).unwrap();
    let total = chunks(&first_export);
    for sent in [1, total / 2] {
        let data = empty(&bench, &format!("taker{sent}"));
        take(&first_export, &bench.open_engine_at(&data), sent);
        // Step by step from the second one, and at each step another taker goes on with the third.
        let second_export = export_for(&second, &bench.open_engine_at(&data));
        for step in 0.. {
            let last = take(
                &second_export,
                &bench.open_engine_at(&data),
                2 * step.min(1),
            )
            .1;
            let crashed = copied(&bench, &data, &format!("taker{sent}-{step}"));
            let held = bench.open_engine_at(&crashed).import_holding(P).unwrap();
            let export = export_for(&third, &bench.open_engine_at(&crashed));
            let mut came = Vec::new();
            // Begun, dead, going on with the same export, chunk by chunk.
            loop {
                let taker = bench.open_engine_at(&crashed);
                let (rows, last) = take(&export, &taker, 10);
                came.extend(rows);
                if last {
                    break;
                }
            }
            assert_none_again(&held.unwrap(), &came);
            // The last chunk is there, and the taker dies before it says so: there is nothing behind it.
            let taker = bench.open_engine_at(&crashed);
            assert_eq!(take(&export, &taker, 1), (Vec::new(), true));
            finish(&export, &taker);
            assert_eq!(everything(&taker), expected, "{sent} and {step} steps");
            drop(taker);
            assert_eq!(everything(&bench.open_engine_at(&crashed)), expected);
            if last {
                break;
            }
        }
    }
}

#[test]
fn what_was_trimmed_or_deleted_meanwhile_is_neither_served_nor_kept() {
    let bench = Bench::new();
    let [first, second, _] = givers(&bench);
    let taker = bench.open_engine_at(&empty(&bench, "taker"));
    let export = first.export(P).unwrap();
    take(&export, &taker, usize::MAX);
    let export = export_for(&second, &taker);
    take(&export, &taker, usize::MAX);
    assert_eq!(taker.replica(P), Err(ReadError::Incomplete));
    finish(&export, &taker);
    let named = |stem: &str| taker.topic(&name_in(&taker, stem)).unwrap();
    assert_eq!(named("deleted"), None);
    for stem in ["plain", "trimmed", "passed", "emptied", "again", "late"] {
        let topic = named(stem).unwrap().key;
        let extent = second.describe(topic).unwrap();
        assert_eq!(taker.describe(topic).unwrap(), extent, "{stem}");
        assert_eq!(
            read_all(&taker, topic, extent.first),
            read_all(&second, topic, extent.first)
        );
        if extent.first > 0 {
            let before = taker.read(topic, extent.first - 1, 1);
            assert!(
                matches!(before, Err(ReadError::Trimmed { .. })),
                "{before:?}"
            );
        }
    }
    // What takes disk space of them is known, and goes.
    taker.reclaim(true);
    assert_eq!(everything(&taker), everything(&second));
    // The partition goes on as any other.
    drop(taker);
    let taker = bench.open_at(&bench.dir.path().join("taker"));
    let plain = taker.topic(&name_in(&taker, "plain")).unwrap().unwrap().key;
    let once = Append {
        topic: plain,
        batch: batch(&["once"], stamp(1, 2, 0)),
        expected: None,
    };
    assert!(taker.append(once).unwrap().duplicate);
    append(&taker, plain, &["more"]).unwrap();
}
