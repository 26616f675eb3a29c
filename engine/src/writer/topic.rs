//! Staging what changes a topic other than by appending: create, delete, trim, cursors, forgotten producers.

use mesh_ring::hash::partition_of;
use mesh_ring::ids::{Offset, ProducerId, TopicId, TopicKey};
use mesh_ring::name::{CursorName, TopicName};

use super::group::Group;
use super::state::{State, TopicTail, damaged};
use crate::catalogue::{Extent, TopicConfig, TopicMeta};
use crate::codec::only_u64;
use crate::error::{ReadError, TopicError};
use crate::journal::Command;
use crate::keys::{self, family};
use crate::read;

impl State {
    pub(super) fn create_topic(
        &mut self,
        group: &mut Group<'_>,
        name: TopicName,
        config: TopicConfig,
    ) -> Result<TopicMeta, TopicError> {
        if let Err(shortage) = &group.space {
            return Err(TopicError::DiskFull {
                free: shortage.free,
                reserve: shortage.reserve,
            });
        }
        let partition = partition_of(name.as_bytes(), self.partition_count);
        let name_key = keys::name_key(partition, name.as_str());
        let staged = group.names.get(&(partition, name.as_str().to_owned()));
        let exists = match staged {
            Some(staged) => staged.is_some(),
            None => group.store.get(family::TOPICS, &name_key)?.is_some(),
        };
        if exists {
            return Err(TopicError::Exists(name.as_str().to_owned()));
        }
        let created_ms = group.now_ms;
        let command = Command::CreateTopic {
            name: name.as_str().to_owned(),
            config,
            created_ms,
        };
        let id = TopicId(self.journal(group, partition, command)?.0);
        let meta = TopicMeta {
            key: TopicKey { partition, id },
            name,
            config,
            created_ms,
        };
        group.put(family::TOPICS, &name_key, id.0.to_be_bytes());
        group.put(family::TOPICS, keys::topic_key(meta.key), meta.encode());
        group.put(
            family::TOPICS,
            keys::extent_key(meta.key),
            Extent::default().encode(),
        );
        if config.is_retained() {
            group.put(family::TOPICS, keys::retained_key(meta.key), []);
        }
        group
            .names
            .insert((partition, meta.name.as_str().to_owned()), Some(id));
        self.tails.insert(meta.key, TopicTail::default());
        Ok(meta)
    }

    /// Removes the topic and everything under it. Its disk space comes back when `reclaim` has run.
    pub(super) fn delete_topic(
        &mut self,
        group: &mut Group<'_>,
        topic: TopicKey,
    ) -> Result<(), TopicError> {
        self.known(group, topic)?;
        let meta = self.staged_or_stored_meta(group, topic)?;
        self.journal(
            group,
            topic.partition,
            Command::DeleteTopic { topic: topic.id },
        )?;
        let prefix = keys::topic_prefix(topic);
        let end = keys::topic_prefix(TopicKey {
            id: TopicId(topic.id.0 + 1),
            ..topic
        });
        for name in [family::LOG, family::PRODUCERS, family::CURSORS] {
            group.delete_range(name, &prefix, &end);
        }
        for key in [
            keys::topic_key(topic),
            keys::extent_key(topic),
            keys::retained_key(topic),
        ] {
            group.delete(family::TOPICS, key);
        }
        if let Some(name) = meta {
            group.delete(family::TOPICS, keys::name_key(topic.partition, &name));
            group.names.insert((topic.partition, name), None);
        }
        self.tails.remove(&topic);
        self.partition(group, topic.partition)?
            .windows
            .retain(|(of, _), _| *of != topic.id);
        group.put(
            family::TOPICS,
            keys::garbage_key(topic),
            Offset::MAX.to_be_bytes(),
        );
        group.deleted.insert(topic);
        // Whoever waits at its end must learn that there is none.
        group.committed(topic, 0);
        Ok(())
    }

