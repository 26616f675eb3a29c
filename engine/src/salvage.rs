//! Accepting the loss that a damaged write-ahead log means, when nothing better is left.
//!
//! A store that lost acknowledged writes is not what it says: its replicas must not vote by what they hold. A note beside
//! the database says so from before the first cut until every partition is durably marked suspect, and with them what else
//! is built on the store.

use std::fs::{self, File};
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
    let path = database_path(data);
    if !path.join("CURRENT").exists() {
        return Err(OpenError::Missing(data.to_owned()));
    }
    let _lock = DirectoryLock::take(data)?;
    salvage_locked(data, &path, accept_loss)
}

/// As [`salvage`], of a store that is locked.
pub(crate) fn salvage_locked(
    data: &Path,
    path: &Path,
    accept_loss: bool,
) -> Result<SalvageReport, OpenError> {
    let io_error = |error: io::Error| OpenError::Io {
        data: data.to_owned(),
        detail: error.to_string(),
    };
    let verdict = wal::check(path).map_err(io_error)?;
    let WalVerdict::Damaged {
        file,
        offset,
        detail,
    } = verdict
    else {
        if accept_loss {
            // An earlier salvage may have cut and then died; settling twice does no harm.
            settle_wal(data, path)?;
            settle(path).map_err(io_error)?;
        }
        return Ok(SalvageReport::default());
    };
    let cuts = wal::beyond_damage(path, &file).map_err(io_error)?;
    let mut report = SalvageReport {
        damaged: Some(file.clone()),
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
        let note = format!(
            "{} was damaged at byte {offset} ({detail}); {} bytes that had been acknowledged were put aside",
            file.display(),
            report.lost_bytes
        );
        write_note(data, &note).map_err(io_error)?;
        // The newest first: a crash in between leaves damage that the next salvage finds again.
        for (file, keep_bytes) in &cuts {
            report
                .kept
                .push(wal::cut(file, *keep_bytes).map_err(io_error)?);
        }
        settle(path).map_err(io_error)?;
    }
    Ok(report)
}

fn settle(path: &Path) -> io::Result<()> {
    Store::settle_shortened_log(path).map_err(|error| io::Error::other(error.to_string()))
}

fn note_path(data: &Path) -> PathBuf {
    data.join("suspect")
}

fn write_note(data: &Path, note: &str) -> io::Result<()> {
    let scratch = data.join("suspect.new");
    fs::write(&scratch, note)?;
    File::open(&scratch)?.sync_all()?;
    fs::rename(&scratch, note_path(data))?;
    File::open(data)?.sync_all()
}

/// What a salvage noted, until whoever drives the store has noted it as well.
pub(crate) fn read_note(data: &Path) -> io::Result<Option<String>> {
    match fs::read(note_path(data)) {
        Ok(note) => Ok(Some(String::from_utf8_lossy(&note).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// To be called with the directory of a store that was opened with [`crate::Engine::found_damage`], once whoever drives it
/// has durably noted the damage for what it keeps in rows. Until then every opening finds the damage anew.
///
/// # Errors
/// What the file system says.
pub fn damage_is_noted(data: &Path) -> Result<(), OpenError> {
    let removed = match fs::remove_file(note_path(data)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::open(data).and_then(|data| data.sync_all()),
    };
    removed.map_err(|error| OpenError::Io {
        data: data.to_owned(),
        detail: error.to_string(),
    })
}
