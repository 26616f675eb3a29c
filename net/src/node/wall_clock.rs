//! The physical clock of a node, put right by those of the others.
//!
//! Expiry is a promise about physical time, and whoever expires a value does so for all: one clock that is wrong must not end
//! what is not old, nor date what is written so that it is old when it comes. So a node goes by the clocks around it where a
//! majority of all agrees on a time from which its own differs, and by its own machine's where none is known to agree.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mesh_engine::{Clock, Options};

/// Up to so many milliseconds between a node's clock and the others' are left alone: asking takes time as well.
pub(super) const LEFT_ALONE_MS: u64 = 2_000;

/// What a node takes for physical time. Clones are the same clock.
#[derive(Clone)]
pub struct WallClock {
    machine: Clock,
    /// What is added to the machine's clock, in milliseconds.
    correction_ms: Arc<AtomicI64>,
}

impl Default for WallClock {
    /// The machine's clock.
    fn default() -> Self {
        Self::new(Options::default().clock)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WallClock")
            .field("machine_ms", &self.machine_ms())
            .field("correction_ms", &self.correction_ms)
            .finish()
    }
}

impl WallClock {
    /// A node that takes this for its machine's clock, in unix milliseconds.
    #[must_use]
    pub fn new(machine: Clock) -> Self {
        Self {
            machine,
            correction_ms: Arc::default(),
        }
    }

    /// What the machine says, in unix milliseconds.
    pub(super) fn machine_ms(&self) -> u64 {
        (self.machine)()
    }

    /// Physical time as this node goes by it, in unix milliseconds.
    pub(super) fn corrected(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || {
            let correction_ms = clock.correction_ms();
            clock.machine_ms().saturating_add_signed(correction_ms)
        })
    }

    /// By how much the machine's clock is put right, in milliseconds.
    pub(super) fn correction_ms(&self) -> i64 {
        self.correction_ms.load(Ordering::Relaxed)
    }

    /// A majority of the clocks agrees on `others_ms`, as the machine's says `machine_ms`. Returns by how much that is put
    /// right, where it was not before, or by another amount.
    pub(super) fn correct(&self, machine_ms: u64, others_ms: u64) -> Option<i64> {
        let correction_ms = match machine_ms.abs_diff(others_ms) {
            ..=LEFT_ALONE_MS => 0,
            by_ms => {
                let by_ms = i64::try_from(by_ms).unwrap_or(i64::MAX);
                if machine_ms > others_ms {
                    -by_ms
                } else {
                    by_ms
                }
            }
        };
        let before = self.correction_ms.swap(correction_ms, Ordering::Relaxed);
        (before.abs_diff(correction_ms) > LEFT_ALONE_MS).then_some(correction_ms)
    }

    /// No majority of the clocks is known to agree. What a majority has put right stays so only while one of these others says
    /// the same, and none says what the machine's clock says, as that may have been set right meanwhile.
    pub(super) fn keep_if_confirmed(&self, machine_ms: u64, others_ms: &[u64]) {
        let corrected_ms = machine_ms.saturating_add_signed(self.correction_ms());
        let says = |ms: u64| {
            let mut others = others_ms.iter();
            others.any(|other| other.abs_diff(ms) <= LEFT_ALONE_MS)
        };
        if says(machine_ms) || !says(corrected_ms) {
            self.correction_ms.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_put_right_and_one_that_is_near_is_left_alone() {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let machine = Arc::clone(&now);
        let clock = WallClock::new(Arc::new(move || machine.load(Ordering::Relaxed)));
        let corrected = clock.corrected();
        assert_eq!(clock.correct(1_000_000, 1_002_000), None);
        assert_eq!(corrected(), 1_000_000);
        assert_eq!(clock.correct(1_000_000, 400_000), Some(-600_000));
        assert_eq!(corrected(), 400_000);
        now.store(1_005_000, Ordering::Relaxed);
        assert_eq!(corrected(), 405_000, "it goes on");
        assert_eq!(clock.correct(1_005_000, 405_100), None, "it is known");
        assert_eq!(corrected(), 405_100);
        assert_eq!(clock.correct(1_005_000, 9_005_000), Some(8_000_000));
        assert_eq!(corrected(), 9_005_000);
        assert_eq!(clock.correct(1_005_000, 1_005_000), Some(0));
        assert_eq!(corrected(), 1_005_000);
    }

    #[test]
    fn a_correction_ends_unless_another_clock_confirms_it() {
        let clock = WallClock::new(Arc::new(|| 1_000_000));
        let corrected = clock.corrected();
        for (others, is_kept) in [
            (&[400_000][..], true),
            (&[401_000, 7_000_000], true),
            (&[400_000, 1_000_500], false),
            (&[7_000_000], false),
            (&[], false),
        ] {
            clock.correct(1_000_000, 400_000);
            clock.keep_if_confirmed(1_000_000, others);
            let expected = if is_kept { 400_000 } else { 1_000_000 };
            assert_eq!(corrected(), expected, "{others:?}");
        }
    }
}
