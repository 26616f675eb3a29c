//! Sums and index made anew from the bindings, where what is stored of them cannot be gone on with.

use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{binding_digest, leaf_of};
use rocksdb::WriteBatch;

use super::Partition;
use crate::error::ReadError;
use crate::keys::{self, family, prefix_end};
use crate::scrub::gap::Gap;
use crate::store::Store;

/// Bytes of one write, about.
const BATCH_BYTES: usize = 4 << 20;

/// Whether some partition has sums that are stored one by one, as before there were pages.
pub(super) fn is_of_old_layout(store: &Store, partitions: u16) -> bool {
    let mut iterator = store.iterate(family::MERKLE, &[]);
    (0..partitions).map(PartitionId).any(|id| {
        let prefix = id.0.to_be_bytes();
        // What cannot be read is told of when it is needed.
        iterator.seek(prefix);
        iterator.key().is_some_and(|key| {
            key.starts_with(&prefix) && keys::parse_merkle_page_key(id, key).is_none()
        })
    })
}

/// Writes sums and index of all partitions as the bindings have them, and removes all rows of changes. A binding that
/// cannot be read is left out of its sum, as where a leaf is summed anew, and stays in the index where it was.
///
/// Nothing else may write meanwhile. A crash in between leaves what made it due: that goes last, for each partition and
/// for all.
///
/// # Errors
/// The store cannot be read for another reason than damage, or written.
pub(super) fn rebuild(store: &Store, partitions: u16) -> Result<(), ReadError> {
    for id in (0..partitions).map(PartitionId) {
        rebuild_partition(store, id)?;
    }
    let mut batch = WriteBatch::default();
    let from = keys::MERKLE_CHANGES_PREFIX.to_vec();
    let behind = [&keys::merkle_changes_key(u64::MAX)[..], &[0]].concat();
    batch.delete_range_cf(store.family(family::MERKLE), from, behind);
    write(store, batch)
}

pub(super) fn rebuild_partition(store: &Store, id: PartitionId) -> Result<(), ReadError> {
    let mut sums = Partition::empty();
    let is_whole = sum_bindings(store, id, &mut sums)?;
    write_index(store, id, is_whole)?;
    let mut batch = WriteBatch::default();
    let (from, to) = bounds(id);
    batch.delete_range_cf(store.family(family::MERKLE), from, to);
    sums.fold(store, id, &mut batch);
    write(store, batch)
}

/// Returns whether all bindings could be read.
fn sum_bindings(store: &Store, id: PartitionId, sums: &mut Partition) -> Result<bool, ReadError> {
    let mut decoded = true;
    let read = visit_bindings(store, id, |key, value| {
        if Binding::decode(value).is_err() {
            decoded = false;
            return Ok(());
        }
        let leaf = leaf_of(key);
        let sum = sums.sum(leaf).add(binding_digest(key, value));
        sums.set(leaf, sum);
        Ok(())
    })?;
    Ok(read && decoded)
}

/// Names what can be read, and nothing that is not there.
fn write_index(store: &Store, id: PartitionId, is_whole: bool) -> Result<(), ReadError> {
    let index = store.family(family::BINDING_INDEX);
    let mut batch = WriteBatch::default();
    let (first, end) = keys::under_leaf_bounds(id);
    if is_whole {
        batch.delete_range_cf(index, first, end);
    } else {
        // Of what cannot be read, it alone has the key.
        let mut rows = store.between(family::BINDING_INDEX, &first, &end);
        rows.seek_to_first();
        while let Some(row) = rows.key() {
            if let Some((_, key)) = keys::parse_under_leaf_key(id, row)
                && let Ok(None) = store.get(family::BINDINGS, &keys::binding_key(id, key))
            {
                batch.delete_cf(index, row);
                write_where_large(store, &mut batch)?;
            }
            rows.next();
        }
    }
    visit_bindings(store, id, |key, _| {
        batch.put_cf(index, keys::under_leaf_key(id, leaf_of(key), key), []);
        write_where_large(store, &mut batch)
    })?;
    write(store, batch)
}

/// Visits keys and values of the bindings that can be read. Returns whether all can.
fn visit_bindings(
    store: &Store,
    id: PartitionId,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), ReadError>,
) -> Result<bool, ReadError> {
    let (prefix, end) = bounds(id);
    let (mut from, mut all) = (prefix.clone(), true);
    let seek = |from: &[u8]| {
        let mut iterator = store.iterate(family::BINDINGS, &prefix);
        iterator.seek(from);
        iterator
    };
    loop {
        let mut iterator = seek(&from);
        while let Some((row, value)) = iterator.item() {
            visit(row.get(prefix.len()..).unwrap_or_default(), value)?;
            from.clear();
            from.extend_from_slice(row);
            from.push(0);
            iterator.next();
        }
        let Err(error) = iterator.status() else {
            return Ok(all);
        };
        let damage = store.read_error(family::BINDINGS, &from, &error);
        if !matches!(damage, ReadError::Damaged(_)) {
            return Err(damage);
        }
        tracing::error!(%damage, "left out of Merkle leaves that are made anew");
        all = false;
        let fails = |key: &[u8]| seek(key).status().err().as_ref() == Some(&error);
        match Gap::find(&from, &end, None, fails).resume {
            Some(next) => from = next,
            None => return Ok(false),
        }
    }
}

/// The first key of a partition in a family, and one behind the last.
fn bounds(id: PartitionId) -> (Vec<u8>, Vec<u8>) {
    let prefix = id.0.to_be_bytes().to_vec();
    // No cluster has so many partitions that the last prefix were in use.
    let end = prefix_end(&prefix).unwrap_or_else(|| vec![u8::MAX; 3]);
    (prefix, end)
}

fn write_where_large(store: &Store, batch: &mut WriteBatch) -> Result<(), ReadError> {
    match batch.size_in_bytes() < BATCH_BYTES {
        true => Ok(()),
        false => write(store, std::mem::take(batch)),
    }
}

fn write(store: &Store, batch: WriteBatch) -> Result<(), ReadError> {
    store
        .write_synced(batch)
        .map_err(|error| ReadError::Store(error.as_ref().to_owned()))
}
