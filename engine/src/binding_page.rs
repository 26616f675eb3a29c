//! Bindings of one partition in the order of their keys, a page at a time.

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;

use crate::engine::Engine;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read;

impl Engine {
    /// Bindings of `partition` whose keys begin with `prefix` and come after `after`, in order, tombstones included, until
    /// they are about `bytes_max` bytes together; at least one if there is any. An empty page is the end.
    ///
    /// # Errors
    /// One of them cannot be read. What comes before it is not given out either: another copy of the partition serves.
    pub fn bindings_page(
        &self,
        partition: PartitionId,
        prefix: &[u8],
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Binding)>, ReadError> {
        let store = self.store();
        let of_partition = keys::binding_key(partition, &[]);
        let wanted = keys::binding_key(partition, prefix);
        let mut iterator = store.iterate(family::BINDINGS, &wanted);
        match after {
            Some(after) => iterator.seek([&of_partition, after, &[0]].concat()),
            None => iterator.seek_to_first(),
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max
            && let Some((row, value)) = iterator.item()
        {
            let key = &row[of_partition.len()..];
            let binding = read::decoded(store, partition, key, value)?;
            bytes += key.len() + value.len();
            page.push((Bytes::copy_from_slice(key), binding));
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| store.read_error(family::BINDINGS, &wanted, &error))?;
        Ok(page)
    }
}
