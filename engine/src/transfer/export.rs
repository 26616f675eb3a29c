//! Reading a partition as of one moment.

use std::collections::HashMap;

use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, TopicId};
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use super::{CHUNK_BYTES, Chunk, END, ExportHeader, Holding, TRAVELLING, behind, put_row};
use crate::boots::draw_token;
use crate::codec::only_u64;
use crate::engine::Engine;
use crate::error::ReadError;
use crate::journal::Entry;
use crate::keys::{self, family, prefix_end};
use crate::read::{checked, undecodable};
use crate::replica::{Record, decode_checkpoint};
use crate::store::Store;

/// Read ahead of table files, in bytes.
const READ_AHEAD_BYTES: usize = 2 << 20;

/// A partition as it was when the export was made. It keeps what is removed meanwhile from giving its disk space back: not
/// to be kept for longer than a transfer takes.
pub struct Export<'e> {
    store: &'e Store,
    snapshot: SnapshotWithThreadMode<'e, DB>,
    header: ExportHeader,
    /// Where the committed part of topics ends, of those that have more.
    uncommitted: HashMap<TopicId, Offset>,
    /// Where what the receiver holds of topics ends, of those that are not sent from their beginning.
    held: HashMap<TopicId, Offset>,
}

impl Engine {
    /// Takes a copy of what is committed of a partition, to be read chunk by chunk while the partition goes on.
    ///
    /// # Errors
    /// [`ReadError::Incomplete`] where this node has no whole copy itself, or what is stored cannot be read.
    pub fn export(&self, partition: PartitionId) -> Result<Export<'_>, ReadError> {
        self.export_behind(partition, None)
    }

    /// As [`Engine::export`], without log rows that an interrupted import holds already. The header
    /// [says whether](ExportHeader::continues): it holds all, where what is held is of later than this node knows.
    ///
    /// # Errors
    /// As for [`Engine::export`].
    pub fn export_behind(
        &self,
        partition: PartitionId,
        holding: Option<&Holding>,
    ) -> Result<Export<'_>, ReadError> {
        // What is committed by now is in the snapshot, and applied in it as far as anything must be applied.
        let committed = self.with_journal(partition, |journal| {
            if journal.record.incomplete {
                Err(ReadError::Incomplete)
            } else {
                Ok(journal.shown)
            }
        })??;
        let id = draw_token().map_err(|error| ReadError::Store(error.to_string()))?;
        let mut export = Export::new(self.store(), partition, committed, id)?;
        // Rows of later entries would be shown by an importer that is to follow them from the journal.
        if let Some(holding) = holding
            && holding.commit <= export.header.commit
        {
            export.header.continues = Some(holding.token);
            export.held = holding.topics.iter().copied().collect();
        }
        Ok(export)
    }
}

