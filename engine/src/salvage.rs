//! Accepting the loss that a damaged write-ahead log means, when nothing better is left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::lock::DirectoryLock;
use crate::open::{database_path, settle_wal};
use crate::store::Store;
use crate::wal::{self, WalVerdict};

/// What a salvage did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SalvageReport {
    /// The damaged file, if there is damage.
    pub damaged: Option<PathBuf>,
    /// Where the damage begins in it, in bytes.
    pub offset: u64,
    /// Bytes of the log from there on: acknowledged records that are lost, at most.
    pub lost_bytes: u64,
    /// Where those bytes were put aside; empty while nothing was changed.
    pub kept: Vec<PathBuf>,
}

/// Looks at the write-ahead log of a closed store; with `accept_loss`, cuts it at the first damage, so that the store
/// opens again without what was acknowledged after that point. What is cut off is kept in files beside it.
///
/// # Errors
/// As for opening: missing, locked, or what the file system says.
pub fn salvage(data: &Path, accept_loss: bool) -> Result<SalvageReport, OpenError> {
    let io_error = |error: io::Error| OpenError::Io {
        data: data.to_owned(),
        detail: error.to_string(),
    };
    let path = database_path(data);
    if !path.join("CURRENT").exists() {
        return Err(OpenError::Missing(data.to_owned()));
    }
    let _lock = DirectoryLock::take(data)?;
    let WalVerdict::Damaged { file, offset, .. } = wal::check(&path).map_err(io_error)? else {
        if accept_loss {
            // An earlier salvage may have cut and then died; settling twice does no harm.
            settle_wal(data, &path)?;
            settle(&path).map_err(io_error)?;
        }
        return Ok(SalvageReport::default());
    };
    let cuts = wal::beyond_damage(&path, &file).map_err(io_error)?;
    let mut report = SalvageReport {
        damaged: Some(file),
        offset,
        ..SalvageReport::default()
    };
    for (file, keep_bytes) in &cuts {
        report.lost_bytes += fs::metadata(file)
            .map_err(io_error)?
            .len()
            .saturating_sub(*keep_bytes);
    }
    if accept_loss {
        // The newest first: a crash in between leaves damage that the next salvage finds again.
        for (file, keep_bytes) in &cuts {
            report
                .kept
                .push(wal::cut(file, *keep_bytes).map_err(io_error)?);
        }
        settle(&path).map_err(io_error)?;
    }
    Ok(report)
}

fn settle(path: &Path) -> io::Result<()> {
    Store::settle_shortened_log(path).map_err(|error| io::Error::other(error.to_string()))
}
