//! The replication core through its doors: what each input makes of it, one step at a time.
//!
//! Schedules at random and exhaustive ones are the model's (`ring/src/replica/model`), whole clusters the simulator's
//! (`ring/tests/simulation`).

#![allow(clippy::unwrap_used)]

mod catching_up;
mod cluster;
mod following;
mod leading;
mod suspicion;
mod takeover;
mod witnesses;
