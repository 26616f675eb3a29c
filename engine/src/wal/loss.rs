use super::scan::Scan;
use super::{in_file, log_files};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What has to go so that the log is whole again, the newest file first: each file, and how many of its bytes stay.
///
/// `damaged` is the file that [`check`](super::check) found damaged; every file after it goes whole.
///
/// # Errors
/// If a file cannot be read; the message names it.
pub(crate) fn beyond_damage(dir: &Path, damaged: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut cuts = Vec::new();
    for file in log_files(dir)?.into_iter().rev() {
        if file == damaged {
            let scan = Scan::of_file(&file, 0).map_err(|error| in_file(&file, &error))?;
            cuts.push((file, scan.keep_bytes));
            return Ok(cuts);
        }
        if fs::metadata(&file)
            .map_err(|error| in_file(&file, &error))?
            .len()
            > 0
        {
            cuts.push((file, 0));
        }
    }
    Ok(cuts)
}
