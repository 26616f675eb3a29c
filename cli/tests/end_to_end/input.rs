//! Real records: the lines of commits.ndjson where it is there, made-up ones of the same shape otherwise.

use std::fs;
use std::path::PathBuf;

/// Lines, each with its end.
pub(crate) fn commits() -> Vec<u8> {
    let folder = std::env::var_os("MESHLOG_DATA").map(PathBuf::from);
    let folder = folder
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    match fs::read(folder.join("commits.ndjson")) {
        Ok(lines) => lines,
        Err(_) => made_up(),
    }
}

/// Lines of about 100 bytes to 69 KB.
fn made_up() -> Vec<u8> {
    let mut lines = Vec::new();
    for number in 0_u64..24_285 {
        let files = 1 + number * number % 37 + if number % 5_000 == 0 { 1_500 } else { 0 };
        let paths: Vec<String> = (0..files)
            .map(|file| format!("\"crates/part-{}/src/file_{file}.rs\"", number % 40))
            .collect();
        let line = format!(
            "{{\"time\":{},\"id\":\"{:040x}\",\"author\":\"{:08x}\",\"paths\":[{}]}}\n",
            1_500_000_000 + number * 3_600,
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            number % 300,
            paths.join(",")
        );
        lines.extend_from_slice(line.as_bytes());
    }
    lines
}

/// The lines from this one on, counted from 0.
pub(crate) fn from_line(input: &[u8], line: usize) -> Vec<u8> {
    let lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
    lines[line..].concat()
}

pub(crate) fn count(input: &[u8]) -> usize {
    input.iter().filter(|byte| **byte == b'\n').count()
}
