//! Topics through the engine's doors: order, ranges, trims, retries, conditions, cursors, deletion.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use mesh_engine::{Append, AppendError, ReadError, TopicConfig, TopicError};
use mesh_ring::name::{CursorName, TopicName};
use mesh_ring::producer::SequenceError;
use support::*;

#[test]
fn offsets_are_dense_from_zero_across_batches() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let first = append(&engine, topic, &["a", "b"]).unwrap();
    let second = append(&engine, topic, &["c"]).unwrap();
    assert_eq!((first.first, first.last), (0, 1));
    assert_eq!((second.first, second.last), (2, 2));
    assert_eq!(values(&engine, topic), ["a", "b", "c"]);
    let extent = engine.describe(topic).unwrap();
    assert_eq!((extent.first, extent.next), (0, 3));
    let stored: usize = engine
        .read(topic, 0, usize::MAX)
        .unwrap()
        .iter()
        .map(|batch| batch.len())
        .sum();
    assert_eq!(extent.bytes, stored as u64);
}

#[test]
fn a_read_begins_with_the_batch_that_contains_the_offset() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let other = create(&engine, "u");
    for n in 0..10 {
        append(&engine, topic, &[&format!("{n}a"), &format!("{n}b")]).unwrap();
        append(&engine, other, &["x"]).unwrap();
    }
    for from in 0..20 {
        let all = read_all(&engine, topic, from);
        assert_eq!(all.len() as u64, 20 - from);
        assert_eq!(all[0].0, from);
    }
    assert_eq!(
        engine.read(topic, 5, 1).unwrap().len(),
        1,
        "at least one batch, whatever the bound"
    );
    assert!(engine.read(topic, 20, 1 << 20).unwrap().is_empty());
    assert_eq!(
        engine.read(topic, 21, 1),
        Err(ReadError::BeyondEnd { from: 21, next: 20 })
    );
}

#[test]
fn a_retry_is_appended_once_also_after_a_crash() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let send = |engine: &mesh_engine::Solo, sequence, value| {
        engine.append(Append {
            topic,
            batch: batch(&[value], stamp(1, 0, sequence)),
            expected: None,
        })
    };
    assert_eq!(send(&engine, 0, "a").unwrap().first, 0);
    assert_eq!(send(&engine, 1, "b").unwrap().first, 1);
    let again = send(&engine, 0, "a").unwrap();
    assert_eq!((again.first, again.duplicate), (0, true));
    assert_eq!(
        send(&engine, 3, "d"),
        Err(AppendError::Sequence(SequenceError::Gap { expected: 2 }))
    );

    let crashed = bench.open_at(&bench.crashed_copy("crashed"));
    assert_eq!(send(&crashed, 1, "b").unwrap().first, 1);
    assert_eq!(send(&crashed, 2, "c").unwrap().first, 2);
    assert_eq!(values(&crashed, topic), ["a", "b", "c"]);

    engine.close().unwrap();
    drop(engine);
    let reopened = bench.open();
    assert!(send(&reopened, 1, "b").unwrap().duplicate);
    assert_eq!(values(&reopened, topic), ["a", "b"]);
}

#[test]
fn a_newer_producer_epoch_fences_the_older() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let send = |epoch, sequence| {
        engine.append(Append {
            topic,
            batch: batch(&["x"], stamp(1, epoch, sequence)),
            expected: None,
        })
    };
    send(0, 0).unwrap();
    send(1, 0).unwrap();
    assert_eq!(
        send(0, 1),
        Err(AppendError::Sequence(SequenceError::Fenced { current: 1 }))
    );
    assert_eq!(engine.describe(topic).unwrap().next, 2);
}

#[test]
fn a_forgotten_producer_is_refused_not_taken_for_a_new_one() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let first = Append {
        topic,
        batch: batch(&["x"], stamp(1, 0, 0)),
        expected: None,
    };
    engine.append(first.clone()).unwrap();
    let week = mesh_ring::limits::PRODUCER_AGE_MS_MAX;
    bench.advance(week - 1);
    assert_eq!(engine.keep_house().unwrap().producers, 0);
    assert!(engine.append(first.clone()).unwrap().duplicate);
    // Windows reach the family, which expiry looks through, by a checkpoint.
    engine.close().unwrap();
    drop(engine);
    let engine = bench.open();
    bench.advance(week + 1);
    assert_eq!(engine.keep_house().unwrap().producers, 1);
    assert_eq!(
        engine.append(first),
        Err(AppendError::Sequence(SequenceError::Unknown))
    );
    assert_eq!(engine.describe(topic).unwrap().next, 1);
}

#[test]
fn an_expected_offset_makes_an_append_conditional() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let send = |expected| {
        engine.append(Append {
            topic,
            batch: batch(&["x"], None),
            expected: Some(expected),
        })
    };
    assert_eq!(send(0).unwrap().first, 0);
    assert_eq!(
        send(0),
        Err(AppendError::WrongOffset {
            expected: 0,
            next: 1
        })
    );
    assert_eq!(
        send(2),
        Err(AppendError::WrongOffset {
            expected: 2,
            next: 1
        })
    );
    assert_eq!(send(1).unwrap().first, 1);
    assert_eq!(engine.describe(topic).unwrap().next, 2);
}

