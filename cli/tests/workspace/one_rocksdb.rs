//! That every command of the Makefile uses the same RocksDB, so that it is compiled once a profile.

use std::collections::{BTreeMap, BTreeSet};

use crate::cargo;

/// What `make test`, `make demo` and `make bench` select. Cargo compiles a crate again for every other set of features in
/// what it depends on, and RocksDB takes ten minutes.
const SELECTIONS: &[&[&str]] = &[
    &["--workspace"],
    &["--package", "meshctl", "--edges", "no-dev"],
    &["--package", "mesh-benches"],
    &["--package", "mesh-benches", "--edges", "no-dev"],
];

#[test]
fn every_command_shares_one_rocksdb() {
    let whole = rocksdb_features(SELECTIONS[0]);
    assert!(whole.iter().any(|package| package.starts_with("bindgen ")));
    for selection in SELECTIONS {
        let selected = rocksdb_features(selection);
        let different: Vec<_> = whole.symmetric_difference(&selected).collect();
        // A selection that does not use RocksDB builds none.
        assert!(
            selected.is_empty() || different.is_empty(),
            "{selection:?} compiles a RocksDB of its own, because these are not in both: {different:?}"
        );
    }
}

/// RocksDB's bindings and all that they are built with, each with its features.
fn rocksdb_features(selection: &[&str]) -> BTreeSet<String> {
    let arguments = ["tree", "--prefix", "depth", "--format", " {p} [{f}]"];
    let tree = cargo(&[&arguments[..], selection].concat());
    closure_of(&tree, "librocksdb-sys ")
}

/// The lines reachable from those that begin with `start`, in `cargo tree --prefix depth`, which shows what lies under a
/// package only the first time.
fn closure_of(tree: &str, start: &str) -> BTreeSet<String> {
    let mut children: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut above: Vec<&str> = Vec::new();
    for line in tree.lines() {
        let Some((depth, package)) = line.split_once(' ') else {
            continue;
        };
        let Ok(depth) = depth.parse::<usize>() else {
            continue;
        };
        let package = package.trim_end_matches(" (*)");
        above.truncate(depth);
        if let Some(parent) = above.last() {
            children.entry(parent).or_default().insert(package);
        }
        children.entry(package).or_default();
        above.push(package);
    }
    let mut waiting: Vec<&str> = children
        .keys()
        .filter(|package| package.starts_with(start))
        .copied()
        .collect();
    let mut reached = BTreeSet::new();
    while let Some(package) = waiting.pop() {
        if reached.insert(package.to_owned()) {
            waiting.extend(&children[package]);
        }
    }
    reached
}

mod the_checks_themselves {
    use super::*;

    #[test]
    fn follow_a_tree_through_what_it_shows_once() {
        let tree = "0 app v1 []\n1 regex v1 [std]\n2 memchr v2 [std]\n1 librocksdb-sys v0 [lz4]\n\
                    2 bindgen v0 []\n3 regex v1 [std] (*)\n1 serde v1 [derive]\n";
        let reached = closure_of(tree, "librocksdb-sys ");
        let reached: Vec<_> = reached.iter().map(String::as_str).collect();
        assert_eq!(
            reached,
            [
                "bindgen v0 []",
                "librocksdb-sys v0 [lz4]",
                "memchr v2 [std]",
                "regex v1 [std]"
            ]
        );
    }
}
