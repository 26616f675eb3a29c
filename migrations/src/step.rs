//! What a step is, and the list of all of them.

use rocksdb::{DB, WriteBatch};

use crate::StepError;

/// The format version that this build reads and writes.
pub const FORMAT_CURRENT: u32 = 1;

/// Every step ever released, oldest first. Never shortened, so that every old directory opens for ever.
pub const STEPS: &[&dyn Step] = &[];

/// One move from a format version to a later one.
///
/// The runner calls [`Step::advance`] until it says [`Advance::Finished`], and writes each batch with the cursor, synced,
/// before it calls again. A step therefore keeps nothing in memory between two calls: after a crash the next call comes
/// from another process, with the last cursor that became durable.
pub trait Step: Sync {
    /// Which versions it connects, and words about it for a person.
    fn info(&self) -> StepInfo;

    /// Column families that the step writes and that older directories lack. They are there, empty, before the first
    /// call.
    fn families_created(&self) -> &'static [&'static str] {
        &[]
    }

    /// Puts the next part of the work into `batch`, going on behind `cursor` (`None`: from the start).
    ///
    /// Must not write to `db` itself. Cursors grow in byte order from call to call.
    ///
    /// # Errors
    ///
    /// [`StepError`] stops the migration. `batch` is dropped, and the directory stays as the batch before left it.
    fn advance(
        &self,
        db: &DB,
        cursor: Option<&[u8]>,
        batch: &mut WriteBatch,
    ) -> Result<Advance, StepError>;
}

/// How a call of [`Step::advance`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// There is more to do behind this cursor.
    Continue {
        /// In the step's own words; usually the last key that it has dealt with.
        cursor: Vec<u8>,
    },
    /// With this batch the step is done, and the runner moves the version in it.
    Finished,
}

/// What a step is called and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// Format version that it reads.
    pub from: u32,
    /// Format version that it leaves, greater than `from`.
    pub to: u32,
    /// Short name, such as `journal-checksums`.
    pub name: &'static str,
    /// One sentence for whoever runs `meshctl migrate --dry-run`.
    pub what: &'static str,
}
