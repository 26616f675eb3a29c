//! What the source may not name: impurity in ring, queues without a limit, tasks outside the module that owns them.

use std::fs;
use std::path::Path;

use crate::paths::paths_named;
use crate::{root, rust_files, shown};

/// Paths that the pure crate may not name: clock, I/O, randomness (a hash map's order is random too).
const IMPURE: &[&str] = &[
    "std::time",
    "std::fs",
    "std::net",
    "std::io",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
    "tokio",
    "rocksdb",
    "quinn",
    "rand",
];

/// What foca asks of its random numbers: a trait for a generator whose seed is an input.
const SEEDED: (&str, &str) = ("ring/src/swim", "rand::TryRng");

/// Paths that make a queue without a limit.
const UNBOUNDED: &[&str] = &[
    "std::sync::mpsc::channel",
    "tokio::sync::mpsc::unbounded_channel",
    "tokio::sync::mpsc::UnboundedSender",
    "tokio::sync::mpsc::UnboundedReceiver",
    "mpsc::unbounded_channel",
    "crossbeam_channel::unbounded",
    "flume::unbounded",
    "async_channel::unbounded",
];

/// Paths that start a task; in `net` only [`TASK_FILES`] may name them.
const SPAWN: &[&str] = &["tokio::spawn", "tokio::task::spawn", "task::spawn"];
const TASK_FILES: &[&str] = &["net/src/tasks.rs", "net/src/node/tasks.rs"];

#[test]
fn ring_is_pure() {
    let mut found = Vec::new();
    for file in rust_files("ring/src") {
        let (folder, seeded) = SEEDED;
        let mut named = forbidden_in(&fs::read_to_string(&file).unwrap(), IMPURE);
        if file.starts_with(root().join(folder)) {
            named.retain(|path| path != seeded);
        }
        found.extend(
            named
                .iter()
                .map(|path| format!("{} names {path}", shown(&file))),
        );
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_queue_has_a_limit() {
    let mut found = Vec::new();
    for file in rust_files("") {
        found.extend(naming(&file, UNBOUNDED));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn tasks_of_the_node_start_in_one_module() {
    let mut found = Vec::new();
    let mut homes = 0;
    for file in rust_files("net/src") {
        if TASK_FILES.iter().any(|home| root().join(home) == file) {
            homes += 1;
        } else {
            found.extend(naming(&file, SPAWN));
        }
    }
    assert_eq!(found, Vec::<String>::new());
    assert!(homes <= 1, "two modules start tasks: {TASK_FILES:?}");
}

/// Where `file` names one of the forbidden paths or something inside one.
fn naming(file: &Path, forbidden: &[&str]) -> Vec<String> {
    forbidden_in(&fs::read_to_string(file).unwrap(), forbidden)
        .iter()
        .map(|path| format!("{} names {path}", shown(file)))
        .collect()
}

fn forbidden_in(source: &str, forbidden: &[&str]) -> Vec<String> {
    let mut paths = paths_named(source);
    // The module has the same name in std, whose `channel` has no limit, and in tokio, whose `channel` has one.
    if paths.contains("std::sync::mpsc") && paths.contains("mpsc::channel") {
        paths.insert("std::sync::mpsc::channel".to_owned());
    }
    paths.retain(|path| forbidden.iter().any(|root| is_within(path, root)));
    paths.into_iter().collect()
}

fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

mod the_checks_themselves {
    use super::*;

    fn names(source: &str, forbidden: &[&str]) -> bool {
        !forbidden_in(source, forbidden).is_empty()
    }

    #[test]
    fn flag_every_way_of_naming_a_path() {
        for source in [
            "use std::time::Instant;",
            "use std::{fmt, time};",
            "use std::{\n    fmt::{self, Write},\n    time::{Duration, Instant},\n};",
            "use ::std::time;",
            "fn f() { let now = f(::std::time::Instant::now()); }",
            "fn f<'a>(x: &'a str) -> std::time::Instant { g('\\'', '\"', \"\\\"\") }",
            "fn f(c: char) -> bool { c == '\"' } use std::time;",
            "const A: &str = r#\"a \" b\"#; use std::time::*;",
            "/* one /* two */ */ use std::time;",
            "use std::time as t;",
        ] {
            assert!(names(source, IMPURE), "{source}");
        }
        assert!(names("use tokio::{net::UdpSocket, spawn};", SPAWN));
        assert!(names("tokio::task::spawn(async {})", SPAWN));
        assert!(names(
            "let (a, b) = mpsc::unbounded_channel::<u8>();",
            UNBOUNDED
        ));
        assert!(names("use std::sync::mpsc::{channel, Sender};", UNBOUNDED));
        assert!(names(
            "use std::sync::{Arc, mpsc}; let (a, b) = mpsc::channel();",
            UNBOUNDED
        ));
        assert!(names("let mut rng = rand::rng();", IMPURE));
        assert!(names("use std::collections::{BTreeMap, HashMap};", IMPURE));
    }

    #[test]
    fn let_everything_else_pass() {
        for source in [
            "// std::time::Instant",
            "/// Not [`std::fs`].",
            "/* std::time /* std::fs */ std::net */",
            "const A: &str = \"std::time\";",
            "const A: &str = r##\"std::time \"# std::fs\"##;",
            "const A: &[u8] = b\"std::time\";",
            "use std::{fmt, collections::{BTreeMap, BTreeSet}};",
            "use core::time::Duration;",
            "use crate::time::Hlc;",
            "use std::timers::Wheel;",
            "use std::ops::Bound::Unbounded;",
            "let random = operand::rand_like();",
        ] {
            let all = [IMPURE, SPAWN, UNBOUNDED].concat();
            assert!(!names(source, &all), "{source}: {:?}", paths_named(source));
        }
        assert!(!names("tokio::task::spawn_blocking(f)", SPAWN));
        assert!(!names(
            "let (a, b) = std::sync::mpsc::sync_channel(8);",
            UNBOUNDED
        ));
    }
}
