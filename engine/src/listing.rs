//! Listings in the order of names, over partitions in which names lie in the order of their hashes.

use std::collections::BinaryHeap;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;

use crate::codec::CodecError;
use crate::error::ReadError;
use crate::keys::{self, family, prefix_end};
use crate::read::undecodable;
use crate::store::Store;

/// The least `limit` items of all that are offered, whatever their order.
struct Least {
    heap: BinaryHeap<Bytes>,
    limit: usize,
}

impl Least {
    fn new(limit: usize) -> Least {
        Least {
            heap: BinaryHeap::new(),
            limit,
        }
    }

    /// Takes `item` if it is among the least so far. `false`: it is not, and nothing greater will be.
    fn offer(&mut self, item: &[u8]) -> bool {
        if self.heap.len() == self.limit
            && self
                .heap
                .peek()
                .is_none_or(|greatest| item >= &greatest[..])
        {
            return false;
        }
        self.heap.push(Bytes::copy_from_slice(item));
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
        true
    }

    fn into_sorted(self) -> Vec<Bytes> {
        self.heap.into_sorted_vec()
    }
}

pub(crate) fn topics(
    store: &Store,
    partitions: u16,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<String>, ReadError> {
    let mut least = Least::new(limit);
    for partition in (0..partitions).map(PartitionId) {
        let names = keys::name_prefix(partition);
        scan(
            store,
            family::TOPICS,
            &names,
            prefix.as_bytes(),
            after.map(str::as_bytes),
            |name, _| Ok(least.offer(name)),
        )?;
    }
    let text = |name: Bytes| {
        String::from_utf8(name.to_vec()).map_err(|_| undecodable("topic name", &CodecError::Text))
    };
    least.into_sorted().into_iter().map(text).collect()
}

pub(crate) fn bindings(
    store: &Store,
    partitions: u16,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    now_ms: u64,
) -> Result<Vec<Bytes>, ReadError> {
    let mut least = Least::new(limit);
    for partition in (0..partitions).map(PartitionId) {
        let keys = keys::binding_key(partition, &[]);
        scan(
            store,
            family::BINDINGS,
            &keys,
            prefix,
            after,
            |key, value| {
                let binding =
                    Binding::decode(value).map_err(|error| undecodable("binding", &error))?;
                Ok(binding.newest_live(now_ms).is_none() || least.offer(key))
            },
        )?;
    }
    Ok(least.into_sorted())
}

/// Calls `each` with the names (and values) under `base` that begin with `prefix` and come after `after`, until it says
/// that nothing greater matters.
fn scan(
    store: &Store,
    name: &str,
    base: &[u8],
    prefix: &[u8],
    after: Option<&[u8]>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, ReadError>,
) -> Result<(), ReadError> {
    let wanted = [base, prefix].concat();
    if after.is_some_and(|after| prefix_end(prefix).is_some_and(|end| after >= &end[..])) {
        return Ok(());
    }
    let mut iterator = store.iterate(name, &wanted);
    match after {
        Some(after) if after >= prefix => iterator.seek([base, after, &[0]].concat()),
        _ => iterator.seek_to_first(),
    }
    while let Some((key, value)) = iterator.item() {
        if !each(&key[base.len()..], value)? {
            break;
        }
        iterator.next();
    }
    iterator
        .status()
        .map_err(|error| store.read_error(name, &wanted, &error))
}
