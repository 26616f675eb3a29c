//! What the tour publishes: a file's lines, or made-up commits.

use std::io::Read;
use std::path::Path;

use serde_json::json;

use crate::error::Failure;
use crate::payload::Sequence;
use crate::time::rfc3339;
use crate::values;

/// Records made up where no file is given.
const RECORDS: usize = 20_000;
/// Most of a file that the tour takes, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Lines, each with its end.
pub(super) fn input(file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let Some(path) = file else {
        return Ok(generate());
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

/// Metadata of commits as a repository would give it: lines of about 150 bytes to some KiB, times that sometimes step
/// back. The same in every run.
fn generate() -> Vec<u8> {
    const FOLDERS: [&str; 6] = ["engine", "net", "cli", "docs", "tests", "benches"];
    let mut sequence = Sequence::new(24_285);
    let mut time_ms = 1_577_836_800_000;
    let mut lines = Vec::new();
    for _ in 0..RECORDS {
        time_ms = time_ms + sequence.below(7_200_000) - sequence.below(60_000);
        // Most commits touch a few files, some touch very many.
        let width = sequence.below(7);
        let files = 1 + sequence.below(1 << width);
        let paths: Vec<String> = (0..files)
            .map(|_| {
                let folder = FOLDERS[sequence.below(FOLDERS.len() as u64) as usize];
                format!("{folder}/src/part_{}.rs", sequence.below(400))
            })
            .collect();
        let commit = json!({
            "time": rfc3339(time_ms),
            "id": format!("{:016x}{:016x}", sequence.next(), sequence.next()),
            "author": format!("{:08x}", sequence.below(300)),
            "added": sequence.below(900),
            "deleted": sequence.below(400),
            "paths": paths,
        });
        lines.extend_from_slice(commit.to_string().as_bytes());
        lines.push(b'\n');
    }
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_commits_are_the_same_in_every_run_and_look_real() {
        let lines = generate();
        assert_eq!(lines, generate());
        assert_eq!(count(&lines), RECORDS);
        let lengths = lines.split(|byte| *byte == b'\n').map(<[u8]>::len);
        assert!(lengths.clone().max().unwrap() > 1000);
        assert!(
            serde_json::from_slice::<serde_json::Value>(
                lines.split(|b| *b == b'\n').next().unwrap()
            )
            .is_ok()
        );
    }

    #[test]
    fn lines_are_counted_from_zero() {
        assert_eq!(from_line(b"a\nb\nc\n", 0), b"a\nb\nc\n");
        assert_eq!(from_line(b"a\nb\nc\n", 2), b"c\n");
        assert_eq!(from_line(b"a\nb\nc\n", 9), b"");
    }
}
