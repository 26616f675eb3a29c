//! Tombstones that wait for rounds of this node, and what is in the way: for the next round, and for people.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_engine::OldTombstone;
use mesh_ring::ids::PartitionId;
use tokio::time::Instant;

use crate::wire::proto::TombstoneStatus;

/// How long no round begins after one that came to nothing; doubled each time. Each makes others send anew what is on its
/// way.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(120);

/// The longest pause where no round could begin: looking costs reads, and hints that are delivered ring no bell.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// What waits, and what waits no longer.
#[derive(Debug, Default)]
pub(in crate::node) struct Waiting {
    books: Mutex<BTreeMap<PartitionId, Book>>,
    /// Tombstones that this node has forgotten since its start.
    forgotten: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    /// A round is under way.
    is_busy: bool,
    /// At least so many are old enough.
    count: u64,
    /// The last that was asked about.
    after: Option<OldTombstone>,
    pause: Option<Pause>,
    held_up: Option<HeldUp>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    length: Duration,
    until: Instant,
}

#[derive(Debug)]
struct HeldUp {
    since: Instant,
    cause: String,
}

/// What came of looking after a partition's tombstones.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// There are none that are old enough.
    None,
    /// Some were collected.
    Collected,
    /// No round could begin, for this reason.
    NotNow(String),
    /// A round came to nothing, for this reason.
    Void(String),
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many tombstones are gone from this node.
    pub(super) fn note_forgotten(&self, count: u64) {
        self.forgotten.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes a partition up, unless it is, or is to be left alone for a while.
    pub(super) fn take_up(&self, id: PartitionId, now: Instant) -> bool {
        let mut books = self.lock();
        let book = books.entry(id).or_default();
        if book.is_busy || book.pause.is_some_and(|pause| now < pause.until) {
            return false;
        }
        book.is_busy = true;
        true
    }

    /// The last tombstone that was asked about: the next round goes on behind it, so that one which is never clear holds up
    /// no others.
    pub(super) fn after(&self, id: PartitionId) -> Option<OldTombstone> {
        let books = self.lock();
        books.get(&id).and_then(|book| book.after.clone())
    }

    /// So many are old enough, and these are asked about up to `last`.
    pub(super) fn note_found(&self, id: PartitionId, count: u64, last: Option<OldTombstone>) {
        if let Some(book) = self.lock().get_mut(&id) {
            book.count = count;
            book.after = last;
        }
    }

    /// Lets go of a partition that was taken up.
    pub(super) fn settle(&self, id: PartitionId, now: Instant, outcome: Outcome) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&id) else {
            return;
        };
        book.is_busy = false;
        match outcome {
            Outcome::None => _ = books.remove(&id),
            Outcome::Collected => (book.pause, book.held_up) = (None, None),
            Outcome::NotNow(cause) => book.hold_up(now, LOOK_AGAIN_MAX, cause),
            Outcome::Void(cause) => book.hold_up(now, BACK_OFF_MAX, cause),
        }
    }

    /// Others are alive, or of the cluster, than before: what failed may succeed now.
    pub(super) fn end_pauses(&self) {
        self.lock().values_mut().for_each(|book| book.pause = None);
    }

    /// Another node begins the rounds of the partitions that `is_mine` does not name.
    pub(super) fn leave_others(&self, is_mine: impl Fn(PartitionId) -> bool) {
        let is_kept = |id: &PartitionId, book: &mut Book| book.is_busy || is_mine(*id);
        self.lock().retain(is_kept);
    }

    pub(in crate::node) fn status(&self) -> TombstoneStatus {
        let books = self.lock();
        let held_up = books.values().filter_map(|book| book.held_up.as_ref());
        let longest = held_up.min_by_key(|held_up| held_up.since);
        let ms = |held_up: &HeldUp| {
            u64::try_from(held_up.since.elapsed().as_millis()).unwrap_or(u64::MAX)
        };
        TombstoneStatus {
            waiting: books.values().map(|book| book.count).sum(),
            held_up_ms: longest.map(ms),
            cause: longest.map_or_else(String::new, |held_up| held_up.cause.clone()),
            forgotten: self.forgotten.load(Ordering::Relaxed),
        }
    }
}

impl Book {
    fn hold_up(&mut self, now: Instant, pause_max: Duration, cause: String) {
        let longer = self.pause.map_or(BACK_OFF_MIN, |pause| pause.length * 2);
        let length = longer.min(pause_max);
        self.pause = Some(Pause {
            length,
            until: now + length,
        });
        match &mut self.held_up {
            Some(held_up) => held_up.cause = cause,
            None => self.held_up = Some(HeldUp { since: now, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    #[test]
    fn rounds_that_come_to_nothing_come_more_and_more_seldom() {
        let (waiting, mut now) = (Waiting::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..14 {
            assert!(waiting.take_up(P, now));
            assert!(!waiting.take_up(P, now), "it is under way");
            waiting.settle(P, now, Outcome::Void("why".into()));
            let began = now;
            while !waiting.take_up(P, now) {
                now += BACK_OFF_MIN;
            }
            waiting.settle(P, now, Outcome::Void("again".into()));
            pauses.push(now - began);
            now += BACK_OFF_MAX;
        }
        assert_eq!(pauses[..3], [1, 4, 16].map(|n| BACK_OFF_MIN * n));
        assert_eq!(pauses.last(), Some(&BACK_OFF_MAX));
        assert!(waiting.take_up(P, now));
        waiting.settle(P, now, Outcome::Void("why".into()));
        waiting.end_pauses();
        assert!(waiting.take_up(P, now), "somebody is back");
        waiting.settle(P, now, Outcome::NotNow("n3 is away".into()));
        assert!(!waiting.take_up(P, now));
        now += LOOK_AGAIN_MAX;
        assert!(waiting.take_up(P, now), "hints may be delivered");
        waiting.settle(P, now, Outcome::Collected);
        assert!(waiting.take_up(P, now), "there may be more");
    }

    #[test]
    fn it_is_told_what_is_in_the_way_for_as_long_as_that_is_so() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        let status = |waiting: &Waiting| {
            let status = waiting.status();
            (status.waiting, status.held_up_ms.is_some(), status.cause)
        };
        assert!(waiting.take_up(P, now));
        waiting.note_found(P, 7, None);
        waiting.settle(P, now, Outcome::NotNow("n3 is away".into()));
        assert_eq!(status(&waiting), (7, true, "n3 is away".into()));
        waiting.end_pauses();
        assert!(waiting.take_up(P, now));
        waiting.note_found(P, 2, None);
        waiting.settle(P, now, Outcome::Collected);
        assert_eq!(status(&waiting), (2, false, String::new()));
        assert!(waiting.take_up(P, now));
        waiting.settle(P, now, Outcome::None);
        assert_eq!(status(&waiting), (0, false, String::new()));
        assert!(waiting.take_up(P, now));
        waiting.note_found(P, 1, None);
        waiting.leave_others(|_| false);
        assert_eq!(status(&waiting).0, 1, "it is under way");
        waiting.settle(P, now, Outcome::Collected);
        waiting.leave_others(|_| false);
        assert_eq!(status(&waiting).0, 0, "others begin its rounds");
    }
}
