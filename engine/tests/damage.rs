//! Flipped bytes: in every kind of data file, reported with its place, never served as data.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use mesh_engine::{Append, BindingWrite, Engine, ReadError, ScrubReport, TopicConfig};
use mesh_ring::ids::TopicKey;
use mesh_ring::name::{BindingKey, CursorName};
use support::*;

const RECORDS: u64 = 120;
const KEYS: u64 = 40;
/// Batches of each topic of a wide store.
const BATCHES: u64 = 120;

/// A closed store with records (in blob files), something in every family that is used, and an empty log.
fn stored() -> (Bench, TopicKey) {
    let bench = Bench::new();
    let engine = bench.open();
    let topic = create(&engine, "t");
    for n in 0..RECORDS / 3 {
        append(
            &engine,
            topic,
            &[&text(3 * n), &text(3 * n + 1), &text(3 * n + 2)],
        )
        .unwrap();
    }
    for n in 0..KEYS {
        engine
            .write_binding(BindingWrite {
                key: key(n),
                value: Some(text(n).into()),
                context: None,
                expires_ms: (n % 4 == 0).then_some(START_MS + 60_000 + n),
            })
            .unwrap();
    }
    for (n, name) in (0..8).zip('a'..) {
        let other = create_with(
            &engine,
            &format!("other/{name}"),
            TopicConfig {
                retention_age_ms: Some(1 << 40),
                retention_bytes: None,
            },
        );
        for sequence in 0..4 {
            engine
                .append(Append {
                    topic: other,
                    batch: batch(&[&text(sequence.into())], stamp(n, 0, sequence)),
                    expected: None,
                })
                .unwrap();
        }
        let reader = CursorName::new(&format!("reader-{name}")).unwrap();
        engine.commit_cursor(other, &reader, 2).unwrap();
        engine.trim(other, 1).unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    (bench, topic)
}

/// A closed store of many batches in many topics, so that one block holds a part of them. Returns the topics.
fn stored_widely() -> (Bench, Vec<TopicKey>) {
    let bench = Bench::new();
    let engine = bench.open();
    let topics: Vec<_> = (0..16)
        .map(|n| create(&engine, &format!("wide/{n}")))
        .collect();
    let (done, answers) = sync_channel(topics.len() * BATCHES as usize);
    for n in 0..BATCHES {
        for topic in &topics {
            let done = done.clone();
            let append = Append {
                topic: *topic,
                batch: batch(&[&text(2 * n), &text(2 * n + 1)], None),
                expected: None,
            };
            engine.submit_append(append, move |result| done.send(result).unwrap());
        }
    }
    drop(done);
    assert!(answers.iter().all(|answer| answer.is_ok()));
    for n in 0..KEYS {
        let write = BindingWrite {
            key: key(n),
            value: Some(text(n).into()),
            context: None,
            expires_ms: None,
        };
        engine.write_binding(write).unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    (bench, topics)
}

fn text(n: u64) -> String {
    format!("{n}:{}", "abcdefghij".repeat(30))
}

fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("k{n}").as_bytes()).unwrap()
}

