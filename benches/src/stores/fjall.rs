//! fjall: a log-structured store in Rust.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{CACHE_BYTES, Store, Visit, binding_key, record_key};
use crate::Result;

pub(super) struct Fjall {
    db: Database,
    items: Keyspace,
    next: Vec<u64>,
}

impl Fjall {
    pub(super) fn open(dir: &Path, topics: usize) -> Result<Fjall> {
        let db = Database::builder(dir)
            .cache_size(CACHE_BYTES as u64)
            .open()?;
        let items = db.keyspace("items", KeyspaceCreateOptions::default)?;
        Ok(Fjall {
            db,
            items,
            next: vec![0; topics],
        })
    }
}

impl Store for Fjall {
    fn append(&mut self, topic: usize, values: &[&[u8]]) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        let next = &mut self.next[topic];
        for value in values {
            batch.insert(&self.items, record_key(topic, *next), *value);
            *next += 1;
        }
        Ok(batch.commit()?)
    }

    fn replay(&mut self, topic: usize, visit: Visit<'_>) -> Result<()> {
        for item in self
            .items
            .range(record_key(topic, 0)..record_key(topic + 1, 0))
        {
            visit(&item.value()?);
        }
        Ok(())
    }

    fn read(&mut self, topic: usize, offset: u64, visit: Visit<'_>) -> Result<()> {
        visit(
            &self
                .items
                .get(record_key(topic, offset))?
                .ok_or("no such record")?,
        );
        Ok(())
    }

    fn put(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in pairs {
            batch.insert(&self.items, binding_key(key), *value);
        }
        Ok(batch.commit()?)
    }

    fn get(&mut self, key: &[u8], visit: Visit<'_>) -> Result<()> {
        visit(&self.items.get(binding_key(key))?.ok_or("no such binding")?);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.items.rotate_memtable_and_wait()?;
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
}
