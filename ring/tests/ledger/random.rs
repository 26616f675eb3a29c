//! Random requests, commits, truncations, checkpoints and restarts, each answer checked against the model.

use mesh_ring::command::{Command, ProducerStamp, TopicConfig};
use mesh_ring::ids::{Index, ProducerId, TopicId};
use mesh_ring::ledger::{
    AppendFacts, AppendRefusal, Checkpoint, Decision, Ledger, Moment, TopicRefusal,
};
use mesh_ring::name::{CursorName, TopicName};
use mesh_ring::producer::Verdict;
use proptest::prelude::*;

use crate::model::State;
use crate::store::Store;

const START_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// One of a few producers, minted within some days around the start.
fn producer(n: u64) -> ProducerId {
    ProducerId::new(START_MS - 2 * DAY_MS + n * DAY_MS, [n as u8; 10])
}

/// One step; the numbers choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    Append {
        topic: u64,
        producer: u64,
        records: u32,
        back: u32,
        expected: Option<u64>,
        admitted: bool,
    },
    Create(u64, bool),
    Delete(u64),
    Trim(u64, u64),
    Cursor(u64, u64),
    Expire(u64, u64, u64),
    /// The store applies more than the ledger is told of.
    Apply(u64),
    Settle(u64),
    Checkpoint,
    CheckpointDone,
    /// The leader is deposed; another one cuts this many entries and writes these; then this one leads again.
    Deposed(u64, Vec<u64>),
    /// It stops and starts again; then it leads again.
    Restart,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let append = (
        0..3_u64,
        0..4_u64,
        1..4_u32,
        0..12_u32,
        prop::option::weighted(0.2, 0..6_u64),
        prop::bool::weighted(0.9),
    );
    prop_oneof![
        20 => append.prop_map(|(topic, producer, records, back, expected, admitted)| Step::Append { topic, producer, records, back, expected, admitted }),
        4 => (0..3_u64, any::<bool>()).prop_map(|(name, retained)| Step::Create(name, retained)),
        2 => (0..3_u64).prop_map(Step::Delete),
        4 => (0..3_u64, 0..9_u64).prop_map(|(topic, ahead)| Step::Trim(topic, ahead)),
        3 => (0..3_u64, 0..9_u64).prop_map(|(topic, back)| Step::Cursor(topic, back)),
        2 => (0..3_u64, 0..4_u64, 0..3 * DAY_MS).prop_map(|(topic, producer, age)| Step::Expire(topic, producer, age)),
        10 => (0..9_u64).prop_map(Step::Settle),
        3 => (0..9_u64).prop_map(Step::Apply),
        3 => Just(Step::Checkpoint),
        3 => Just(Step::CheckpointDone),
        2 => (0..9_u64, prop::collection::vec(any::<u64>(), 0..9)).prop_map(|(cut, written)| Step::Deposed(cut, written)),
        1 => Just(Step::Restart),
        2 => (0..2 * DAY_MS).prop_map(Step::Wait),
    ]
}

struct World {
    /// How many idle topics the ledger remembers.
    topics: usize,
    /// Every decision, in order.
    decided: Vec<String>,
    commands: Vec<Command>,
    store: Store,
    ledger: Ledger,
    under_way: Option<Checkpoint>,
    now_ms: u64,
}

impl World {
    fn new(topics: usize) -> Self {
        let mut ledger = Ledger::new(Default::default()).remembering(topics);
        ledger.lead();
        Self {
            topics,
            decided: Vec::new(),
            commands: Vec::new(),
            store: Store::default(),
            ledger,
            under_way: None,
            now_ms: START_MS,
        }
    }

    fn last(&self) -> Index {
        Index(self.commands.len() as u64)
    }

    fn state(&self, upto: Index) -> State {
        State::of(&self.commands, upto)
    }

    /// An id of a topic that is there, was there or never was.
    fn topic(&self, pick: u64) -> TopicId {
        let created =
            |(_, command): &(usize, &Command)| matches!(command, Command::CreateTopic { .. });
        let entries = self.commands.iter().enumerate().filter(created);
        let ids: Vec<u64> = entries.map(|(at, _)| at as u64 + 1).collect();
        // Mostly the newest ones.
        match ids.len().checked_sub(1 + pick as usize) {
            Some(at) => TopicId(ids[at]),
            None => TopicId(9_999),
        }
    }

