//! What is durable, and what is on its way.

use std::collections::VecDeque;

use super::effect::Durable;
use crate::ids::{Epoch, Index};

/// The tickets handed out, and what holds once each is durable.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Disk {
    promised: Epoch,
    promising: Epoch,
    suspect: bool,
    clearing: bool,
    durable: Index,
    issued: u64,
    under_way: VecDeque<Write>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Write {
    ticket: u64,
    promise: Epoch,
    suspect: bool,
    /// The last index that is durable then.
    end: Index,
}

impl Disk {
    pub(super) const fn new(durable: &Durable) -> Self {
        Self {
            promised: durable.promised,
            promising: durable.promised,
            suspect: durable.suspect,
            clearing: false,
            durable: durable.last.index,
            issued: 0,
            under_way: VecDeque::new(),
        }
    }

    /// The highest epoch promised durably.
    pub(super) const fn promised(&self) -> Epoch {
        self.promised
    }

    /// The highest epoch whose promise has been handed to the disk.
    pub(super) const fn promising(&self) -> Epoch {
        self.promising
    }

    /// Whether the replica is suspect, by what is durable.
    pub(super) const fn suspect(&self) -> bool {
        self.suspect
    }

    /// Whether the end of suspicion has been handed to the disk.
    pub(super) const fn clearing(&self) -> bool {
        self.clearing
    }

    /// Every entry up to here is durable, as the journal has it now.
    pub(super) const fn durable(&self) -> Index {
        self.durable
    }

    /// The last ticket handed out.
    pub(super) const fn issued(&self) -> u64 {
        self.issued
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Hands out the next ticket, for a write after which the journal ends at `end`.
    pub(super) fn issue(&mut self, promise: Option<Epoch>, clear: bool, end: Index) -> u64 {
        self.promising = self.promising.max(promise.unwrap_or_default());
        self.clearing |= clear;
        self.issued += 1;
        self.under_way.push_back(Write {
            ticket: self.issued,
            promise: self.promising,
            suspect: self.suspect && !self.clearing,
            end,
        });
        self.issued
    }

    /// What is durable from `from` on, or about to be, no longer counts.
    pub(super) fn truncate(&mut self, from: Index) {
        let end = Index(from.0 - 1);
        self.durable = self.durable.min(end);
        for write in &mut self.under_way {
            write.end = write.end.min(end);
        }
    }

    /// Every ticket up to this one is durable.
    pub(super) fn persisted(&mut self, ticket: u64) {
        assert!(ticket <= self.issued, "ticket {ticket} was never issued");
        while let Some(write) = self.under_way.front() {
            if write.ticket > ticket {
                break;
            }
            self.promised = write.promise;
            self.suspect = write.suspect;
            self.durable = write.end;
            self.under_way.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncation_lowers_what_earlier_writes_will_have_made_durable() {
        let mut disk = Disk::new(&Durable::empty(1));
        disk.issue(None, false, Index(10));
        disk.truncate(Index(8));
        disk.issue(Some(Epoch(3)), false, Index(9));
        assert_eq!((disk.promising(), disk.promised()), (Epoch(3), Epoch(0)));
        disk.persisted(1);
        assert_eq!(disk.durable(), Index(7));
        disk.truncate(Index(5));
        assert_eq!(disk.durable(), Index(4));
        disk.persisted(2);
        assert_eq!(disk.durable(), Index(4));
        assert_eq!(disk.promised(), Epoch(3));
        assert!(disk.is_quiet());
    }

    #[test]
    fn suspicion_ends_when_that_is_durable() {
        let suspect = Durable {
            suspect: true,
            ..Durable::empty(1)
        };
        let mut disk = Disk::new(&suspect);
        disk.issue(None, false, Index(0));
        disk.issue(None, true, Index(0));
        disk.persisted(1);
        assert!(disk.suspect() && disk.clearing());
        disk.persisted(2);
        assert!(!disk.suspect());
    }

    #[test]
    #[should_panic(expected = "ticket 1 was never issued")]
    fn only_what_was_handed_out_is_confirmed() {
        Disk::new(&Durable::empty(1)).persisted(1);
    }
}
