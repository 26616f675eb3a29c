//! Brings an older data directory to the current format.
//!
//! A data directory (`DIR/nK/data`) holds its RocksDB in `db`, and the file `lock`, locked by the process that uses it.
//! The family `meta` holds the format version under the key `format`, as four big-endian bytes. The engine opens only
//! [`FORMAT_CURRENT`]; [`plan`] says what an older directory needs, and [`migrate`] does it.
//!
//! This crate knows old formats by heart: it reads RocksDB with decoders of its own that never change, and imports no
//! other Meshlog crate, whose formats do change.
//!
//! ```no_run
//! # fn main() -> Result<(), mesh_migrations::MigrateError> {
//! let report = mesh_migrations::migrate("mesh/n1/data".as_ref(), &mut |_| {})?;
//! assert_eq!(report.now, mesh_migrations::FORMAT_CURRENT);
//! # Ok(())
//! # }
//! ```
//!
//! # What holds after a crash
//!
//! Before the first step a RocksDB checkpoint (hard links: quick, and no second copy of the data) is left beside `db` as
//! `checkpoint-vFOUND-N`. A step works in batches. Each is one synced `WriteBatch` that holds the work, and in `meta`
//! under `migration` the step and how far it has come; the last one moves the version and deletes that key instead. So
//! after a crash at any moment, [`migrate`] goes on behind the last whole batch, and nothing is done twice. A directory
//! that holds the key `migration` is between two formats: only [`migrate`] opens it, and the engine must refuse it.
//!
//! To go back, with no process running: remove `db`, rename the checkpoint to `db`, and start the older meshctl. What was
//! written after the migration is then gone. A checkpoint that is no longer wanted is an ordinary folder to be deleted.
//!
//! # Adding a step
//!
//! 1. Before the format changes, keep a data directory of the old one in `fixtures/` (see the README there).
//! 2. Write `src/vA_to_vB.rs` with a type that implements [`Step`]. Put the old and the new codecs into that file and pin
//!    their bytes with literals; import nothing that a later change could move. Read through the database that you are
//!    given, write only through the batch, return a cursor from which the next call can go on, and keep a batch to a few
//!    thousand keys or a few MiB.
//! 3. Append it to [`STEPS`] and raise [`FORMAT_CURRENT`] together with the engine's version.
//! 4. Test that the fixture, migrated, opens in the engine and reads back whole, and add the step to the crash tests.
//!
//! A step that has been released is never edited: who has run it cannot run it again. A mistake gets a step of its own.
//!
//! # What lies where
//!
//! `step`: what a step is, and the list of them. `runner`: plans and runs. `store`: the directory, its lock, the records
//! in `meta`, the checkpoint. `error`: what can go wrong.

mod error;
mod runner;
mod step;
mod store;
#[cfg(test)]
mod tests;

pub use error::{MigrateError, StepError};
pub use runner::{Plan, Progress, Report, migrate, plan};
pub use step::{Advance, FORMAT_CURRENT, STEPS, Step, StepInfo};