    fn settle(&mut self, upto: Index) {
        let upto = upto.max(self.ledger.settled());
        self.store.apply(&self.commands, upto);
        self.ledger.settle(upto);
    }

    fn lead(&mut self) {
        self.commands.push(Command::Barrier);
        let last = self.last();
        self.ledger
            .follow(&self.store, last, &Command::Barrier)
            .unwrap();
        self.settle(last);
        self.ledger.lead();
    }

    /// Checks a decision against what the model says of any state: `right` tells whether the model decides alike.
    fn check<A: std::fmt::Debug, R: std::fmt::Debug>(
        &mut self,
        decision: Decision<A, R>,
        proposes: impl Fn(&State, &A, &Command) -> bool,
        answers: impl Fn(&State, &A) -> bool,
        refuses: impl Fn(&State, &R) -> bool,
    ) {
        let last = self.last();
        self.decided.push(format!("{decision:?}"));
        match decision {
            Decision::Propose {
                index,
                command,
                answer,
            } => {
                assert_eq!(index, last.next());
                assert!(
                    proposes(&self.state(last), &answer, &command),
                    "{command:?} {answer:?}"
                );
                self.commands.push(command);
                assert_eq!(self.ledger.last(), self.last());
                // The model asserts that it fits.
                self.state(index);
            }
            Decision::Answer { answer, after } => {
                for state in self.states(after) {
                    assert!(answers(&state, &answer), "{answer:?} after {after:?}");
                }
            }
            Decision::Refuse { refusal, after } => {
                if let Some((index, command)) = self.ledger.confirm() {
                    assert_eq!(after, Some(index));
                    self.commands.push(command);
                }
                for state in self.states(after) {
                    assert!(refuses(&state, &refusal), "{refusal:?} after {after:?}");
                }
            }
        }
    }

    /// What must be true of an answer is true in all states from that of `after` on.
    fn states(&self, after: Option<Index>) -> Vec<State> {
        let settled = self.ledger.settled();
        assert!(after.is_none_or(|after| settled < after && after <= self.last()));
        let from = after.unwrap_or(settled).0;
        (from..=self.last().0)
            .map(|upto| self.state(Index(upto)))
            .collect()
    }

