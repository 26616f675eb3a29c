//! The free-space reserve: appends are refused while the file system has less than that left.
//!
//! ENOSPC in the middle of a flush would stop the store. The reserve keeps room for what memory still has to flush, for
//! trims, and for control.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is taken for granted that there is room.
const ADMIT_FOR: Duration = Duration::from_millis(2);

/// Watches the file system that holds the store.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    path: PathBuf,
    reserve: u64,
    /// When there was room last.
    roomy: Arc<Mutex<Option<Instant>>>,
}

/// There is less space than the reserve: appends and creations are to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes free.
    pub free: u64,
    /// Bytes that are kept free.
    pub reserve: u64,
}

impl Space {
    pub(crate) fn new(path: PathBuf, reserve: u64) -> Space {
        Space {
            path,
            reserve,
            roomy: Arc::default(),
        }
    }

    /// As [`Space::check`], without asking the system each time while there is room.
    pub(crate) fn admit(&self) -> Result<(), Shortage> {
        let mut roomy = self.roomy.lock().unwrap_or_else(PoisonError::into_inner);
        if roomy.is_some_and(|since| since.elapsed() < ADMIT_FOR) {
            return Ok(());
        }
        *roomy = None;
        self.check()?;
        *roomy = Some(Instant::now());
        Ok(())
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
