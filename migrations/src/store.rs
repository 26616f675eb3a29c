//! The data directory: its lock, its database, the two records in `meta`, and the checkpoint.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, DB, DBRecoveryMode, Options, WriteBatch, WriteOptions};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::MigrateError;

const DATABASE: &str = "db";
const LOCK: &str = "lock";
const META: &str = "meta";
const KEY_FORMAT: &[u8] = b"format";
const KEY_MIGRATION: &[u8] = b"migration";

/// Most files that the database keeps open, so that a large store does not meet the process's limit.
const OPEN_FILES_MAX: i32 = 512;
/// Most bytes that all column families together keep in memory before they are written out.
const WRITE_BUFFERS_BYTES_MAX: usize = 64 << 20;

/// How far an interrupted step had come. Stored as the target version (four bytes, big-endian) and the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) to: u32,
    pub(crate) cursor: Vec<u8>,
}

/// An open data directory that no other process uses. The lock goes last, after the database is closed.
pub(crate) struct Store {
    database: DB,
    data: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens for work.
    pub(crate) fn open(data: &Path) -> Result<Self, MigrateError> {
        Self::open_as(data, |options, path, families| {
            DB::open_cf_with_opts(
                options,
                path,
                families.iter().map(|name| (name, family_options())),
            )
        })
    }

    /// Opens to look only: nothing in the database changes.
    pub(crate) fn open_read_only(data: &Path) -> Result<Self, MigrateError> {
        Self::open_as(data, |options, path, families| {
            DB::open_cf_for_read_only(options, path, families, false)
        })
    }

    fn open_as(
        data: &Path,
        open: impl FnOnce(&Options, &Path, &[String]) -> Result<DB, rocksdb::Error>,
    ) -> Result<Self, MigrateError> {
        let path = data.join(DATABASE);
        let current = path.join("CURRENT");
        if !current.try_exists().map_err(io_error(&current))? {
            return Err(not_a_store(data, "there is no database in it"));
        }
        let lock = lock(data)?;
        let options = database_options();
        let families = DB::list_cf(&options, &path).map_err(storage("list its families"))?;
        if !families.iter().any(|name| name == META) {
            return Err(not_a_store(data, "its database has no family named meta"));
        }
        let database = open(&options, &path, &families).map_err(storage("open the database"))?;
        Ok(Self {
            database,
            data: data.to_path_buf(),
            _lock: lock,
        })
    }

    pub(crate) fn database(&self) -> &DB {
        &self.database
    }

    fn meta(&self) -> Result<&ColumnFamily, MigrateError> {
        self.database
            .cf_handle(META)
            .ok_or_else(|| not_a_store(&self.data, "its database has no family named meta"))
    }

    /// The format version.
    pub(crate) fn version(&self) -> Result<u32, MigrateError> {
        let stored = self
            .database
            .get_cf(self.meta()?, KEY_FORMAT)
            .map_err(storage("read the format version"))?
            .ok_or_else(|| not_a_store(&self.data, "it has no format version"))?;
        match decode_version(&stored) {
            Some(version) => Ok(version),
            None => Err(not_a_store(
                &self.data,
                &format!("its format version is malformed ({stored:?})"),
            )),
        }
    }

    /// Where an interrupted step had come to, if one was.
    pub(crate) fn resume(&self) -> Result<Option<Resume>, MigrateError> {
        let stored = self
            .database
            .get_cf(self.meta()?, KEY_MIGRATION)
            .map_err(storage("read the migration record"))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        match decode_resume(&stored) {
            Some(resume) => Ok(Some(resume)),
            None => Err(MigrateError::ForeignRecord {
                why: format!("its record is malformed: {stored:?}"),
            }),
        }
    }

    /// Makes the families that are not there yet. Harmless when repeated.
    pub(crate) fn create_families(&mut self, names: &[&str]) -> Result<(), MigrateError> {
        for name in names {
            if self.database.cf_handle(name).is_none() {
                self.database
                    .create_cf(name, &family_options())
                    .map_err(storage("create a family"))?;
            }
        }
        Ok(())
    }

    /// Writes part of a step together with how far it has come. Durable when it returns.
    pub(crate) fn write_part(
        &self,
        mut batch: WriteBatch,
        resume: &Resume,
    ) -> Result<(), MigrateError> {
        batch.put_cf(self.meta()?, KEY_MIGRATION, encode_resume(resume));
        self.write(batch)
    }