    fn take(&mut self, step: Step) {
        let at = Moment {
            now_ms: self.now_ms,
            age_ms: self.now_ms - DAY_MS,
        };
        match step {
            Step::Append {
                topic,
                producer: who,
                records,
                back,
                expected,
                admitted,
            } => {
                let topic = self.topic(topic);
                let state = self.state(self.last());
                let next = state.topics.get(&topic).map_or(0, |of| of.tail.next);
                let facts = AppendFacts {
                    topic,
                    records,
                    bytes: 10 + u64::from(records),
                    producer: self.stamp(&state, topic, who, back),
                    expected: expected.map(|ahead| (next + ahead).saturating_sub(2)),
                    admitted,
                };
                let decision = self.ledger.decide_append(&self.store, at, facts).unwrap();
                self.check(
                    decision,
                    |state, answer, _| {
                        state.append(at, facts) == Ok((answer.first, answer.last, false))
                    },
                    |state, answer| {
                        answer.duplicate
                            && state.append(at, facts) == Ok((answer.first, answer.last, true))
                    },
                    |state, refusal| {
                        *refusal == AppendRefusal::NotAdmitted
                            || state.append(at, facts) == Err(*refusal)
                    },
                );
            }
            Step::Create(name, retained) => {
                let name = format!("t{name}");
                let config = TopicConfig {
                    retention_age_ms: retained.then_some(1),
                    retention_bytes: None,
                };
                let decision = self
                    .ledger
                    .decide_create(
                        &self.store,
                        at,
                        &TopicName::new(&name).unwrap(),
                        config,
                        true,
                    )
                    .unwrap();
                self.check(
                    decision,
                    |state, answer, _| state.create(&name).is_ok() && !answer.attached,
                    |state, answer| {
                        answer.attached
                            && answer.config == config
                            && state.named(&name) == Some(answer.topic)
                    },
                    |state, refusal| state.create(&name) == Err(*refusal),
                );
            }
            Step::Delete(topic) => {
                let topic = self.topic(topic);
                let decision = self.ledger.decide_delete(&self.store, topic).unwrap();
                self.check(
                    decision,
                    |state, (), _| state.topics.contains_key(&topic),
                    |state, ()| !state.topics.contains_key(&topic),
                    |state, refusal| {
                        *refusal == TopicRefusal::Unknown && !state.topics.contains_key(&topic)
                    },
                );
            }
            Step::Trim(topic, ahead) => {
                let topic = self.topic(topic);
                let state = self.state(self.last());
                let first = state
                    .topics
                    .get(&topic)
                    .map_or(0, |of| of.tail.first + ahead)
                    .saturating_sub(1);
                let decision = self.ledger.decide_trim(&self.store, topic, first).unwrap();
                self.check(
                    decision,
                    |state, answer, _| {
                        answer.first == first
                            && state.topics[&topic].tail.first < first
                            && state.trim(topic, first) == Ok(first)
                    },
                    |state, answer| state.trim(topic, first) == Ok(answer.first),
                    |state, refusal| state.trim(topic, first) == Err(*refusal),
                );
            }
            Step::Cursor(topic, ahead) => {
                let topic = self.topic(topic);
                let state = self.state(self.last());
                let next = (state.topics.get(&topic).map_or(0, |of| of.tail.next) + 2)
                    .saturating_sub(ahead);
                let name = CursorName::new("c").unwrap();
                let decision = self
                    .ledger
                    .decide_cursor(&self.store, topic, &name, next)
                    .unwrap();
                self.check(
                    decision,
                    |state, (), _| state.cursor(topic, next) == Ok(()),
                    |_, ()| false,
                    |state, refusal| state.cursor(topic, next) == Err(*refusal),
                );
            }
            Step::Expire(topic, who, age_ms) => {
                let (topic, who) = (self.topic(topic), producer(who));
                let before_ms = self.now_ms - age_ms;
                let decision = self
                    .ledger
                    .decide_expire(&self.store, topic, who, before_ms)
                    .unwrap();
                self.check(
                    decision,
                    |state, answer, _| {
                        state.expire(topic, who, before_ms) == Ok(*answer) && *answer
                    },
                    |state, answer| state.expire(topic, who, before_ms) == Ok(*answer) && !answer,
                    |state, refusal| state.expire(topic, who, before_ms) == Err(*refusal),
                );
            }
            Step::Apply(back) => {
                let upto = Index(self.last().0.saturating_sub(back));
                self.store.apply(&self.commands, upto);
            }
            Step::Settle(back) => {
                let upto = Index(self.last().0.saturating_sub(back));
                self.settle(upto);
            }
            Step::Checkpoint => {
                if self.under_way.is_none() {
                    self.under_way = self.ledger.checkpoint();
                }
            }
            Step::CheckpointDone => {
                if let Some(checkpoint) = self.under_way.take() {
                    self.store.save(checkpoint);
                    self.ledger.checkpoint_done();
                    self.check_windows();
                }
            }
            Step::Deposed(cut, written) => {
                let from = (self.last().0.saturating_sub(cut)).max(self.store.applied.0) + 1;
                self.ledger.truncate(Index(from));
                self.commands.truncate(from as usize - 1);
                for luck in written {
                    let state = self.state(self.last());
                    if let Some(command) = foreign(&state, luck, self.now_ms) {
                        let index = self.last().next();
                        self.ledger.follow(&self.store, index, &command).unwrap();
                        self.commands.push(command);
                    }
                }
                self.lead();
            }
            Step::Restart => {
                self.under_way = None;
                let applied = self.store.applied;
                self.ledger = Ledger::new(self.store.checkpointed).remembering(self.topics);
                let from = self.store.checkpointed.upto.0 as usize;
                for (at, command) in self.commands.iter().enumerate().skip(from) {
                    let index = Index(at as u64 + 1);
                    self.ledger.follow(&self.store, index, command).unwrap();
                }
                self.settle(applied);
                self.lead();
            }
            Step::Wait(ms) => self.now_ms += ms,
        }
    }

