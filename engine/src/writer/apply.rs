//! Applying committed commands to the catalogue: names, extents and cursors, in the batch that says they are applied.
//!
//! What a command does was decided by a leader; it is applied in the order of the journal, and exactly once.

use mesh_ring::command::Command;
use mesh_ring::ids::{Index, Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::name::TopicName;

use super::group::Group;
use crate::catalogue::{Extent, TopicMeta};
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read;

impl Group<'_> {
    pub(super) fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        command: &Command,
    ) -> Result<(), ReadError> {
        let topic = |id: TopicId| TopicKey { partition, id };
        match command {
            Command::CreateTopic {
                name,
                config,
                created_ms,
            } => {
                let meta = TopicMeta {
                    key: topic(TopicId(index.0)),
                    name: TopicName::new(name)
                        .map_err(|error| read::undecodable("topic name", &error))?,
                    config: *config,
                    created_ms: *created_ms,
                };
                self.create(meta);
                Ok(())
            }
            Command::DeleteTopic { topic: id } => self.remove(topic(*id)),
            Command::Trim {
                topic: id,
                first,
                position,
                time_ms,
            } => self.begin_at(topic(*id), *first, *position, *time_ms),
            // Its batch did not come with it: it was trimmed away where it came from, and is here as well.
            Command::Append {
                topic: id,
                last,
                position,
                time_ms,
                ..
            } => self.begin_at(topic(*id), last + 1, *position, *time_ms),
            Command::CommitCursor {
                topic: id,
                name,
                next,
            } => {
                let key = keys::cursor_key(topic(*id), name);
                self.put(family::CURSORS, key, next.to_be_bytes());
                Ok(())
            }
            // Windows are the ledger's; they are written by its checkpoints.
            Command::Barrier | Command::ExpireProducer { .. } => Ok(()),
        }
    }

    fn create(&mut self, meta: TopicMeta) {
        let topic = meta.key;
        let name = keys::name_key(topic.partition, meta.name.as_str());
        self.put(family::TOPICS, name, topic.id.0.to_be_bytes());
        self.put(family::TOPICS, keys::topic_key(topic), meta.encode());
        let extent = Extent::default();
        self.put(family::TOPICS, keys::extent_key(topic), extent.encode());
        if meta.config.is_retained() {
            self.put(family::TOPICS, keys::retained_key(topic), []);
        }
        self.extents.insert(topic, extent);
        self.created.insert(topic, meta);
    }

    /// Removes the topic and everything under it. Its disk space comes back when `reclaim` has run.
    fn remove(&mut self, topic: TopicKey) -> Result<(), ReadError> {
        let meta = match self.created.remove(&topic) {
            Some(meta) => Some(meta),
            None => read::topic_meta(self.store, topic)?,
        };
        self.settle_log();
        let prefix = keys::topic_prefix(topic);
        let end = keys::topic_prefix(TopicKey {
            id: TopicId(topic.id.0 + 1),
            ..topic
        });
        for name in [family::LOG, family::PRODUCERS, family::CURSORS] {
            self.delete_range(name, &prefix, &end);
        }
        for key in [
            keys::topic_key(topic),
            keys::extent_key(topic),
            keys::retained_key(topic),
        ] {
            self.delete(family::TOPICS, key);
        }
        if let Some(meta) = meta {
            let name = keys::name_key(topic.partition, meta.name.as_str());
            self.delete(family::TOPICS, name);
        }
        let garbage = keys::garbage_key(topic);
        self.put(family::TOPICS, garbage, Offset::MAX.to_be_bytes());
        self.extents.remove(&topic);
        self.deleted.insert(topic);
        Ok(())
    }

    /// Removes the records before `first`, unless the topic begins there or later already.
    fn begin_at(
        &mut self,
        topic: TopicKey,
        first: Offset,
        position: u64,
        append_time_ms: u64,
    ) -> Result<(), ReadError> {
        let before = match self.extents.get(&topic) {
            Some(extent) => Some(*extent),
            None if self.deleted.contains(&topic) => None,
            None => read::load_extent(self.store, topic)?,
        };
        let Some(before) = before.filter(|before| before.first < first) else {
            return Ok(());
        };
        let extent = Extent {
            first,
            position,
            append_time_ms,
        };
        self.put(family::TOPICS, keys::extent_key(topic), extent.encode());
        self.settle_log();
        let (from, to) = (keys::topic_prefix(topic), keys::log_key(topic, first));
        self.delete_range(family::LOG, &from, &to);
        let garbage = keys::garbage_key(topic);
        self.put(family::TOPICS, garbage, first.to_be_bytes());
        self.extents.insert(topic, extent);
        let freed = position.saturating_sub(before.position);
        self.trimmed.push((topic, first, freed));
        Ok(())
    }

    /// Forgets garbage that is gone, except where more has come since.
    pub(super) fn reclaimed(&mut self, topics: &[(TopicKey, Offset)]) -> Result<(), ReadError> {
        for (topic, upto) in topics {
            let more = self.deleted.contains(topic)
                || self.trimmed.iter().any(|(trimmed, ..)| trimmed == topic);
            let key = keys::garbage_key(*topic);
            let stored = self.store.get(family::TOPICS, &key)?;
            if !more && stored.is_some_and(|stored| *stored == upto.to_be_bytes()) {
                self.delete(family::TOPICS, key);
            }
        }
        Ok(())
    }
}
