mod ahead;
mod cutting;
mod files;
mod flips;
mod torn;

use super::fragment::{BLOCK_BYTES, HEADER_BYTES};
use super::*;
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBRecoveryMode, FlushOptions, Options, WriteBatch, WriteOptions,
};
use std::ops::Range;
use tempfile::TempDir;

/// Record payloads around every boundary: tiny, of a block less a header and around, and of many blocks.
const SIZES: [usize; 16] = [
    10, 700, 32_700, 12, 200_000, 33, 65_400, 1, 32_761, 90, 5_000, 98_300, 17, 32_768, 300, 40_000,
];

/// A store that was not closed: a copy of one that was open.
struct Store {
    dir: TempDir,
    /// Where each record lies in the only log file, as its length told after each write.
    records: Vec<Range<usize>>,
    /// The log file as it was.
    log: Vec<u8>,
    file: PathBuf,
}

impl Store {
    fn new(sizes: &[usize]) -> Self {
        Self::with_values(sizes.iter().enumerate().map(|(i, &size)| value(i, size)))
    }

    fn with_values(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let live = TempDir::new().unwrap();
        let db = open(live.path()).unwrap();
        let path = only_log(live.path());
        let mut records: Vec<Range<usize>> = Vec::new();
        for (i, value) in values.into_iter().enumerate() {
            put(&db, i, &value);
            let end = fs::metadata(&path).unwrap().len() as usize;
            records.push(records.last().map_or(0, |last| last.end)..end);
        }
        let dir = copy_of(live.path());
        let file = only_log(dir.path());
        Self {
            log: fs::read(&file).unwrap(),
            records,
            file,
            dir,
        }
    }

    fn check_with(&self, log: &[u8]) -> WalVerdict {
        fs::write(&self.file, log).unwrap();
        check(self.dir.path()).unwrap()
    }

    fn torn_after(&self, records: usize) -> WalVerdict {
        let keep_bytes = if records == 0 {
            0
        } else {
            self.records[records - 1].end as u64
        };
        WalVerdict::Torn {
            file: self.file.clone(),
            keep_bytes,
        }
    }

    fn whole(&self, bytes: usize, records: usize) -> WalVerdict {
        WalVerdict::Whole(WalSummary {
            files: 1,
            bytes: bytes as u64,
            records: records as u64,
        })
    }

    /// The fragments of record `number`, by the format's description alone.
    fn fragments(&self, number: usize) -> Vec<Range<usize>> {
        let mut fragments = Vec::new();
        let Range { start: mut at, end } = self.records[number];
        while at < end {
            let room = BLOCK_BYTES - at % BLOCK_BYTES;
            if room < HEADER_BYTES {
                at += room;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([self.log[at + 4], self.log[at + 5]]));
            fragments.push(at..at + HEADER_BYTES + length);
            at += HEADER_BYTES + length;
        }
        fragments
    }

    /// Opens a copy of the directory as it is now, as the engine does, and counts the records that are there, which
    /// must be the first ones.
    fn records_when_opened(&self) -> Result<usize, rocksdb::Error> {
        let copy = copy_of(self.dir.path());
        let db = open(copy.path())?;
        let mut count = 0;
        while let Some(found) = db.get(key(count))? {
            assert_eq!(found.len(), self.value_bytes(count));
            count += 1;
        }
        for later in count..self.records.len() {
            assert_eq!(db.get(key(later))?, None, "{later} without {count}");
        }
        Ok(count)
    }

    fn value_bytes(&self, number: usize) -> usize {
        let payload: usize = self
            .fragments(number)
            .iter()
            .map(|f| f.len() - HEADER_BYTES)
            .sum();
        // Write batch: 12 bytes, tag, key length, key, value length.
        let value = payload - 12 - 1 - 1 - key(number).len();
        (1..=5)
            .map(|length| value - length)
            .find(|&v| varint_len(v) == value - v)
            .unwrap()
    }
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

fn key(number: usize) -> [u8; 4] {
    (number as u32).to_be_bytes()
}

/// Looks random, and is the same in every run.
fn value(number: usize, size: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn put(db: &DB, number: usize, value: &[u8]) {
    let mut batch = WriteBatch::default();
    batch.put(key(number), value);
    let mut options = WriteOptions::default();
    options.set_sync(true);
    db.write_opt(batch, &options).unwrap();
}

/// With the engine's options as far as they touch the log.
fn open(dir: &Path) -> Result<DB, rocksdb::Error> {
    open_with(dir, true)
}

fn open_with(dir: &Path, track_logs: bool) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(track_logs);
    options.set_recycle_log_file_num(0);
    let families =
        ["default", "other"].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    DB::open_cf_descriptors(&options, dir, families)
}

fn copy_of(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn only_log(dir: &Path) -> PathBuf {
    let mut files = log_files(dir).unwrap();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn a_log_as_it_was_left_is_whole() {
    let store = Store::new(&SIZES);
    assert_eq!(
        check(store.dir.path()).unwrap(),
        store.whole(store.log.len(), SIZES.len())
    );
    assert_eq!(store.records_when_opened(), Ok(SIZES.len()));
    assert!(
        store.fragments(4).len() > 6,
        "one record is of many fragments"
    );
}

/// Less than a header's room is padded, and with a header's room and little more a record begins with next to nothing.
#[test]
fn a_record_may_end_anywhere_before_its_blocks_end() {
    // Of a record with a value of three length bytes: header, batch, tag, key.
    let around = HEADER_BYTES + 12 + 1 + 1 + key(0).len() + 3;
    for room in 0..=20 {
        let store = Store::new(&[BLOCK_BYTES - around - room, 40_000, 10, 5]);
        assert_eq!(store.records[0].end, BLOCK_BYTES - room);
        assert_eq!(
            check(store.dir.path()).unwrap(),
            store.whole(store.log.len(), 4),
            "{room}"
        );
        let [_, second, third, _] = &store.records[..] else {
            panic!()
        };
        assert_eq!(
            store.check_with(&store.log[..second.end - 1]),
            store.torn_after(1),
            "{room}"
        );

        for at in [second.end - 1, third.start + 4] {
            let mut log = store.log.clone();
            log[at] ^= 0x11;
            assert!(
                matches!(store.check_with(&log), WalVerdict::Damaged { .. }),
                "{room}"
            );
        }
        let mut log = store.log[..second.end].to_vec();
        log[100] ^= 1;
        assert!(
            matches!(
                store.check_with(&log),
                WalVerdict::Damaged { offset: 0, .. }
            ),
            "{room}"
        );
    }
}

#[test]
fn other_names_are_no_log() {
    let dir = TempDir::new().unwrap();
    for name in [
        "LOG",
        "LOG.old",
        "x.log",
        ".log",
        "1.log.torn-1",
        "-1.log",
        "+1.log",
        "000001.sst",
    ] {
        fs::write(dir.path().join(name), b"garbage").unwrap();
    }
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Whole(WalSummary::default())
    );
    assert_eq!(
        check(&dir.path().join("nowhere")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}
