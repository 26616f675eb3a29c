//! The RocksDB handle: families, their options, and reads that tell damage from trouble.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBPinnableSlice, DBRawIterator, DBRecoveryMode, ErrorKind, LiveFile, ReadOptions, ReadTier,
    WriteBatch, WriteOptions,
};

use crate::error::{Damage, ReadError};
use crate::keys::{family, prefix_end};
use crate::options::Options;

/// Values of at least this many bytes go to blob files, where compaction leaves them alone.
const BLOB_BYTES_MIN: u64 = 256;

/// Write-ahead log that may have to be replayed at open, in write buffers: bounds the time of a restart, and the disk
/// that the log takes.
const WAL_BUFFERS_MAX: u64 = 4;

/// Table files kept open, so that neither memory nor the time of a restart grows with the store.
const OPEN_FILES_MAX: i32 = 1024;

/// Part of a write buffer that a filter of its keys takes: some 15 bits for each of the bindings of 100 bytes that fit in.
const MEMTABLE_FILTER_PART: f64 = 0.01;

/// An open RocksDB with every family.
pub(crate) struct Store {
    db: DB,
    synced: WriteOptions,
}

impl Store {
    /// Opens the database at `path`; `create` makes it, and families that are missing.
    pub(crate) fn open(
        path: &Path,
        options: &Options,
        create: bool,
    ) -> Result<Store, rocksdb::Error> {
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let families = family::ALL
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(name, options, &cache)));
        let db = DB::open_cf_descriptors(&database_options(options, create), path, families)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Store { db, synced })
    }

    /// Opens and flushes a database whose log was shortened on purpose, which its manifest does not expect.
    pub(crate) fn settle_shortened_log(path: &Path) -> Result<(), rocksdb::Error> {
        let options = Options::default();
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let families = family::ALL
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(name, &options, &cache)));
        let mut database = database_options(&options, false);
        database.set_track_and_verify_wals_in_manifest(false);
        let db = DB::open_cf_descriptors(&database, path, families)?;
        for name in family::ALL {
            if let Some(handle) = db.cf_handle(name) {
                db.flush_cf(handle)?;
            }
        }
        Ok(())
    }

    /// Opens a database for reading only, around whatever of its log is damaged, and changes nothing.
    pub(crate) fn open_remains(path: &Path) -> Result<Store, rocksdb::Error> {
        let options = Options::default();
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let families = family::ALL
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(name, &options, &cache)));
        // The logs stay tracked: without that, RocksDB's read-only open crashes where the manifest names some.
        let mut database = database_options(&options, false);
        database.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        let db = DB::open_cf_descriptors_read_only(&database, path, families, false)?;
        let synced = WriteOptions::default();
        Ok(Store { db, synced })
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// The handle of a family that [`Store::open`] opened.
    #[expect(
        clippy::expect_used,
        reason = "every family in family::ALL is opened by Store::open, none is ever dropped"
    )]
    pub(crate) fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("family was opened")
    }

    /// One value, straight from the cache or memtable.
    pub(crate) fn get(
        &self,
        name: &str,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, ReadError> {
        self.db
            .get_pinned_cf(self.family(name), key)
            .map_err(|error| self.read_error(name, key, &error))
    }

    /// The same, where that takes no look at the disk. `None`: it may take one.
    pub(crate) fn get_at_hand(
        &self,
        name: &str,
        key: &[u8],
    ) -> Option<Result<Option<DBPinnableSlice<'_>>, ReadError>> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        let found = self.db.get_pinned_cf_opt(self.family(name), key, &options);
        match found {
            Err(error) if error.kind() == ErrorKind::Incomplete => None,
            Err(error) => Some(Err(self.read_error(name, key, &error))),
            Ok(found) => Some(Ok(found)),
        }
    }

    /// An iterator over the keys of `name` that begin with `prefix`.
    pub(crate) fn iterate(&self, name: &str, prefix: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(prefix);
        if let Some(end) = prefix_end(prefix) {
            options.set_iterate_upper_bound(end);
        }
        self.db.raw_iterator_cf_opt(self.family(name), options)
    }

    /// The same, over what takes no look at the disk: its status is [`ErrorKind::Incomplete`] where it ends because of that.
    pub(crate) fn iterate_at_hand(&self, name: &str, prefix: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        options.set_iterate_lower_bound(prefix);
        if let Some(end) = prefix_end(prefix) {
            options.set_iterate_upper_bound(end);
        }
        self.db.raw_iterator_cf_opt(self.family(name), options)
    }

    /// An iterator over the keys of `name` in `from..to`; an empty `to` has no end.
    pub(crate) fn between(&self, name: &str, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        if !to.is_empty() {
            options.set_iterate_upper_bound(to);
        }
        self.db.raw_iterator_cf_opt(self.family(name), options)
    }

    /// Writes `batch` and returns once it is on the disk. An error means that the store must stop.
    pub(crate) fn write_synced(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        self.db.write_opt(batch, &self.synced)
    }

    /// Writes a family's memtable out to a file.
    pub(crate) fn flush(&self, name: &str) -> Result<(), rocksdb::Error> {
        self.db.flush_cf(self.family(name))
    }

    /// Writes every memtable out to files, so that the next open replays nothing.
    pub(crate) fn flush_all(&self) -> Result<(), rocksdb::Error> {
        for name in family::ALL {
            self.db.flush_cf(self.family(name))?;
        }
        Ok(())
    }

    /// Says what a failed read of `key` means.
    pub(crate) fn read_error(&self, name: &str, key: &[u8], error: &rocksdb::Error) -> ReadError {
        let detail = error.as_ref().to_owned();
        if error.kind() != ErrorKind::Corruption {
            return ReadError::Store(detail);
        }
        ReadError::Damaged(Damage {
            what: format!("a value in family {name}"),
            topic: None,
            offset: None,
            files: self.files_of(name, key),
            detail,
        })
    }

    /// Names of the table files that may hold `key`. Where its value lies in a blob file, they point to it.
    pub(crate) fn files_of(&self, name: &str, key: &[u8]) -> Vec<String> {
        let holds = |from: &Option<Vec<u8>>, to: &Option<Vec<u8>>| {
            from.as_deref().is_none_or(|from| from <= key)
                && to.as_deref().is_none_or(|to| key <= to)
        };
        self.files(name)
            .into_iter()
            .filter(|file| holds(&file.start_key, &file.end_key))
            .map(|file| file.name.trim_start_matches('/').to_owned())
            .collect()
    }

    /// The table files of a family.
    pub(crate) fn files(&self, name: &str) -> Vec<LiveFile> {
        let mut files = self.db.live_files().unwrap_or_default();
        files.retain(|file| file.column_family_name == name);
        files
    }
}

