//! What nodes send each other, between endpoints in this process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod asking;
mod gossiping;
mod identity;
mod messages;
mod replicating;
mod station;
#[path = "../support/mod.rs"]
mod support;
