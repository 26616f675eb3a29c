//! More than one log file.

use super::*;

/// A store whose two log files are both needed: only one family of two was flushed between them.
pub(super) fn two_files() -> (TempDir, [PathBuf; 2], [Vec<u8>; 2]) {
    let live = TempDir::new().unwrap();
    let db = open(live.path()).unwrap();
    let other = db.cf_handle("other").unwrap();
    for i in 0..4 {
        put(&db, i, &value(i, 10_000));
    }
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    db.put_cf_opt(other, b"k", b"v", &synced).unwrap();
    let mut flush = FlushOptions::default();
    flush.set_wait(true);
    db.flush_cf_opt(other, &flush).unwrap();
    for i in 4..8 {
        put(&db, i, &value(i, 10_000));
    }
    let copy = copy_of(live.path());
    let files: [PathBuf; 2] = log_files(copy.path()).unwrap().try_into().unwrap();
    let logs = [fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap()];
    (copy, files, logs)
}

fn is_damaged(dir: &TempDir, file: &Path) -> bool {
    matches!(check(dir.path()).unwrap(), WalVerdict::Damaged { file: named, .. } if named == file)
}

#[test]
fn two_whole_files_are_whole() {
    let (dir, files, logs) = two_files();
    let bytes = (logs[0].len() + logs[1].len()) as u64;
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Whole(WalSummary {
            files: 2,
            bytes,
            records: 9
        })
    );

    let zeros = [&logs[0][..], &[0; 5000]].concat();
    fs::write(&files[0], zeros).unwrap();
    assert!(
        matches!(check(dir.path()).unwrap(), WalVerdict::Whole(_)),
        "space that was allocated ahead"
    );
    fs::write(&files[1], b"").unwrap();
    assert!(
        matches!(check(dir.path()).unwrap(), WalVerdict::Whole(_)),
        "a file just created"
    );
}

#[test]
fn an_older_file_is_never_torn() {
    let (dir, files, logs) = two_files();
    let length = logs[0].len();
    let mut flipped = logs[0].clone();
    flipped[length - 1] ^= 1;
    let mut zeroed = logs[0].clone();
    zeroed[length - 30..].fill(0);
    let garbage = [&logs[0][..], b"garbage"].concat();
    for (what, log) in [
        ("cut", &logs[0][..length - 1]),
        ("flipped", &flipped),
        ("zeroed", &zeroed),
        ("longer", &garbage),
    ] {
        fs::write(&files[0], log).unwrap();
        assert!(is_damaged(&dir, &files[0]), "{what}");
    }
    fs::write(&files[1], b"").unwrap();
    assert!(
        is_damaged(&dir, &files[0]),
        "the newer file was created after a sync of the older one"
    );
}

#[test]
fn zeros_for_an_older_files_last_records_are_damage() {
    let (dir, files, logs) = two_files();
    let mut log = logs[0].clone();
    let first_end = 7 + 12 + 1 + 1 + 4 + 2 + 10_000;
    log[first_end..].fill(0);
    fs::write(&files[0], &log).unwrap();
    let WalVerdict::Damaged {
        file,
        offset,
        detail,
    } = check(dir.path()).unwrap()
    else {
        panic!("not damaged")
    };
    assert_eq!((file, offset), (files[0].clone(), first_end as u64));
    assert!(
        detail.starts_with("zeros, and the next file goes on with sequence 6 where 2 was next"),
        "{detail}"
    );
}

#[test]
fn the_newest_file_may_be_torn_or_damaged() {
    let (dir, files, logs) = two_files();
    fs::write(&files[1], &logs[1][..logs[1].len() - 1]).unwrap();
    let keep_bytes = 3 * (7 + 12 + 1 + 1 + 4 + 2 + 10_000);
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Torn {
            file: files[1].clone(),
            keep_bytes
        }
    );
    fs::write(&files[1], &logs[1][..100]).unwrap();
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Torn {
            file: files[1].clone(),
            keep_bytes: 0
        }
    );

    let mut log = logs[1].clone();
    log[50] ^= 1;
    fs::write(&files[1], &log).unwrap();
    assert!(is_damaged(&dir, &files[1]));
}

#[test]
fn files_are_ordered_by_number() {
    let (dir, files, logs) = two_files();
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    let (older, newer) = (
        dir.path().join("999999.log"),
        dir.path().join("1000000.log"),
    );
    fs::write(&older, &logs[0]).unwrap();
    fs::write(&newer, &logs[1][..100]).unwrap();
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Torn {
            file: newer,
            keep_bytes: 0
        }
    );
}

/// RocksDB begins a file with a description of the one before it, if asked to.
#[test]
fn descriptions_are_no_records() {
    let (dir, files, logs) = two_files();
    let payload = [0; 20];
    let covered = [&[130], &payload[..]].concat();
    let crc = fragment::mask(crc32c::crc32c(&covered)).to_le_bytes();
    let description = [&crc[..], &[20, 0], &covered].concat();
    fs::write(&files[1], &description).unwrap();
    assert!(matches!(
        check(dir.path()).unwrap(),
        WalVerdict::Whole(WalSummary { records: 5, .. })
    ));
    fs::write(&files[1], [&description[..], &logs[1][..900]].concat()).unwrap();
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Torn {
            file: files[1].clone(),
            keep_bytes: 27
        }
    );
}
