//! Reading a journal back: whole entries for a replica that lags, commands for a ledger that starts.

use bytes::Bytes;
use mesh_ring::command::Command;
use mesh_ring::ids::{Index, PartitionId, TopicKey};
use rocksdb::{ReadOptions, SnapshotWithThreadMode};

use super::{JournalEntry, load};
use crate::batch::{BatchError, verify_stored};
use crate::catalogue::Extent;
use crate::engine::Engine;
use crate::error::{Damage, ReadError};
use crate::journal::Entry;
use crate::keys::{self, family, prefix_end};
use crate::read::undecodable;
use crate::store::Store;

impl JournalEntry {
    /// Checks that the batch is whole, by both checksums, and is the one of which the command speaks. To be asked of
    /// entries that came from elsewhere.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self) -> Result<(), BatchError> {
        let Some(batch) = &self.batch else {
            return Ok(());
        };
        let Command::Append {
            first,
            last,
            position,
            time_ms,
            producer,
            ..
        } = self.command
        else {
            return Err(BatchError::Malformed("it comes with no append"));
        };
        let header = verify_stored(batch)?;
        let stamp = header.leader;
        let is_the_one = (stamp.base_offset, header.last_offset()) == (first, last)
            && header.next_position() == position
            && stamp.append_time_ms == time_ms
            && stamp.epoch == self.epoch
            && header.producer == producer;
        if is_the_one {
            Ok(())
        } else {
            Err(BatchError::Malformed(
                "it is not the one that the journal names",
            ))
        }
    }
}

impl Engine {
    /// Durable entries from `from` on, with their batches, checked, until `max_bytes` are reached; at least one if there
    /// is any. A batch that was trimmed away is left out of its entry.
    ///
    /// # Errors
    /// [`ReadError::JournalGone`] where the entry was let go of, or damage.
    pub fn read_entries(
        &self,
        partition: PartitionId,
        from: Index,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>, ReadError> {
        // The journal and the log are read as of one moment, or an entry could meet another one's batch.
        let snapshot = self.store().db().snapshot();
        let first = self.with_journal(partition, |journal| journal.record.first)?;
        if from < first {
            return Err(ReadError::JournalGone { first });
        }
        let view = View {
            store: self.store(),
            snapshot,
            partition,
        };
        view.entries(from, max_bytes)
    }

    /// Commands of the durable entries from `from` on, at most `limit` of them: what a ledger follows at start.
    ///
    /// # Errors
    /// [`ReadError::JournalGone`] where the entry was let go of, or damage.
    pub fn commands(
        &self,
        partition: PartitionId,
        from: Index,
        limit: usize,
    ) -> Result<Vec<(Index, Command)>, ReadError> {
        let first = self.with_journal(partition, |journal| journal.record.first)?;
        if from < first {
            return Err(ReadError::JournalGone { first });
        }
        let mut commands = Vec::new();
        load::entries(self.store(), partition, from, |index, entry| {
            if commands.len() < limit {
                commands.push((index, entry.command));
            }
            commands.len() < limit
        })?;
        Ok(commands)
    }
}

/// The journal and the log at one moment.
struct View<'a> {
    store: &'a Store,
    snapshot: SnapshotWithThreadMode<'a, rocksdb::DB>,
    partition: PartitionId,
}

impl View<'_> {
    fn entries(&self, from: Index, max_bytes: usize) -> Result<Vec<JournalEntry>, ReadError> {
        let prefix = self.partition.0.to_be_bytes();
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(prefix);
        if let Some(end) = prefix_end(&prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self
            .snapshot
            .raw_iterator_cf_opt(self.store.family(family::JOURNAL), options);
        let key = keys::journal_key(self.partition, from);
        iterator.seek(key);
        let mut entries: Vec<JournalEntry> = Vec::new();
        let mut bytes = 0;
        let mut expected = from;
        while let Some((key, value)) = iterator.item() {
            let (index, entry) = load::entry(self.partition, key, value)?;
            if index != expected {
                return Err(undecodable(
                    "a journal",
                    &format!("entry {expected} is missing"),
                ));
            }
            let entry = self.with_batch(index, entry)?;
            bytes += value.len() + entry.batch.as_ref().map_or(0, Bytes::len);
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry);
            expected = expected.next();
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| self.store.read_error(family::JOURNAL, &key, &error))?;
        Ok(entries)
    }

    fn with_batch(&self, index: Index, entry: Entry) -> Result<JournalEntry, ReadError> {
        let batch = match &entry.command {
            Command::Append { topic, last, .. } => {
                let topic = TopicKey {
                    partition: self.partition,
                    id: *topic,
                };
                self.batch(topic, *last)?
            }
            _ => None,
        };
        let entry = JournalEntry {
            index,
            epoch: entry.epoch,
            command: entry.command,
            batch,
        };
        match entry.verify() {
            Ok(()) => Ok(entry),
            Err(error) => Err(self.damage(&entry, &error.to_string())),
        }
    }

    /// The batch; `None` where it was trimmed or deleted.
    fn batch(&self, topic: TopicKey, last: u64) -> Result<Option<Bytes>, ReadError> {
        let key = keys::log_key(topic, last);
        let found = match self.get(family::LOG, &key) {
            Err(ReadError::Damaged(damage)) => {
                return Err(self.batch_damaged(topic, last, damage.detail));
            }
            found => found?,
        };
        if found.is_some() {
            return Ok(found);
        }
        let Some(extent) = self.get(family::TOPICS, &keys::extent_key(topic))? else {
            return Ok(None);
        };
        let extent =
            Extent::decode(&extent).map_err(|error| undecodable("topic extent", &error))?;
        // One that came without its batch is not applied yet where readers are not shown it.
        if last < extent.first || self.is_pending(topic, last)? {
            return Ok(None);
        }
        Err(self.batch_damaged(topic, last, "it is missing".into()))
    }

    fn is_pending(&self, topic: TopicKey, last: u64) -> Result<bool, ReadError> {
        let record = self.get(family::REPLICAS, &keys::replica_key(topic.partition))?;
        let commit = match record {
            None => Index(0),
            Some(record) => {
                super::Record::decode(&record)
                    .map_err(|error| undecodable("a replica's record", &error))?
                    .commit
            }
        };
        let mut pending = false;
        load::entries(self.store, topic.partition, commit.next(), |_, entry| {
            if let Command::Append {
                topic: id,
                last: end,
                ..
            } = entry.command
            {
                pending |= (id, end) == (topic.id, last);
            }
            !pending
        })?;
        Ok(pending)
    }

    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let value = self
            .snapshot
            .get_pinned_cf(self.store.family(name), key)
            .map_err(|error| self.store.read_error(name, key, &error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn damage(&self, entry: &JournalEntry, detail: &str) -> ReadError {
        let Command::Append { topic, last, .. } = entry.command else {
            return undecodable("a journal entry", &detail);
        };
        let topic = TopicKey {
            partition: self.partition,
            id: topic,
        };
        self.batch_damaged(topic, last, detail.to_owned())
    }

    fn batch_damaged(&self, topic: TopicKey, last: u64, detail: String) -> ReadError {
        let key = keys::log_key(topic, last);
        ReadError::Damaged(Damage {
            what: format!("the batch that ends at offset {last} of topic {topic}"),
            topic: Some(topic),
            offset: Some(last),
            files: self.store.files_of(family::LOG, &key),
            detail,
        })
    }
}
