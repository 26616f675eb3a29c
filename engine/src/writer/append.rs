//! Staging an append: the checks in the order that makes retries safe, then the stamp and two keys.

use mesh_ring::ids::{Offset, ProducerId, TopicKey};
use mesh_ring::limits::PRODUCER_AGE_MS_MAX;
use mesh_ring::producer::{SequenceError, Verdict};

use super::group::Group;
use super::state::State;
use super::{Append, Appended};
use crate::batch::{self, BatchHeader, LeaderStamp, ProducerStamp};
use crate::error::AppendError;
use crate::journal::Command;
use crate::keys;

impl State {
    /// Orders one batch. Whether it is a retry is asked first: the answer to a retry is what happened the first time,
    /// whatever has become of the topic's end or the disk since.
    pub(super) fn append(
        &mut self,
        group: &mut Group<'_>,
        append: Append,
    ) -> Result<Appended, AppendError> {
        let Append {
            topic,
            mut batch,
            expected,
        } = append;
        let header = BatchHeader::decode(&batch).map_err(AppendError::Invalid)?;
        let epoch = self.epoch;
        let Some(tail) = self.tail(group, topic).map_err(AppendError::Read)? else {
            return Err(AppendError::TopicDeleted);
        };
        if let Some(stamp) = header.producer
            && let Verdict::Duplicate { first, last } = self.verdict(group, topic, stamp)?
        {
            return Ok(Appended {
                first,
                last,
                epoch,
                duplicate: true,
            });
        }
        if let Some(expected) = expected.filter(|expected| *expected != tail.next) {
            return Err(AppendError::WrongOffset {
                expected,
                next: tail.next,
            });
        }
        if let Err(shortage) = &group.space {
            return Err(AppendError::DiskFull {
                free: shortage.free,
                reserve: shortage.reserve,
            });
        }

        let first = tail.next;
        let last = first + Offset::from(header.record_count) - 1;
        // A clock that is behind must not make records look old once it is right again.
        let append_time_ms = group.now_ms.max(self.age_ms).max(tail.append_time_ms);
        let stamp = LeaderStamp {
            base_offset: first,
            base_position: tail.position,
            epoch,
            append_time_ms,
        };
        batch::stamp(&mut batch, stamp).map_err(AppendError::Invalid)?;
        let producer = header
            .producer
            .map(|stamp| (stamp.id, stamp.epoch, stamp.sequence));
        // What can fail comes before what is staged.
        if let Some(stamp) = header.producer {
            self.remember(group, topic, stamp, first, last)?;
        }
        self.journal(
            group,
            topic.partition,
            Command::Append {
                topic: topic.id,
                first,
                last,
                producer,
            },
        )
        .map_err(AppendError::Read)?;
        let bytes = batch.len() as u64;
        group.put_log(keys::log_key(topic, last), batch);
        if let Some(tail) = self.tails.get_mut(&topic) {
            tail.next = last + 1;
            tail.position += bytes;
            tail.append_time_ms = append_time_ms;
        }
        group.committed(topic, last + 1);
        Ok(Appended {
            first,
            last,
            epoch,
            duplicate: false,
        })
    }

    fn verdict(
        &mut self,
        group: &Group<'_>,
        topic: TopicKey,
        stamp: ProducerStamp,
    ) -> Result<Verdict, AppendError> {
        let store = group.store;
        let partition = self
            .partition(group, topic.partition)
            .map_err(AppendError::Read)?;
        let window = partition
            .window(store, topic, stamp.id)
            .map_err(AppendError::Read)?;
        let verdict = window.window.check(stamp.epoch, stamp.sequence);
        if window.window.epoch().is_none() {
            // Nothing is remembered of a producer that never appended here.
            partition.windows.remove(&(topic.id, stamp.id));
            if is_forgotten(stamp.id, group.now_ms, self.age_ms) {
                return Err(AppendError::Sequence(SequenceError::Unknown));
            }
        }
        verdict.map_err(AppendError::Sequence)
    }

    fn remember(
        &mut self,
        group: &Group<'_>,
        topic: TopicKey,
        stamp: ProducerStamp,
        first: Offset,
        last: Offset,
    ) -> Result<(), AppendError> {
        let now_ms = group.now_ms.max(self.age_ms);
        let store = group.store;
        let partition = self
            .partition(group, topic.partition)
            .map_err(AppendError::Read)?;
        let window = partition
            .window(store, topic, stamp.id)
            .map_err(AppendError::Read)?;
        window
            .window
            .record(stamp.epoch, stamp.sequence, first, last);
        window.last_append_ms = now_ms;
        Ok(())
    }
}

/// Whether a producer without a window may be one that was forgotten, so that its batch may be a late retry: one that is
/// older than windows live, by the clock or by the time by which they were judged.
///
/// An id from the far future would never grow old enough to be told apart, and is refused as well.
fn is_forgotten(id: ProducerId, now_ms: u64, judged_ms: u64) -> bool {
    let dies_ms = id.minted_ms().saturating_add(PRODUCER_AGE_MS_MAX);
    dies_ms <= now_ms.max(judged_ms) || id.minted_ms() >= now_ms.saturating_add(PRODUCER_AGE_MS_MAX)
}