    /// Removes the records before `first`. Returns the first offset that remains, which may have been later already.
    pub(super) fn trim(
        &mut self,
        group: &mut Group<'_>,
        topic: TopicKey,
        first: Offset,
    ) -> Result<Offset, TopicError> {
        let tail = self.known(group, topic)?;
        if first > tail.next {
            return Err(TopicError::BeyondEnd {
                offset: first,
                next: tail.next,
            });
        }
        if first <= tail.first {
            return Ok(tail.first);
        }
        // A batch that this very group appends is not in the store yet; it begins where the stored ones end.
        let position = match read::batch_at(group.store, topic, first)? {
            Some(header) => header.leader.base_position,
            None if first == tail.next => tail.position,
            None => {
                return Err(TopicError::Read(damaged(
                    "the log of a topic",
                    "a batch is missing",
                )));
            }
        };
        self.journal(
            group,
            topic.partition,
            Command::Trim {
                topic: topic.id,
                first,
            },
        )?;
        let extent = Extent {
            first,
            position,
            append_time_ms: tail.append_time_ms,
        };
        group.put(family::TOPICS, keys::extent_key(topic), extent.encode());
        group.delete_range(
            family::LOG,
            &keys::topic_prefix(topic),
            &keys::log_key(topic, first),
        );
        group.put(
            family::TOPICS,
            keys::garbage_key(topic),
            first.to_be_bytes(),
        );
        group
            .trimmed
            .push((topic, first, position.saturating_sub(tail.first_position)));
        if let Some(tail) = self.tails.get_mut(&topic) {
            tail.first = first;
            tail.first_position = position;
        }
        Ok(first)
    }

    pub(super) fn commit_cursor(
        &mut self,
        group: &mut Group<'_>,
        topic: TopicKey,
        name: &CursorName,
        next: Offset,
    ) -> Result<(), TopicError> {
        let tail = self.known(group, topic)?;
        if next > tail.next {
            return Err(TopicError::BeyondEnd {
                offset: next,
                next: tail.next,
            });
        }
        let command = Command::CommitCursor {
            topic: topic.id,
            name: name.as_str().to_owned(),
            next,
        };
        self.journal(group, topic.partition, command)?;
        group.put(
            family::CURSORS,
            keys::cursor_key(topic, name.as_str()),
            next.to_be_bytes(),
        );
        Ok(())
    }

    /// Forgets a producer unless it has appended since `before_ms`. Returns whether it was forgotten.
    pub(super) fn expire_producer(
        &mut self,
        group: &mut Group<'_>,
        topic: TopicKey,
        producer: ProducerId,
        before_ms: u64,
    ) -> Result<bool, TopicError> {
        let store = group.store;
        let partition = self.partition(group, topic.partition)?;
        if partition.window(store, topic, producer)?.last_append_ms >= before_ms {
            return Ok(false);
        }
        partition.windows.remove(&(topic.id, producer));
        self.journal(
            group,
            topic.partition,
            Command::ExpireProducer {
                topic: topic.id,
                producer,
            },
        )?;
        group.delete(family::PRODUCERS, keys::producer_key(topic, producer));
        Ok(true)
    }

    /// Forgets garbage that is gone, except where more has come since.
    pub(super) fn reclaimed(
        &mut self,
        group: &mut Group<'_>,
        topics: &[(TopicKey, Offset)],
    ) -> Result<(), TopicError> {
        for (topic, upto) in topics {
            let more = group.deleted.contains(topic)
                || group.trimmed.iter().any(|(trimmed, ..)| trimmed == topic);
            let key = keys::garbage_key(*topic);
            let stored = group.store.get(family::TOPICS, &key)?;
            if !more && stored.is_some_and(|stored| *stored == upto.to_be_bytes()) {
                group.delete(family::TOPICS, key);
            }
        }
        Ok(())
    }

    fn known(&mut self, group: &Group<'_>, topic: TopicKey) -> Result<TopicTail, TopicError> {
        self.tail(group, topic)?.ok_or(TopicError::Unknown)
    }

    /// The name of a topic that is known to exist, also where this very group creates it.
    fn staged_or_stored_meta(
        &self,
        group: &Group<'_>,
        topic: TopicKey,
    ) -> Result<Option<String>, ReadError> {
        let staged = group
            .names
            .iter()
            .find(|((partition, _), id)| *partition == topic.partition && **id == Some(topic.id));
        if let Some(((_, name), _)) = staged {
            return Ok(Some(name.clone()));
        }
        Ok(read::topic_meta(group.store, topic)?.map(|meta| meta.name.as_str().to_owned()))
    }
}

/// Reads a cursor: the next offset that its reader wants.
pub(crate) fn cursor(
    store: &crate::store::Store,
    topic: TopicKey,
    name: &CursorName,
) -> Result<Option<Offset>, ReadError> {
    let value = store.get(family::CURSORS, &keys::cursor_key(topic, name.as_str()))?;
    value
        .map(|value| only_u64(&value).map_err(|error| damaged("cursor", error)))
        .transpose()
}