    /// The stamp of the next batch, or of one some way back.
    fn stamp(&self, state: &State, topic: TopicId, who: u64, back: u32) -> Option<ProducerStamp> {
        let id = producer(who);
        let window = state.windows.get(&(topic, id)).map(|window| &window.window);
        let epoch = window.and_then(|window| window.epoch()).unwrap_or(1);
        let is_old = |sequence: &u32| {
            let verdict = window.map(|window| window.check(epoch, *sequence));
            verdict.is_some_and(|verdict| verdict != Ok(Verdict::Next))
        };
        let next = (0..1_000).find(|sequence| !is_old(sequence)).unwrap_or(0);
        let (epoch, sequence) = match back {
            0 => return None,
            1 => (epoch + 1, 0),
            2 => (epoch.saturating_sub(1), next),
            3..7 => (epoch, next.saturating_sub(back - 2)),
            7 => (epoch, next + 1),
            _ => (epoch, next),
        };
        Some(ProducerStamp {
            id,
            epoch,
            sequence,
        })
    }

    /// The stored windows are those of the checkpointed entries.
    fn check_windows(&self) {
        let upto = self.store.checkpointed.upto;
        let state = self.state(upto);
        assert_eq!(self.store.windows, state.windows, "as of {upto}");
        assert_eq!(
            self.store.checkpointed.forgotten_before_ms,
            state.forgotten_before_ms
        );
    }
}

/// A command that any leader might write in this state; `None` where `luck` asks for what cannot be.
fn foreign(state: &State, luck: u64, now_ms: u64) -> Option<Command> {
    let (kind, pick) = (luck % 16, luck / 16);
    let (&topic, of) = {
        let count = state.topics.len() as u64;
        let at = if count == 0 { 0 } else { pick % count };
        match state.topics.iter().nth(at as usize) {
            Some(some) => some,
            None => {
                return Some(Command::CreateTopic {
                    name: format!("t{}", pick % 3),
                    config: TopicConfig::default(),
                    created_ms: now_ms,
                });
            }
        }
    };
    Some(match kind {
        0 => Command::Barrier,
        1 => Command::DeleteTopic { topic },
        2 => {
            let name = format!("t{}", pick % 3);
            if state.named(&name).is_some() {
                return None;
            }
            Command::CreateTopic {
                name,
                config: TopicConfig::default(),
                created_ms: now_ms,
            }
        }
        3 => {
            let first = of.tail.first + 1 + pick % 5;
            Command::Trim {
                topic,
                first,
                position: of.position_of(first)?,
                time_ms: of.tail.time_ms,
            }
        }
        4 => {
            let mut windows = state.windows.keys().filter(|(id, _)| *id == topic);
            let producer = windows.nth(pick as usize % 3)?.1;
            Command::ExpireProducer { topic, producer }
        }
        _ => {
            let producer = producer(pick % 4);
            let window = state.windows.get(&(topic, producer));
            let stamp = match window.map(|window| &window.window) {
                None if producer.minted_ms() < state.forgotten_before_ms => return None,
                None => (0, 0),
                Some(window) => {
                    let epoch = window.epoch()?;
                    let next =
                        (0..500).find(|next| window.check(epoch, *next) == Ok(Verdict::Next));
                    (epoch, next?)
                }
            };
            let first = of.tail.next;
            Command::Append {
                topic,
                first,
                last: first + pick % 3,
                position: of.tail.position + 10 + pick % 7,
                time_ms: of.tail.time_ms.max(now_ms),
                producer: (pick % 5 != 0).then_some(ProducerStamp {
                    id: producer,
                    epoch: stamp.0,
                    sequence: stamp.1,
                }),
            }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_decides_as_one_that_replays_everything(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new(usize::MAX);
        for name in 0..2 {
            world.take(Step::Create(name, false));
        }
        for step in steps {
            world.take(step);
        }
        world.take(Step::CheckpointDone);
        world.settle(world.last());
        world.take(Step::Checkpoint);
        world.take(Step::CheckpointDone);
        prop_assert_eq!(world.store.windows.clone(), world.state(world.last()).windows);
    }

    #[test]
    fn what_is_decided_does_not_depend_on_how_many_topics_are_remembered(steps in prop::collection::vec(step(), 0..120), few in 0..4_usize) {
        let (mut all, mut some) = (World::new(usize::MAX), World::new(few));
        let first = (0..3).map(|name| Step::Create(name, false));
        for step in first.chain(steps) {
            all.take(step.clone());
            some.take(step);
        }
        prop_assert_eq!(&some.decided, &all.decided);
        prop_assert_eq!(&some.commands, &all.commands);
        prop_assert!(some.store.tails_read >= all.store.tails_read);
    }
}
