//! The free-space reserve: appends are refused while the file system has less than that left.
//!
//! ENOSPC in the middle of a flush would stop the store. The reserve keeps room for what memory still has to flush, for
//! trims, and for control.

use std::path::PathBuf;

/// Watches the file system that holds the store.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    path: PathBuf,
    reserve: u64,
}

/// There is less space than the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) free: u64,
    pub(crate) reserve: u64,
}

impl Space {
    pub(crate) fn new(path: PathBuf, reserve: u64) -> Space {
        Space { path, reserve }
    }

    /// Bytes that the store may still use. `None` where the system does not tell.
    pub(crate) fn free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether bulk may be written.
    pub(crate) fn check(&self) -> Result<(), Shortage> {
        self.check_for(0)
    }

    /// Whether `bytes` more leave the reserve free.
    pub(crate) fn check_for(&self, bytes: u64) -> Result<(), Shortage> {
        let reserve = self.reserve.saturating_add(bytes);
        match self.free() {
            Some(free) if free < reserve => Err(Shortage { free, reserve }),
            _ => Ok(()),
        }
    }
}
