//! What the tests of damage share: stores with something of everything, and bytes that are flipped in them.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use mesh_engine::{Append, BindingWrite, Engine, ReadError, ScrubReport, Solo, TopicConfig};
use mesh_ring::ids::TopicKey;
use mesh_ring::name::{BindingKey, CursorName};

use super::*;

pub(crate) const RECORDS: u64 = 120;
pub(crate) const KEYS: u64 = 40;
/// Batches of each topic of a wide store.
pub(crate) const BATCHES: u64 = 120;

/// A closed store with records (in blob files), something in every family that is used, and an empty log.
pub(crate) fn stored() -> (Bench, TopicKey) {
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
pub(crate) fn stored_widely() -> (Bench, Vec<TopicKey>) {
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

pub(crate) fn text(n: u64) -> String {
    format!("{n}:{}", "abcdefghij".repeat(30))
}

pub(crate) fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("k{n}").as_bytes()).unwrap()
}

pub(crate) fn files(data: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(data.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

pub(crate) fn scrub(engine: &Engine) -> ScrubReport {
    engine.scrub(&mut |_| ControlFlow::Continue(()))
}

pub(crate) fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x04;
    fs::write(file, bytes).unwrap();
}

/// Bytes at the beginning of a table file that are in data blocks for certain: its properties come after them, and
/// between the two are only an index and a filter, which are smaller.
pub(crate) fn data_bytes(table: &Path) -> usize {
    let bytes = fs::read(table).unwrap();
    let properties = bytes.windows(8).position(|at| at == b"rocksdb.").unwrap();
    properties / 6
}

pub(crate) fn name_of(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

pub(crate) fn names(report: &ScrubReport, file: &str) -> bool {
    report
        .damages
        .iter()
        .any(|damage| damage.files.iter().any(|named| named == file))
}

/// How many kinds of things the scrub read fewer of than it should have.
pub(crate) fn kinds_missed(report: &ScrubReport, whole: &ScrubReport) -> usize {
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

/// What a store shows of its data: whatever it serves must be what was written.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) refused_to_open: bool,
    pub(crate) damages: usize,
    pub(crate) served: u64,
    pub(crate) scrub: ScrubReport,
}

pub(crate) fn look(bench: &Bench, data: &Path, topic: TopicKey) -> Seen {
    let engine = match Solo::open(data, bench.options()) {
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
                for item in records(&batches[0]).unwrap() {
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
