//! Writes that were under way.

use super::*;
use proptest::prelude::*;

#[test]
fn cut_at_any_byte_is_torn_after_the_last_complete_record() {
    let store = Store::new(&SIZES);
    let edges = store
        .records
        .iter()
        .flat_map(|r| (0..20).flat_map(|d| [r.end.saturating_sub(d), r.end + d]));
    let blocks = (1..8).flat_map(|b| (0..20).map(move |d| b * BLOCK_BYTES - 10 + d));
    let lengths = (0..store.log.len())
        .step_by(1511)
        .chain(edges)
        .chain(blocks);
    for length in lengths.filter(|&length| length <= store.log.len()) {
        let complete = store.records.iter().filter(|r| r.end <= length).count();
        let end = if complete == 0 {
            0
        } else {
            store.records[complete - 1].end
        };
        // What is left of padding, or nothing, is no part of a record.
        let nothing_more =
            store.log[end..length].iter().all(|&b| b == 0) && length - end < HEADER_BYTES;
        let expected = if nothing_more {
            store.whole(length, complete)
        } else {
            store.torn_after(complete)
        };
        assert_eq!(
            store.check_with(&store.log[..length]),
            expected,
            "cut to {length}"
        );
    }
}

#[test]
fn garbage_behind_the_last_record_is_torn() {
    let store = Store::new(&SIZES);
    for length in [1, 2, 6, 7, 8, 100, 4096, 40_000, 300_000] {
        let log = [&store.log[..], &value(77, length)].concat();
        assert_eq!(
            store.check_with(&log),
            store.torn_after(SIZES.len()),
            "{length} bytes"
        );
        let log = [&store.log[..], &vec![0xff; length]].concat();
        assert_eq!(
            store.check_with(&log),
            store.torn_after(SIZES.len()),
            "{length} bytes"
        );
    }
}

#[test]
fn zeros_behind_the_last_record_are_nothing() {
    let store = Store::new(&SIZES);
    for length in [1, 6, 7, 4096, 300_000, 5 << 20] {
        let log = [&store.log[..], &vec![0; length]].concat();
        assert_eq!(
            store.check_with(&log),
            store.whole(log.len(), SIZES.len()),
            "{length} bytes"
        );
        assert_eq!(store.records_when_opened(), Ok(SIZES.len()));
    }
    let log = [&store.log[..], &[0; 5000], b"x"].concat();
    assert_eq!(store.check_with(&log), store.torn_after(SIZES.len()));
}

/// Pages of the last write may reach the disk in any order, and be zeros or what the disk held before otherwise.
#[test]
fn any_pages_of_the_last_write_may_be_missing() {
    let store = Store::new(&[10, 33_000, 500, 200_000]);
    let last = store.records[3].clone();
    let pages: Vec<usize> = (last.start.next_multiple_of(4096)..last.end)
        .step_by(4096)
        .collect();
    let strategy = (
        prop::collection::vec(prop_oneof![3 => Just(0), 1 => 1..3u8], pages.len()),
        0..=200_000usize,
    );
    let mut runner = proptest::test_runner::TestRunner::default();
    let outcome = runner.run(&strategy, |(states, cut)| {
        let mut log = store.log[..store.log.len() - cut.min(last.len())].to_vec();
        let mut lost = cut > 0;
        for (&at, state) in pages.iter().zip(states) {
            let end = (at + 4096).min(log.len());
            if state > 0 && at < end {
                log[at..end].copy_from_slice(&if state == 1 {
                    vec![0; end - at]
                } else {
                    value(at, end - at)
                });
                lost = true;
            }
        }
        let nothing_of_it = log[last.start..].iter().all(|&b| b == 0);
        let expected = match (lost, nothing_of_it) {
            (false, _) => store.whole(log.len(), 4),
            (true, false) => store.torn_after(3),
            (true, true) => store.whole(log.len(), 3),
        };
        prop_assert_eq!(store.check_with(&log), expected);
        Ok(())
    });
    outcome.unwrap();
}

/// A user may store a copy of a log file. Its records are not later ones.
#[test]
fn records_inside_a_torn_payload_are_not_later_ones() {
    let inner = Store::new(&[30, 40, 50]).log;
    let copies = inner.repeat(600);
    let store = Store::with_values([value(0, 10), value(1, 10), value(2, 10), copies]);
    let last = store.records[3].clone();
    for page in (last.start.next_multiple_of(4096)..last.end).step_by(4096) {
        let mut log = store.log.clone();
        let end = (page + 1000).min(log.len());
        log[page..end].fill(0);
        assert_eq!(
            store.check_with(&log),
            store.torn_after(3),
            "page at {page}"
        );
    }
    let store = Store::with_values([value(0, 10), inner.repeat(600), value(2, 10)]);
    let mut log = store.log.clone();
    log[store.records[1].start + 5000] ^= 1;
    assert!(matches!(store.check_with(&log), WalVerdict::Damaged { .. }));
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(
        parts in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(0..5u8, 0..300),
                (0..70_000usize).prop_map(|n| vec![0; n]),
                (any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, payload)| fragment_of(kind, &payload)),
                (1..5u8, prop::collection::vec(0..3u8, 0..60)).prop_map(|(kind, payload)| fragment_of(kind, &payload)),
            ],
            0..12,
        ),
    ) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("7.log");
        let bytes = parts.concat();
        fs::write(&file, &bytes).unwrap();
        match check(dir.path()).unwrap() {
            WalVerdict::Torn { keep_bytes, .. } => {
                prop_assert!(keep_bytes < bytes.len() as u64);
                cut(&file, keep_bytes).unwrap();
                prop_assert!(matches!(check(dir.path()).unwrap(), WalVerdict::Whole(_)));
            }
            WalVerdict::Damaged { offset, .. } => prop_assert!(offset < bytes.len() as u64),
            WalVerdict::Whole(summary) => prop_assert_eq!(summary.bytes, bytes.len() as u64),
        }
    }
}

fn fragment_of(kind: u8, payload: &[u8]) -> Vec<u8> {
    let covered = [&[kind], payload].concat();
    let crc = fragment::mask(crc32c::crc32c(&covered)).to_le_bytes();
    [&crc[..], &(payload.len() as u16).to_le_bytes(), &covered].concat()
}