#[test]
fn a_trim_moves_the_first_offset_and_says_so_to_readers() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    for n in 0..5 {
        append(&engine, topic, &[&format!("{n}a"), &format!("{n}b")]).unwrap();
    }
    assert_eq!(engine.trim(topic, 3).unwrap(), 3);
    assert_eq!(engine.trim(topic, 1).unwrap(), 3, "a trim never goes back");
    assert_eq!(
        engine.read(topic, 2, 1),
        Err(ReadError::Trimmed { from: 2, first: 3 })
    );
    assert_eq!(read_all(&engine, topic, 3).len(), 7);
    assert_eq!(
        engine.trim(topic, 11),
        Err(TopicError::BeyondEnd {
            offset: 11,
            next: 10
        })
    );
    let before = engine.describe(topic).unwrap();
    assert_eq!(engine.trim(topic, 10).unwrap(), 10);
    let emptied = engine.describe(topic).unwrap();
    assert_eq!((emptied.first, emptied.next, emptied.bytes), (10, 10, 0));
    assert!(before.bytes > 0);
    drop(engine);
    let engine = bench.open();
    assert_eq!(
        append(&engine, topic, &["next"]).unwrap().first,
        10,
        "offsets go on after an emptying trim"
    );
}

#[test]
fn record_times_never_move_back_whatever_the_clock_does() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    append(&engine, topic, &["a"]).unwrap();
    bench
        .clock
        .store(START_MS - 60_000, std::sync::atomic::Ordering::Relaxed);
    append(&engine, topic, &["b"]).unwrap();
    engine.trim(topic, 2).unwrap();
    append(&engine, topic, &["c"]).unwrap();
    bench
        .clock
        .store(START_MS + 5_000, std::sync::atomic::Ordering::Relaxed);
    append(&engine, topic, &["d"]).unwrap();
    assert_eq!(engine.offset_at_time(topic, START_MS).unwrap(), 2);
    assert_eq!(engine.offset_at_time(topic, START_MS + 1).unwrap(), 3);
    assert_eq!(engine.offset_at_time(topic, START_MS + 5_001).unwrap(), 4);
}

#[test]
fn a_topic_made_again_is_another_topic() {
    let bench = Bench::new();
    let engine = bench.open();
    let old = create(&engine, "t");
    append(&engine, old, &["old"]).unwrap();
    let name = TopicName::new("t").unwrap();
    assert!(matches!(
        engine.create_topic(&name, TopicConfig::default()),
        Err(TopicError::Exists(_))
    ));
    engine.delete_topic(old).unwrap();
    assert_eq!(engine.topic(&name).unwrap(), None);
    assert_eq!(append(&engine, old, &["x"]), Err(AppendError::TopicDeleted));
    assert_eq!(engine.read(old, 0, 1), Err(ReadError::TopicDeleted));
    let new = create(&engine, "t");
    assert_ne!(old, new);
    assert_eq!(append(&engine, new, &["new"]).unwrap().first, 0);
    assert_eq!(values(&engine, new), ["new"]);
    assert_eq!(engine.trim(old, 0), Err(TopicError::Unknown));
    assert_eq!(engine.delete_topic(old), Err(TopicError::Unknown));
}

#[test]
fn cursors_remember_and_refuse_what_is_not_there_yet() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let name = CursorName::new("reader").unwrap();
    append(&engine, topic, &["a", "b"]).unwrap();
    assert_eq!(engine.cursor(topic, &name).unwrap(), None);
    engine.commit_cursor(topic, &name, 2).unwrap();
    assert_eq!(
        engine.commit_cursor(topic, &name, 3),
        Err(TopicError::BeyondEnd { offset: 3, next: 2 })
    );
    let crashed = bench.open_at(&bench.crashed_copy("crashed"));
    assert_eq!(crashed.cursor(topic, &name).unwrap(), Some(2));
}

#[test]
fn topics_are_listed_in_order_page_by_page() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut names: Vec<String> = (0..50).map(|n| format!("t{n:02}")).collect();
    names.push("zebra".into());
    for name in names.iter().rev() {
        create(&engine, name);
    }
    assert_eq!(engine.list_topics("", None, 100).unwrap(), names);
    let page = engine.list_topics("t", Some("t09"), 5).unwrap();
    assert_eq!(page, ["t10", "t11", "t12", "t13", "t14"]);
    assert_eq!(
        engine.list_topics("t", Some("t49"), 5).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(
        engine.list_topics("t", Some("u"), 5).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn invalid_batches_are_refused_and_nothing_is_written() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let good = batch(&["a"], None);
    for cut in 0..good.len() {
        let append = Append {
            topic,
            batch: good[..cut].to_vec(),
            expected: None,
        };
        assert!(matches!(
            engine.append(append),
            Err(AppendError::Invalid(_))
        ));
    }
    for at in 0..64 {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        let append = Append {
            topic,
            batch: flipped,
            expected: None,
        };
        assert!(
            matches!(engine.append(append), Err(AppendError::Invalid(_))),
            "byte {at}"
        );
    }
    assert_eq!(engine.describe(topic).unwrap().next, 0);
}

#[test]
fn concurrent_appends_get_distinct_dense_offsets() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    let offsets: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..50)
                        .map(|_| append(&engine, topic, &["x"]).unwrap().first)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut sorted = offsets.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..400).collect::<Vec<_>>());
}
