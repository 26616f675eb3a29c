//! What a store does by the clock: retention, expiry of values, tombstones and producers.
//!
//! Each pass decides from what is stored. Bindings are changed through the writer; what is due of topics is only told:
//! their leader changes them, by commands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_ring::age::{AgeClock, Reading};
use mesh_ring::command::TopicConfig;
use mesh_ring::ids::{Offset, PartitionId, ProducerId, TopicId, TopicKey};

use crate::codec::only_u64;
use crate::engine::{Answer, Engine};
use crate::error::{ReadError, Stopped};
use crate::keys::{self, family};
use crate::options::{Clock, Options};
use crate::read::{self, CommittedEnd};
use crate::writer::Op;

/// Most due bindings that one pass looks at; the next pass takes the rest.
const SWEEP_MAX: usize = 10_000;

/// How often the producers are looked through, in milliseconds.
const PRODUCERS_EVERY_MS: u64 = 60 * 60 * 1000;

/// How often the time by which ages are judged is made durable, in milliseconds: what a restart may forget of it.
const AGE_EVERY_MS: u64 = 60 * 1000;

/// What housekeeping remembers from pass to pass.
pub(crate) struct Schedule {
    wall: Clock,
    steady: Clock,
    state: Mutex<State>,
    /// The time by which ages were judged last, in any run.
    judged_ms: AtomicU64,
}

struct State {
    ages: AgeClock,
    /// What was made durable of it last.
    noted_ms: Option<u64>,
    /// Whether it was said that the wall clock is not believed.
    warned: bool,
    /// When the producers were looked through.
    producers_ms: u64,
}

