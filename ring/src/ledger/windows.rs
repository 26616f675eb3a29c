//! What the partition remembers of producers, as the settled entries leave it and as all entries do.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::checkpoint::SavedWindow;
use super::source::{Source, Window};
use super::trail::Trace;
use crate::command::{Command, ProducerStamp};
use crate::ids::{Index, Offset, ProducerId, TopicId};

type Key = (TopicId, ProducerId);

/// The windows that memory is ahead with.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    held: BTreeMap<Key, Held>,
    /// Topics whose deletion settled after the last checkpoint.
    deleted: BTreeSet<TopicId>,
    /// Producers that were minted before this and have no window may be forgotten ones, in unix milliseconds.
    forgotten_before_ms: u64,
    /// What unsettled entries will raise it to.
    forgotten_next: VecDeque<(Index, u64)>,
}

/// One window, and what unsettled entries do to it.
#[derive(Clone, Debug, Default)]
struct Held {
    settled: Window,
    next: VecDeque<(Index, Change)>,
    /// As the unsettled entries leave it; `None` where there are none.
    newest: Option<Window>,
    /// Whether `settled` has moved since it was last handed out.
    unsaved: bool,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Appended {
        stamp: ProducerStamp,
        first: Offset,
        last: Offset,
        time_ms: u64,
    },
    Forgotten,
}

/// A producer that has no window may be one that was forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten {
    /// The unsettled entry from which on that is so.
    pub(super) by: Option<Index>,
}

impl Windows {
    pub(super) fn new(forgotten_before_ms: u64) -> Self {
        Self {
            held: BTreeMap::new(),
            deleted: BTreeSet::new(),
            forgotten_before_ms,
            forgotten_next: VecDeque::new(),
        }
    }

    /// The window as all entries leave it.
    pub(super) fn newest<S: Source>(
        &self,
        source: &S,
        topic: TopicId,
        producer: ProducerId,
    ) -> Result<Cow<'_, Window>, S::Error> {
        match self.held.get(&(topic, producer)) {
            Some(held) => Ok(Cow::Borrowed(held.newest())),
            None => Ok(Cow::Owned(
                source.window(topic, producer)?.unwrap_or_default(),
            )),
        }
    }

    /// The unsettled entry that appended this batch.
    pub(super) fn pending(&self, topic: TopicId, stamp: ProducerStamp) -> Option<Index> {
        let held = self.held.get(&(topic, stamp.id))?;
        held.next.iter().rev().find_map(|(index, change)| {
            matches!(change, Change::Appended { stamp: of, .. } if *of == stamp).then_some(*index)
        })
    }

    /// Whether producers that were minted when this one was may have been forgotten, by the settled entries or by one
    /// that is not.
    pub(super) fn forgotten(&self, producer: ProducerId) -> Option<Forgotten> {
        let minted_ms = producer.minted_ms();
        if minted_ms < self.forgotten_before_ms {
            return Some(Forgotten { by: None });
        }
        let by = |(_, before): &&(Index, u64)| minted_ms < *before;
        let by = self.forgotten_next.iter().find(by)?.0;
        Some(Forgotten { by: Some(by) })
    }

    pub(super) fn forgotten_before_ms(&self) -> u64 {
        self.forgotten_before_ms
    }

    /// Reads the window that the command will change, so that entering the command cannot fail.
    pub(super) fn prepare<S: Source>(
        &mut self,
        source: &S,
        command: &Command,
    ) -> Result<(), S::Error> {
        let Some(key) = window_of(command) else {
            return Ok(());
        };
        if let Entry::Vacant(slot) = self.held.entry(key) {
            slot.insert(Held {
                settled: source.window(key.0, key.1)?.unwrap_or_default(),
                ..Held::default()
            });
        }
        Ok(())
    }

    /// Enters a command whose window has been [prepared](Self::prepare).
    pub(super) fn record(&mut self, index: Index, command: &Command) {
        let Some(key) = window_of(command) else {
            return;
        };
        let change = match *command {
            Command::Append {
                first,
                last,
                time_ms,
                producer: Some(stamp),
                ..
            } => Change::Appended {
                stamp,
                first,
                last,
                time_ms,
            },
            _ => {
                let before = key.1.minted_ms().saturating_add(1);
                self.forgotten_next.push_back((index, before));
                Change::Forgotten
            }
        };
        self.held.entry(key).or_default().push(index, change);
    }

    pub(super) fn settle(&mut self, index: Index, trace: &Trace) {
        match *trace {
            Trace::Append(topic, Some(producer)) => self.settle_window((topic, producer), index),
            Trace::Expire(topic, producer) => {
                self.settle_window((topic, producer), index);
                if let Some((_, before)) = self.forgotten_next.pop_front() {
                    self.forgotten_before_ms = self.forgotten_before_ms.max(before);
                }
            }
            Trace::Delete(topic, _) => {
                let last = ProducerId([u8::MAX; 16]);
                let of_topic: Vec<Key> = self
                    .held
                    .range((topic, ProducerId([0; 16]))..=(topic, last))
                    .map(|(key, _)| *key)
                    .collect();
                for key in of_topic {
                    self.held.remove(&key);
                }
                self.deleted.insert(topic);
            }
            _ => {}
        }
    }

    fn settle_window(&mut self, key: Key, index: Index) {
        if let Some(held) = self.held.get_mut(&key) {
            held.settle(index);
        }
    }

    /// Takes back what the last entry did.
    pub(super) fn take_back(&mut self, index: Index, trace: &Trace) {
        let key = match *trace {
            Trace::Append(topic, Some(producer)) => (topic, producer),
            Trace::Expire(topic, producer) => {
                self.forgotten_next.pop_back();
                (topic, producer)
            }
            _ => return,
        };
        // It stays, even where it is as it was handed out: the store may not have that yet.
        if let Some(held) = self.held.get_mut(&key) {
            held.take_back(index);
        }
    }

    /// How many windows a checkpoint would write.
    pub(super) fn held(&self) -> usize {
        self.held.len() + self.deleted.len()
    }

    /// Hands out the settled windows that have moved, and the topics that are gone.
    pub(super) fn hand_out(&mut self) -> (Vec<SavedWindow>, Vec<TopicId>) {
        let mut moved = Vec::new();
        for ((topic, producer), held) in &mut self.held {
            if held.unsaved {
                held.unsaved = false;
                let is_empty = held.settled.window.epoch().is_none();
                moved.push(SavedWindow {
                    topic: *topic,
                    producer: *producer,
                    window: (!is_empty).then(|| held.settled.clone()),
                });
            }
        }
        let deleted = std::mem::take(&mut self.deleted);
        (moved, deleted.into_iter().collect())
    }

    /// What was handed out can be read from the source.
    pub(super) fn drop_saved(&mut self) {
        self.held.retain(|_, held| !held.is_as_saved());
    }
}

