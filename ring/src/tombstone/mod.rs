//! When tombstones may be forgotten, so that nothing that they delete comes back.
//!
//! A tombstone is needed for as long as an older state of its key exists anywhere: in a copy, in a hint, or in a message on its
//! way. So one replica asks *every* node of the cluster in a [`Round`], and each first raises its fence for the partition,
//! durably, then looks. Whatever travels between nodes carries a [`Stamp`] with the fence that its sender had before
//! it read, and a node takes nothing that is stamped lower than its own fence: a state that was read before its sender was
//! asked cannot arrive where the question was answered already, however late it is and whatever the clocks say. Once every node
//! has answered that it holds the tombstone itself or nothing of the key, and no hint, there is no older state any more, and
//! none can arise; each replica may then forget the tombstone, at any time later.

mod round;
mod stamp;

pub use round::{
    Answer, COLLECT_KEYS_MAX, Candidate, Holding, NotNow, Question, Round, Verdict, Void, look,
    raise,
};
pub use stamp::{Knowledge, Refusal, Stamp};

/// How long a repair, a put or the delivery of a hint is tried before its sender gives up, in milliseconds.
pub const REPAIR_DEADLINE_MS: u64 = 30_000;

/// How old a tombstone must be before a round asks about it, in milliseconds by the clock that judges ages: as long as anything
/// that was sent with it may be on its way, and clocks may differ. This spares rounds; nothing depends on it.
pub const TOMBSTONE_AGE_MS_MIN: u64 = REPAIR_DEADLINE_MS + crate::age::SKEW_MAX_MS;
