//! Hybrid logical time: close to the clock, and never going back.

use std::fmt;

/// Bits of the logical counter, below the milliseconds.
const LOGICAL_BITS: u32 = 16;
/// The last millisecond that fits in 48 bits: in the year 10889.
const MILLIS_MAX: u64 = u64::MAX >> LOGICAL_BITS;

/// A hybrid logical timestamp: 48 bits of Unix time in milliseconds, then 16 bits that count within one.
///
/// It orders versions for people ("newest first"); which version supersedes which is decided by causal contexts
/// alone, so that a wrong clock cannot lose a write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first timestamp after this one that is not before the clock, `now_ms` in Unix milliseconds.
    ///
    /// While the clock stands still or is behind, the counter goes on; when it overflows, it carries into the next
    /// millisecond. The largest timestamp is its own successor.
    #[must_use]
    pub fn next(self, now_ms: u64) -> Self {
        let clock = now_ms.min(MILLIS_MAX) << LOGICAL_BITS;
        Self(self.0.saturating_add(1).max(clock))
    }

    /// The first timestamp after this one and after `other`, which another node sent, that is not before the clock.
    #[must_use]
    pub fn observe(self, other: Self, now_ms: u64) -> Self {
        self.max(other).next(now_ms)
    }

    /// Its time, in Unix milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.0 & u64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layout() {
        let time = Hlc(0x0198_7654_3210_0007);
        assert_eq!(time.millis(), 0x0198_7654_3210);
        assert_eq!(Hlc(0).next(0x0198_7654_3210), Hlc(0x0198_7654_3210_0000));
        assert_eq!(time.to_string(), format!("{}.7", 0x0198_7654_3210_u64));
    }

    #[test]
    fn a_clock_that_jumps_back_keeps_the_last_time() {
        assert_eq!(Hlc(5 << 16).next(3), Hlc((5 << 16) + 1));
        assert_eq!(Hlc(5 << 16).next(5), Hlc((5 << 16) + 1));
    }

    #[test]
    fn an_overflow_carries_into_the_next_millisecond() {
        assert_eq!(Hlc((5 << 16) + 0xffff).next(5), Hlc(6 << 16));
        assert_eq!(Hlc(u64::MAX).next(0), Hlc(u64::MAX));
        assert_eq!(Hlc(0).next(u64::MAX).millis(), MILLIS_MAX);
    }

    #[test]
    fn another_node_that_is_ahead_is_followed() {
        assert_eq!(Hlc(5 << 16).observe(Hlc(9 << 16), 7), Hlc((9 << 16) + 1));
        assert_eq!(Hlc(5 << 16).observe(Hlc(2 << 16), 7), Hlc(7 << 16));
    }

    proptest! {
        #[test]
        fn time_only_moves_forward(last in 0..u64::MAX, other in 0..u64::MAX, now_ms: u64) {
            let (next, seen) = (Hlc(last).next(now_ms), Hlc(last).observe(Hlc(other), now_ms));
            prop_assert!(next > Hlc(last) && next.millis() >= now_ms.min(MILLIS_MAX));
            prop_assert!(seen > Hlc(last) && seen > Hlc(other) && seen >= next);
        }
    }
}
