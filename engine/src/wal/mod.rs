//! What an unclean stop left of RocksDB's write-ahead log: read before RocksDB opens the store, and never while it is
//! open. And its length, which is kept [ahead](Ahead) of what is written.
//!
//! A write that was under way when the power went is torn: it was not acknowledged and must go, or RocksDB refuses to
//! open. A record that was synced and is now unreadable is damage: RocksDB may open without it, and must not. RocksDB
//! cannot tell one from the other; the writer's discipline lets us:
//!
//! - one write is one log record, which is synced before the next is begun, and
//! - a synced marker follows the last write soon.
//!
//! So whatever has the beginning of another record behind it had been synced. What has nothing behind it, or only
//! pieces, zeros and garbage, is the write that was under way. An older file was synced before the next was created.
//!
//! Two things are beyond this: damage to the very last record before its marker was written, which looks like a torn
//! write, and padding, where there is nothing to lose.

mod ahead;
mod cut;
mod fragment;
mod loss;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use ahead::Ahead;
pub(crate) use cut::cut;
pub(crate) use loss::beyond_damage;

use scan::{End, Scan};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the write-ahead log is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WalVerdict {
    /// Every record is complete. Zeros may follow the last one of a file, where space was allocated ahead.
    Whole(WalSummary),
    /// A write at the very end was never completed, and so never acknowledged. [`cut()`] makes the log whole.
    Torn {
        /// The newest file.
        file: PathBuf,
        /// Where its last complete record ends, in bytes.
        keep_bytes: u64,
    },
    /// Something that had been synced cannot be read. Opening the store would lose acknowledged writes.
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where the unreadable stretch begins, in bytes.
        offset: u64,
        /// What is wrong there and how it is known to have been synced.
        detail: String,
    },
}

/// How much log there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WalSummary {
    /// Files.
    pub(crate) files: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Records, each one write.
    pub(crate) records: u64,
}

/// Reads all write-ahead log files (`NUMBER.log`) in `dir`, oldest first, and changes nothing.
///
/// # Errors
/// If a file cannot be read; the message names it.
pub(crate) fn check(dir: &Path) -> io::Result<WalVerdict> {
    let files = log_files(dir)?;
    let mut summary = WalSummary::default();
    let mut next_sequence = 0;
    let mut zeros: Option<Zeros> = None;
    for (i, file) in files.iter().enumerate() {
        let scan = Scan::of_file(file, next_sequence).map_err(|error| in_file(file, &error))?;
        if let Some(verdict) = zeros.as_ref().and_then(|zeros| zeros.lost_records(&scan)) {
            return Ok(verdict);
        }
        if scan.first_sequence.is_some() {
            zeros = None;
        }
        match scan.end {
            End::Complete => {}
            End::Zeros { at } => {
                let (file, next_sequence) = (file.clone(), scan.next_sequence);
                zeros.get_or_insert(Zeros {
                    file,
                    at,
                    next_sequence,
                });
            }
            End::Broken { what, .. } if i + 1 == files.len() => {
                tracing::debug!(file = %file.display(), what, "the last write is torn");
                return Ok(WalVerdict::Torn {
                    file: file.clone(),
                    keep_bytes: scan.keep_bytes,
                });
            }
            End::Broken { at, what } => {
                let next = files[i + 1].file_name().unwrap_or_default().display();
                return Ok(damaged(
                    file,
                    at,
                    format!("{what}, and {next} was begun after it was synced"),
                ));
            }
            End::Damaged { at, what, later } => {
                return Ok(damaged(
                    file,
                    at,
                    format!("{what}, and a later record follows at byte {later}"),
                ));
            }
        }
        next_sequence = scan.next_sequence;
        summary.files += 1;
        summary.bytes += scan.bytes;
        summary.records += scan.records;
    }
    Ok(WalVerdict::Whole(summary))
}

/// The end of a file that was perhaps records once: the sequence numbers after it tell.
struct Zeros {
    file: PathBuf,
    at: u64,
    next_sequence: u64,
}

impl Zeros {
    fn lost_records(&self, after: &Scan) -> Option<WalVerdict> {
        let (expected, first) = (self.next_sequence, after.first_sequence?);
        let detail = || {
            format!(
                "zeros, and the next file goes on with sequence {first} where {expected} was next"
            )
        };
        (expected != 0 && first > expected).then(|| damaged(&self.file, self.at, detail()))
    }
}

fn damaged(file: &Path, offset: u64, detail: String) -> WalVerdict {
    WalVerdict::Damaged {
        file: file.to_owned(),
        offset,
        detail,
    }
}

fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| in_file(dir, &error))? {
        let path = entry?.path();
        if let Some(number) = log_number(&path) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn log_number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".log")?;
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

fn in_file(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}
