//! The real binary from the outside: nodes that serve, are killed and come back, and clients that are told so.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod bad_input;
mod bench;
mod bindings;
mod cluster;
mod crash;
mod demo;
mod dice;
mod disk_full;
mod failover;
mod faults;
mod help;
mod input;
mod load;
mod membership;
mod mesh;
mod output;
mod publish;
mod quick_start;
mod repairing;
mod ring;
mod rot;
mod several_nodes;
mod tail;
mod topics;
mod watching;
