//! The pure brain of Meshlog: functions of time and input, without clock, I/O or randomness.
//!
//! - [`ids`], [`name`], [`limits`]: what things are called, and how large they may be
//! - [`hash`]: from a key or topic name to its partition
//! - [`map`]: which nodes hold a partition, and which one leads it
//! - [`hlc`], [`version`], [`binding`]: timestamps, causal contexts, and bindings that converge
//! - [`merkle`]: what two replicas compare to find the bindings in which they differ
//! - [`age`]: how old things are, judged so that a wrong clock destroys nothing
//! - [`producer`]: appends that are retried and yet happen once
//! - [`codec`]: the few primitives of this crate's encodings, and why bytes are refused

pub mod age;
pub mod binding;
pub mod codec;
pub mod hash;
pub mod hlc;
pub mod ids;
pub mod limits;
pub mod map;
pub mod merkle;
pub mod name;
pub mod producer;
pub mod version;
