//! The topics of a leader as its own entries leave them: the overlay over the applied catalogue and log.

use std::collections::{BTreeMap, VecDeque};

use super::source::{Source, Tail};
use super::trail::Trace;
use crate::command::TopicConfig;
use crate::ids::{Index, Offset, TopicId};

/// Most topics that are remembered although nothing of them is under way. Beyond it all such are forgotten: one read
/// each brings them back.
pub const TOPICS_MAX: usize = 4_096;

/// Topics and names that are under way, and topics that were asked about lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Topics {
    states: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, Name>,
    settled: Index,
    /// How many topics are kept when those that are idle were last forgotten.
    kept: usize,
}

/// A topic.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) tail: Tail,
    /// The last entry that touched it.
    pub(super) touched: Index,
    /// The last entry that made or trimmed it.
    pub(super) trimmed: Index,
    pub(super) is_deleted: bool,
    /// Batches that are not settled, in the order of their offsets.
    batches: VecDeque<Batch>,
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    index: Index,
    first: Offset,
    last: Offset,
    /// Where it begins.
    position: u64,
    /// Append time of the record before it.
    earlier_ms: u64,
    /// The entry that touched the topic before.
    touched: Index,
}

/// What an unsettled entry made of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Name {
    pub(super) index: Index,
    /// The topic that has the name and its configuration; `None`: the name is free.
    pub(super) topic: Option<(TopicId, TopicConfig, u64)>,
}

impl Topics {
    /// The topic, if it exists or is deleted by an entry that is not settled.
    pub(super) fn get<S: Source>(
        &mut self,
        source: &S,
        topic: TopicId,
    ) -> Result<Option<&mut Topic>, S::Error> {
        if !self.states.contains_key(&topic) {
            let Some(tail) = source.tail(topic)? else {
                return Ok(None);
            };
            self.forget_idle();
            self.states.insert(topic, Topic::new(tail, Index(0)));
        }
        Ok(self.states.get_mut(&topic))
    }

    pub(super) fn get_known(&mut self, topic: TopicId) -> Option<&mut Topic> {
        self.states.get_mut(&topic)
    }

    /// What unsettled entries made of the name, if they did.
    pub(super) fn name(&self, name: &str) -> Option<&Name> {
        self.names.get(name)
    }

    /// The name of a topic whose creation is not settled.
    pub(super) fn name_of(&self, topic: TopicId) -> Option<&str> {
        let names = &mut self.names.iter();
        names
            .find(|(_, name)| name.topic.is_some_and(|(id, ..)| id == topic))
            .map(|(name, _)| name.as_str())
    }

    pub(super) fn create(
        &mut self,
        index: Index,
        name: String,
        config: TopicConfig,
        created_ms: u64,
    ) {
        let topic = TopicId(index.0);
        self.names.insert(
            name,
            Name {
                index,
                topic: Some((topic, config, created_ms)),
            },
        );
        self.states
            .insert(topic, Topic::new(Tail::default(), index));
    }

    pub(super) fn free_name(&mut self, index: Index, name: String) {
        self.names.insert(name, Name { index, topic: None });
    }

    pub(super) fn settle(&mut self, index: Index, trace: &Trace) {
        self.settled = index;
        match trace {
            Trace::Append(topic, _) => {
                if let Some(state) = self.states.get_mut(topic) {
                    state.settle(index);
                }
            }
            Trace::Create(Some(name)) => self.settle_name(index, name),
            Trace::Delete(topic, name) => {
                self.states.remove(topic);
                if let Some(name) = name {
                    self.settle_name(index, name);
                }
            }
            _ => {}
        }
    }

    /// Takes back the append that was entered last.
    pub(super) fn take_back(&mut self, index: Index, topic: TopicId) {
        if let Some(state) = self.states.get_mut(&topic) {
            state.take_back(index);
        }
    }

    fn settle_name(&mut self, index: Index, name: &str) {
        if self.names.get(name).is_some_and(|name| name.index == index) {
            self.names.remove(name);
        }
    }

    fn forget_idle(&mut self) {
        if self.states.len() >= TOPICS_MAX + 2 * self.kept {
            let settled = self.settled;
            self.states.retain(|_, topic| topic.touched > settled);
            self.kept = self.states.len();
        }
    }
}

impl Topic {
    fn new(tail: Tail, touched: Index) -> Self {
        Self {
            tail,
            touched,
            trimmed: touched,
            is_deleted: false,
            batches: VecDeque::new(),
        }
    }

    /// Moves the end behind a batch that was just entered.
    pub(super) fn append(&mut self, index: Index, last: Offset, position: u64, time_ms: u64) {
        self.batches.push_back(Batch {
            index,
            first: self.tail.next,
            last,
            position: self.tail.position,
            earlier_ms: self.tail.time_ms,
            touched: self.touched,
        });
        self.tail.next = last + 1;
        self.tail.position = position;
        self.tail.time_ms = time_ms;
        self.touched = index;
    }

    /// Moves the end back to before the last batch, which is that of `index`.
    fn take_back(&mut self, index: Index) {
        if self
            .batches
            .back()
            .is_some_and(|batch| batch.index == index)
            && let Some(batch) = self.batches.pop_back()
        {
            self.tail.next = batch.first;
            self.tail.position = batch.position;
            self.tail.time_ms = batch.earlier_ms;
            self.touched = batch.touched;
        }
    }

    /// The last entry that touched it, if it is not settled.
    pub(super) fn unsettled(&self, settled: Index) -> Option<Index> {
        (self.touched > settled).then_some(self.touched)
    }

    /// Byte position where the unsettled batch that holds `offset` begins.
    pub(super) fn position_of_unsettled(&self, offset: Offset) -> Option<u64> {
        let at = self.batches.partition_point(|batch| batch.last < offset);
        let batch = self.batches.get(at)?;
        (batch.first <= offset).then_some(batch.position)
    }

    fn settle(&mut self, index: Index) {
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.index <= index)
        {
            self.batches.pop_front();
        }
    }
}
