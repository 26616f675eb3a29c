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

use mesh_engine::{BindingWrite, Engine, ReadError};
use mesh_ring::ids::TopicKey;
use mesh_ring::name::BindingKey;
use support::*;

const RECORDS: u64 = 120;
const KEYS: u64 = 40;

/// A closed store with records (in blob files), bindings (in table files) and an empty log.
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
                expires_ms: None,
            })
            .unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    (bench, topic)
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
            assert!(
                seen.refused_to_open || seen.damages > 0 || seen.served == RECORDS + KEYS,
                "{} byte {at}: {seen:?}",
                table.display()
            );
            fs::remove_dir_all(data).unwrap();
        }
    }
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
    let report = engine.scrub(&mut |_| ControlFlow::Continue(()));
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
