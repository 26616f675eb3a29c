//! How old things are, judged so that a wrong clock destroys nothing.
//!
//! Retention and expiry cannot be undone, and wall clocks jump. Ages are therefore judged by a time that advances no
//! faster than a steady clock does: a wall clock that is suddenly ahead is believed only after it has kept step with
//! the steady clock for [`SETTLE_MS`]. Until then ages are judged by where the wall clock should be. One that is
//! behind is believed at once, as that only keeps things longer.

/// How far the wall clock may be ahead of where it should be without being suspected, in milliseconds.
pub const SKEW_MAX_MS: u64 = 2 * 60 * 1000;

/// How long a suspected wall clock must keep step before it is believed, in milliseconds.
pub const SETTLE_MS: u64 = 60 * 60 * 1000;

/// Both clocks at one moment, in milliseconds: Unix time, and time since any fixed moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reading {
    /// What the wall clock says, Unix time.
    pub wall_ms: u64,
    /// What a clock says that never jumps and goes on while the machine sleeps.
    pub steady_ms: u64,
}

/// The time by which ages are judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AgeClock {
    /// A moment at which the wall clock was believed.
    anchor: Reading,
    /// When the wall clock was first seen where it is now, ahead of where it should be.
    suspect: Option<Reading>,
}

/// What an [`AgeClock`] says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judged {
    /// Unix time in milliseconds by which ages may be judged.
    pub now_ms: u64,
    /// How far the wall clock is ahead, where it is not believed.
    pub ahead_ms: Option<u64>,
}

impl AgeClock {
    /// Starts from the time that was last judged, before a restart; from the wall clock where there is none.
    #[must_use]
    pub fn new(judged_ms: Option<u64>, now: Reading) -> Self {
        let wall_ms = judged_ms.unwrap_or(now.wall_ms);
        Self {
            anchor: Reading { wall_ms, ..now },
            suspect: None,
        }
    }

    /// Judges the time anew.
    pub fn judge(&mut self, now: Reading) -> Judged {
        let expected = self.anchor.after(now.steady_ms);
        if now.wall_ms <= expected.saturating_add(SKEW_MAX_MS) {
            self.suspect = None;
            if now.wall_ms.saturating_add(SKEW_MAX_MS) >= expected {
                self.anchor = now;
            }
            return Judged {
                now_ms: now.wall_ms,
                ahead_ms: None,
            };
        }
        let suspect = match self.suspect {
            Some(suspect) if suspect.after(now.steady_ms).abs_diff(now.wall_ms) <= SKEW_MAX_MS => {
                suspect
            }
            _ => now,
        };
        if now.steady_ms.saturating_sub(suspect.steady_ms) >= SETTLE_MS {
            *self = Self {
                anchor: now,
                suspect: None,
            };
            return Judged {
                now_ms: now.wall_ms,
                ahead_ms: None,
            };
        }
        self.suspect = Some(suspect);
        Judged {
            now_ms: expected,
            ahead_ms: Some(now.wall_ms - expected),
        }
    }
}

impl Reading {
    /// Where the wall clock should be when the steady clock says `steady_ms`.
    fn after(self, steady_ms: u64) -> u64 {
        self.wall_ms
            .saturating_add(steady_ms.saturating_sub(self.steady_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 60 * 60 * 1000;
    const DAY: u64 = 24 * HOUR;
    const START: u64 = 1_700_000_000_000;

    fn at(wall_ms: u64, steady_ms: u64) -> Reading {
        Reading { wall_ms, steady_ms }
    }

    #[test]
    fn a_right_clock_is_followed() {
        let mut clock = AgeClock::new(None, at(START, 5));
        for hours in 0..1_000 {
            let now = at(START + hours * HOUR + hours, 5 + hours * HOUR);
            let judged = clock.judge(now);
            assert_eq!((judged.now_ms, judged.ahead_ms), (now.wall_ms, None));
        }
    }

    #[test]
    fn a_jump_ahead_is_not_believed_and_does_no_harm_when_it_is_taken_back() {
        let mut clock = AgeClock::new(None, at(START, 0));
        let jumped = clock.judge(at(START + 40 * DAY, 1_000));
        assert_eq!(
            (jumped.now_ms, jumped.ahead_ms),
            (START + 1_000, Some(40 * DAY - 1_000))
        );
        let back = clock.judge(at(START + 2_000, 2_000));
        assert_eq!((back.now_ms, back.ahead_ms), (START + 2_000, None));
    }

    #[test]
    fn a_clock_that_keeps_step_for_long_enough_is_believed() {
        let mut clock = AgeClock::new(Some(START), at(START + 9 * DAY, 0));
        assert_eq!(clock.judge(at(START + 9 * DAY, 0)).now_ms, START);
        let almost = SETTLE_MS - 1;
        assert_eq!(
            clock.judge(at(START + 9 * DAY + almost, almost)).now_ms,
            START + almost
        );
        let settled = clock.judge(at(START + 9 * DAY + SETTLE_MS, SETTLE_MS));
        assert_eq!(
            (settled.now_ms, settled.ahead_ms),
            (START + 9 * DAY + SETTLE_MS, None)
        );
    }

    #[test]
    fn a_clock_that_goes_on_jumping_is_never_believed() {
        let mut clock = AgeClock::new(None, at(START, 0));
        for hours in 1..100 {
            let judged = clock.judge(at(START + hours * DAY, hours * HOUR));
            assert_eq!(judged.now_ms, START + hours * HOUR);
        }
    }

    #[test]
    fn a_clock_that_is_behind_keeps_things_longer_and_may_come_back() {
        let mut clock = AgeClock::new(None, at(START, 0));
        assert_eq!(clock.judge(at(START - DAY, HOUR)).now_ms, START - DAY);
        assert_eq!(
            clock.judge(at(START + 2 * HOUR, 2 * HOUR)).now_ms,
            START + 2 * HOUR
        );
    }

    proptest! {
        #[test]
        fn ages_never_run_ahead_of_both_clocks(readings in prop::collection::vec((any::<u32>(), 0..SETTLE_MS / 2), 1..50)) {
            let mut clock = AgeClock::new(None, at(START, 0));
            let mut steady = 0;
            for (wall, step) in readings {
                steady += step;
                let now = at(START + u64::from(wall) * 1_000, steady);
                let judged = clock.judge(now);
                prop_assert!(judged.now_ms <= now.wall_ms);
            }
        }
    }
}
