//! Disks that come back other than they were, copies that move, and replicas that lag too far: whatever comes back, and
//! whatever moves, nothing that was acknowledged is voted away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

mod cluster;
mod disks;
mod moves;
mod rebuild;
#[path = "../support/mod.rs"]
mod support;
mod suspect;
