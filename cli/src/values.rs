//! Values that come from the command line, from a file or from stdin.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use bytes::Bytes;

use crate::error::Failure;

/// The bytes of an argument, as the shell passed them.
pub(crate) fn argument(argument: &OsStr) -> Bytes {
    Bytes::copy_from_slice(argument.as_bytes())
}

/// Reads `-` from stdin and `@FILE` from a file; anything else is the value itself. `bytes_max` bounds what is read.
pub(crate) fn value(argument: OsString, bytes_max: usize) -> Result<Bytes, Failure> {
    if argument == "-" {
        return bounded(io::stdin().lock(), bytes_max)
            .map_err(|e| Failure::failed(format!("cannot read stdin: {e}")))?
            .ok_or_else(|| too_large("stdin", bytes_max));
    }
    if let Some(path) = argument.as_bytes().strip_prefix(b"@") {
        let path = Path::new(OsStr::from_bytes(path));
        let file = open(path)?;
        return bounded(file, bytes_max)
            .map_err(|e| Failure::file("read", path, &e))?
            .ok_or_else(|| too_large(&path.display().to_string(), bytes_max));
    }
    Ok(argument.into_vec().into())
}

/// Opens a file that the user named; a name that leads nowhere is a mistake in the command.
pub(crate) fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::usage(format!("no file {}", path.display())),
        _ => Failure::file("open", path, &e),
    })
}

fn bounded(reader: impl Read, bytes_max: usize) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    reader.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then(|| bytes.into()))
}

fn too_large(source: &str, bytes_max: usize) -> Failure {
    Failure::usage(format!(
        "the value in {source} is over the limit of {bytes_max} bytes: store it elsewhere and keep a reference here"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(
            bounded(&b"abcd"[..], 4).unwrap(),
            Some(Bytes::from_static(b"abcd"))
        );
        assert_eq!(bounded(&b"abcde"[..], 4).unwrap(), None);
        assert_eq!(bounded(io::repeat(7), 1000).unwrap(), None);
    }
}
