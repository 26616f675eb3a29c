//! Several nodes as one system: what is acknowledged stays, in one order, whoever dies; and it goes on by itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod bindings;
#[path = "../support/cluster/mod.rs"]
mod cluster;
mod few;
mod load;
mod requests;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
mod tails;
mod takeover;

/// How long a cluster may take to come to rest: elections, and replicas that catch up.
const AT_REST_WITHIN: std::time::Duration = support::PATIENCE;
