//! A copy that was interrupted goes on with another giver: what has come of the log is not sent again, and the whole is
//! the same as if it had come from the last giver in one go.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod givers;
mod held;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use mesh_engine::{Identity, prepare};
use mesh_ring::ids::NodeId;

use support::*;

/// So small that there are many of them.
const CHUNK: usize = 1_300;

/// A directory for a node that holds nothing.
fn empty(bench: &Bench, name: &str) -> PathBuf {
    let data = bench.dir.path().join(name);
    let identity = Identity {
        node: NodeId([9; 16]),
        name: "taker".into(),
        ..identity()
    };
    prepare(&data, &identity).unwrap();
    data
}

fn copied(bench: &Bench, data: &Path, name: &str) -> PathBuf {
    let copy = bench.dir.path().join(name);
    copy_dir(data, &copy);
    copy
}
