//! The disk of the model: a journal that points into a log keyed by last offset, as in the engine. What was not synced is
//! lost by a crash.

use std::collections::BTreeMap;

use super::super::{Durable, Effect, Entry, Payload, Position, Weigh};
use crate::ids::{Epoch, Index};

/// A batch: `records` records from offset `first` on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Batch {
    pub(super) id: u8,
    pub(super) first: u8,
    pub(super) records: u8,
}

impl Batch {
    pub(super) const fn last(self) -> u8 {
        self.first + self.records - 1
    }
}

impl Weigh for Batch {
    fn bytes(&self) -> usize {
        1
    }
}

/// One `Effect::Persist`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Write {
    pub(super) ticket: u64,
    promise: Option<Epoch>,
    suspect: Option<bool>,
    truncate: Option<Index>,
    entries: Vec<Entry<Batch>>,
    /// The commit index rides on every write.
    commit: Index,
}

impl Write {
    pub(super) fn new(effect: Effect<Batch>, commit: Index) -> Option<Self> {
        match effect {
            Effect::Persist {
                ticket,
                promise,
                suspect,
                truncate,
                entries,
            } => Some(Self {
                ticket,
                promise,
                suspect,
                truncate,
                entries,
                commit,
            }),
            _ => None,
        }
    }
}

/// What is on one disk.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Store {
    pub(super) boot: u32,
    pub(super) promised: Epoch,
    pub(super) suspect: bool,
    pub(super) journal: Vec<Entry<Batch>>,
    log: BTreeMap<u8, Batch>,
    pub(super) commit: Index,
}

impl Store {
    /// A disk with a journal: the epoch of each entry, and the batch if it is not a barrier.
    pub(super) fn new(promised: u64, commit: u64, journal: &[(u64, Option<Batch>)]) -> Self {
        let mut store = Self {
            boot: 1,
            promised: Epoch(promised),
            suspect: false,
            journal: Vec::new(),
            log: BTreeMap::new(),
            commit: Index(commit),
        };
        let entry = |(index, (epoch, batch)): (u64, &(u64, Option<Batch>))| Entry {
            epoch: Epoch(*epoch),
            index: Index(index),
            payload: batch.map_or(Payload::Barrier, Payload::Command),
        };
        store.add((1..).zip(journal).map(entry));
        store
    }

    /// With `leave_keys`, a truncation forgets to remove the log's keys.
    pub(super) fn apply(&mut self, write: &Write, leave_keys: bool) {
        self.promised = write.promise.unwrap_or(self.promised);
        self.suspect = write.suspect.unwrap_or(self.suspect);
        self.commit = self.commit.max(write.commit);
        if let Some(from) = write.truncate {
            self.truncate(from, leave_keys);
        }
        self.add(write.entries.iter().cloned());
    }

    fn add(&mut self, entries: impl Iterator<Item = Entry<Batch>>) {
        for entry in entries {
            assert_eq!(entry.index.0, self.journal.len() as u64 + 1, "a gap");
            if let Payload::Command(batch) = entry.payload {
                self.log.insert(batch.last(), batch);
            }
            self.journal.push(entry);
        }
    }

    fn truncate(&mut self, from: Index, leave_keys: bool) {
        for entry in self.journal.split_off(position(from)) {
            if let Payload::Command(batch) = entry.payload
                && !leave_keys
            {
                self.log.remove(&batch.last());
            }
        }
    }

    /// Damage: the last entry is lost, and the promise with it; the disk knows that it is not whole.
    pub(super) fn damage(&mut self) {
        let kept = Index(self.journal.len() as u64);
        self.truncate(kept, false);
        self.promised = self.last().epoch;
        self.commit = self.commit.min(self.last().index);
        self.suspect = true;
    }

    /// Journal and log are equal.
    pub(super) fn holds_the_same(&self, other: &Self) -> bool {
        self.journal == other.journal && self.log == other.log
    }

    pub(super) fn last(&self) -> Position {
        self.journal.last().map_or(Position::ZERO, Entry::position)
    }

    pub(super) fn entries_from(&self, from: Index) -> Vec<Entry<Batch>> {
        self.journal
            .get(position(from)..)
            .unwrap_or_default()
            .to_vec()
    }

    /// The next offset, as the engine knows it: from the last batch of the log.
    pub(super) fn next_offset(&self) -> u8 {
        self.log.last_key_value().map_or(0, |(last, _)| last + 1)
    }

    /// What a reader of this offset gets: the engine seeks the first key that is no lower.
    pub(super) fn read(&self, offset: u8) -> Option<Batch> {
        self.log.range(offset..).next().map(|(_, batch)| *batch)
    }

    pub(super) fn durable(&self) -> Durable {
        let mut epochs: Vec<(Epoch, Index)> = Vec::new();
        for entry in &self.journal {
            if epochs.last().is_none_or(|(epoch, _)| *epoch < entry.epoch) {
                epochs.push((entry.epoch, entry.index));
            }
        }
        Durable {
            promised: self.promised,
            suspect: self.suspect,
            last: self.last(),
            epochs,
            commit: self.commit,
            ..Durable::empty(self.boot)
        }
    }
}

fn position(index: Index) -> usize {
    usize::try_from(index.0).unwrap() - 1
}
