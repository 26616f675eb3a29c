//! Bare RocksDB: what the engine stands on, used in the plainest way.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};

use super::{CACHE_BYTES, Store, Visit, binding_key, record_key};
use crate::Result;

pub(super) struct Rocks {
    db: DB,
    synced: WriteOptions,
    next: Vec<u64>,
}

impl Rocks {
    pub(super) fn open(dir: &Path, topics: usize) -> Result<Rocks> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Rocks {
            db: DB::open(&options, dir)?,
            synced,
            next: vec![0; topics],
        })
    }
}

impl Store for Rocks {
    fn append(&mut self, topic: usize, values: &[&[u8]]) -> Result<()> {
        let mut batch = WriteBatch::default();
        let next = &mut self.next[topic];
        for value in values {
            batch.put(record_key(topic, *next), value);
            *next += 1;
        }
        Ok(self.db.write_opt(batch, &self.synced)?)
    }

    fn replay(&mut self, topic: usize, visit: Visit<'_>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(record_key(topic + 1, 0));
        let mut iterator = self.db.raw_iterator_opt(options);
        iterator.seek(record_key(topic, 0));
        while let Some(value) = iterator.value() {
            visit(value);
            iterator.next();
        }
        Ok(iterator.status()?)
    }

    fn read(&mut self, topic: usize, offset: u64, visit: Visit<'_>) -> Result<()> {
        visit(
            &self
                .db
                .get_pinned(record_key(topic, offset))?
                .ok_or("no such record")?,
        );
        Ok(())
    }

    fn put(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(binding_key(key), value);
        }
        Ok(self.db.write_opt(batch, &self.synced)?)
    }

    fn get(&mut self, key: &[u8], visit: Visit<'_>) -> Result<()> {
        visit(
            &self
                .db
                .get_pinned(binding_key(key))?
                .ok_or("no such binding")?,
        );
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.db.flush()?;
        Ok(self
            .db
            .wait_for_compact(&WaitForCompactOptions::default())?)
    }
}
