//! Certificates change, overlap and are revoked while everything runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod parties;
mod renewal;
mod revocation;
#[path = "../support/mod.rs"]
mod support;
