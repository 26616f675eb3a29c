//! The pure brain of Meshlog: functions of time and input, without clock, I/O or randomness.
//!
//! - [`ids`], [`name`], [`limits`]: what things are called, and how large they may be
//! - [`hash`]: from a key or topic name to its partition
//! - [`map`]: which nodes hold a partition, and which one leads it
//! - [`control`], [`placement`]: how the map changes, and which nodes should hold what
//! - [`swim`]: who is alive
//! - [`hlc`], [`version`], [`binding`]: timestamps, causal contexts, and bindings that converge
//! - [`preference`], [`quorum`]: who keeps a binding, and when a write or read of it has succeeded
//! - [`merkle`]: what two replicas compare to find the bindings in which they differ, and how they heal
//! - [`tombstone`]: when a tombstone may be forgotten
//! - [`age`]: how old things are, judged so that a wrong clock destroys nothing
//! - [`producer`]: appends that are retried and yet happen once
//! - [`replica`]: a partition's journal on several nodes: leaders, followers, takeover
//! - [`command`], [`ledger`]: what a partition's journal says, and how its leader decides what comes next
//! - [`codec`]: the few primitives of this crate's encodings, and why bytes are refused

pub mod age;
pub mod binding;
pub mod codec;
pub mod command;
pub mod control;
pub mod hash;
pub mod hlc;
pub mod ids;
pub mod ledger;
pub mod limits;
pub mod map;
pub mod merkle;
pub mod name;
pub mod placement;
pub mod preference;
pub mod producer;
pub mod quorum;
pub mod replica;
pub mod swim;
pub mod tombstone;
pub mod version;
