//! An invented format: what version 1 holds, the steps to 2 and 3, and what must come out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch};

use crate::{Advance, Step, StepError, StepInfo};

/// Family, key, value.
pub(super) type Contents = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// A data directory of version 1: `bindings` maps `key-I` to I as four bytes, `log` has payloads in blob files.
pub(super) struct Sample {
    folder: tempfile::TempDir,
}

impl Sample {
    pub(super) fn new(keys: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = open_to_write(&folder.path().join("db"));
        let family = |name| database.cf_handle(name).unwrap();
        database
            .put_cf(family("meta"), "format", 1_u32.to_be_bytes())
            .unwrap();
        database.put_cf(family("meta"), "identity", "n1").unwrap();
        for i in 0..keys {
            let (key, value) = (format!("key-{i}"), i.to_be_bytes());
            database.put_cf(family("bindings"), key, value).unwrap();
            let (key, value) = (i.to_be_bytes(), vec![b'p'; 1000]);
            database.put_cf(family("log"), key, value).unwrap();
        }
        database.flush_cf(family("log")).unwrap();
        Self { folder }
    }

    pub(super) fn data(&self) -> &Path {
        self.folder.path()
    }

    /// What version 3 must hold: every value one greater, once, and in the family `values` with a prefix.
    pub(super) fn expected(keys: u32) -> Contents {
        let entry = |family: &str, key: &[u8], value: &[u8]| {
            ((family.to_owned(), key.to_vec()), value.to_vec())
        };
        let mut all = vec![
            entry("meta", b"format", &[0, 0, 0, 3]),
            entry("meta", b"identity", b"n1"),
        ];
        for i in 0..keys {
            let key = format!("v/key-{i}");
            all.push(entry("values", key.as_bytes(), &(i + 1).to_be_bytes()));
            all.push(entry("log", &i.to_be_bytes(), &[b'p'; 1000]));
        }
        all.into_iter().collect()
    }

    pub(super) fn contents(&self) -> Contents {
        contents_of(&self.folder.path().join("db"))
    }

    pub(super) fn checkpoints(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.data())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("checkpoint"))
            .collect();
        names.sort();
        names
    }

    /// Puts `value` under a key of `meta`, or deletes the key.
    pub(super) fn set_meta(&self, key: &str, value: Option<&[u8]>) {
        let database = open_to_write(&self.folder.path().join("db"));
        let meta = database.cf_handle("meta").unwrap();
        match value {
            Some(value) => database.put_cf(meta, key, value).unwrap(),
            None => database.delete_cf(meta, key).unwrap(),
        }
    }
}

fn open_to_write(path: &Path) -> DB {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let mut blobs = Options::default();
    blobs.set_enable_blob_files(true);
    blobs.set_min_blob_size(0);
    let families = [
        ("default", Options::default()),
        ("meta", Options::default()),
        ("bindings", Options::default()),
        ("log", blobs),
    ];
    DB::open_cf_with_opts(&options, path, families).unwrap()
}

/// All that the database at `path` holds, read without changing it.
pub(super) fn contents_of(path: &Path) -> Contents {
    let options = Options::default();
    let families = DB::list_cf(&options, path).unwrap();
    let database = DB::open_cf_for_read_only(&options, path, &families, false).unwrap();
    let mut contents = Contents::new();
    for name in families {
        let family = database.cf_handle(&name).unwrap();
        for entry in database.iterator_cf(family, IteratorMode::Start) {
            let (key, value) = entry.unwrap();
            contents.insert((name.clone(), key.into_vec()), value.into_vec());
        }
    }
    contents
}

/// Copies a directory as a crash would leave it: the files as they are, without closing anything.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// 1 → 2: adds one to every value of `bindings`, so many a batch. Done twice, it shows.
pub(super) struct AddOne(pub(super) usize);

impl Step for AddOne {
    fn info(&self) -> StepInfo {
        StepInfo {
            from: 1,
            to: 2,
            name: "add-one",
            what: "adds one to every value",
        }
    }

    fn advance(
        &self,
        db: &DB,
        cursor: Option<&[u8]>,
        batch: &mut WriteBatch,
    ) -> Result<Advance, StepError> {
        let bindings = db
            .cf_handle("bindings")
            .ok_or(StepError::MissingFamily { family: "bindings" })?;
        for_each_part(db, "bindings", cursor, self.0, |key, value| {
            let value: [u8; 4] = value.try_into().map_err(|_| StepError::Malformed {
                family: "bindings",
                key: key.to_vec(),
                why: "a value has four bytes".to_owned(),
            })?;
            let value = u32::from_be_bytes(value) + 1;
            batch.put_cf(bindings, key, value.to_be_bytes());
            Ok(())
        })
    }
}

/// 2 → 3: moves every entry of `bindings` to a new family `values`, under another key.
pub(super) struct MoveFamily(pub(super) usize);

impl Step for MoveFamily {
    fn info(&self) -> StepInfo {
        StepInfo {
            from: 2,
            to: 3,
            name: "move-family",
            what: "moves every entry to another family",
        }
    }

    fn families_created(&self) -> &'static [&'static str] {
        &["values"]
    }

    fn advance(
        &self,
        db: &DB,
        cursor: Option<&[u8]>,
        batch: &mut WriteBatch,
    ) -> Result<Advance, StepError> {
        let family = |family| {
            db.cf_handle(family)
                .ok_or(StepError::MissingFamily { family })
        };
        let (bindings, values) = (family("bindings")?, family("values")?);
        for_each_part(db, "bindings", cursor, self.0, |key, value| {
            batch.put_cf(values, [b"v/", key].concat(), value);
            batch.delete_cf(bindings, key);
            Ok(())
        })
    }
}

/// Calls `each` for up to `count` entries behind `cursor`.
fn for_each_part(
    db: &DB,
    family: &'static str,
    cursor: Option<&[u8]>,
    count: usize,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StepError>,
) -> Result<Advance, StepError> {
    let handle = db
        .cf_handle(family)
        .ok_or(StepError::MissingFamily { family })?;
    let from = cursor.unwrap_or_default();
    let mut last = None;
    let mut taken = 0;
    let behind = db
        .iterator_cf(handle, IteratorMode::From(from, Direction::Forward))
        .filter(|entry| !matches!(entry, Ok((key, _)) if Some(&**key) == cursor));
    for entry in behind.take(count) {
        let (key, value) = entry?;
        each(&key, &value)?;
        last = Some(key.into_vec());
        taken += 1;
    }
    Ok(match last {
        Some(cursor) if taken == count => Advance::Continue { cursor },
        _ => Advance::Finished,
    })
}
