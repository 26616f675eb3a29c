//! Finds the steps that a directory needs, and runs them.

use std::path::{Path, PathBuf};

use rocksdb::WriteBatch;

use crate::store::{Resume, Store};
use crate::{Advance, FORMAT_CURRENT, MigrateError, STEPS, Step, StepError, StepInfo};

/// What a directory needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The directory's format version.
    pub found: u32,
    /// The version that the steps lead to.
    pub current: u32,
    /// The steps, in order. Empty: the directory is current.
    pub steps: Vec<StepInfo>,
    /// The first of the steps has begun before and was interrupted.
    pub interrupted: bool,
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The directory's format version before.
    pub found: u32,
    /// Its version now.
    pub now: u32,
    /// The steps that were run, in order.
    pub steps: Vec<StepInfo>,
    /// The copy of what was there before. `None` where nothing was done, and where an interrupted migration was
    /// finished, whose checkpoint lies there already.
    pub checkpoint: Option<PathBuf>,
}

/// Told to the observer as it happens; everything it names is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The checkpoint is complete.
    Checkpointed {
        /// Where it lies.
        path: PathBuf,
    },
    /// A step begins, or goes on where it was interrupted.
    StepStarted {
        /// The step.
        step: StepInfo,
        /// It goes on.
        resumed: bool,
    },
    /// Another batch of the step is written.
    Batch {
        /// The step.
        step: StepInfo,
        /// Keys that the step has written or deleted so far, in this run.
        keys: u64,
    },
    /// The step is done and the directory has its version.
    StepFinished {
        /// The step.
        step: StepInfo,
    },
}

/// Says what `data` needs, without changing its database.
///
/// # Errors
///
/// All of [`MigrateError`] but [`MigrateError::Step`]: also a directory in use is refused.
pub fn plan(data: &Path) -> Result<Plan, MigrateError> {
    plan_with(STEPS, FORMAT_CURRENT, data)
}

/// Brings `data` to [`FORMAT_CURRENT`], telling `observer` how it goes. Does nothing where it is there already.
///
/// After a crash or an error, call it again: it goes on behind the last whole batch. The crate's page says what the
/// directory looks like in between.
///
/// # Errors
///
/// See [`MigrateError`]: each variant says whether anything was written.
pub fn migrate(data: &Path, observer: &mut dyn FnMut(Progress)) -> Result<Report, MigrateError> {
    migrate_with(STEPS, FORMAT_CURRENT, data, observer)
}

pub(crate) fn plan_with(
    steps: &[&dyn Step],
    current: u32,
    data: &Path,
) -> Result<Plan, MigrateError> {
    let store = Store::open_read_only(data)?;
    let (found, route, resume) = survey(&store, steps, current)?;
    Ok(Plan {
        found,
        current,
        steps: route.iter().map(|step| step.info()).collect(),
        interrupted: resume.is_some(),
    })
}

pub(crate) fn migrate_with(
    steps: &[&dyn Step],
    current: u32,
    data: &Path,
    observer: &mut dyn FnMut(Progress),
) -> Result<Report, MigrateError> {
    let mut store = Store::open(data)?;
    let (found, route, mut resume) = survey(&store, steps, current)?;
    let checkpoint = if route.is_empty() || resume.is_some() {
        None
    } else {
        let path = store.checkpoint(found)?;
        observer(Progress::Checkpointed { path: path.clone() });
        Some(path)
    };
    for step in &route {
        let cursor = resume.take().map(|resume| resume.cursor);
        run_step(&mut store, *step, cursor, observer)?;
    }
    Ok(Report {
        found,
        now: store.version()?,
        steps: route.iter().map(|step| step.info()).collect(),
        checkpoint,
    })
}

type Survey<'s> = (u32, Vec<&'s dyn Step>, Option<Resume>);

/// The version, the steps from there to `current`, and where the first of them was interrupted.
fn survey<'s>(
    store: &Store,
    steps: &[&'s dyn Step],
    current: u32,
) -> Result<Survey<'s>, MigrateError> {
    let found = store.version()?;
    let route = route(steps, found, current)?;
    let resume = store.resume()?;
    if let Some(resume) = &resume {
        let next = route.first().map(|step| step.info().to);
        if next != Some(resume.to) {
            return Err(MigrateError::ForeignRecord {
                why: format!(
                    "the data is between format versions {found} and {}",
                    resume.to
                ),
            });
        }
    }
    Ok((found, route, resume))
}

fn route<'s>(
    steps: &[&'s dyn Step],
    found: u32,
    current: u32,
) -> Result<Vec<&'s dyn Step>, MigrateError> {
    if found > current {
        return Err(MigrateError::Newer { found, current });
    }
    let mut route = Vec::new();
    let mut at = found;
    while at < current {
        let next = steps
            .iter()
            .find(|step| step.info().from == at && step.info().to > at)
            .ok_or(MigrateError::NoPath { found, current })?;
        at = next.info().to;
        route.push(*next);
    }
    if at > current {
        return Err(MigrateError::NoPath { found, current });
    }
    Ok(route)
}

fn run_step(
    store: &mut Store,
    step: &dyn Step,
    mut cursor: Option<Vec<u8>>,
    observer: &mut dyn FnMut(Progress),
) -> Result<(), MigrateError> {
    let info = step.info();
    let failed = |source: StepError| MigrateError::Step {
        to: info.to,
        name: info.name,
        source,
    };
    observer(Progress::StepStarted {
        step: info,
        resumed: cursor.is_some(),
    });
    store.create_families(step.families_created())?;
    let mut keys = 0_u64;
    loop {
        let mut batch = WriteBatch::default();
        let advance = step
            .advance(store.database(), cursor.as_deref(), &mut batch)
            .map_err(failed)?;
        keys += batch.len() as u64;
        let Advance::Continue { cursor: next } = advance else {
            store.write_last(batch, info.to)?;
            observer(Progress::Batch { step: info, keys });
            observer(Progress::StepFinished { step: info });
            return Ok(());
        };
        if cursor.as_ref().is_some_and(|before| *before >= next) {
            return Err(failed(StepError::Stalled { cursor: next }));
        }
        let resume = Resume {
            to: info.to,
            cursor: next,
        };
        store.write_part(batch, &resume)?;
        observer(Progress::Batch { step: info, keys });
        cursor = Some(resume.cursor);
    }
}
