//! Reads of topics, bindings and leaves. Every stored batch is checked before it is handed out.
//!
//! RocksDB shows a write to readers only after its log record is synced, so that what is read here is durable. Where it
//! must also be committed, the caller tells where that ends; it is asked after the store, see `replica::visible`.

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::ledger::Tail;
use mesh_ring::name::TopicName;

use crate::batch::{BatchHeader, verify_stored};
use crate::catalogue::{Extent, TopicExtent, TopicMeta};
use crate::codec::only_u64;
use crate::error::{Damage, ReadError};
use crate::keys::{self, family};
use crate::replica::End;
use crate::store::Store;

/// Tells where a topic's committed part ends; `None` where all that is stored of it is committed.
pub(crate) type CommittedEnd<'a> = &'a dyn Fn(TopicId) -> Option<End>;

/// Whole committed batches from the one that contains `from`, as stored, until `max_bytes` are reached; at least one if
/// there is any.
pub(crate) fn batches(
    store: &Store,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<Bytes>, ReadError> {
    check_not_trimmed(store, topic, from)?;
    let mut found: Vec<(Offset, Bytes)> = Vec::new();
    let (mut expected, mut bytes) = (from, 0);
    let mut failed = None;
    let mut iterator = store.iterate(family::LOG, &keys::topic_prefix(topic));
    iterator.seek(keys::log_key(topic, from));
    while let Some((key, batch)) = iterator.item() {
        let header = match checked(store, topic, key, batch) {
            Ok(header) => header,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        let base = header.leader.base_offset;
        let follows = if found.is_empty() {
            base <= expected
        } else {
            base == expected
        };
        if !follows {
            failed = Some(missing(store, topic, expected));
            break;
        }
        expected = header.next_offset();
        bytes += batch.len();
        if !found.is_empty() && bytes > max_bytes {
            break;
        }
        found.push((base, Bytes::copy_from_slice(batch)));
        iterator.next();
    }
    if let (None, Err(error)) = (&failed, iterator.status()) {
        failed = Some(damaged_at(store, topic, expected, error.as_ref()));
    }
    let end = committed(topic.id).map(|end| end.next);
    found.retain(|(base, _)| end.is_none_or(|end| *base < end));
    // What came before the damage is good; the next read meets it first. What is wrong behind the committed part is not
    // for readers.
    match failed {
        Some(error) if found.is_empty() && end.is_none_or(|end| from < end) => {
            // A trim may have taken the batch between the check and the seek.
            check_not_trimmed(store, topic, from)?;
            return Err(error);
        }
        _ => {}
    }
    if found.is_empty() {
        let next = tail(store, committed, topic)?
            .ok_or(ReadError::TopicDeleted)?
            .next;
        if from > next {
            return Err(ReadError::BeyondEnd { from, next });
        }
        if from < next {
            check_not_trimmed(store, topic, from)?;
            // A batch may have come between the seek and the look at the end.
            if batch_at(store, topic, from)?.is_none() {
                return Err(missing(store, topic, from));
            }
        }
    }
    Ok(found.into_iter().map(|(_, batch)| batch).collect())
}

/// The same, at most `max_bytes`, where that takes no look at the disk, and nothing is amiss; and whether that is all that is
/// committed by now. `None`: ask [`batches`].
pub(crate) fn batches_at_hand(
    store: &Store,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
    from: Offset,
    max_bytes: usize,
) -> Option<(Vec<Bytes>, bool)> {
    let extent = store
        .get_at_hand(family::TOPICS, &keys::extent_key(topic))?
        .ok()??;
    if from < Extent::decode(&extent).ok()?.first {
        return None;
    }
    let mut found: Vec<(Offset, Bytes)> = Vec::new();
    let (mut expected, mut bytes) = (from, 0);
    let mut is_all = true;
    let mut iterator = store.iterate_at_hand(family::LOG, &keys::topic_prefix(topic));
    iterator.seek(keys::log_key(topic, from));
    while let Some((key, batch)) = iterator.item() {
        bytes += batch.len();
        if bytes > max_bytes {
            is_all = false;
            break;
        }
        let header = checked(store, topic, key, batch).ok()?;
        let base = header.leader.base_offset;
        let follows = if found.is_empty() {
            base <= expected
        } else {
            base == expected
        };
        if !follows {
            return None;
        }
        expected = header.next_offset();
        found.push((base, Bytes::copy_from_slice(batch)));
        iterator.next();
    }
    is_all &= iterator.status().is_ok();
    let end = committed(topic.id).map(|end| end.next);
    found.retain(|(base, _)| end.is_none_or(|end| *base < end));
    let found: Vec<Bytes> = found.into_iter().map(|(_, batch)| batch).collect();
    (!found.is_empty()).then_some((found, is_all))
}

/// The header of the batch that contains `offset`, or of the first after it.
pub(crate) fn batch_at(
    store: &Store,
    topic: TopicKey,
    offset: Offset,
) -> Result<Option<BatchHeader>, ReadError> {
    let mut iterator = store.iterate(family::LOG, &keys::topic_prefix(topic));
    iterator.seek(keys::log_key(topic, offset));
    match iterator.item() {
        Some((key, batch)) => checked(store, topic, key, batch).map(Some),
        None => match iterator.status() {
            Ok(()) => Ok(None),
            Err(error) => Err(damaged_at(store, topic, offset, error.as_ref())),
        },
    }
}

/// What of the topic can be read.
pub(crate) fn extent(
    store: &Store,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
) -> Result<TopicExtent, ReadError> {
    let tail = tail(store, committed, topic)?.ok_or(ReadError::TopicDeleted)?;
    Ok(TopicExtent {
        first: tail.first,
        next: tail.next,
        bytes: tail.position - tail.first_position,
    })
}

/// The first offset whose record was appended at `time_ms` or later; the next offset where there is none.
///
/// Append times never move back within a topic, so a binary search over offsets finds it in a few seeks.
pub(crate) fn offset_at_time(
    store: &Store,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
    time_ms: u64,
) -> Result<Offset, ReadError> {
    first_batch_where(store, committed, topic, |header| {
        header.leader.append_time_ms >= time_ms
    })
}

/// The first offset of the first batch of which `wanted` holds; `wanted` must hold of every later one as well. Never
/// below the first offset that can be read; the next offset where it holds of none.
pub(crate) fn first_batch_where(
    store: &Store,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
    wanted: impl Fn(&BatchHeader) -> bool,
) -> Result<Offset, ReadError> {
    let tail = tail(store, committed, topic)?.ok_or(ReadError::TopicDeleted)?;
    let (mut low, mut high) = (tail.first, tail.next);
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(header) = batch_at(store, topic, middle)? else {
            break;
        };
        if wanted(&header) {
            high = header.leader.base_offset.max(low).min(middle);
        } else {
            low = header.next_offset();
        }
    }
    Ok(low)
}

/// Where the committed part of a topic's log begins and ends; `None` where the topic does not exist. The time of the last
/// record is that of the last stored one.
pub(crate) fn tail(
    store: &Store,
    committed: CommittedEnd<'_>,
    topic: TopicKey,
) -> Result<Option<Tail>, ReadError> {
    let Some(mut tail) = load_tail(store, topic)? else {
        return Ok(None);
    };
    if let Some(end) = committed(topic.id).filter(|end| end.next < tail.next) {
        tail.next = end.next.max(tail.first);
        tail.position = end.position.max(tail.first_position);
    }
    Ok(Some(tail))
}

/// Reads where a topic's log begins and ends, committed or not; `None` where the topic does not exist.
pub(crate) fn load_tail(store: &Store, topic: TopicKey) -> Result<Option<Tail>, ReadError> {
    loop {
        let Some(extent) = load_extent(store, topic)? else {
            return Ok(None);
        };
        let tail = tail_after(store, topic, extent)?;
        // A trim between the two reads would give the new log with the old extent.
        if tail.next > extent.first || load_extent(store, topic)? == Some(extent) {
            return Ok(Some(tail));
        }
    }
}

pub(crate) fn load_extent(store: &Store, topic: TopicKey) -> Result<Option<Extent>, ReadError> {
    let extent = store.get(family::TOPICS, &keys::extent_key(topic))?;
    extent
        .map(|extent| Extent::decode(&extent).map_err(|error| undecodable("topic extent", &error)))
        .transpose()
}

fn tail_after(store: &Store, topic: TopicKey, extent: Extent) -> Result<Tail, ReadError> {
    let mut tail = Tail {
        first: extent.first,
        first_position: extent.position,
        next: extent.first,
        position: extent.position,
        time_ms: extent.append_time_ms,
    };
    let mut iterator = store.iterate(family::LOG, &keys::topic_prefix(topic));
    iterator.seek_to_last();
    if let Some((key, batch)) = iterator.item() {
        let header = checked(store, topic, key, batch)?;
        // Where the last records came without their batches, the topic begins behind all that is stored.
        if header.next_offset() > extent.first {
            tail.next = header.next_offset();
            tail.position = header.leader.base_position + batch.len() as u64;
            tail.time_ms = header.leader.append_time_ms;
        }
    }
    let Err(error) = iterator.status() else {
        return Ok(tail);
    };
    Err(
        match store.read_error(family::LOG, &keys::log_key(topic, tail.next), &error) {
            ReadError::Damaged(damage) => {
                let last = last_key(store, topic, extent.first);
                damaged_at(store, topic, last, &damage.detail)
            }
            error => error,
        },
    )
}

/// The last offset of a topic whose last batch cannot be read: behind it, RocksDB has nothing to complain of.
fn last_key(store: &Store, topic: TopicKey, first: Offset) -> Offset {
    let (mut low, mut high) = (first, Offset::MAX);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let mut iterator = store.iterate(family::LOG, &keys::topic_prefix(topic));
        iterator.seek(keys::log_key(topic, middle));
        if iterator.valid() || iterator.status().is_err() {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

/// A topic by its key.
pub(crate) fn topic_meta(store: &Store, topic: TopicKey) -> Result<Option<TopicMeta>, ReadError> {
    let Some(value) = store.get(family::TOPICS, &keys::topic_key(topic))? else {
        return Ok(None);
    };
    TopicMeta::decode(topic, &value)
        .map(Some)
        .map_err(|error| undecodable("topic record", &error))
}

/// A topic by its name, which lives in `partition`.
pub(crate) fn topic_named(
    store: &Store,
    partition: PartitionId,
    name: &TopicName,
) -> Result<Option<TopicMeta>, ReadError> {
    let Some(id) = store.get(family::TOPICS, &keys::name_key(partition, name.as_str()))? else {
        return Ok(None);
    };
    let id = only_u64(&id).map_err(|error| undecodable("topic name", &error))?;
    topic_meta(
        store,
        TopicKey {
            partition,
            id: TopicId(id),
        },
    )
}

/// A binding, tombstones and expired values included.
pub(crate) fn binding(
    store: &Store,
    partition: PartitionId,
    key: &[u8],
) -> Result<Option<Binding>, ReadError> {
    let Some(value) = store.get(family::BINDINGS, &keys::binding_key(partition, key))? else {
        return Ok(None);
    };
    decoded(store, partition, key, &value).map(Some)
}

/// The same, where that takes no look at the disk. `None`: it may take one.
pub(crate) fn binding_at_hand(
    store: &Store,
    partition: PartitionId,
    key: &[u8],
) -> Option<Result<Option<Binding>, ReadError>> {
    let row = keys::binding_key(partition, key);
    match store.get_at_hand(family::BINDINGS, &row)? {
        Ok(Some(value)) => Some(decoded(store, partition, key, &value).map(Some)),
        Ok(None) => Some(Ok(None)),
        Err(error) => Some(Err(error)),
    }
}

/// A binding's value; bytes that no codec wrote are damage.
pub(crate) fn decoded(
    store: &Store,
    partition: PartitionId,
    key: &[u8],
    value: &[u8],
) -> Result<Binding, ReadError> {
    Binding::decode(value).map_err(|error| damaged_binding(store, partition, key, &error))
}

/// That a binding's value is not what a codec wrote.
pub(crate) fn damaged_binding(
    store: &Store,
    partition: PartitionId,
    key: &[u8],
    error: &impl ToString,
) -> ReadError {
    ReadError::Damaged(Damage {
        what: format!("binding {}", key.escape_ascii()),
        topic: None,
        offset: None,
        files: store.files_of(family::BINDINGS, &keys::binding_key(partition, key)),
        detail: error.to_string(),
    })
}

fn check_not_trimmed(store: &Store, topic: TopicKey, from: Offset) -> Result<(), ReadError> {
    let extent = store
        .get(family::TOPICS, &keys::extent_key(topic))?
        .ok_or(ReadError::TopicDeleted)?;
    let first = Extent::decode(&extent)
        .map_err(|error| undecodable("topic extent", &error))?
        .first;
    if from < first {
        Err(ReadError::Trimmed { from, first })
    } else {
        Ok(())
    }
}

/// Checks a stored batch against its checksums and its key.
pub(crate) fn checked(
    store: &Store,
    topic: TopicKey,
    key: &[u8],
    batch: &[u8],
) -> Result<BatchHeader, ReadError> {
    let last = keys::parse_log_key(key).map_or(0, |(_, last)| last);
    let damage = |detail: String| {
        ReadError::Damaged(Damage {
            what: format!("the batch that ends at offset {last} of topic {topic}"),
            topic: Some(topic),
            offset: Some(last),
            files: store.files_of(family::LOG, key),
            detail,
        })
    };
    let header = verify_stored(batch).map_err(|error| damage(error.to_string()))?;
    if header.next_offset() == last + 1 {
        Ok(header)
    } else {
        Err(damage(format!(
            "it says that it ends before offset {}",
            header.next_offset()
        )))
    }
}

fn missing(store: &Store, topic: TopicKey, offset: Offset) -> ReadError {
    damaged_at(store, topic, offset, "the batch is missing")
}

fn damaged_at(store: &Store, topic: TopicKey, offset: Offset, detail: &str) -> ReadError {
    ReadError::Damaged(Damage {
        what: format!("topic {topic} at offset {offset}"),
        topic: Some(topic),
        offset: Some(offset),
        files: store.files_of(family::LOG, &keys::log_key(topic, offset)),
        detail: detail.to_owned(),
    })
}

/// A stored value that does not decode.
pub(crate) fn undecodable(what: &str, error: &impl ToString) -> ReadError {
    ReadError::Damaged(Damage {
        what: what.to_owned(),
        topic: None,
        offset: None,
        files: Vec::new(),
        detail: error.to_string(),
    })
}
