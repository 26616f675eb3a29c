//! What a store does by the clock: retention, expiry of values, tombstones and producers.
//!
//! Each pass decides from what is stored and changes it only through the writer, as anyone else would.

use std::sync::Mutex;
use std::sync::PoisonError;

use mesh_ring::ids::{Offset, PartitionId, ProducerId, TopicId, TopicKey};
use mesh_ring::limits::PRODUCER_AGE_MS_MAX;

use crate::catalogue::TopicConfig;
use crate::codec::only_u64;
use crate::engine::{Answer, Engine};
use crate::error::{ReadError, Stopped};
use crate::keys::{self, family};
use crate::read;
use crate::writer::Op;

/// Most due bindings that one pass looks at; the next pass takes the rest.
const SWEEP_MAX: usize = 10_000;

/// How often the producers are looked through, in milliseconds.
const PRODUCERS_EVERY_MS: u64 = 60 * 60 * 1000;

/// When the slow parts of housekeeping ran last.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    producers_ms: Mutex<u64>,
}

/// What one pass of housekeeping did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Housekeeping {
    /// Topics of which records were trimmed.
    pub trimmed: u64,
    /// Bindings that expired or were collected.
    pub swept: u64,
    /// Producers that were forgotten.
    pub producers: u64,
}

impl Engine {
    /// Applies retention and expiry as of now. To be called every few seconds; a pass without work costs a few seeks.
    ///
    /// # Errors
    /// The store stopped. Damage that a pass meets is logged and left to the scrub; the pass goes on elsewhere.
    pub fn keep_house(&self) -> Result<Housekeeping, Stopped> {
        if let Some(stopped) = self.queue().stopped() {
            return Err(stopped);
        }
        let now_ms = self.now_ms();
        let mut done = Housekeeping::default();
        for partition in (0..self.identity().partitions).map(PartitionId) {
            for topic in self.retained(partition) {
                match self.retain(topic, now_ms) {
                    Ok(trimmed) => done.trimmed += u64::from(trimmed),
                    Err(error) => tracing::warn!(%topic, %error, "retention skips a topic"),
                }
            }
        }
        done.swept = self.sweep(now_ms);
        let mut last = self
            .schedule()
            .producers_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now_ms.saturating_sub(*last) >= PRODUCERS_EVERY_MS {
            *last = now_ms;
            done.producers = self.expire_producers(now_ms.saturating_sub(PRODUCER_AGE_MS_MAX));
        }
        Ok(done)
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
        topics
    }

    /// Trims one topic to its limits, at batch boundaries. Returns whether anything went.
    fn retain(&self, topic: TopicKey, now_ms: u64) -> Result<bool, ReadError> {
        let Some(meta) = read::topic_meta(self.store(), topic)? else {
            return Ok(false);
        };
        let Some(first) = retained_from(self, topic, meta.config, now_ms)? else {
            return Ok(false);
        };
        match self.trim(topic, first) {
            Ok(_) => Ok(true),
            Err(error) => Err(ReadError::Store(error.to_string())),
        }
    }

    fn sweep(&self, now_ms: u64) -> u64 {
        let mut iterator = self.store().iterate(family::EXPIRY, &[]);
        iterator.seek_to_first();
        let mut due = Vec::new();
        while let Some((due_ms, partition, key)) = iterator.key().and_then(keys::parse_expiry_key) {
            if due_ms > now_ms || due.len() >= SWEEP_MAX {
                break;
            }
            due.push((due_ms, partition, key.to_vec()));
            iterator.next();
        }
        drop(iterator);
        let answers: Vec<_> = due
            .into_iter()
            .map(|(due_ms, partition, key)| {
                self.ask(|done| Op::Sweep {
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

    fn expire_producers(&self, before_ms: u64) -> u64 {
        let mut iterator = self.store().iterate(family::PRODUCERS, &[]);
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
        drop(iterator);
        let answers: Vec<_> = quiet
            .into_iter()
            .map(|(topic, producer)| {
                self.ask(|done| Op::ExpireProducer {
                    topic,
                    producer,
                    before_ms,
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
}

/// The first offset that the topic's limits let stay, `None` where they let all stay. A batch goes when all of it is over
/// a limit. Where nothing is over one, which is nearly always, this reads one batch.
fn retained_from(
    engine: &Engine,
    topic: TopicKey,
    config: TopicConfig,
    now_ms: u64,
) -> Result<Option<Offset>, ReadError> {
    let store = engine.store();
    let Some(oldest) = read::batch_at(store, topic, 0)? else {
        return Ok(None);
    };
    let mut first = None;
    let born_ms = config
        .retention_age_ms
        .map(|age_ms| now_ms.saturating_sub(age_ms));
    if let Some(born_ms) = born_ms.filter(|born_ms| oldest.leader.append_time_ms < *born_ms) {
        first = Some(read::offset_at_time(store, topic, born_ms)?);
    }
    if let Some(bytes) = config.retention_bytes {
        let end = read::end_position(store, topic)?;
        if end - oldest.leader.base_position > bytes {
            let kept = read::first_batch_where(store, topic, |header| {
                end.saturating_sub(header.leader.base_position) <= bytes
            })?;
            first = first.max(Some(kept));
        }
    }
    Ok(first)
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
