//! Finding the end of what cannot be read.
//!
//! RocksDB says that a block or a value is damaged, not up to which key. A seek into the damaged stretch fails in the
//! same words, and a seek behind it does not: so the end is searched for, first in growing steps, then by halving.

use crate::keys::prefix_end;

/// Steps of 1, 2, 4, … keys that are tried before whole prefixes are; more than a batch has records.
const STEPS: u32 = 17;

/// Bytes to which the end is searched for among keys that have no common width.
const SEARCHED_BYTES: usize = 24;

/// A stretch of keys that cannot be read.
pub(crate) struct Gap {
    /// The last key that was tried and fails. Where keys have a width, no key behind it does.
    pub(crate) last: Vec<u8>,
    /// A key from where reading goes on: behind `last`, before anything that is readable. `None`: there is nothing.
    pub(crate) resume: Option<Vec<u8>>,
}

impl Gap {
    /// The gap at `from`, among keys before `end` that have `width` bytes, if they all have the same. `fails` tells
    /// whether a seek to a key fails as one to `from` does.
    pub(crate) fn find(
        from: &[u8],
        end: &[u8],
        width: Option<usize>,
        fails: impl Fn(&[u8]) -> bool,
    ) -> Gap {
        let mut low = from.to_vec();
        let steps = (0..STEPS).filter_map(|n| plus(from, 1 << n));
        let prefixes = (1..from.len()).rev().filter_map(|n| prefix_end(&from[..n]));
        let mut ends = steps
            .chain(prefixes)
            .filter(|key| key[..] < *end)
            .chain([end.to_vec()]);
        let high = loop {
            match ends.next() {
                None => {
                    return Gap {
                        last: low,
                        resume: None,
                    };
                }
                Some(key) if key <= low => {}
                Some(key) if fails(&key) => low = key,
                Some(key) => break key,
            }
        };
        halve(low, high, width, fails)
    }
}

/// Brings together `low`, which fails, and `high`, which does not, eight bytes of the key at a time.
fn halve(
    mut low: Vec<u8>,
    mut high: Vec<u8>,
    width: Option<usize>,
    fails: impl Fn(&[u8]) -> bool,
) -> Gap {
    let common = low.iter().zip(&high).take_while(|(a, b)| a == b).count();
    let width = width.unwrap_or(common + SEARCHED_BYTES);
    let mut base = low[..common].to_vec();
    while base.len() < width {
        let bytes = (width - base.len()).min(8);
        // Numbers of the keys that begin with `base`: the first fails, or what is before them does; the second does not.
        let mut below = low
            .strip_prefix(&base[..])
            .map_or(0, |rest| number(rest, bytes));
        let mut above = match high.strip_prefix(&base[..]) {
            Some(rest) => number(rest, bytes) + u128::from(rest.len() > bytes),
            None => 1 << (8 * bytes),
        };
        while above > below + 1 {
            let middle = below + (above - below) / 2;
            let key = [&base[..], &digits(middle, bytes)[..]].concat();
            if fails(&key) {
                (low, below) = (key, middle);
            } else {
                (high, above) = (key, middle);
            }
        }
        base.extend_from_slice(&digits(below, bytes));
    }
    Gap {
        last: low,
        resume: Some(high),
    }
}

/// The first key that may follow `key` among keys of `width` bytes, or of any length.
pub(super) fn successor(key: &[u8], width: Option<usize>) -> Vec<u8> {
    let counted = if width == Some(key.len()) {
        plus(key, 1)
    } else {
        None
    };
    counted.unwrap_or_else(|| [key, &[0]].concat())
}

/// A key that is `steps` behind `key`, counted in its last eight bytes.
fn plus(key: &[u8], steps: u64) -> Option<Vec<u8>> {
    let bytes = key.len().min(8);
    let (head, tail) = key.split_at(key.len() - bytes);
    let sum = number(tail, bytes) + u128::from(steps);
    (sum < 1 << (8 * bytes)).then(|| [head, &digits(sum, bytes)[..]].concat())
}

/// The first `bytes` of `key` as a number, as if zeros followed it.
fn number(key: &[u8], bytes: usize) -> u128 {
    (0..bytes).fold(0, |sum, n| {
        sum << 8 | u128::from(key.get(n).copied().unwrap_or(0))
    })
}

/// The last `bytes` of `number`, at most eight.
fn digits(number: u128, bytes: usize) -> Vec<u8> {
    let all = number.to_be_bytes();
    all[all.len() - bytes..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u32) -> [u8; 4] {
        n.to_be_bytes()
    }

    proptest! {
        #[test]
        fn the_last_key_of_a_width_is_found(from in 0..u32::MAX - 1, length in any::<u32>()) {
            let last = from.saturating_add(length).min(u32::MAX - 1);
            let gap = Gap::find(&key(from), &[0xFF; 5], Some(4), |at| at <= &key(last)[..]);
            prop_assert_eq!(gap.last, key(last));
            prop_assert_eq!(gap.resume, Some(key(last + 1).to_vec()));
        }

        #[test]
        fn keys_of_any_length_are_passed_and_none_behind_is(
            from in proptest::collection::vec(any::<u8>(), 1..12),
            rest in proptest::collection::vec(any::<u8>(), 0..12),
            behind in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let last = [&from[..], &rest[..]].concat();
            let end = vec![0xFF; 30];
            let gap = Gap::find(&from, &end, None, |at| at <= &last[..]);
            let resume = gap.resume.unwrap();
            prop_assert!(gap.last <= last && last < resume);
            let next = [&last[..], &[1], &behind[..]].concat();
            prop_assert!(resume <= next, "{resume:?} passes {next:?}");
        }
    }

    #[test]
    fn where_all_fails_there_is_nothing_to_resume_at() {
        let gap = Gap::find(&key(7), &[0xFF; 5], Some(4), |_| true);
        assert_eq!(gap.resume, None);
    }

    #[test]
    fn a_gap_that_is_gone_is_passed_by_one_step() {
        let gap = Gap::find(&key(7), &[0xFF; 5], Some(4), |_| false);
        assert_eq!(gap.resume, Some(key(8).to_vec()));
    }

    #[test]
    fn successors() {
        assert_eq!(successor(&key(255), Some(4)), key(256));
        assert_eq!(successor(&key(u32::MAX), Some(4)), [255, 255, 255, 255, 0]);
        assert_eq!(successor(b"k", None), b"k\0");
    }
}