fn database_options(store: &Options, create: bool) -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    // What a torn tail or a flipped byte means is decided by `wal::check` before RocksDB sees the log.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    // RocksDB drops recycling silently in this recovery mode; say so ourselves.
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(WAL_BUFFERS_MAX * store.write_buffer_bytes as u64);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(256 << 10);
    // One thread writes: the cheaper memtable path needs no atomics.
    options.set_allow_concurrent_memtable_write(false);
    options.set_advise_random_on_open(false);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    // A file that is being made never has more than two pieces on their way to the disk: on ext4 a synced write waits for
    // what others have written before it. The binding has no setter for it; a store without it is slower beside others, and
    // as good.
    let strict = options.get_options_from_string("strict_bytes_per_sync=true");
    strict.unwrap_or(options)
}

fn family_options(name: &str, options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut family = rocksdb::Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    if !matches!(
        name,
        family::LOG | family::JOURNAL | family::BINDING_INDEX | family::EXPIRY | family::HINTS
    ) {
        table.set_bloom_filter(10.0, false);
    }
    family.set_block_based_table_factory(&table);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_level_compaction_dynamic_level_bytes(true);
    let buffer = options.write_buffer_bytes;
    match name {
        family::LOG => {
            family.set_write_buffer_size(buffer);
            family.set_max_write_buffer_number(3);
            family.set_enable_blob_files(true);
            family.set_min_blob_size(BLOB_BYTES_MIN);
            family.set_blob_file_size(256 << 20);
            // `reclaim` turns collection on while it runs; see there.
            family.set_enable_blob_gc(false);
            family.set_blob_compaction_readahead_size(2 << 20);
        }
        family::BINDINGS => {
            family.set_write_buffer_size(buffer / 2);
            // Every write reads first what it writes over: a key that is new need not be searched for.
            family.set_memtable_whole_key_filtering(true);
            family.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_PART);
        }
        _ => family.set_write_buffer_size(buffer / 4),
    }
    let prefix = match name {
        // A topic's batches, and a partition's journal, come in the order of their keys.
        family::LOG => 10,
        family::JOURNAL => 2,
        _ => return family,
    };
    // A row is put behind the last one with its prefix, without a search from the top. The binding has no setter for it; a
    // store without it is slower over many topics, and as good.
    let hinted = family.get_options_from_string(format!(
        "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.{prefix}"
    ));
    hinted.unwrap_or(family)
}
