//! What a leader does by the clock: retention, and forgetting producers.

use std::sync::mpsc::sync_channel;

use mesh_ring::ids::PartitionId;
use mesh_ring::ledger::TopicRefusal;
use mesh_ring::limits::PRODUCER_AGE_MS_MAX;
use mesh_ring::merkle::binding_digest;
use mesh_ring::name::BindingKey;

use super::Solo;
use super::partition::Failure;
use crate::engine::Answer;
use crate::error::{BindingError, Stopped};
use crate::repair::OldTombstone;

/// Most tombstones of a partition that one pass collects; the next pass takes the rest.
const COLLECTED_AT_ONCE: usize = 1_000;

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

impl Solo {
    /// Applies retention and expiry as of now. To be called every few seconds; a pass without work costs a few seeks.
    ///
    /// # Errors
    /// The store stopped. Damage that a pass meets is logged and left to the scrub; the pass goes on elsewhere.
    pub fn keep_house(&self) -> Result<Housekeeping, Stopped> {
        let now_ms = self.judge_ages()?;
        let partitions = || (0..self.identity().partitions).map(PartitionId);
        let mut done = Housekeeping::default();
        for (topic, first) in partitions().flat_map(|p| self.retention_due(p, now_ms)) {
            match self.trim(topic, first) {
                Ok(_) => done.trimmed += 1,
                Err(error) => tracing::warn!(%topic, %error, "retention skips a topic"),
            }
        }
        done.swept = self.sweep_bindings(now_ms);
        done.swept += partitions()
            .map(|partition| self.collect_by_age(partition, now_ms))
            .sum::<u64>();
        if self.is_producers_hour(now_ms) {
            let before_ms = now_ms.saturating_sub(PRODUCER_AGE_MS_MAX);
            done.producers = partitions()
                .map(|partition| self.expire_producers(partition, before_ms))
                .sum();
        }
        Ok(done)
    }

    /// Collects tombstones that are old enough: here is no other replica that could bring back what they delete.
    fn collect_by_age(&self, partition: PartitionId, now_ms: u64) -> u64 {
        let Some(born_ms) = now_ms.checked_sub(self.tombstone_age_ms()) else {
            return 0;
        };
        let old = match self.old_tombstones(partition, born_ms + 1, None, COLLECTED_AT_ONCE) {
            Ok(old) => old,
            Err(error) => {
                tracing::error!(%partition, %error, "tombstones cannot be looked for: see the scrub");
                return 0;
            }
        };
        let digest = |old: OldTombstone| {
            let key = BindingKey::new(&old.key).ok()?;
            let encoded = self.binding_encoded(&key).ok()??;
            let digest = binding_digest(&old.key, &encoded);
            Some((old.key, digest))
        };
        let bindings: Vec<_> = old.into_iter().filter_map(digest).collect();
        if bindings.is_empty() {
            return 0;
        }
        let (sender, receiver) = sync_channel(1);
        self.submit_collect(partition, bindings, move |result| {
            let _ = sender.send(result);
        });
        Answer::<u64, BindingError>::of(receiver)
            .wait()
            .unwrap_or(0)
    }

    fn expire_producers(&self, partition: PartitionId, before_ms: u64) -> u64 {
        let due = self.producers_due(partition, before_ms);
        let (sender, receiver) = sync_channel(due.len());
        for (topic, producer) in due {
            let sender = sender.clone();
            self.submit(
                partition,
                None,
                |ledger, source, _| ledger.decide_expire(source, topic.id, producer, before_ms),
                move |_, result: Result<bool, Failure<TopicRefusal>>| {
                    let _ = sender.send(matches!(result, Ok(true)));
                },
            );
        }
        drop(sender);
        receiver.iter().filter(|forgotten| *forgotten).count() as u64
    }
}
