//! Damage to what was synced.

use super::*;

type Damage = Box<dyn Fn(&mut [u8])>;

/// Changes that leave a fragment unreadable.
fn damages(fragment: &Range<usize>) -> Vec<(&'static str, Damage)> {
    let Range { start, end } = *fragment;
    let flip = |at: usize, mask: u8| -> Damage { Box::new(move |log| log[at] ^= mask) };
    let zero = |to: usize| -> Damage { Box::new(move |log| log[start..to].fill(0)) };
    let mut damages = vec![
        ("zeroed header", zero(start + HEADER_BYTES)),
        ("zeroed", zero(end)),
    ];
    for mask in [0x01, 0x10, 0x80, 0xff] {
        damages.push(("checksum", flip(start, mask)));
        damages.push(("checksum", flip(start + 3, mask)));
        damages.push(("length", flip(start + 4, mask)));
        damages.push(("length", flip(start + 5, mask)));
        damages.push(("type", flip(start + 6, mask)));
    }
    if end > start + HEADER_BYTES {
        damages.push(("first byte", flip(start + HEADER_BYTES, 1)));
        damages.push(("middle byte", flip((start + HEADER_BYTES + end) / 2, 0x40)));
        damages.push(("last byte", flip(end - 1, 0x80)));
    }
    damages.push((
        "page",
        Box::new(move |log| log[start..end.min(start + 4096)].fill(0xaa)),
    ));
    damages
}

#[test]
fn anything_with_a_record_behind_it_is_damaged() {
    let store = Store::new(&SIZES);
    for number in 0..SIZES.len() - 1 {
        for fragment in store.fragments(number) {
            for (what, damage) in damages(&fragment) {
                let mut log = store.log.clone();
                damage(&mut log);
                let verdict = store.check_with(&log);
                let WalVerdict::Damaged {
                    file,
                    offset,
                    detail,
                } = &verdict
                else {
                    panic!(
                        "{what} of record {number} at {}: {verdict:?}",
                        fragment.start
                    );
                };
                assert_eq!(
                    (file, *offset),
                    (&store.file, fragment.start as u64),
                    "{what} of {number}: {detail}"
                );
                assert!(
                    detail.contains("a later record follows at byte"),
                    "{detail}"
                );
            }
        }
    }
}

#[test]
fn damage_to_the_last_record_is_torn() {
    for sizes in [&SIZES[..], &[10, 20], &[50_000, 10], &[7]] {
        let store = Store::new(sizes);
        let last = sizes.len() - 1;
        for fragment in store.fragments(last) {
            for (what, damage) in damages(&fragment) {
                let mut log = store.log.clone();
                damage(&mut log);
                let nothing_of_it = log[store.records[last].clone()].iter().all(|&b| b == 0);
                let expected = if nothing_of_it {
                    store.whole(log.len(), last)
                } else {
                    store.torn_after(last)
                };
                assert_eq!(
                    store.check_with(&log),
                    expected,
                    "{what} at {}",
                    fragment.start
                );
            }
        }
    }
}

/// Each record has lost something, and only one at the end is readable.
#[test]
fn much_damage_before_a_readable_record_is_damaged() {
    let store = Store::new(&SIZES);
    let mut log = store.log.clone();
    for number in 2..SIZES.len() - 1 {
        for fragment in store.fragments(number) {
            log[fragment.start + 4] ^= 0x55;
            log[fragment.end - 1] ^= 0x55;
        }
    }
    let WalVerdict::Damaged { offset, .. } = store.check_with(&log) else {
        panic!("not damaged")
    };
    assert_eq!(offset, store.fragments(2)[0].start as u64);
}

/// RocksDB itself drops what follows a wrong length in the last block without a word: the reason for this module.
#[test]
fn rocksdb_opens_what_we_refuse() {
    let store = Store::new(&[100, 100, 100, 100]);
    let mut log = store.log.clone();
    log[store.records[1].start + 5] ^= 0x40;
    assert!(matches!(store.check_with(&log), WalVerdict::Damaged { .. }));
    assert_eq!(store.records_when_opened(), Ok(1));
}

#[test]
fn a_flip_is_never_overlooked() {
    let store = Store::new(&[10, 33_000, 500, 32_000, 90]);
    let covered: Vec<usize> = (0..5)
        .flat_map(|number| store.fragments(number))
        .flatten()
        .collect();
    for (i, at) in covered.into_iter().enumerate().step_by(61) {
        let mut log = store.log.clone();
        log[at] ^= 1 << (i % 8);
        match store.check_with(&log) {
            WalVerdict::Whole(_) => panic!("flip at {at}"),
            WalVerdict::Torn { .. } => assert!(at >= store.records[4].start, "flip at {at}"),
            WalVerdict::Damaged { .. } => assert!(at < store.records[4].start, "flip at {at}"),
        }
    }
}
