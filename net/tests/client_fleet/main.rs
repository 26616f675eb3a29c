//! A client among several nodes: leaders move, nodes die without a word, replicas lag.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod certificates;
mod fleet;
mod leaders;
mod order;
mod records;
mod relay;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod tails;

use std::time::Duration;

/// The timeout of most clients here.
const TIMEOUT: Duration = Duration::from_secs(10);
/// QUIC calls a connection lost after ten seconds. Whoever leaves a dead node sooner has found out otherwise; a machine
/// under load may take some seconds for what usually takes one.
const SOON: Duration = Duration::from_secs(5);
