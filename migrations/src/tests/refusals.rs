//! What is refused, by name, with nothing written.

use std::fs::{self, File};

use rocksdb::{DB, WriteBatch};
use rustix::fs::{FlockOperation, flock};

use super::sample::{AddOne, MoveFamily, Sample, contents_of};
use crate::runner::{migrate_with, plan_with};
use crate::{Advance, MigrateError, Step, StepError, StepInfo};

/// Both doors must refuse, with errors that `expected` accepts, and leave the contents alone.
fn assert_refused(
    sample: &Sample,
    steps: &[&dyn Step],
    current: u32,
    expected: impl Fn(&MigrateError) -> bool,
) {
    let before = sample.contents();
    let planned = plan_with(steps, current, sample.data()).unwrap_err();
    assert!(expected(&planned), "plan: {planned}");
    let migrated = migrate_with(steps, current, sample.data(), &mut |_| {}).unwrap_err();
    assert!(expected(&migrated), "migrate: {migrated}");
    assert_eq!(sample.contents(), before);
    assert_eq!(sample.checkpoints(), Vec::<String>::new());
}

#[test]
fn a_newer_version() {
    let sample = Sample::new(2);
    sample.set_meta("format", Some(&7_u32.to_be_bytes()));
    assert_refused(&sample, &[&AddOne(3)], 2, |error| {
        matches!(
            error,
            MigrateError::Newer {
                found: 7,
                current: 2
            }
        ) && error.to_string().contains("version 7, newer than 2")
    });
}

#[test]
fn a_missing_or_malformed_version() {
    let garbage: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"version one"), Some(&[0, 0, 0, 0])];
    for version in garbage {
        let sample = Sample::new(2);
        sample.set_meta("format", version);
        assert_refused(&sample, &[&AddOne(3)], 2, |error| {
            matches!(error, MigrateError::NotAStore { .. })
        });
    }
}

#[test]
fn something_that_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    for data in [absent.as_path(), folder.path()] {
        let error = crate::plan(data).unwrap_err();
        assert!(matches!(error, MigrateError::NotAStore { .. }), "{error}");
        let error = crate::migrate(data, &mut |_| {}).unwrap_err();
        assert!(matches!(error, MigrateError::NotAStore { .. }), "{error}");
    }
    assert!(!absent.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let other = tempfile::tempdir().unwrap();
    drop(DB::open_default(other.path().join("db")).unwrap());
    let error = crate::migrate(other.path(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, MigrateError::NotAStore { .. }), "{error}");
}

#[test]
fn a_directory_in_use() {
    let sample = Sample::new(2);
    let holder = File::create(sample.data().join("lock")).unwrap();
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    assert_refused(&sample, &[&AddOne(3)], 2, |error| {
        matches!(error, MigrateError::Locked { path } if path.ends_with("lock"))
            && error.to_string().contains("in use by another process")
    });
    drop(holder);
    migrate_with(&[&AddOne(3)], 2, sample.data(), &mut |_| {}).unwrap();
}

#[test]
fn a_version_that_no_step_starts_from() {
    let sample = Sample::new(2);
    assert_refused(&sample, &[&MoveFamily(3)], 3, |error| {
        matches!(
            error,
            MigrateError::NoPath {
                found: 1,
                current: 3
            }
        )
    });
}

#[test]
fn a_record_left_by_another_step_or_by_nobody() {
    let records: [&[u8]; 3] = [&[0, 0, 0, 9, b'k'], &[0, 0], &[0, 0, 0, 0, b'k']];
    for record in records {
        let sample = Sample::new(2);
        sample.set_meta("migration", Some(record));
        for current in [1, 2] {
            assert_refused(&sample, &[&AddOne(3)], current, |error| {
                matches!(error, MigrateError::ForeignRecord { .. })
            });
        }
    }
}

/// Runs another step, and fails at the call with the given number.
struct FailsAt<S> {
    step: S,
    call: usize,
    calls: std::sync::atomic::AtomicUsize,
}

impl<S: Step> Step for FailsAt<S> {
    fn info(&self) -> StepInfo {
        self.step.info()
    }

    fn advance(
        &self,
        db: &DB,
        cursor: Option<&[u8]>,
        batch: &mut WriteBatch,
    ) -> Result<Advance, StepError> {
        let advance = self.step.advance(db, cursor, batch)?;
        let call = self
            .calls
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if call < self.call {
            return Ok(advance);
        }
        Err(StepError::Malformed {
            family: "bindings",
            key: vec![0xab, 1],
            why: "as the test wants it".to_owned(),
        })
    }
}

#[test]
fn data_that_a_step_cannot_carry_over_stops_it_between_two_batches() {
    for call in 0..3 {
        let sample = Sample::new(7);
        let failing = FailsAt {
            step: AddOne(3),
            call,
            calls: 0.into(),
        };
        let error = migrate_with(&[&failing], 2, sample.data(), &mut |_| {}).unwrap_err();
        assert_eq!(
            error.to_string(),
            "step add-one to format version 2 stopped: \
             malformed entry in bindings, key ab01: as the test wants it"
        );
        let plan = plan_with(&[&AddOne(3)], 2, sample.data()).unwrap();
        assert_eq!((plan.found, plan.interrupted), (1, call > 0));

        let steps: &[&dyn Step] = &[&AddOne(3), &MoveFamily(2)];
        migrate_with(steps, 3, sample.data(), &mut |_| {}).unwrap();
        assert_eq!(
            sample.contents(),
            Sample::expected(7),
            "stopped at call {call}"
        );
        let checkpoint = contents_of(&sample.data().join("checkpoint-v1-1"));
        assert_eq!(checkpoint, Sample::new(7).contents());
    }
}

/// A step with a bug: it never moves on.
struct Stuck;

impl Step for Stuck {
    fn info(&self) -> StepInfo {
        AddOne(1).info()
    }

    fn advance(&self, _: &DB, _: Option<&[u8]>, _: &mut WriteBatch) -> Result<Advance, StepError> {
        Ok(Advance::Continue {
            cursor: b"k".to_vec(),
        })
    }
}

#[test]
fn a_step_that_does_not_advance() {
    let sample = Sample::new(2);
    let error = migrate_with(&[&Stuck], 2, sample.data(), &mut |_| {}).unwrap_err();
    let MigrateError::Step { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        matches!(source, StepError::Stalled { cursor } if cursor == b"k"),
        "{error}"
    );
}