impl Schedule {
    /// `judged_ms`: the time by which ages were judged last, in an earlier run.
    pub(crate) fn new(judged_ms: Option<u64>, options: &Options) -> Schedule {
        let (wall, steady) = (Arc::clone(&options.clock), Arc::clone(&options.steady));
        let now = Reading {
            wall_ms: wall(),
            steady_ms: steady(),
        };
        let state = State {
            ages: AgeClock::new(judged_ms, now),
            noted_ms: judged_ms,
            warned: false,
            producers_ms: 0,
        };
        Schedule {
            wall,
            steady,
            state: Mutex::new(state),
            judged_ms: AtomicU64::new(judged_ms.unwrap_or(0)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which this pass judges ages, and whether to make it durable.
    fn judge(&self) -> (u64, bool) {
        let mut state = self.lock();
        let judged = state.ages.judge(Reading {
            wall_ms: (self.wall)(),
            steady_ms: (self.steady)(),
        });
        if let (Some(ahead_ms), false) = (judged.ahead_ms, state.warned) {
            tracing::warn!(
                ahead_ms,
                "the clock is ahead of where it should be: ages are judged without it until it has kept step for an hour"
            );
        }
        state.warned = judged.ahead_ms.is_some();
        let due = state
            .noted_ms
            .is_none_or(|noted| judged.now_ms >= noted.saturating_add(AGE_EVERY_MS));
        if due {
            state.noted_ms = Some(judged.now_ms);
        }
        (judged.now_ms, due)
    }

    /// Whether the producers are due.
    fn producers_are_due(&self, now_ms: u64) -> bool {
        let mut state = self.lock();
        let due = now_ms.saturating_sub(state.producers_ms) >= PRODUCERS_EVERY_MS;
        if due {
            state.producers_ms = now_ms;
        }
        due
    }
}

impl Engine {
    /// The time by which ages are to be judged now, in unix milliseconds: what is ended by it is not undone by a clock
    /// that was wrong. After a restart no earlier one is judged by.
    ///
    /// # Errors
    /// The store stopped.
    pub fn judge_ages(&self) -> Result<u64, Stopped> {
        if let Some(stopped) = self.queue().stopped() {
            return Err(stopped);
        }
        let (now_ms, note) = self.schedule().judge();
        if note {
            self.ask(|done| Op::JudgeAges { now_ms, done })
                .wait()
                .map_err(|error| Stopped {
                    cause: error.to_string(),
                })?;
        }
        self.schedule()
            .judged_ms
            .fetch_max(now_ms, Ordering::Relaxed);
        Ok(now_ms)
    }

    /// The time by which ages were judged last, in unix milliseconds; 0 if they never were.
    pub fn judged_ms(&self) -> u64 {
        self.schedule().judged_ms.load(Ordering::Relaxed)
    }

    /// Topics of a partition that have more than their limits allow, each with the first offset that may stay. Costs a
    /// seek a topic with limits.
    ///
    /// Damage that it meets is logged and left to the scrub.
    pub fn retention_due(&self, partition: PartitionId, now_ms: u64) -> Vec<(TopicKey, Offset)> {
        let mut due = Vec::new();
        for topic in self.retained(partition) {
            match self.retained_from(topic, now_ms) {
                Ok(first) => due.extend(first.map(|first| (topic, first))),
                Err(error) => tracing::warn!(%topic, %error, "retention skips a topic"),
            }
        }
        due
    }

    /// Whether it is time to ask for [`Engine::producers_due`], which reads all that is remembered of producers: once an
    /// hour.
    pub fn is_producers_hour(&self, now_ms: u64) -> bool {
        self.schedule().producers_are_due(now_ms)
    }

    /// Producers of a partition that appended nothing since `before_ms`, by the last checkpoint.
    pub fn producers_due(
        &self,
        partition: PartitionId,
        before_ms: u64,
    ) -> Vec<(TopicKey, ProducerId)> {
        let prefix = partition.0.to_be_bytes();
        let mut iterator = self.store().iterate(family::PRODUCERS, &prefix);
        iterator.seek_to_first();
        let mut quiet = Vec::new();
        while let Some((key, value)) = iterator.item() {
            let last_ms = value.get(..8).and_then(|time| only_u64(time).ok());
            if let (Some(producer), true) = (
                parse_producer_key(key),
                last_ms.is_some_and(|last| last < before_ms),
            ) {
                quiet.push(producer);
            }
            iterator.next();
        }
        warn_if_cut_short("the expiry of producers", &iterator);
        quiet
    }

    fn retained(&self, partition: PartitionId) -> Vec<TopicKey> {
        let mut iterator = self
            .store()
            .iterate(family::TOPICS, &keys::retained_prefix(partition));
        iterator.seek_to_first();
        let mut topics = Vec::new();
        while let Some(key) = iterator.key() {
            topics.extend(keys::parse_retained_key(key));
            iterator.next();
        }
        warn_if_cut_short("retention", &iterator);
        topics
    }

    fn retained_from(&self, topic: TopicKey, now_ms: u64) -> Result<Option<Offset>, ReadError> {
        let Some(meta) = read::topic_meta(self.store(), topic)? else {
            return Ok(None);
        };
        self.committed(topic, |end| {
            retained_from(self, end, topic, meta.config, now_ms)
        })
    }

    /// Turns the values of bindings that have expired as of `now_ms` into tombstones. Returns how many bindings changed.
    pub fn sweep_bindings(&self, now_ms: u64) -> u64 {
        let mut due = Vec::new();
        for partition in (0..self.identity().partitions).map(PartitionId) {
            self.due_bindings(partition, now_ms, &mut due);
        }
        let answers: Vec<_> = due
            .into_iter()
            .map(|(due_ms, partition, key)| {
                self.ask(|done| Op::Sweep {
                    now_ms,
                    due_ms,
                    partition,
                    key,
                    done,
                })
            })
            .collect();
        answers
            .into_iter()
            .map(Answer::wait)
            .filter(|answer| matches!(answer, Ok(true)))
            .count() as u64
    }

    /// Adds what is due in a partition, until there are [`SWEEP_MAX`] in all.
    fn due_bindings(
        &self,
        partition: PartitionId,
        now_ms: u64,
        due: &mut Vec<(u64, PartitionId, Vec<u8>)>,
    ) {
        let prefix = partition.0.to_be_bytes();
        let mut iterator = self.store().iterate(family::EXPIRY, &prefix);
        iterator.seek_to_first();
        while due.len() < SWEEP_MAX
            && let Some((due_ms, _, key)) = iterator.key().and_then(keys::parse_expiry_key)
            && due_ms <= now_ms
        {
            due.push((due_ms, partition, key.to_vec()));
            iterator.next();
        }
        warn_if_cut_short("expiry", &iterator);
    }
}

/// The first offset that the topic's limits let stay, `None` where they let all stay. A batch goes when all of it is over
/// a limit. Where nothing is over one, which is nearly always, this reads one batch.
fn retained_from(
    engine: &Engine,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
    config: TopicConfig,
    now_ms: u64,
) -> Result<Option<Offset>, ReadError> {
    let store = engine.store();
    let Some(oldest) = read::batch_at(store, topic, 0)? else {
        return Ok(None);
    };
    if committed(topic.id).is_some_and(|end| end.next <= oldest.leader.base_offset) {
        return Ok(None);
    }
    let mut first = None;
    let born_ms = config
        .retention_age_ms
        .map(|age_ms| now_ms.saturating_sub(age_ms));
    if let Some(born_ms) = born_ms.filter(|born_ms| oldest.leader.append_time_ms < *born_ms) {
        first = Some(read::offset_at_time(store, committed, topic, born_ms)?);
    }
    if let Some(bytes) = config.retention_bytes {
        let tail = read::tail(store, committed, topic)?.ok_or(ReadError::TopicDeleted)?;
        let end = tail.position;
        if end.saturating_sub(oldest.leader.base_position) > bytes {
            let kept = read::first_batch_where(store, committed, topic, |header| {
                end.saturating_sub(header.leader.base_position) <= bytes
            })?;
            first = first.max(Some(kept));
        }
    }
    Ok(first)
}

/// Says that a pass did not see everything.
fn warn_if_cut_short(what: &str, iterator: &rocksdb::DBRawIterator<'_>) {
    if let Err(error) = iterator.status() {
        tracing::error!(%error, "{what} cannot read all that it should: see the scrub");
    }
}

fn parse_producer_key(key: &[u8]) -> Option<(TopicKey, ProducerId)> {
    let (partition, rest) = key.split_at_checked(2)?;
    let (id, producer) = rest.split_at_checked(8)?;
    let topic = TopicKey {
        partition: PartitionId(u16::from_be_bytes(partition.try_into().ok()?)),
        id: TopicId(u64::from_be_bytes(id.try_into().ok()?)),
    };
    Some((topic, ProducerId(producer.try_into().ok()?)))
}
