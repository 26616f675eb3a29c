//! The real binary from the outside: nodes that serve, are killed and come back, and clients that are told so.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod bad_input;
mod bench;
mod bindings;
mod crash;
mod demo;
mod disk_full;
mod faults;
mod help;
mod input;
mod mesh;
mod output;
mod publish;
mod quick_start;
mod tail;
mod topics;
