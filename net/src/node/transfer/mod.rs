//! Partitions that move: a copy is pulled from the partition's leader, part by part, and then follows its journal.
//!
//! - `source`: the side that gives, no faster than it may; `desk`: the copies that it keeps meanwhile;
//! - `target`: the side that takes, and goes on where it stopped, also with another giver; `parts`: its end of the stream;
//! - `arrival`: one step after another, and the vote between them; `progress`: what people see of either.
//!
//! Nothing of it is a decision: the map says who fills a learner's copy, the replication core when it has caught up, and
//! the map again when it counts.

mod arrival;
mod desk;
mod parts;
mod progress;
mod source;
mod target;

pub(super) use self::arrival::Arrival;
pub(super) use self::progress::Transfers;
pub(super) use self::source::serve;
pub(super) use self::target::pull;
