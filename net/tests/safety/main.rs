//! Disks that come back other than they were, copies that move, and replicas that lag too far: whatever comes back, and
//! whatever moves, nothing that was acknowledged is voted away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

#[path = "../support/cluster/mod.rs"]
mod cluster;
mod disks;
mod moves;
mod rebuild;
#[path = "../support/mod.rs"]
mod support;
mod suspect;

/// How long a cluster may take to come to rest: copies that move need longer than elections.
const AT_REST_WITHIN: std::time::Duration = support::PATIENCE.saturating_mul(2);
