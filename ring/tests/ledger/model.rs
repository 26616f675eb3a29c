//! The truth, made the slow way: the state that a list of commands leads to, and what a leader decides in it.

use std::collections::BTreeMap;

use mesh_ring::command::{Command, ProducerStamp};
use mesh_ring::ids::{Index, Offset, ProducerId, TopicId};
use mesh_ring::ledger::{AppendFacts, AppendRefusal, Moment, Tail, TopicRefusal, Window};
use mesh_ring::limits::PRODUCER_AGE_MS_MAX;
use mesh_ring::producer::{SequenceError, Verdict};

/// What a list of commands leads to.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<TopicId, Topic>,
    pub(crate) windows: BTreeMap<(TopicId, ProducerId), Window>,
    pub(crate) forgotten_before_ms: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) tail: Tail,
    /// First and last offset of each batch, and where it begins.
    pub(crate) batches: Vec<(Offset, Offset, u64)>,
    pub(crate) cursors: BTreeMap<String, Offset>,
}

impl State {
    /// Replays the first `upto` commands.
    pub(crate) fn of(commands: &[Command], upto: Index) -> Self {
        let mut state = Self::default();
        for (at, command) in commands.iter().take(upto.0 as usize).enumerate() {
            state.apply(Index(at as u64 + 1), command);
        }
        state
    }

    pub(crate) fn apply(&mut self, index: Index, command: &Command) {
        match command {
            Command::Append {
                topic,
                first,
                last,
                position,
                time_ms,
                producer,
            } => {
                let of = self.topics.get_mut(topic).expect("appends go to topics");
                assert_eq!(of.tail.next, *first, "offsets are dense");
                assert!(of.tail.time_ms <= *time_ms, "time never moves back");
                of.batches.push((*first, *last, of.tail.position));
                of.tail.next = last + 1;
                of.tail.position = *position;
                of.tail.time_ms = *time_ms;
                if let Some(stamp) = producer {
                    let window = self.windows.entry((*topic, stamp.id)).or_default();
                    let verdict = window.window.check(stamp.epoch, stamp.sequence);
                    assert_eq!(verdict, Ok(Verdict::Next), "appended once, in order");
                    window
                        .window
                        .record(stamp.epoch, stamp.sequence, *first, *last);
                    window.last_append_ms = *time_ms;
                }
            }
            Command::CreateTopic { name, .. } => {
                assert_eq!(self.named(name), None, "names are taken once");
                let topic = Topic {
                    name: name.clone(),
                    tail: Tail::default(),
                    batches: Vec::new(),
                    cursors: BTreeMap::new(),
                };
                self.topics.insert(TopicId(index.0), topic);
            }
            Command::DeleteTopic { topic } => {
                assert!(self.topics.remove(topic).is_some(), "a topic is deleted");
                self.windows.retain(|(of, _), _| of != topic);
            }
            Command::Trim {
                topic,
                first,
                position,
                time_ms,
            } => {
                let of = self.topics.get_mut(topic).expect("topics are trimmed");
                assert!(of.tail.first < *first && *first <= of.tail.next);
                assert_eq!(of.position_of(*first), Some(*position));
                assert_eq!(of.tail.time_ms, *time_ms);
                of.tail.first = *first;
                of.tail.first_position = *position;
            }
            Command::CommitCursor { topic, name, next } => {
                let of = self.topics.get_mut(topic).expect("cursors are in topics");
                of.cursors.insert(name.clone(), *next);
            }
            Command::Barrier => {}
            Command::ExpireProducer { topic, producer } => {
                self.windows.remove(&(*topic, *producer));
                self.forgotten_before_ms = self.forgotten_before_ms.max(producer.minted_ms() + 1);
            }
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<TopicId> {
        let mut topics = self.topics.iter();
        topics.find(|(_, of)| of.name == name).map(|(id, _)| *id)
    }

    /// What becomes of a batch: its offsets and whether they are old, or why not.
    pub(crate) fn append(
        &self,
        at: Moment,
        facts: AppendFacts,
    ) -> Result<(Offset, Offset, bool), AppendRefusal> {
        let topic = self
            .topics
            .get(&facts.topic)
            .ok_or(AppendRefusal::TopicDeleted)?;
        if let Some(stamp) = facts.producer
            && let Verdict::Duplicate { first, last } = self.verdict(at, facts.topic, stamp)?
        {
            return Ok((first, last, true));
        }
        let next = topic.tail.next;
        if let Some(expected) = facts.expected.filter(|expected| *expected != next) {
            return Err(AppendRefusal::WrongOffset { expected, next });
        }
        if !facts.admitted {
            return Err(AppendRefusal::NotAdmitted);
        }
        Ok((next, next + u64::from(facts.records) - 1, false))
    }

    fn verdict(
        &self,
        at: Moment,
        topic: TopicId,
        stamp: ProducerStamp,
    ) -> Result<Verdict, AppendRefusal> {
        let unknown = Err(AppendRefusal::Sequence(SequenceError::Unknown));
        match self.windows.get(&(topic, stamp.id)) {
            Some(window) => window.window.check(stamp.epoch, stamp.sequence),
            None => {
                let minted_ms = stamp.id.minted_ms();
                let now_ms = at.now_ms.max(at.age_ms);
                if minted_ms + PRODUCER_AGE_MS_MAX <= now_ms
                    || minted_ms >= at.now_ms + PRODUCER_AGE_MS_MAX
                    || minted_ms < self.forgotten_before_ms
                {
                    return unknown;
                }
                Window::default().window.check(stamp.epoch, stamp.sequence)
            }
        }
        .map_err(AppendRefusal::Sequence)
    }

    pub(crate) fn create(&self, name: &str) -> Result<(), TopicRefusal> {
        match self.named(name) {
            Some(topic) => Err(TopicRefusal::Exists(topic)),
            None => Ok(()),
        }
    }

    /// The first offset after a trim.
    pub(crate) fn trim(&self, topic: TopicId, first: Offset) -> Result<Offset, TopicRefusal> {
        let tail = self.topics.get(&topic).ok_or(TopicRefusal::Unknown)?.tail;
        if first > tail.next {
            return Err(TopicRefusal::BeyondEnd {
                offset: first,
                next: tail.next,
            });
        }
        Ok(tail.first.max(first))
    }

    pub(crate) fn cursor(&self, topic: TopicId, next: Offset) -> Result<(), TopicRefusal> {
        let tail = self.topics.get(&topic).ok_or(TopicRefusal::Unknown)?.tail;
        if next > tail.next {
            return Err(TopicRefusal::BeyondEnd {
                offset: next,
                next: tail.next,
            });
        }
        Ok(())
    }

    pub(crate) fn expire(
        &self,
        topic: TopicId,
        producer: ProducerId,
        before_ms: u64,
    ) -> Result<bool, TopicRefusal> {
        if !self.topics.contains_key(&topic) {
            return Err(TopicRefusal::Unknown);
        }
        let window = self.windows.get(&(topic, producer));
        Ok(window.is_some_and(|window| window.last_append_ms < before_ms))
    }
}

impl Topic {
    pub(crate) fn position_of(&self, offset: Offset) -> Option<u64> {
        let mut batches = self.batches.iter();
        batches
            .find(|(first, last, _)| (*first..=*last).contains(&offset))
            .map(|(.., position)| *position)
            .or((offset == self.tail.next).then_some(self.tail.position))
    }
}
