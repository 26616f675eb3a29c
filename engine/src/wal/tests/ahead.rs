//! A log file that is longer than what is in it.

use super::*;

fn bytes(log: &Path) -> usize {
    fs::metadata(log).unwrap().len() as usize
}

#[test]
#[cfg(target_os = "linux")]
fn the_newest_file_is_longer_than_what_is_written_and_nothing_is_lost() {
    let live = TempDir::new().unwrap();
    let db = open(live.path()).unwrap();
    let mut ahead = Ahead::new(live.path());
    let log = only_log(live.path());
    ahead.keep(0);
    let mut grown = 0;
    let sizes = [10, 700, 3 << 20, 33, 2 << 20, 1 << 20, 90];
    for (i, size) in sizes.into_iter().enumerate() {
        let before = bytes(&log);
        put(&db, i, &value(i, size));
        assert!(bytes(&log) >= before, "record {i}");
        grown += usize::from(bytes(&log) > before);
        ahead.keep(size as u64);
        // As a power loss leaves it.
        let copy = copy_of(live.path());
        let verdict = check(copy.path()).unwrap();
        assert!(
            matches!(verdict, WalVerdict::Whole(summary) if summary.records == i as u64 + 1),
            "{verdict:?}"
        );
        let reopened = open(copy.path()).unwrap();
        for (i, size) in sizes[..=i].iter().enumerate() {
            assert_eq!(reopened.get(key(i)).unwrap(), Some(value(i, *size)));
        }
    }
    assert_eq!(grown, 0, "a write has made the file longer");
}

#[test]
#[cfg(target_os = "linux")]
fn what_rocksdb_adds_to_small_writes_is_counted() {
    let live = TempDir::new().unwrap();
    let db = open(live.path()).unwrap();
    let mut ahead = Ahead::new(live.path());
    let log = only_log(live.path());
    ahead.keep(0);
    let mut unsynced = WriteOptions::default();
    unsynced.set_sync(false);
    for i in 0..200_000 {
        let before = bytes(&log);
        let mut batch = WriteBatch::default();
        batch.put(key(i), b"v");
        let written = batch.size_in_bytes() as u64;
        db.write_opt(batch, &unsynced).unwrap();
        assert_eq!(bytes(&log), before, "write {i} has made the file longer");
        ahead.keep(written);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_that_is_new_is_found_and_one_that_is_done_ends_with_what_is_in_it() {
    let live = TempDir::new().unwrap();
    let db = open(live.path()).unwrap();
    let mut ahead = Ahead::new(live.path());
    ahead.keep(0);
    put(&db, 0, &value(0, 1_000));
    let first = only_log(live.path());
    // Needed on: one family of two is flushed.
    let other = db.cf_handle("other").unwrap();
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    db.put_cf_opt(other, b"k", b"v", &synced).unwrap();
    let mut flush = FlushOptions::default();
    flush.set_wait(true);
    db.flush_cf_opt(other, &flush).unwrap();
    put(&db, 1, &value(1, 1_000));
    ahead.keep(1_000);
    let [older, newer] = log_files(live.path()).unwrap().try_into().unwrap();
    assert_eq!(older, first);
    assert!(bytes(&older) < 2_000, "{}", bytes(&older));
    assert!(bytes(&newer) > 1 << 20, "{}", bytes(&newer));
    let copy = copy_of(live.path());
    // Where the length was set while RocksDB closed the file: it is longer for good.
    let older = copy.path().join(older.file_name().unwrap());
    let file = fs::OpenOptions::new().write(true).open(older).unwrap();
    file.set_len(1 << 20).unwrap();
    assert!(matches!(
        check(copy.path()).unwrap(),
        WalVerdict::Whole(WalSummary { records: 3, .. })
    ));
    let reopened = open(copy.path()).unwrap();
    for i in 0..2 {
        assert_eq!(reopened.get(key(i)).unwrap(), Some(value(i, 1_000)));
    }
}