fn files(data: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(data.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

/// What a store shows of its data: whatever it serves must be what was written.
#[derive(Debug, Default)]
struct Seen {
    refused_to_open: bool,
    damages: usize,
    served: u64,
    scrub: ScrubReport,
}

fn scrub(engine: &Engine) -> ScrubReport {
    engine.scrub(&mut |_| ControlFlow::Continue(()))
}

fn look(bench: &Bench, data: &Path, topic: TopicKey) -> Seen {
    let engine = match Engine::open(data, bench.options()) {
        Ok(engine) => engine,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Seen {
                refused_to_open: true,
                ..Seen::default()
            };
        }
    };
    let mut seen = Seen::default();
    let mut from = 0;
    while from < RECORDS {
        match engine.read(topic, from, 1) {
            Ok(batches) => {
                for item in mesh_engine::batch::records(&batches[0]).unwrap() {
                    let (offset, record) = item.unwrap();
                    assert_eq!(
                        record.value,
                        text(offset).into_bytes(),
                        "served what was never written"
                    );
                    seen.served += 1;
                }
            }
            Err(ReadError::Damaged(damage)) => {
                assert!(damage.to_string().contains(&damage.detail));
                seen.damages += 1;
            }
            // Metadata that cannot be read hides the topic; it must not look like an empty one.
            Err(error) => panic!("{error}"),
        }
        from += 3;
    }
    for n in 0..KEYS {
        match engine.binding(&key(n)) {
            Ok(Some(binding)) => {
                let value = binding
                    .newest_live(START_MS)
                    .unwrap()
                    .live(START_MS)
                    .unwrap()
                    .clone();
                assert_eq!(value, text(n).into_bytes(), "served what was never written");
                seen.served += 1;
            }
            Ok(None) => panic!("key {n} vanished without a word"),
            Err(_) => seen.damages += 1,
        }
    }
    seen.scrub = scrub(&engine);
    seen
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x04;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_flipped_byte_anywhere_in_a_blob_file_is_never_served() {
    let (bench, topic) = stored();
    let blobs = files(&bench.data(), "blob");
    assert_eq!(blobs.len(), 1, "payloads are in one blob file");
    let length = fs::metadata(&blobs[0]).unwrap().len() as usize;
    let mut reported = 0;
    for n in 0..40 {
        let at = n * length / 40 + n % 7;
        let data = bench.crashed_copy(&format!("flip{n}"));
        flip(&data.join("db").join(blobs[0].file_name().unwrap()), at);
        let seen = look(&bench, &data, topic);
        assert!(
            seen.refused_to_open || seen.damages > 0 || seen.served == RECORDS + KEYS,
            "byte {at}: {seen:?}"
        );
        reported += usize::from(seen.refused_to_open || seen.damages > 0);
        fs::remove_dir_all(data).unwrap();
    }
    // The rest fell on keys and sizes that a read does not use.
    assert!(reported >= 30, "{reported} of 40");
}

/// Bytes at the beginning of a table file that are in data blocks for certain: its properties come after them, and
/// between the two are only an index and a filter, which are smaller.
fn data_bytes(table: &Path) -> usize {
    let bytes = fs::read(table).unwrap();
    let properties = bytes.windows(8).position(|at| at == b"rocksdb.").unwrap();
    properties / 6
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn names(report: &ScrubReport, file: &str) -> bool {
    report
        .damages
        .iter()
        .any(|damage| damage.files.iter().any(|named| named == file))
}

/// How many kinds of things the scrub read fewer of than it should have.
fn kinds_missed(report: &ScrubReport, whole: &ScrubReport) -> usize {
    [
        (report.batches, whole.batches),
        (report.bindings, whole.bindings),
        (report.others, whole.others),
    ]
    .into_iter()
    .filter(|(read, all)| {
        assert!(read <= all);
        read < all
    })
    .count()
}

#[test]
fn a_flipped_byte_anywhere_in_a_table_file_is_never_served() {
    let (bench, topic) = stored();
    for (n, table) in files(&bench.data(), "sst").into_iter().enumerate() {
        let length = fs::metadata(&table).unwrap().len() as usize;
        for at in [0, length / 3, length / 2, length - 60] {
            let data = bench.crashed_copy(&format!("flip{n}.{at}"));
            flip(&data.join("db").join(table.file_name().unwrap()), at);
            let outcome = std::panic::catch_unwind(|| look(&bench, &data, topic));
            let seen = outcome.unwrap_or_else(|_| panic!("{} byte {at}", table.display()));
            // What a read does not need (properties, filters) may rot unseen; the rest may not.
            let all_read = seen.served == RECORDS + KEYS && seen.scrub.damages.is_empty();
            assert!(
                seen.refused_to_open || all_read || names(&seen.scrub, &name_of(&table)),
                "{} byte {at}: {seen:?}",
                table.display()
            );
            fs::remove_dir_all(data).unwrap();
        }
    }
}

#[test]
fn a_flip_in_the_data_of_any_table_file_is_reported_and_hides_nothing_else() {
    let (bench, topic) = stored();
    let data = bench.crashed_copy("whole");
    let whole = look(&bench, &data, topic);
    assert_eq!(whole.scrub.damages, []);
    assert_eq!((whole.served, whole.scrub.bindings), (RECORDS + KEYS, KEYS));
    let (mut families, mut opened) = (Vec::new(), 0);
    for (n, table) in files(&bench.data(), "sst").into_iter().enumerate() {
        for at in [10, data_bytes(&table)] {
            let data = bench.crashed_copy(&format!("flip{n}.{at}"));
            flip(&data.join("db").join(table.file_name().unwrap()), at);
            let seen = look(&bench, &data, topic);
            fs::remove_dir_all(data).unwrap();
            if seen.refused_to_open {
                continue;
            }
            opened += 1;
            let place = format!("{} byte {at}: {:#?}", table.display(), seen.scrub);
            assert!(names(&seen.scrub, &name_of(&table)), "{place}");
            assert_eq!(seen.scrub.damages.len(), 1, "{place}");
            assert!(kinds_missed(&seen.scrub, &whole.scrub) <= 1, "{place}");
            let what = &seen.scrub.damages[0].what;
            families.extend(what.split(',').next().map(str::to_owned));
        }
    }
    families.sort();
    families.dedup();
    eprintln!("{opened} stores opened; damage was found in {families:?}");
    for name in [
        "bindings",
        "cursors",
        "expiry",
        "journal",
        "log",
        "merkle",
        "producers",
        "topics",
    ] {
        assert!(families.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn a_scrub_that_finds_damage_does_not_stop_the_writer() {
    let (bench, topic) = stored();
    let mut appended = 0;
    for (n, table) in files(&bench.data(), "sst").into_iter().enumerate() {
        let data = bench.crashed_copy(&format!("flip{n}"));
        flip(&data.join("db").join(table.file_name().unwrap()), 10);
        let Ok(engine) = Engine::open(&data, bench.options()) else {
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
        if let Ok(engine) = Engine::open(&data, bench.options()) {
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
            if let Ok(engine) = Engine::open(&data, bench.options()) {
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

#[test]
fn a_damaged_manifest_stops_the_start() {
    let (bench, _) = stored();
    let manifest = fs::read_dir(bench.data().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("MANIFEST")
        })
        .unwrap();
    let length = fs::metadata(&manifest).unwrap().len() as usize;
    flip(&manifest, length / 2);
    let error = Engine::open(bench.data(), bench.options()).err().unwrap();
    assert!(
        matches!(error, mesh_engine::OpenError::Damaged { .. }),
        "{error}"
    );
}
