//! redb: a copy-on-write B-tree in Rust.

use std::fs;
use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Store, Visit, binding_key, record_key};
use crate::Result;

const ITEMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("items");

pub(super) struct Redb {
    db: Database,
    next: Vec<u64>,
}

impl Redb {
    pub(super) fn open(dir: &Path, topics: usize) -> Result<Redb> {
        fs::create_dir_all(dir)?;
        let db = Database::create(dir.join("items.redb"))?;
        Ok(Redb {
            db,
            next: vec![0; topics],
        })
    }

    fn one(&self, key: &[u8], visit: Visit<'_>) -> Result<()> {
        let table = self.db.begin_read()?.open_table(ITEMS)?;
        visit(table.get(key)?.ok_or("no such key")?.value());
        Ok(())
    }

    fn commit<K: AsRef<[u8]>>(
        &self,
        pairs: impl Iterator<Item = (K, impl AsRef<[u8]>)>,
    ) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(ITEMS)?;
            for (key, value) in pairs {
                table.insert(key.as_ref(), value.as_ref())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Store for Redb {
    fn append(&mut self, topic: usize, values: &[&[u8]]) -> Result<()> {
        let first = self.next[topic];
        self.next[topic] += values.len() as u64;
        self.commit(
            (first..)
                .zip(values)
                .map(|(offset, value)| (record_key(topic, offset), value)),
        )
    }

    fn replay(&mut self, topic: usize, visit: Visit<'_>) -> Result<()> {
        let table = self.db.begin_read()?.open_table(ITEMS)?;
        for item in
            table.range::<&[u8]>(&record_key(topic, 0)[..]..&record_key(topic + 1, 0)[..])?
        {
            visit(item?.1.value());
        }
        Ok(())
    }

    fn read(&mut self, topic: usize, offset: u64, visit: Visit<'_>) -> Result<()> {
        self.one(&record_key(topic, offset), visit)
    }

    fn put(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<()> {
        self.commit(pairs.iter().map(|(key, value)| (binding_key(key), value)))
    }

    fn get(&mut self, key: &[u8], visit: Visit<'_>) -> Result<()> {
        self.one(&binding_key(key), visit)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