impl Held {
    fn newest(&self) -> &Window {
        self.newest.as_ref().unwrap_or(&self.settled)
    }

    fn push(&mut self, index: Index, change: Change) {
        self.next.push_back((index, change));
        let newest = self.newest.get_or_insert_with(|| self.settled.clone());
        change.apply(newest);
    }

    fn settle(&mut self, index: Index) {
        if self.next.front().is_some_and(|(at, _)| *at == index)
            && let Some((_, change)) = self.next.pop_front()
        {
            change.apply(&mut self.settled);
            self.unsaved = true;
        }
        if self.next.is_empty() {
            self.newest = None;
        }
    }

    fn take_back(&mut self, index: Index) {
        if self.next.back().is_some_and(|(at, _)| *at == index) {
            self.next.pop_back();
        }
        self.newest = None;
        if !self.next.is_empty() {
            let mut newest = self.settled.clone();
            for (_, change) in &self.next {
                change.apply(&mut newest);
            }
            self.newest = Some(newest);
        }
    }

    fn is_as_saved(&self) -> bool {
        !self.unsaved && self.next.is_empty()
    }
}

impl Change {
    fn apply(self, window: &mut Window) {
        match self {
            Self::Appended {
                stamp,
                first,
                last,
                time_ms,
            } => {
                window
                    .window
                    .record(stamp.epoch, stamp.sequence, first, last);
                window.last_append_ms = time_ms;
            }
            Self::Forgotten => *window = Window::default(),
        }
    }
}

fn window_of(command: &Command) -> Option<Key> {
    match *command {
        Command::Append {
            topic,
            producer: Some(stamp),
            ..
        } => Some((topic, stamp.id)),
        Command::ExpireProducer { topic, producer } => Some((topic, producer)),
        _ => None,
    }
}
