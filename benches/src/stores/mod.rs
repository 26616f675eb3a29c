//! The contenders behind one trait, so that the measured loops are the same code.
//!
//! Meshlog stores a batch of records as it stores one that a client sent. The others store each record under a key of
//! its own, topic u32 BE | offset u64 BE, as an application would that built a log on them.

mod fjall;
mod meshlog;
mod redb;
mod rocks;

use std::path::Path;

pub use meshlog::{InFlight, Meshlog};

use crate::Result;

/// Cache that every store gets which has one to set, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// Records of one read while Meshlog is replayed, in bytes.
pub const READ_BYTES: usize = 1 << 20;

/// Takes in a value that was read.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8]);

/// A store under measurement.
pub trait Store {
    /// Puts the values at the end of `topic`, in order; returns once they are fsynced.
    fn append(&mut self, topic: usize, values: &[&[u8]]) -> Result<()>;

    /// Hands every value of `topic` to `visit`, in order.
    fn replay(&mut self, topic: usize, visit: Visit<'_>) -> Result<()>;

    /// Hands the value at `offset` of `topic` to `visit`.
    fn read(&mut self, topic: usize, offset: u64, visit: Visit<'_>) -> Result<()>;

    /// Writes bindings, all of them waiting for the disk together; returns once they are fsynced.
    fn put(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<()>;

    /// Hands the value of a binding to `visit`.
    fn get(&mut self, key: &[u8], visit: Visit<'_>) -> Result<()>;

    /// Ends all work in the background and closes.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Meshlog's engine, as a library.
    Meshlog,
    /// RocksDB with a key a record.
    RocksDb,
    /// fjall with a key a record.
    Fjall,
    /// redb with a key a record.
    Redb,
}

impl Kind {
    /// All of them, ours first, then what we are measured against first.
    pub const ALL: [Kind; 4] = [Kind::Meshlog, Kind::RocksDb, Kind::Fjall, Kind::Redb];

    /// As it is called in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Meshlog => "Meshlog",
            Kind::RocksDb => "bare RocksDB",
            Kind::Fjall => "fjall",
            Kind::Redb => "redb",
        }
    }

    /// How it is set up, for the report.
    #[must_use]
    pub fn settings(self) -> &'static str {
        match self {
            Kind::Meshlog => {
                "`Options::default()`: write buffer 64 MiB, cache 64 MiB; one batch an append, fsynced"
            }
            Kind::RocksDb => {
                "defaults (write buffer 64 MiB, two background jobs), no compression, cache 64 MiB; one `WriteBatch` a \
                 commit, `sync = true`; `DBRawIterator`; `get_pinned`"
            }
            Kind::Fjall => {
                "defaults (memtable 64 MiB, no key-value separation), cache 64 MiB; one batch a commit, \
                 `PersistMode::SyncAll`; `iter`; `get`"
            }
            Kind::Redb => {
                "defaults (cache 1 GiB); one write transaction a commit, `Durability::Immediate`; `range`; `get`"
            }
        }
    }

    /// Makes an empty store in `dir`, which does not exist yet, with this many topics.
    ///
    /// # Errors
    /// What the store says.
    pub fn create(self, dir: &Path, topics: usize) -> Result<Box<dyn Store>> {
        Ok(match self {
            Kind::Meshlog => Box::new(Meshlog::create(dir, topics)?),
            Kind::RocksDb => Box::new(rocks::Rocks::open(dir, topics)?),
            Kind::Fjall => Box::new(fjall::Fjall::open(dir, topics)?),
            Kind::Redb => Box::new(redb::Redb::open(dir, topics)?),
        })
    }

    /// Opens a store that [`Kind::create`] made with as many topics, for reading and [`Store::put`].
    ///
    /// # Errors
    /// What the store says.
    pub fn open(self, dir: &Path, topics: usize) -> Result<Box<dyn Store>> {
        match self {
            Kind::Meshlog => Ok(Box::new(Meshlog::open(dir, topics)?)),
            _ => self.create(dir, topics),
        }
    }
}

/// The peers' key of a record.
fn record_key(topic: usize, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&(topic as u32).to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The peers' key of a binding: apart from all records.
fn binding_key(key: &[u8]) -> Vec<u8> {
    [&[0xff; 4], key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

    #[test]
    fn every_store_gives_back_what_was_put_in_also_after_reopening() {
        let payload = Payload::new(100);
        for kind in Kind::ALL {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let mut store = kind.create(&data, 2).unwrap();
            store.append(0, &payload.values(0, 3)).unwrap();
            store.append(1, &payload.values(50, 1)).unwrap();
            store.append(0, &payload.values(3, 2)).unwrap();
            store
                .put(&[(b"a", payload.value(8)), (b"b", payload.value(9))])
                .unwrap();
            check(store.as_mut(), &payload, kind);
            store.close().unwrap();
            check(kind.open(&data, 2).unwrap().as_mut(), &payload, kind);
        }
    }

    fn check(store: &mut dyn Store, payload: &Payload, kind: Kind) {
        let mut found: Vec<Vec<u8>> = Vec::new();
        store
            .replay(0, &mut |value| found.push(value.to_vec()))
            .unwrap();
        assert_eq!(found, payload.values(0, 5), "{kind:?}");
        let mut found: Vec<Vec<u8>> = Vec::new();
        store
            .read(0, 4, &mut |value| found.push(value.to_vec()))
            .unwrap();
        store
            .read(1, 0, &mut |value| found.push(value.to_vec()))
            .unwrap();
        store
            .get(b"b", &mut |value| found.push(value.to_vec()))
            .unwrap();
        assert_eq!(
            found,
            [payload.value(4), payload.value(50), payload.value(9)],
            "{kind:?}"
        );
    }
}
