//! What is stored, by family.

use crate::keys::family;
use crate::store::Store;

/// What one column family holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyUsage {
    /// Its name.
    pub name: &'static str,
    /// Bytes in table files.
    pub table_bytes: u64,
    /// Bytes in blob files.
    pub blob_bytes: u64,
    /// Bytes of blob files that nothing refers to any more.
    pub garbage_bytes: u64,
    /// Bytes in memory that are not in files yet (they are in the write-ahead log).
    pub memory_bytes: u64,
    /// Keys, as RocksDB estimates them.
    pub keys_estimate: u64,
}

pub(crate) fn usage(store: &Store) -> Vec<FamilyUsage> {
    family::ALL
        .into_iter()
        .map(|name| {
            let property = |property: &str| {
                store
                    .db()
                    .property_int_value_cf(store.family(name), property)
                    .ok()
                    .flatten()
                    .unwrap_or(0)
            };
            FamilyUsage {
                name,
                table_bytes: property("rocksdb.live-sst-files-size"),
                blob_bytes: property("rocksdb.live-blob-file-size"),
                garbage_bytes: property("rocksdb.live-blob-file-garbage-size"),
                memory_bytes: property("rocksdb.cur-size-all-mem-tables"),
                keys_estimate: property("rocksdb.estimate-num-keys"),
            }
        })
        .collect()
}
