//! The floor plan and the style, kept by a test: who may import whom, what the pure crate may not touch, how long a
//! file may be, where tasks start, and that RocksDB is compiled once a profile.

#![allow(clippy::unwrap_used)]

mod imports;
mod one_rocksdb;
mod paths;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 700;
const NAMES_THAT_SAY_NOTHING: &[&str] = &["utils", "util", "common", "helpers", "manager", "types"];

#[test]
fn files_are_short_and_say_what_they_hold() {
    let mut found = Vec::new();
    for file in rust_files("") {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines", shown(&file)));
        }
        let name = file.file_stem().unwrap().to_string_lossy();
        if NAMES_THAT_SAY_NOTHING.contains(&&*name) {
            found.push(format!("{}: a name that says nothing", shown(&file)));
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root())
        .unwrap_or(file)
        .display()
        .to_string()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--offline")
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Every Rust file under `folder` of each crate, or of the one crate that `folder` names.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = if folder.is_empty() {
        ["ring", "engine", "net", "cli", "migrations", "benches"]
            .map(|name| root().join(name))
            .to_vec()
    } else {
        vec![root().join(folder)]
    };
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
