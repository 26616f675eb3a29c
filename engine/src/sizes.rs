//! About how much each partition holds.

use std::collections::BTreeMap;

use mesh_ring::ids::PartitionId;
use rocksdb::Range;

use crate::engine::Engine;
use crate::keys::{family, prefix_end};
use crate::storage;

/// Families whose keys begin with the partition, and that hold more than a little.
const WEIGHTY: [&str; 4] = [
    family::LOG,
    family::JOURNAL,
    family::BINDINGS,
    family::PRODUCERS,
];

impl Engine {
    /// About how many bytes of files each partition takes, as RocksDB estimates it without reading them. What is not in
    /// files yet, at most some write buffers, is not counted; partitions without any are left out.
    pub fn partition_sizes(&self) -> BTreeMap<PartitionId, u64> {
        let mut sizes = BTreeMap::new();
        for usage in storage::usage(self.store()) {
            if !WEIGHTY.contains(&usage.name) {
                continue;
            }
            let tables = self.table_bytes(usage.name);
            // Values in blob files are as many as the keys that point to them.
            let whole: u64 = tables.values().sum();
            let blobs = usage.blob_bytes.saturating_sub(usage.garbage_bytes);
            for (partition, bytes) in tables {
                let share = u128::from(blobs) * u128::from(bytes) / u128::from(whole.max(1));
                let share = u64::try_from(share).unwrap_or(u64::MAX);
                let size: &mut u64 = sizes.entry(partition).or_default();
                *size = size.saturating_add(bytes).saturating_add(share);
            }
        }
        sizes
    }

    /// Bytes in a family's table files, by partition.
    fn table_bytes(&self, name: &str) -> BTreeMap<PartitionId, u64> {
        let partitions: Vec<PartitionId> =
            (0..self.identity().partitions).map(PartitionId).collect();
        let bounds: Vec<([u8; 2], Vec<u8>)> = partitions
            .iter()
            .map(|partition| {
                let prefix = partition.0.to_be_bytes();
                let end = prefix_end(&prefix).unwrap_or_else(|| vec![u8::MAX; 3]);
                (prefix, end)
            })
            .collect();
        let ranges: Vec<Range<'_>> = bounds
            .iter()
            .map(|(from, to)| Range::new(from, to))
            .collect();
        let store = self.store();
        let sizes = store
            .db()
            .get_approximate_sizes_cf(store.family(name), &ranges);
        let sizes = partitions.into_iter().zip(sizes);
        sizes.filter(|(_, bytes)| *bytes > 0).collect()
    }
}
