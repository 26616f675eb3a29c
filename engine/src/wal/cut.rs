use super::in_file;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Takes away what lies beyond `keep_bytes` of a torn log file, after copying it to `NAME.torn-N` beside it, which is
/// returned and which RocksDB does not look at.
///
/// When this returns both are durable. If it does not, by error or crash, the file is as it was, or cut with the copy
/// complete.
///
/// # Errors
/// If there is nothing beyond `keep_bytes`, or the disk refuses; the message names the file.
pub(crate) fn cut(file: &Path, keep_bytes: u64) -> io::Result<PathBuf> {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut log = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .map_err(|error| in_file(file, &error))?;
    if keep_bytes >= log.metadata()?.len() {
        return Err(in_file(
            file,
            &io::Error::new(io::ErrorKind::InvalidInput, "nothing to cut"),
        ));
    }
    let (mut copy, copy_path) = create_copy(file)?;
    let copied = log
        .seek(SeekFrom::Start(keep_bytes))
        .and_then(|_| io::copy(&mut log, &mut copy))
        .and_then(|_| copy.sync_all())
        .and_then(|()| sync_directory(directory));
    if let Err(error) = copied {
        let _ = fs::remove_file(&copy_path);
        return Err(in_file(&copy_path, &error));
    }
    log.set_len(keep_bytes)
        .and_then(|()| log.sync_all())
        .and_then(|()| sync_directory(directory))
        .map_err(|error| in_file(file, &error))?;
    Ok(copy_path)
}

fn create_copy(file: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = 1u64;
    loop {
        let mut name = OsString::from(file);
        name.push(format!(".torn-{number}"));
        match File::create_new(&name) {
            Ok(copy) => return Ok((copy, name.into())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(in_file(Path::new(&name), &error)),
        }
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
