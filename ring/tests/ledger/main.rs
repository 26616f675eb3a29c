//! The ledger against a model that keeps every entry for ever and replays them all for each question.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod cases;
mod model;
mod random;
mod store;
