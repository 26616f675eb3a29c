//! One process at a time: an exclusive lock on a file beside the database, taken before anything is looked at.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::OpenError;

/// Held for as long as the store is open; the system releases it with the process.
#[derive(Debug)]
pub(crate) struct DirectoryLock(
    #[expect(dead_code, reason = "the lock lives as long as the file is open")] File,
);

impl DirectoryLock {
    pub(crate) fn take(data: &Path) -> Result<DirectoryLock, OpenError> {
        let refuse = |detail: String| OpenError::Io {
            data: data.to_owned(),
            detail,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(data.join("lock"))
            .map_err(|error| refuse(error.to_string()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirectoryLock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(data.to_owned())),
            Err(error) => Err(refuse(error.to_string())),
        }
    }
}
