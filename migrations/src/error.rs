//! What can go wrong, each with what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

/// Why a directory could not be planned for or migrated.
///
/// After any of them the directory is as the last whole batch left it, and `migrate` may be called again.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// There is no Meshlog store there, or its version cannot be read. Nothing was written.
    #[error("{} is not a Meshlog data directory: {why}", path.display())]
    NotAStore {
        /// The data directory.
        path: PathBuf,
        /// What is missing or malformed.
        why: String,
    },
    /// Another process has the directory open. Stop it and try again.
    #[error("{} is in use by another process; stop that node first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory was written by a newer Meshlog. Use that one. Nothing was written.
    #[error(
        "the data has format version {found}, newer than {current}, the newest that this meshctl knows; use a newer meshctl"
    )]
    Newer {
        /// The directory's version.
        found: u32,
        /// This build's version.
        current: u32,
    },
    /// No chain of steps leads from the directory's version to the current one. Nothing was written.
    #[error("no steps lead from format version {found} to {current}")]
    NoPath {
        /// The directory's version.
        found: u32,
        /// The version that was asked for.
        current: u32,
    },
    /// An interrupted step has left a record that this build cannot go on from. Use the meshctl that began the
    /// migration, or go back to the checkpoint.
    #[error(
        "an interrupted migration cannot go on with this meshctl ({why}); use the one that began it, or restore the checkpoint"
    )]
    ForeignRecord {
        /// What the record says, and what was expected.
        why: String,
    },
    /// A step met data that it cannot carry over.
    #[error("step {name} to format version {to} stopped: {source}")]
    Step {
        /// The step's target version.
        to: u32,
        /// The step's name.
        name: &'static str,
        /// What it met.
        source: StepError,
    },
    /// RocksDB refused. A failed write may or may not be there after a restart; either is a whole batch.
    #[error("RocksDB could not {what}: {source}")]
    Storage {
        /// What was being done.
        what: &'static str,
        /// RocksDB's own words.
        source: rocksdb::Error,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

/// Why a step cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// RocksDB could not read.
    #[error(transparent)]
    Storage(#[from] rocksdb::Error),
    /// A column family that the older format has is not there.
    #[error("the column family {family} is missing")]
    MissingFamily {
        /// Its name.
        family: &'static str,
    },
    /// A stored value or key does not follow the older format.
    #[error("malformed entry in {family}, key {}: {why}", hex(key))]
    Malformed {
        /// The column family.
        family: &'static str,
        /// The key, as stored.
        key: Vec<u8>,
        /// What is wrong with it.
        why: String,
    },
    /// The step returned a cursor that is not behind the one it was given, and would never end. A bug in the step.
    #[error("the step does not advance (cursor {})", hex(cursor))]
    Stalled {
        /// The cursor that came back.
        cursor: Vec<u8>,
    },
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
