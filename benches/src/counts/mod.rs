//! How many instructions the hot paths take: what neighbours, disks and clocks cannot change, so that a test can hold it
//! against what it was.
//!
//! The binary `counts` starts itself under callgrind, one hot path at a time. `paths` says what each of them does, with
//! fixed inputs; [`measured`] is the function whose beginning and end callgrind watches, so that start and warm-up do not
//! count. `callgrind` runs it and reads what it found, `baseline` is the committed file and what differs from it.

pub mod baseline;
pub mod callgrind;
pub mod paths;

use crate::Result;

/// Work that a node or a client does very often, with inputs that are always the same.
pub struct HotPath {
    /// Names it on the command line and in the baseline.
    pub name: &'static str,
    /// What one operation is, for a person.
    pub operation: &'static str,
    /// The largest difference that is none, as a part of the baseline. Measured; see [`paths::HOT_PATHS`].
    pub tolerance: f64,
    /// Prepares the work, then does it in [`measured`]; returns how many operations those were.
    pub run: fn() -> Result<u64>,
}

/// What callgrind counts: everything that any thread does between the beginning and the end of this function. Its name is
/// in [`callgrind::MEASURED`].
///
/// # Errors
/// Those of `work`.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let outcome = work();
    // Keeps the call from being the last thing here, which the compiler could turn into a jump that never returns here.
    std::hint::black_box(&outcome);
    outcome
}
