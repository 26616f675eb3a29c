//! A cluster of real processes that are killed, paused, emptied and moved about while records come and go.
//!
//! What these tests have in common: everything that was acknowledged is there at its offset, once; offsets are dense;
//! and in the end all replicas hold the same.

mod bad_disks;
mod crash;
mod going_away;
mod moving;
mod no_majority;
mod no_room;
mod pauses;
mod remade;
mod salvaged;
pub(crate) mod scene;
