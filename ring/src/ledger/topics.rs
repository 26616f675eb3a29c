//! The topics that the decisions concern, as the entries decided so far leave them.
//!
//! A topic that an unsettled entry touches stays. Of the others as many stay as there is room for, since reading where one
//! ends costs far more than appending to it. Beyond that the one goes that has not been used for the longest, about: as a
//! hand goes round (CLOCK), it passes over what was used since it came by last. What goes is read again when it is asked
//! for, and is then what it was.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use super::source::{Source, Tail};
use super::trail::Trace;
use crate::command::TopicConfig;
use crate::ids::{Index, Offset, TopicId};

/// Most memory that a node spends on topics that are idle, in bytes. It is spent by a node that leads very many that are
/// in use, and holds more than a million of them.
pub const TOPICS_BYTES_MAX: usize = 192 << 20;

/// About what an idle topic takes in memory, in bytes: its key and state in a map whose nodes are half full, and its place
/// in the round.
pub const TOPIC_BYTES: usize = 144;

const _: () = assert!(2 * (size_of::<(TopicId, Topic)>() + size_of::<TopicId>()) <= TOPIC_BYTES);

/// How many a search for one that may go passes over at most, so that no request pays for a whole round: the next one
/// searches on.
const PASSED_MAX: usize = 32;

/// Most of what was under way that is kept to be used again.
const SPARE_MAX: usize = 64;

/// Batches that have room in each of them.
const SPARE_BATCHES_MAX: usize = 4;

/// Topics that no longer are may stand in the round up to so many, and as many again as there are topics.
const GONE_MAX: usize = 64;

/// How many topics each of so many partitions may remember although nothing of them is under way: all of them together, if
/// one node leads them all, take at most [`TOPICS_BYTES_MAX`].
#[must_use]
pub fn topics_max(partitions: u16) -> usize {
    TOPICS_BYTES_MAX / TOPIC_BYTES / usize::from(partitions).max(1)
}

/// Topics and names that are under way, and topics that were asked about lately.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    states: BTreeMap<TopicId, Topic>,
    /// All of them in the order in which the hand comes by, and some that are gone.
    round: VecDeque<TopicId>,
    /// From how many on those that are idle go.
    max: usize,
    names: BTreeMap<String, Name>,
    settled: Index,
    /// For topics that are about to be changed: over many topics every batch would allocate one anew, and its queue.
    #[expect(
        clippy::vec_box,
        reason = "they go into topics and come back as they are"
    )]
    spare: Vec<Box<UnderWay>>,
}

/// A topic.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) tail: Tail,
    /// What unsettled entries do to it.
    under_way: Option<Box<UnderWay>>,
    /// Asked for again since it came, or since the hand came by: one that is asked for once makes place first.
    used: bool,
}

#[derive(Clone, Debug, Default)]
struct UnderWay {
    /// The last entry that touched it.
    touched: Index,
    /// The last entry that made or trimmed it.
    trimmed: Index,
    is_deleted: bool,
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
    pub(super) fn new(max: usize) -> Self {
        Self {
            states: BTreeMap::new(),
            round: VecDeque::new(),
            max,
            names: BTreeMap::new(),
            settled: Index(0),
            spare: Vec::new(),
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max);
    }

    /// Remembers so many from now on.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The topic, if it exists or is deleted by an entry that is not settled.
    pub(super) fn get<S: Source>(
        &mut self,
        source: &S,
        topic: TopicId,
    ) -> Result<Option<&mut Topic>, S::Error> {
        self.make_room();
        Ok(match self.states.entry(topic) {
            Entry::Occupied(state) => {
                let state = state.into_mut();
                state.used = true;
                Some(state)
            }
            Entry::Vacant(state) => match source.tail(topic)? {
                Some(tail) => {
                    self.round.push_back(topic);
                    Some(state.insert(Topic::new(tail)))
                }
                None => None,
            },
        })
    }

    /// The same topic again, which an entry is about to change.
    pub(super) fn get_to_change(&mut self, topic: TopicId) -> Option<&mut Topic> {
        let state = self.states.get_mut(&topic)?;
        if state.under_way.is_none() {
            state.under_way = Some(self.spare.pop().unwrap_or_default());
        }
        Some(state)
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
        let mut state = Topic::new(Tail::default());
        state.trim(index);
        self.make_room();
        self.states.insert(topic, state);
        self.round.push_back(topic);
    }

    pub(super) fn free_name(&mut self, index: Index, name: String) {
        self.names.insert(name, Name { index, topic: None });
    }

    pub(super) fn settle(&mut self, index: Index, trace: &Trace) {
        self.settled = index;
        match trace {
            Trace::Append(topic, _) | Trace::Topic(topic) | Trace::Expire(topic, _) => {
                self.settle_topic(index, *topic);
            }
            Trace::Create(name) => {
                self.settle_topic(index, TopicId(index.0));
                if let Some(name) = name {
                    self.settle_name(index, name);
                }
            }
            Trace::Delete(topic, name) => {
                self.states.remove(topic);
                self.drop_gone();
                if let Some(name) = name {
                    self.settle_name(index, name);
                }
            }
            Trace::Nothing => {}
        }
    }

