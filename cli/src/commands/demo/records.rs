//! What the tour publishes: a file's lines, or a sample of real events.

use std::io::Read;
use std::path::Path;

use crate::error::Failure;
use crate::values;

/// Metadata of 1,000 commits of a large public repository (rust-analyzer): author time, id, a hashed author, lines added and
/// deleted, paths. The lines are of many lengths, and the times step back now and then.
const SAMPLE: &[u8] = include_bytes!("commits.ndjson");
/// Most of a file that the tour takes, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Lines, each with its end.
pub(super) fn input(file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let Some(path) = file else {
        return Ok(SAMPLE.to_vec());
    };
    let mut input = Vec::new();
    values::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut input)
        .map_err(|e| Failure::file("read", path, &e))?;
    if input.is_empty() || input.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{} must have 1 to {FILE_BYTES_MAX} bytes for the tour",
            path.display()
        )));
    }
    if input.last() != Some(&b'\n') {
        input.push(b'\n');
    }
    Ok(input)
}

/// How many lines there are.
pub(super) fn count(input: &[u8]) -> usize {
    input.iter().filter(|byte| **byte == b'\n').count()
}

/// The input from this line on, counted from 0.
pub(super) fn from_line(input: &[u8], line: usize) -> &[u8] {
    let mut rest = input;
    for _ in 0..line {
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => rest = &rest[end + 1..],
            None => return &[],
        }
    }
    rest
}

/// Some bytes of the longest line, by which it is found on a disk.
pub(super) fn trace(input: &[u8]) -> &[u8] {
    const BYTES: usize = 64;
    let lines = input.split(|byte| *byte == b'\n');
    let longest = lines.max_by_key(|line| line.len()).unwrap_or_default();
    &longest[..longest.len().min(BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_whole_lines_of_json() {
        assert_eq!(SAMPLE.last(), Some(&b'\n'));
        let mut lines = 0;
        for line in SAMPLE
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            serde_json::from_slice::<serde_json::Value>(line).unwrap();
            lines += 1;
        }
        assert_eq!(lines, count(SAMPLE));
    }

    #[test]
    fn lines_are_counted_from_zero() {
        assert_eq!(from_line(b"a\nb\nc\n", 0), b"a\nb\nc\n");
        assert_eq!(from_line(b"a\nb\nc\n", 2), b"c\n");
        assert_eq!(from_line(b"a\nb\nc\n", 9), b"");
    }

    #[test]
    fn the_longest_line_leaves_a_trace() {
        assert_eq!(trace(b"a\nbcd\n\ne\n"), b"bcd");
        assert_eq!(trace(b"\n"), b"");
        assert_eq!(trace(&[b'x'; 100]), [b'x'; 64]);
    }
}
