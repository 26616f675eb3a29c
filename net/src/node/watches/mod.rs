//! Watches: who wants to know when bindings change.
//!
//! A home of a partition sees every write of its keys sooner or later, so that each node serves the partitions of which it
//! is a home, and a client that wants more asks several nodes.
//!
//! - `hub`: the way from the engine's writer to those who wait, in bounded memory;
//! - `states`: bindings in the words of the wire;
//! - `serve`: one stream, from its snapshot on.

mod hub;
mod serve;
mod states;

pub(super) use hub::{Wanted, Watches};
pub(super) use serve::serve;