    /// Takes back the append that was entered last.
    pub(super) fn take_back(&mut self, index: Index, topic: TopicId) {
        if let Some(state) = self.states.get_mut(&topic) {
            state.take_back(index, self.settled);
        }
    }

    fn settle_topic(&mut self, index: Index, topic: TopicId) {
        let settled = self.states.get_mut(&topic);
        if let Some(mut spare) = settled.and_then(|state| state.settle(index))
            && self.spare.len() < SPARE_MAX
        {
            spare.clear();
            self.spare.push(spare);
        }
    }

    fn settle_name(&mut self, index: Index, name: &str) {
        if self.names.get(name).is_some_and(|name| name.index == index) {
            self.names.remove(name);
        }
    }

    /// Forgets idle topics where there are too many.
    fn make_room(&mut self) {
        let mut passed = 0;
        while self.states.len() >= self.max
            && passed < PASSED_MAX.min(self.round.len())
            && let Some(topic) = self.round.pop_front()
        {
            let Entry::Occupied(mut state) = self.states.entry(topic) else {
                continue;
            };
            let is_used = std::mem::take(&mut state.get_mut().used);
            if is_used || state.get().under_way.is_some() {
                self.round.push_back(topic);
                passed += 1;
            } else {
                state.remove();
            }
        }
    }

    /// Takes what is gone out of the round before it is most of it.
    fn drop_gone(&mut self) {
        if self.round.len() > 2 * self.states.len() + GONE_MAX {
            self.round.retain(|topic| self.states.contains_key(topic));
        }
    }
}

impl Topic {
    fn new(tail: Tail) -> Self {
        Self {
            tail,
            under_way: None,
            used: false,
        }
    }

    fn touch(&mut self, index: Index) -> &mut UnderWay {
        let under_way = self.under_way.get_or_insert_default();
        under_way.touched = index;
        under_way
    }

    /// An entry changes what stands beside its log.
    pub(super) fn change(&mut self, index: Index) {
        self.touch(index);
    }

    /// An entry makes it, or moves its beginning.
    pub(super) fn trim(&mut self, index: Index) {
        self.touch(index).trimmed = index;
    }

    /// An entry removes it.
    pub(super) fn delete(&mut self, index: Index) {
        self.touch(index).is_deleted = true;
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.under_way
            .as_ref()
            .is_some_and(|under_way| under_way.is_deleted)
    }

    /// Moves the end behind a batch that was just entered.
    pub(super) fn append(&mut self, index: Index, last: Offset, position: u64, time_ms: u64) {
        let tail = self.tail;
        let under_way = self.under_way.get_or_insert_default();
        under_way.batches.push_back(Batch {
            index,
            first: tail.next,
            last,
            position: tail.position,
            earlier_ms: tail.time_ms,
            touched: under_way.touched,
        });
        self.tail.next = last + 1;
        self.tail.position = position;
        self.tail.time_ms = time_ms;
        self.touch(index);
    }

    /// Moves the end back to before the last batch, which is that of `index`.
    fn take_back(&mut self, index: Index, settled: Index) {
        let Some(under_way) = &mut self.under_way else {
            return;
        };
        if under_way
            .batches
            .back()
            .is_some_and(|batch| batch.index == index)
            && let Some(batch) = under_way.batches.pop_back()
        {
            self.tail.next = batch.first;
            self.tail.position = batch.position;
            self.tail.time_ms = batch.earlier_ms;
            under_way.touched = batch.touched;
            if batch.touched <= settled {
                self.under_way = None;
            }
        }
    }

    /// The last entry that touched it, if it is not settled.
    pub(super) fn unsettled(&self) -> Option<Index> {
        self.under_way.as_ref().map(|under_way| under_way.touched)
    }

    /// The last entry that made or trimmed it, if it is not settled.
    pub(super) fn unsettled_trim(&self, settled: Index) -> Option<Index> {
        let trimmed = self.under_way.as_ref()?.trimmed;
        (trimmed > settled).then_some(trimmed)
    }

    /// Byte position where the unsettled batch that holds `offset` begins.
    pub(super) fn position_of_unsettled(&self, offset: Offset) -> Option<u64> {
        let batches = &self.under_way.as_ref()?.batches;
        let at = batches.partition_point(|batch| batch.last < offset);
        let batch = batches.get(at)?;
        (batch.first <= offset).then_some(batch.position)
    }

    /// Returns what is of no more use to it, once nothing of it is under way.
    fn settle(&mut self, index: Index) -> Option<Box<UnderWay>> {
        let under_way = self.under_way.as_mut()?;
        if under_way.touched <= index {
            return self.under_way.take();
        }
        while under_way
            .batches
            .front()
            .is_some_and(|batch| batch.index <= index)
        {
            under_way.batches.pop_front();
        }
        None
    }
}

impl UnderWay {
    /// Nothing is under way; the queue keeps some of its room.
    fn clear(&mut self) {
        self.batches.clear();
        self.batches.shrink_to(SPARE_BATCHES_MAX);
        *self = Self {
            batches: std::mem::take(&mut self.batches),
            ..Self::default()
        };
    }
}
