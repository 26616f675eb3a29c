//! What the engine's tests share: a store in a temporary directory, small batches, and copies as a crash leaves them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and fails by panicking"
)]

pub(crate) mod damage;
pub(crate) mod journal;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_engine::batch::{BatchBuilder, Compression, ProducerStamp, Record, records};
use mesh_engine::{
    Append, AppendError, Appended, Engine, Identity, Options, Solo, TopicConfig, prepare,
};
use mesh_ring::ids::{ClusterId, NodeId, Offset, ProducerId, TopicKey};
use mesh_ring::name::TopicName;
use tempfile::TempDir;

/// Where the tests' clock begins, in unix milliseconds.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    /// Unix time, which may jump.
    pub(crate) clock: Arc<AtomicU64>,
    /// Time that never does.
    pub(crate) steady: Arc<AtomicU64>,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        prepare(&dir.path().join("data"), &identity()).unwrap();
        Bench {
            dir,
            clock: Arc::new(AtomicU64::new(START_MS)),
            steady: Arc::default(),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn options(&self) -> Options {
        let (clock, steady) = (Arc::clone(&self.clock), Arc::clone(&self.steady));
        Options {
            reserve_bytes: 0,
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            steady: Arc::new(move || steady.load(Ordering::Relaxed)),
            ..Options::default()
        }
    }

    /// A store that nobody drives but the test.
    pub(crate) fn open_engine(&self) -> Engine {
        Engine::open(self.data(), self.options()).unwrap()
    }

    pub(crate) fn open_engine_at(&self, data: &Path) -> Engine {
        Engine::open(data, self.options()).unwrap()
    }

    pub(crate) fn open(&self) -> Solo {
        Solo::open(self.data(), self.options()).unwrap()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
        self.steady.fetch_add(ms, Ordering::Relaxed);
    }

    /// A copy of the directory as it is now: what a machine that dies at this moment finds afterwards.
    pub(crate) fn crashed_copy(&self, name: &str) -> PathBuf {
        self.crashed_copy_of(&self.data(), name)
    }

    /// The same of another directory.
    pub(crate) fn crashed_copy_of(&self, data: &Path, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy_dir(data, &to);
        to
    }

    pub(crate) fn open_at(&self, data: &Path) -> Solo {
        Solo::open(data, self.options()).unwrap()
    }
}

/// The newest write-ahead log file.
pub(crate) fn newest_log(data: &Path) -> PathBuf {
    let mut logs: Vec<PathBuf> = fs::read_dir(data.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs.pop().unwrap()
}

/// How much of a write-ahead log file is written. It may be longer: zeros follow.
pub(crate) fn written_bytes(log: &Path) -> u64 {
    let log = fs::read(log).unwrap();
    let mut at = 0;
    // Blocks of 32 KiB; in each, records behind a header of 7 bytes: checksum u32, length u16, kind. Less than a header at
    // a block's end is padding.
    while let Some(header) = log.get(at..at + 7) {
        let room = BLOCK_BYTES - at % BLOCK_BYTES;
        if room < 7 {
            at += room;
        } else if header[6] == 0 {
            break;
        } else {
            at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]]));
        }
    }
    at.min(log.len()) as u64
}

const BLOCK_BYTES: usize = 32 << 10;

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId([2; 16]),
        name: "n1".into(),
        partitions: 8,
    }
}

/// Copies a directory of which RocksDB may be removing obsolete files, and adding new ones that its manifest names at once:
/// begins anew where files have come or gone meanwhile.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for _ in 0..100 {
        let before = names(from);
        match try_copy_dir(from, to) {
            Ok(()) if names(from) == before => return,
            Err(error) if error.kind() != ErrorKind::NotFound => {
                panic!("{}: {error}", from.display())
            }
            _ => fs::remove_dir_all(to).unwrap(),
        }
    }
    panic!("{} does not come to rest", from.display());
}

/// Every file under a directory, but for what is gone again while it is looked at.
fn names(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(names(&entry.path()));
        } else {
            found.insert(entry.path());
        }
    }
    found
}

fn try_copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

pub(crate) fn create(engine: &Solo, name: &str) -> TopicKey {
    create_with(engine, name, TopicConfig::default())
}

pub(crate) fn create_with(engine: &Solo, name: &str, config: TopicConfig) -> TopicKey {
    engine
        .create_topic(&TopicName::new(name).unwrap(), config)
        .unwrap()
        .key
}

pub(crate) fn batch(values: &[&str], producer: Option<ProducerStamp>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(&record(value.as_bytes().to_vec())).unwrap();
    }
    builder.finish(producer).unwrap()
}

pub(crate) fn record(value: Vec<u8>) -> Record {
    Record {
        key: None,
        value: value.into(),
        headers: Vec::new(),
        timestamp_ms: 0,
    }
}

/// One record of `bytes` bytes that do not compress.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

pub(crate) fn noise_batch(seed: u64, count: usize, bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in 0..count {
        builder
            .push(&record(noise(seed * 1_000 + n as u64, bytes)))
            .unwrap();
    }
    builder.finish(None).unwrap()
}

pub(crate) fn append(
    engine: &Solo,
    topic: TopicKey,
    values: &[&str],
) -> Result<Appended, AppendError> {
    engine.append(Append {
        topic,
        batch: batch(values, None),
        expected: None,
    })
}

pub(crate) fn producer(n: u8) -> ProducerId {
    ProducerId::new(START_MS, [n; 10])
}

pub(crate) fn stamp(n: u8, epoch: u32, sequence: u32) -> Option<ProducerStamp> {
    Some(ProducerStamp {
        id: producer(n),
        epoch,
        sequence,
    })
}

/// Every record from `from` to the end, as (offset, value).
pub(crate) fn read_all(engine: &Engine, topic: TopicKey, from: Offset) -> Vec<(Offset, String)> {
    let mut next = from;
    let mut all = Vec::new();
    loop {
        let stored = engine.read(topic, next, 1 << 20).unwrap();
        if stored.is_empty() {
            return all;
        }
        for batch in stored {
            for item in records(&batch).unwrap() {
                let (offset, record) = item.unwrap();
                if offset >= next {
                    assert_eq!(offset, next, "offsets are dense");
                    all.push((offset, String::from_utf8_lossy(&record.value).into_owned()));
                    next = offset + 1;
                }
            }
        }
    }
}

pub(crate) fn values(engine: &Engine, topic: TopicKey) -> Vec<String> {
    let first = engine.describe(topic).unwrap().first;
    read_all(engine, topic, first)
        .into_iter()
        .map(|(_, value)| value)
        .collect()
}
