//! Reading what a partition's journal was left like, when the partition is first used.

use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, PartitionId, TopicKey};
use mesh_ring::replica::Position;

use super::record::Record;
use super::slot::Journal;
use super::visible::Visible;
use crate::codec::only_u64;
use crate::error::ReadError;
use crate::journal::Entry;
use crate::keys::{self, family};
use crate::read::undecodable;
use crate::store::Store;

/// Reads the record, the epochs, the last entry, and the entries that are not known to be committed. `alone`: what is
/// durable is committed, and shown at once if nothing else is to be done for it.
pub(super) fn journal(
    store: &Store,
    partition: PartitionId,
    alone: bool,
) -> Result<Journal, ReadError> {
    let mut record = record(store, partition)?;
    if record.incomplete {
        return Ok(Journal::new(
            record,
            Vec::new(),
            Position::ZERO,
            Visible::default(),
        ));
    }
    let epochs = epochs(store, partition)?;
    let last = last(store, partition)?.unwrap_or(Position {
        epoch: record.before,
        index: Index(record.first.0 - 1),
    });
    if last.index < record.commit {
        return Err(undecodable(
            "a journal",
            &format!(
                "it ends at {}, and was committed to {}",
                last.index, record.commit
            ),
        ));
    }
    let recorded = record.commit;
    let mut visible = uncommitted(store, partition, record.commit)?;
    if alone && !visible.has_changes() {
        record.commit = last.index;
        visible = Visible::default();
    }
    let mut journal = Journal::new(record, epochs, last, visible);
    journal.recorded = recorded;
    Ok(journal)
}

pub(crate) fn record(store: &Store, partition: PartitionId) -> Result<Record, ReadError> {
    match store.get(family::REPLICAS, &keys::replica_key(partition))? {
        None => Ok(Record::default()),
        Some(value) => {
            Record::decode(&value).map_err(|error| undecodable("a replica's record", &error))
        }
    }
}

fn epochs(store: &Store, partition: PartitionId) -> Result<Vec<(Epoch, Index)>, ReadError> {
    let prefix = keys::epoch_prefix(partition);
    let mut iterator = store.iterate(family::REPLICAS, &prefix);
    iterator.seek_to_first();
    let mut epochs = Vec::new();
    while let Some((key, value)) = iterator.item() {
        let epoch = keys::parse_epoch_key(partition, key)
            .ok_or_else(|| undecodable("an epoch", &"key of a wrong length"))?;
        let index = only_u64(value).map_err(|error| undecodable("an epoch", &error))?;
        epochs.push((epoch, Index(index)));
        iterator.next();
    }
    iterator
        .status()
        .map_err(|error| store.read_error(family::REPLICAS, &prefix, &error))?;
    Ok(epochs)
}

fn last(store: &Store, partition: PartitionId) -> Result<Option<Position>, ReadError> {
    let prefix = partition.0.to_be_bytes();
    let mut iterator = store.iterate(family::JOURNAL, &prefix);
    iterator.seek_to_last();
    let found = iterator
        .item()
        .map(|(key, value)| entry(partition, key, value))
        .transpose()?;
    iterator
        .status()
        .map_err(|error| store.read_error(family::JOURNAL, &prefix, &error))?;
    Ok(found.map(|(index, entry)| Position {
        epoch: entry.epoch,
        index,
    }))
}

/// The first entry that is stored, and the last.
pub(crate) fn first_and_last(
    store: &Store,
    partition: PartitionId,
) -> Result<Option<(Index, Position)>, ReadError> {
    let mut first = None;
    entries(store, partition, Index(0), |index, _| {
        first = Some(index);
        false
    })?;
    Ok(first.zip(last(store, partition)?))
}

fn uncommitted(store: &Store, partition: PartitionId, commit: Index) -> Result<Visible, ReadError> {
    let mut visible = Visible::default();
    let mut failed = None;
    entries(store, partition, commit.next(), |index, entry| {
        match batch_bytes(store, partition, &entry.command) {
            Ok(bytes) => visible.push(index, &entry.command, bytes),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    failed.map_or(Ok(visible), Err)
}

/// The size of an append's batch; `None` where it is not stored.
fn batch_bytes(
    store: &Store,
    partition: PartitionId,
    command: &Command,
) -> Result<Option<usize>, ReadError> {
    let Command::Append { topic, last, .. } = command else {
        return Ok(None);
    };
    let topic = TopicKey {
        partition,
        id: *topic,
    };
    let batch = store.get(family::LOG, &keys::log_key(topic, *last))?;
    Ok(batch.map(|batch| batch.len()))
}

/// Calls `each` with the entries from `from` on, in order, until it says that it has enough.
pub(crate) fn entries(
    store: &Store,
    partition: PartitionId,
    from: Index,
    mut each: impl FnMut(Index, Entry) -> bool,
) -> Result<(), ReadError> {
    let prefix = partition.0.to_be_bytes();
    let mut iterator = store.iterate(family::JOURNAL, &prefix);
    iterator.seek(keys::journal_key(partition, from));
    while let Some((key, value)) = iterator.item() {
        let (index, entry) = entry(partition, key, value)?;
        if !each(index, entry) {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(|error| {
        store.read_error(family::JOURNAL, &keys::journal_key(partition, from), &error)
    })
}

/// Reads a key and value of the journal.
pub(super) fn entry(
    partition: PartitionId,
    key: &[u8],
    value: &[u8],
) -> Result<(Index, Entry), ReadError> {
    let index = keys::parse_journal_key(partition, key)
        .ok_or_else(|| undecodable("a journal", &"key of a wrong length"))?;
    let entry = Entry::decode(value).map_err(|error| {
        undecodable(
            &format!("entry {index} of partition {partition}'s journal"),
            &error,
        )
    })?;
    Ok((index, entry))
}
