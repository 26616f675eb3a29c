//! What disks do to records: bytes that flip, rows that are gone, and, worst, other records that look right.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use bytes::Bytes;
use mesh_engine::{
    Engine, Options, ReadError,
    batch::{BatchBuilder, BatchHeader, Compression, records, stamp},
    keys::log_key,
};
use mesh_ring::{ids::TopicKey, name::TopicName};
use rocksdb::DB;

/// What a node that is stopped has on its disk.
pub(crate) fn disk(data: &Path) -> Engine {
    Engine::open(data, Options::default()).unwrap()
}

pub(crate) fn key_of(engine: &Engine, topic: &str) -> TopicKey {
    let name = TopicName::new(topic).unwrap();
    engine.topic(&name).unwrap().unwrap().key
}

/// The batch that holds an offset, of a node that is stopped.
pub(crate) fn batch_at(data: &Path, topic: &str, offset: u64) -> Bytes {
    let engine = disk(data);
    let key = key_of(&engine, topic);
    let batch = engine.read(key, offset, 1).unwrap().remove(0);
    engine.close().unwrap();
    batch
}

/// Flips a byte in each of the batches that hold these offsets, of a node that is stopped.
pub(crate) fn flip_all(data: &Path, topic: &str, offsets: impl Iterator<Item = u64>) {
    let engine = disk(data);
    let key = key_of(&engine, topic);
    let batches: Vec<Bytes> = offsets
        .map(|offset| engine.read(key, offset, 1).unwrap().remove(0))
        .collect();
    engine.close().unwrap();
    for batch in batches {
        flip(data, &batch);
    }
}

/// Flips a byte in the middle of a batch, where it lies in a blob file. The node may run.
pub(crate) fn flip(data: &Path, batch: &[u8]) {
    let files = fs::read_dir(data.join("db")).unwrap();
    let blobs = files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|found| found == "blob"));
    let mut flipped = 0;
    for blob in blobs {
        let content = fs::read(&blob).unwrap();
        let found = content.windows(batch.len()).position(|at| at == batch);
        if let Some(at) = found {
            let at = at + batch.len() / 2;
            let mut file = OpenOptions::new().write(true).open(&blob).unwrap();
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[content[at] ^ 0x04]).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1, "the batch lies in one blob file");
}

/// Takes the batches away that end at these offsets, of a node that is stopped.
pub(crate) fn remove(data: &Path, topic: TopicKey, ends: impl Iterator<Item = u64>) {
    let (path, options) = (data.join("db"), rocksdb::Options::default());
    let families = DB::list_cf(&options, &path).unwrap();
    let db = DB::open_cf(&options, &path, &families).unwrap();
    let log = db.cf_handle("log").unwrap();
    for end in ends {
        let key = log_key(topic, end);
        assert!(db.get_cf(log, key).unwrap().is_some(), "offset {end}");
        db.delete_cf(log, key).unwrap();
    }
    for family in &families {
        db.flush_cf(db.cf_handle(family).unwrap()).unwrap();
    }
}

/// A batch that passes for this one: as long, at the same place, of the same time and producer, with other values.
fn forged(batch: &Bytes) -> Bytes {
    let header = BatchHeader::decode(batch).unwrap();
    let mut builder = BatchBuilder::new(Compression::None);
    for item in records(batch).unwrap() {
        let (_, mut record) = item.unwrap();
        let value = record.value.iter().rev().copied().collect::<Vec<u8>>();
        record.value = value.into();
        builder.push(&record).unwrap();
    }
    let mut other = builder.finish(header.producer).unwrap();
    stamp(&mut other, header.leader).unwrap();
    assert_eq!(other.len(), batch.len());
    assert_ne!(other[..], batch[..]);
    other.into()
}

/// Puts another batch in the place of the one that holds an offset, of a node that is stopped. Returns it.
pub(crate) fn forge(data: &Path, topic: &str, offset: u64) -> Bytes {
    let batch = batch_at(data, topic, offset);
    flip(data, &batch);
    let engine = disk(data);
    let key = key_of(&engine, topic);
    assert!(matches!(
        engine.read(key, offset, 1),
        Err(ReadError::Damaged(_))
    ));
    let forged = forged(&batch);
    let healed = engine.heal_block(key, vec![forged.clone()]).unwrap();
    assert_eq!(healed.written, 1);
    engine.close().unwrap();
    forged
}