impl<'e> Export<'e> {
    fn new(
        store: &'e Store,
        partition: PartitionId,
        committed: Index,
        id: [u8; 16],
    ) -> Result<Export<'e>, ReadError> {
        let mut export = Export {
            store,
            snapshot: store.db().snapshot(),
            header: ExportHeader {
                id,
                partition,
                commit: committed,
                first: Index(1),
                before: Epoch(0),
                epochs: Vec::new(),
                continues: None,
            },
            uncommitted: HashMap::new(),
            held: HashMap::new(),
        };
        let record = match export.get(family::REPLICAS, &keys::replica_key(partition))? {
            None => Record::default(),
            Some(value) => {
                Record::decode(&value).map_err(|error| undecodable("a replica's record", &error))?
            }
        };
        let checkpoint = match export.get(family::TOPICS, &keys::checkpoint_key(partition))? {
            None => Index(0),
            Some(value) => {
                decode_checkpoint(&value)
                    .map_err(|error| undecodable("a checkpoint", &error))?
                    .upto
            }
        };
        export.header.commit = committed.max(record.commit);
        export.header.first = record.first.max(checkpoint.next());
        export.read_epochs(&record)?;
        export.read_uncommitted()?;
        Ok(export)
    }

    /// What it is a copy of.
    pub fn header(&self) -> &ExportHeader {
        &self.header
    }

    /// The chunk behind a cursor, which is empty at first and [`Chunk::upto`] of the chunk before then. The last one
    /// [says so](Chunk::is_last); its rows may be none.
    ///
    /// # Errors
    /// What is stored cannot be read; no damage is ever passed on.
    pub fn chunk(&self, after: &[u8]) -> Result<Chunk, ReadError> {
        self.chunk_of(after, CHUNK_BYTES)
    }

    /// As [`Export::chunk`], with a chunk that is full from `bytes` of rows on.
    ///
    /// # Errors
    /// As for [`Export::chunk`]; also for a cursor that no chunk has.
    pub fn chunk_of(&self, after: &[u8], bytes: usize) -> Result<Chunk, ReadError> {
        let expected = bytes.min(CHUNK_BYTES);
        let mut rows = Vec::with_capacity(expected + expected / 8);
        let (begin, mut key) =
            behind(after).map_err(|error| undecodable("the cursor of a copy", &error))?;
        for (number, name) in TRAVELLING.into_iter().skip(begin) {
            if let Some(last) = self.family_rows((number, name), &key, bytes, &mut rows)? {
                let upto = [&[number][..], &last].concat();
                return Ok(Chunk::new(after, upto, rows.into()));
            }
            key.clear();
        }
        Ok(Chunk::new(after, vec![END], rows.into()))
    }

    /// Adds rows of a family from `key` on. Returns the last key, if the chunk is full.
    fn family_rows(
        &self,
        (number, name): (u8, &'static str),
        key: &[u8],
        bytes: usize,
        rows: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let (from, to) = self.bounds(name);
        let mut iterator = self.iterator(name, &from, &to);
        if key.is_empty() {
            iterator.seek_to_first();
        } else {
            iterator.seek(key);
        }
        while let Some((key, value)) = iterator.item() {
            if name == family::LOG
                && let Some(behind_held) = self.behind_held(key)
            {
                iterator.seek(behind_held);
                continue;
            }
            if self.travels(name, key, value)? {
                put_row(rows, number, key, value);
                if rows.len() >= bytes {
                    return Ok(Some(key.to_vec()));
                }
            }
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| self.store.read_error(name, key, &error))?;
        Ok(None)
    }

    /// Where the topic of a key of the log goes on behind what the receiver holds, if the key is of that.
    fn behind_held(&self, key: &[u8]) -> Option<[u8; 18]> {
        let (topic, last) = keys::parse_log_key(key)?;
        let next = self.held.get(&topic.id)?;
        (last < *next).then(|| keys::log_key(topic, *next))
    }

    /// First and last key of a family that travel, exclusive at the end.
    fn bounds(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let partition = self.header.partition;
        if name == family::JOURNAL {
            let from = keys::journal_key(partition, self.header.first);
            let to = keys::journal_key(partition, self.header.commit.next());
            return (from.to_vec(), to.to_vec());
        }
        let prefix = partition.0.to_be_bytes();
        let end = prefix_end(&prefix).unwrap_or_default();
        (prefix.to_vec(), end)
    }

    fn travels(&self, name: &str, key: &[u8], value: &[u8]) -> Result<bool, ReadError> {
        if name == family::TOPICS {
            // What takes disk space here is this node's own concern.
            return Ok(!key.starts_with(&keys::garbage_prefix(self.header.partition)));
        }
        if name != family::LOG {
            return Ok(true);
        }
        let Some((topic, last)) = keys::parse_log_key(key) else {
            return Err(undecodable("a key of the log", &"it is of a wrong length"));
        };
        if self
            .uncommitted
            .get(&topic.id)
            .is_some_and(|end| last >= *end)
        {
            return Ok(false);
        }
        checked(self.store, topic, key, value).map(|_| true)
    }

    /// Where epochs begin among the entries that travel.
    fn read_epochs(&mut self, record: &Record) -> Result<(), ReadError> {
        let (first, commit) = (self.header.first, self.header.commit);
        let prefix = keys::epoch_prefix(self.header.partition);
        let end = prefix_end(&prefix).unwrap_or_default();
        self.header.before = record.before;
        let mut epochs = Vec::new();
        let mut iterator = self.iterator(family::REPLICAS, &prefix, &end);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            let epoch = keys::parse_epoch_key(self.header.partition, key);
            let begin = only_u64(value).map_err(|error| undecodable("an epoch", &error))?;
            let epoch = epoch.ok_or_else(|| undecodable("an epoch", &"a key of a wrong length"))?;
            if begin <= commit.0 {
                epochs.push((epoch, Index(begin)));
            }
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| self.store.read_error(family::REPLICAS, &prefix, &error))?;
        drop(iterator);
        let before = |(_, begin): &&(Epoch, Index)| *begin < first;
        if let Some((epoch, _)) = epochs.iter().take_while(before).last() {
            self.header.before = *epoch;
        }
        if first <= commit {
            let begun = epochs.partition_point(|(_, begin)| *begin <= first);
            let kept = epochs.into_iter().skip(begun.saturating_sub(1));
            self.header.epochs = kept
                .map(|(epoch, begin)| (epoch, begin.max(first)))
                .collect();
        }
        Ok(())
    }

    fn read_uncommitted(&mut self) -> Result<(), ReadError> {
        let from = keys::journal_key(self.header.partition, self.header.commit.next());
        let prefix = self.header.partition.0.to_be_bytes();
        let end = prefix_end(&prefix).unwrap_or_default();
        let mut uncommitted = HashMap::new();
        let mut iterator = self.iterator(family::JOURNAL, &from, &end);
        iterator.seek_to_first();
        while let Some((_, value)) = iterator.item() {
            let entry =
                Entry::decode(value).map_err(|error| undecodable("a journal entry", &error))?;
            if let Command::Append { topic, first, .. } = entry.command {
                uncommitted.entry(topic).or_insert(first);
            }
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| self.store.read_error(family::JOURNAL, &from, &error))?;
        drop(iterator);
        self.uncommitted = uncommitted;
        Ok(())
    }

    fn iterator(&self, name: &str, from: &[u8], to: &[u8]) -> DBRawIteratorWithThreadMode<'_, DB> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(READ_AHEAD_BYTES);
        options.fill_cache(false);
        options.set_iterate_lower_bound(from);
        if !to.is_empty() {
            options.set_iterate_upper_bound(to);
        }
        self.snapshot
            .raw_iterator_cf_opt(self.store.family(name), options)
    }

    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.snapshot
            .get_cf(self.store.family(name), key)
            .map_err(|error| self.store.read_error(name, key, &error))
    }
}
