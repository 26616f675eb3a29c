//! A torn log is made whole, and RocksDB then agrees.

use super::*;

#[test]
fn what_is_cut_off_is_kept_beside() {
    let store = Store::new(&[100, 200]);
    let keep = store.records[0].end as u64;
    for number in 1..3 {
        fs::write(&store.file, &store.log[..store.log.len() - number]).unwrap();
        let copy = cut(&store.file, keep).unwrap();
        let name = format!("{}.torn-{number}", store.file.display());
        assert_eq!(copy, Path::new(&name));
        assert_eq!(
            fs::read(&copy).unwrap(),
            store.log[keep as usize..store.log.len() - number]
        );
        assert_eq!(fs::read(&store.file).unwrap(), store.log[..keep as usize]);
    }
    assert_eq!(
        cut(&store.file, keep).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        cut(&store.file, keep + 1).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        fs::read_dir(store.dir.path())
            .unwrap()
            .filter(|e| is_torn_copy(e.as_ref().unwrap()))
            .count(),
        2
    );

    let db = open(store.dir.path()).unwrap();
    put(&db, 5, b"goes on");
    drop(db);
    assert!(matches!(
        check(store.dir.path()).unwrap(),
        WalVerdict::Whole(_)
    ));
    let copies = fs::read_dir(store.dir.path())
        .unwrap()
        .filter(|e| is_torn_copy(e.as_ref().unwrap()))
        .count();
    assert_eq!(copies, 2, "RocksDB leaves the copies alone");
}

fn is_torn_copy(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().unwrap().contains(".log.torn-")
}

/// Cuts the log if it is torn, and expects RocksDB to hold exactly the first `complete` records then.
fn cut_and_open(store: &Store, log: &[u8], complete: usize, what: &str) {
    if store.check_with(log) == store.torn_after(complete) {
        let keep = complete
            .checked_sub(1)
            .map_or(0, |last| store.records[last].end);
        cut(&store.file, keep as u64).unwrap();
        assert_eq!(
            check(store.dir.path()).unwrap(),
            store.whole(keep, complete),
            "{what}"
        );
    } else {
        assert_eq!(
            check(store.dir.path()).unwrap(),
            store.whole(log.len(), complete),
            "{what}"
        );
    }
    assert_eq!(store.records_when_opened(), Ok(complete), "{what}");
}

#[test]
fn every_torn_log_opens_with_the_complete_records_once_cut() {
    let store = Store::new(&SIZES);
    let ends = store
        .records
        .iter()
        .flat_map(|r| [r.end - 1, r.end, r.end + 3, r.end + 7, r.end + 12]);
    for length in (0..store.log.len())
        .step_by(40_009)
        .chain(ends)
        .filter(|&l| l <= store.log.len())
    {
        let complete = store.records.iter().filter(|r| r.end <= length).count();
        cut_and_open(
            &store,
            &store.log[..length],
            complete,
            &format!("cut to {length}"),
        );
    }
    let garbage = [&store.log[..], &value(9, 50_000)].concat();
    cut_and_open(&store, &garbage, SIZES.len(), "garbage behind");
    for fragment in store.fragments(SIZES.len() - 1) {
        for at in [
            fragment.start,
            fragment.start + 5,
            fragment.start + 6,
            fragment.end - 1,
        ] {
            let mut log = store.log.clone();
            log[at] ^= 0x21;
            cut_and_open(&store, &log, SIZES.len() - 1, &format!("flip at {at}"));
        }
        let mut log = store.log.clone();
        log[fragment.clone()].fill(0);
        cut_and_open(
            &store,
            &log,
            SIZES.len() - 1,
            &format!("zeros at {}", fragment.start),
        );
    }
}

/// Accepting the loss: the damaged file up to the damage, and nothing of the newer ones.
#[test]
fn a_damaged_log_is_whole_once_it_is_cut_at_the_damage() {
    let (dir, files, logs) = files::two_files();
    let mut log = logs[0].clone();
    log[15_000] ^= 1;
    fs::write(&files[0], &log).unwrap();
    assert!(matches!(
        check(dir.path()).unwrap(),
        WalVerdict::Damaged { .. }
    ));
    let cuts = beyond_damage(dir.path(), &files[0]).unwrap();
    let keep = 7 + 12 + 1 + 1 + 4 + 2 + 10_000;
    assert_eq!(cuts, [(files[1].clone(), 0), (files[0].clone(), keep)]);
    for (file, keep_bytes) in cuts {
        cut(&file, keep_bytes).unwrap();
    }
    assert_eq!(
        beyond_damage(dir.path(), &files[0]).unwrap(),
        [(files[0].clone(), keep)]
    );
    assert_eq!(
        check(dir.path()).unwrap(),
        WalVerdict::Whole(WalSummary {
            files: 2,
            bytes: keep,
            records: 1
        })
    );

    // The manifest knows how long the older file was. RocksDB forgets that when it is opened once without looking.
    let mismatch = open(dir.path()).unwrap_err().to_string();
    assert!(mismatch.contains("Size mismatch: WAL"), "{mismatch}");
    drop(open_with(dir.path(), false).unwrap());
    let db = open(dir.path()).unwrap();
    let found: Vec<bool> = (0..8).map(|i| db.get(key(i)).unwrap().is_some()).collect();
    assert_eq!(
        found,
        [true, false, false, false, false, false, false, false]
    );
}
