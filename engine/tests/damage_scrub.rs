//! The scrub and the hash of a topic: what they find, what they name, and that nothing else is lost with it.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::fs;
use std::ops::ControlFlow;

use mesh_engine::{Engine, ReadError, Solo, TopicHash};
use mesh_ring::ids::TopicKey;
use support::damage::*;
use support::*;

#[test]
fn a_scrub_that_finds_damage_does_not_stop_the_writer() {
    let (bench, topic) = stored();
    let mut appended = 0;
    for (n, table) in files(&bench.data(), "sst").into_iter().enumerate() {
        let data = bench.crashed_copy(&format!("flip{n}"));
        flip(&data.join("db").join(table.file_name().unwrap()), 10);
        let Ok(engine) = Solo::open(&data, bench.options()) else {
            continue;
        };
        let before = append(&engine, topic, &["before"]);
        assert!(names(&scrub(&engine), &name_of(&table)));
        for _ in 0..20 {
            let after = append(&engine, topic, &["after"]);
            assert_eq!(after.is_ok(), before.is_ok(), "{after:?}");
        }
        appended += u64::from(before.is_ok());
    }
    assert!(appended >= 5, "{appended}");
}

#[test]
fn every_one_of_several_damaged_table_files_is_reported() {
    let (bench, topic) = stored();
    let mut damaged = Vec::new();
    for table in files(&bench.data(), "sst") {
        let data = bench.crashed_copy("alone");
        flip(&data.join("db").join(table.file_name().unwrap()), 10);
        let seen = look(&bench, &data, topic);
        fs::remove_dir_all(data).unwrap();
        if !seen.refused_to_open {
            damaged.push(table);
        }
    }
    assert!(damaged.len() >= 7, "{damaged:?}");
    for table in &damaged {
        flip(table, 10);
    }
    let engine = bench.open();
    let report = scrub(&engine);
    for table in &damaged {
        assert!(names(&report, &name_of(table)), "{table:?}: {report:#?}");
    }
    assert_eq!(report.damages.len(), damaged.len(), "{report:#?}");
}

#[test]
fn a_damaged_table_file_that_another_hides_is_named_with_it() {
    let (bench, topic) = stored();
    let engine = bench.open();
    append(&engine, topic, &[&text(RECORDS)]).unwrap();
    engine.close().unwrap();
    drop(engine);
    // The log has two files now, with the same partition in both.
    let report = scrub(&bench.open_at(&bench.crashed_copy("whole")));
    assert_eq!(report.damages, []);
    let mut both = Vec::new();
    for table in files(&bench.data(), "sst") {
        let data = bench.crashed_copy("alone");
        flip(&data.join("db").join(table.file_name().unwrap()), 10);
        if let Ok(engine) = Solo::open(&data, bench.options()) {
            both.extend((scrub(&engine).batches < report.batches).then_some(table));
        }
        fs::remove_dir_all(data).unwrap();
    }
    assert_eq!(both.len(), 2, "files of the log");
    for table in &both {
        flip(table, 10);
    }
    let report = scrub(&bench.open());
    for table in &both {
        let told = |damage: &mesh_engine::Damage| damage.to_string().contains(&name_of(table));
        assert!(report.damages.iter().any(told), "{table:?}: {report:#?}");
    }
    assert!(report.damages.len() <= 2, "{report:#?}");
    assert_eq!(report.bindings, KEYS);
}

#[test]
fn damage_in_one_block_of_the_log_costs_the_scrub_only_that_block() {
    let (bench, topics) = stored_widely();
    let all = BATCHES * topics.len() as u64;
    let whole = scrub(&bench.open_at(&bench.crashed_copy("whole")));
    assert_eq!((whole.batches, &whole.damages[..]), (all, &[][..]));
    let mut in_the_log = 0;
    for table in files(&bench.data(), "sst") {
        let end = data_bytes(&table);
        for at in [10, end / 2, end] {
            let data = bench.crashed_copy("flip");
            flip(&data.join("db").join(table.file_name().unwrap()), at);
            if let Ok(engine) = Solo::open(&data, bench.options()) {
                let report = scrub(&engine);
                let place = format!("{} byte {at}: {report:#?}", table.display());
                assert!(names(&report, &name_of(&table)), "{place}");
                assert_eq!(report.damages.len(), 1, "{place}");
                assert_eq!(kinds_missed(&report, &whole), 1, "{place}");
                assert!(report.batches > all / 2, "{place}");
                in_the_log += u64::from(report.batches < all);
            }
            fs::remove_dir_all(data).unwrap();
        }
    }
    assert!(in_the_log >= 3, "{in_the_log}");
}