    /// Writes the last part of a step together with the version that it reaches. Durable when it returns.
    pub(crate) fn write_last(&self, mut batch: WriteBatch, to: u32) -> Result<(), MigrateError> {
        batch.delete_cf(self.meta()?, KEY_MIGRATION);
        batch.put_cf(self.meta()?, KEY_FORMAT, encode_version(to));
        self.write(batch)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), MigrateError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.database
            .write_opt(batch, &options)
            .map_err(storage("write a batch"))
    }

    /// Takes a checkpoint into the first free `checkpoint-vFOUND-N` and returns its path. Durable when it returns.
    pub(crate) fn checkpoint(&self, found: u32) -> Result<PathBuf, MigrateError> {
        let path = self.free_checkpoint_path(found)?;
        Checkpoint::new(&self.database)
            .and_then(|checkpoint| checkpoint.create_checkpoint(&path))
            .map_err(storage("take a checkpoint"))?;
        File::open(&self.data)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error(&self.data))?;
        Ok(path)
    }

    fn free_checkpoint_path(&self, found: u32) -> Result<PathBuf, MigrateError> {
        let mut number = 1_u32;
        loop {
            let path = self.data.join(format!("checkpoint-v{found}-{number}"));
            if !path.try_exists().map_err(io_error(&path))? {
                return Ok(path);
            }
            number += 1;
        }
    }
}

/// Recovery as the engine has it: a torn end of the log is what a crash leaves, anything else is damage to be told.
fn database_options() -> Options {
    let mut options = Options::default();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES_MAX);
    options
}

/// No compaction here: it would rewrite files with these options instead of the engine's.
fn family_options() -> Options {
    let mut options = Options::default();
    options.set_disable_auto_compactions(true);
    options
}

fn lock(data: &Path) -> Result<File, MigrateError> {
    let path = data.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(MigrateError::Locked { path }),
        Err(error) => Err(io_error(&path)(error.into())),
    }
}

fn encode_version(version: u32) -> [u8; 4] {
    version.to_be_bytes()
}

/// Versions count from 1.
fn decode_version(bytes: &[u8]) -> Option<u32> {
    let version = u32::from_be_bytes(bytes.try_into().ok()?);
    (version > 0).then_some(version)
}

fn encode_resume(resume: &Resume) -> Vec<u8> {
    [&encode_version(resume.to), resume.cursor.as_slice()].concat()
}

fn decode_resume(bytes: &[u8]) -> Option<Resume> {
    let (to, cursor) = bytes.split_at_checked(4)?;
    Some(Resume {
        to: decode_version(to)?,
        cursor: cursor.to_vec(),
    })
}

fn not_a_store(path: &Path, why: &str) -> MigrateError {
    MigrateError::NotAStore {
        path: path.to_path_buf(),
        why: why.to_owned(),
    }
}

fn storage(what: &'static str) -> impl Fn(rocksdb::Error) -> MigrateError {
    move |source| MigrateError::Storage { what, source }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> MigrateError {
    let path = path.to_path_buf();
    move |source| MigrateError::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_bytes() {
        assert_eq!(KEY_FORMAT, b"format");
        assert_eq!(KEY_MIGRATION, b"migration");
        assert_eq!(encode_version(0x0102_0304), [1, 2, 3, 4]);
        let resume = Resume {
            to: 2,
            cursor: b"k7".to_vec(),
        };
        assert_eq!(encode_resume(&resume), [0, 0, 0, 2, b'k', b'7']);
        assert_eq!(decode_resume(&[0, 0, 0, 2, b'k', b'7']), Some(resume));
    }

    #[test]
    fn malformed_records_are_none() {
        assert_eq!(decode_version(&[]), None);
        assert_eq!(decode_version(&[0, 0, 1]), None);
        assert_eq!(decode_version(&[0, 0, 0, 1, 0]), None);
        assert_eq!(decode_version(&[0, 0, 0, 0]), None);
        assert_eq!(decode_resume(&[0, 0, 2]), None);
        assert_eq!(decode_resume(&[0, 0, 0, 0, 1]), None);
    }
}
