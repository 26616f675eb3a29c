//! Whether a node has answered lately. One that has not is asked last, and dialled aside: of the requests that would go
//! there only the first waits for it, although the cluster may not have noticed yet that it is dead.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{line::Line, link::Link};

/// How long a node is asked last after it has not answered; anew with each attempt aside that fails.
const DOUBTED_FOR: Duration = Duration::from_secs(5);
/// A node that has not said a word for so long while somebody waited has not answered. Less than what it gets before
/// another one is asked beside it.
const DOUBT_AFTER: Duration = Duration::from_millis(200);

/// What is thought of one node.
#[derive(Debug)]
pub(super) struct Doubt {
    made: Instant,
    /// Until when it is asked last, in milliseconds since `made`; 0: it is not.
    until_ms: AtomicU64,
    /// Somebody dials it aside.
    is_tried: AtomicBool,
}

impl Doubt {
    pub(super) fn new() -> Self {
        Self {
            made: Instant::now(),
            until_ms: AtomicU64::new(0),
            is_tried: AtomicBool::new(false),
        }
    }

    /// The node has not answered.
    pub(super) fn rise(&self) {
        self.rise_at(Instant::now());
    }

    /// The node has answered.
    pub(super) fn end(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    pub(super) fn holds(&self) -> bool {
        // Nearly always it does not, and then no clock is looked at.
        self.until_ms.load(Ordering::Relaxed) != 0 && self.holds_at(Instant::now())
    }

    fn rise_at(&self, now: Instant) {
        let until = self.age_ms(now + DOUBTED_FOR);
        self.until_ms.store(until, Ordering::Relaxed);
    }

    fn holds_at(&self, now: Instant) -> bool {
        self.age_ms(now) < self.until_ms.load(Ordering::Relaxed)
    }

    fn age_ms(&self, at: Instant) -> u64 {
        u64::try_from((at - self.made).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the caller is the one to dial it aside. If so, it is to say when it has.
    pub(super) fn begin_try(&self) -> bool {
        !self.is_tried.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_try(&self) {
        self.is_tried.store(false, Ordering::Release);
    }
}

/// Somebody dials a node. Given up before the end, because another node was quicker or time is up, it tells against the
/// node if that had its chance.
pub(super) struct Dialling<'a> {
    doubt: &'a Doubt,
    began: Instant,
    has_ended: bool,
}

impl<'a> Dialling<'a> {
    pub(super) fn begin(doubt: &'a Doubt) -> Self {
        Self {
            doubt,
            began: Instant::now(),
            has_ended: false,
        }
    }

    pub(super) fn ended(mut self, is_connected: bool) {
        self.has_ended = true;
        match is_connected {
            true => self.doubt.end(),
            false => self.doubt.rise(),
        }
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.began.elapsed() >= DOUBT_AFTER {
            self.doubt.rise();
        }
    }
}

/// Somebody waits for an answer on a line that is open. A node of which nothing at all has come when that ends, not even
/// the receipt, is in doubt, and the line is forgotten: whoever dials finds out.
pub(super) struct Hearing<'a> {
    link: &'a Link,
    line: &'a Line,
    began: Instant,
    heard: u64,
    is_answered: bool,
}

impl<'a> Hearing<'a> {
    pub(super) fn begin(link: &'a Link, line: &'a Line) -> Self {
        Self {
            link,
            line,
            began: Instant::now(),
            heard: line.datagrams(),
            is_answered: false,
        }
    }

    pub(super) fn answered(&mut self) {
        self.is_answered = true;
        self.link.doubt().end();
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        // Far away, even a receipt takes long.
        let chance = DOUBT_AFTER.max(2 * self.line.connection().rtt());
        if self.began.elapsed() >= chance && self.line.datagrams() == self.heard {
            self.link.doubt().rise();
            self.link.forget(self.line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_ends_by_an_answer_or_by_time() {
        let doubt = Doubt::new();
        let (start, half) = (doubt.made, DOUBTED_FOR / 2);
        assert!(!doubt.holds() && !doubt.holds_at(start));
        doubt.rise_at(start);
        assert!(doubt.holds_at(start));
        doubt.end();
        assert!(!doubt.holds_at(start));

        doubt.rise_at(start);
        doubt.rise_at(start + half);
        assert!(doubt.holds_at(start + 2 * half), "it has failed since");
        assert!(!doubt.holds_at(start + 3 * half));
    }

    #[test]
    fn an_attempt_given_up_early_tells_nothing() {
        let doubt = Doubt::new();
        drop(Dialling::begin(&doubt));
        assert!(!doubt.holds());
        Dialling::begin(&doubt).ended(false);
        assert!(doubt.holds(), "it was refused");
        Dialling::begin(&doubt).ended(true);
        assert!(!doubt.holds());
    }

    #[test]
    fn one_dials_aside_at_a_time() {
        let doubt = Doubt::new();
        assert!(doubt.begin_try());
        assert!(!doubt.begin_try());
        doubt.end_try();
        assert!(doubt.begin_try());
    }
}