#[test]
fn damaged_payloads_are_each_reported_by_offset_and_cost_only_themselves() {
    let (bench, topics) = stored_widely();
    let blob = files(&bench.data(), "blob").remove(0);
    let bytes = fs::read(&blob).unwrap();
    let damaged = [10_u64, 12, 13, 100];
    for n in damaged {
        let first = format!("{}:abc", 2 * n);
        // Payloads lie in the order of keys: the first one of these bytes is the first topic's.
        let at = bytes
            .windows(first.len())
            .position(|window| window == first.as_bytes())
            .unwrap();
        flip(&blob, at + 50);
    }
    let engine = bench.open();
    let report = scrub(&engine);
    assert_eq!(report.bindings, KEYS);
    let topic = report.damages[0].topic.unwrap();
    assert!(topics.contains(&topic));
    let found: Vec<_> = report
        .damages
        .iter()
        .map(|damage| (damage.topic, damage.offset))
        .collect();
    // Two damaged batches that lie together are one stretch.
    let expected = [21, 27, 201].map(|last| (Some(topic), Some(last)));
    assert_eq!(found, expected, "{report:#?}");
    assert!(
        report.damages[1].what.ends_with("offsets 24 to 27"),
        "{report:#?}"
    );
    let all = BATCHES * topics.len() as u64;
    assert_eq!(report.batches, all - damaged.len() as u64);
}

#[test]
fn the_scrub_finds_a_damaged_batch_and_names_topic_offset_and_file() {
    let (bench, topic) = stored();
    let blob = files(&bench.data(), "blob").remove(0);
    let bytes = fs::read(&blob).unwrap();
    // In the middle of the payload of the batch that ends at offset 62.
    let at = bytes
        .windows(3)
        .position(|window| window == b"61:")
        .unwrap()
        + 100;
    flip(&blob, at);
    let engine = bench.open();
    let report = scrub(&engine);
    assert!(!report.damages.is_empty());
    let damage = &report.damages[0];
    assert_eq!(damage.topic, Some(topic), "{damage}");
    assert!(
        damage
            .offset
            .is_some_and(|offset| (57..=62).contains(&offset)),
        "{damage:?}"
    );
    assert!(!damage.files.is_empty(), "{damage:?}");
    assert!(matches!(
        engine.read(topic, 61, 1),
        Err(ReadError::Damaged(_))
    ));
    assert_eq!(
        engine.read(topic, 66, 1).unwrap().len(),
        1,
        "the rest is served"
    );
    assert_eq!(report.bindings, KEYS);
}

fn hash(engine: &Engine, topic: TopicKey, from: u64, until: u64) -> TopicHash {
    let found = engine.hash_topic(topic, from, until, &mut |_| ControlFlow::Continue(()));
    found.unwrap().unwrap()
}

#[test]
fn a_hash_is_of_the_records_and_counts_what_it_cannot_read() {
    let (bench, topics) = stored_widely();
    let until = 2 * BATCHES;
    let engine = bench.open_engine_at(&bench.crashed_copy("whole"));
    let whole = hash(&engine, topics[0], 0, until);
    assert_eq!((whole.records, whole.damaged), (until, 0));
    let again = bench.open_engine_at(&bench.crashed_copy("again"));
    assert_eq!(hash(&again, topics[0], 0, until), whole, "the same bytes");
    let part = hash(&engine, topics[0], 3, until - 1);
    assert_eq!((part.records, part.damaged), (until - 4, 0));
    assert_ne!(part.root, whole.root);
    // Whole batches are hashed: what begins within the same ones is the same.
    assert_eq!(hash(&engine, topics[0], 2, until).root, part.root);
    let none = hash(&engine, topics[0], 5, 5);
    assert_eq!((none.records, none.damaged), (0, 0));
    let mut batches = 0;
    let stopped = engine.hash_topic(topics[0], 0, until, &mut |_| {
        batches += 1;
        if batches == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!((stopped, batches), (Ok(None), 3));
    assert!(matches!(
        engine.hash_topic(topics[0], 0, until + 1, &mut |_| ControlFlow::Continue(())),
        Err(ReadError::BeyondEnd { .. })
    ));

    let blob = files(&bench.data(), "blob").remove(0);
    let bytes = fs::read(&blob).unwrap();
    for n in [10_u64, 12, 13, 100] {
        let first = format!("{}:abc", 2 * n);
        let at = bytes
            .windows(first.len())
            .position(|window| window == first.as_bytes())
            .unwrap();
        flip(&blob, at + 50);
    }
    let damaged = bench.open_engine();
    let found: Vec<TopicHash> = topics
        .iter()
        .map(|topic| hash(&damaged, *topic, 0, until))
        .collect();
    let broken: Vec<&TopicHash> = found.iter().filter(|hash| hash.damaged > 0).collect();
    assert_eq!(broken.len(), 1, "{found:?}");
    // Two damaged batches that lie together are one stretch.
    assert_eq!((broken[0].damaged, broken[0].records), (3, until - 8));
}

#[test]
fn a_hash_of_what_was_trimmed_says_so() {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    for _ in 0..4 {
        append(&engine, topic, &["a", "b"]).unwrap();
    }
    let before = hash(&engine, topic, 3, 8);
    engine.trim(topic, 3).unwrap();
    assert_eq!(
        hash(&engine, topic, 3, 8),
        before,
        "the batch with offset 3 stays whole"
    );
    assert_eq!(
        engine.hash_topic(topic, 2, 8, &mut |_| ControlFlow::Continue(())),
        Err(ReadError::Trimmed { from: 2, first: 3 })
    );
}
