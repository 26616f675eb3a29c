//! Whatever moment a migration is cut off at, the next one finishes it, and nothing is done twice or left out.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::sample::{AddOne, MoveFamily, Sample, contents_of, copy_folder};
use crate::runner::{migrate_with, plan_with};
use crate::{Progress, Step};

const KEYS: u32 = 7;
const STEPS: &[&dyn Step] = &[&AddOne(3), &MoveFamily(2)];

/// The directory as it was at one moment of a run, with the length of its newest write-ahead log.
struct Moment {
    data: PathBuf,
    what: Progress,
    log: PathBuf,
    log_bytes: u64,
}

/// Migrates, and keeps a copy of the open directory at each progress report: what a kill at that moment leaves.
fn moments(folder: &Path) -> Vec<Moment> {
    let sample = Sample::new(KEYS);
    let mut moments = Vec::new();
    migrate_with(STEPS, 3, sample.data(), &mut |what| {
        let data = folder.join(format!("moment-{}", moments.len()));
        copy_folder(sample.data(), &data);
        let log = newest_log(&data);
        moments.push(Moment {
            log_bytes: fs::metadata(&log).unwrap().len(),
            data,
            what,
            log,
        });
    })
    .unwrap();
    assert_eq!(sample.contents(), Sample::expected(KEYS));
    moments
}

fn newest_log(data: &Path) -> PathBuf {
    fs::read_dir(data.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .unwrap()
}

fn finish(data: &Path, when: &str) {
    let report =
        migrate_with(STEPS, 3, data, &mut |_| {}).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(report.now, 3, "{when}");
    assert_eq!(
        contents_of(&data.join("db")),
        Sample::expected(KEYS),
        "{when}"
    );
    let again = migrate_with(STEPS, 3, data, &mut |_| {}).unwrap();
    assert_eq!((again.steps, again.checkpoint), (vec![], None), "{when}");
}

#[test]
fn a_kill_at_any_moment_is_finished_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let original = Sample::new(KEYS).contents();
    let moments = moments(folder.path());
    assert!(moments.len() > 10, "batches of 3 and 2 out of {KEYS} keys");
    for moment in &moments {
        let when = format!("killed after {:?}", moment.what);
        assert_eq!(
            contents_of(&moment.data.join("checkpoint-v1-1")),
            original,
            "{when}"
        );
        finish(&moment.data, &when);
        assert_eq!(
            contents_of(&moment.data.join("checkpoint-v1-1")),
            original,
            "{when}"
        );
    }
}

#[test]
fn a_power_loss_within_any_batch_is_finished_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let moments = moments(folder.path());
    let mut cuts = 0;
    for pair in moments.windows(2) {
        let [before, after] = pair else {
            unreachable!()
        };
        if before.log.file_name() != after.log.file_name() {
            continue;
        }
        let (durable, written) = (before.log_bytes, after.log_bytes);
        let mut lengths = vec![
            durable,
            durable + 1,
            durable.midpoint(written),
            written.saturating_sub(1),
        ];
        lengths.retain(|length| (durable..written).contains(length));
        lengths.dedup();
        for length in lengths {
            let data = folder.path().join(format!("cut-{cuts}"));
            copy_folder(&after.data, &data);
            let log = OpenOptions::new()
                .write(true)
                .open(newest_log(&data))
                .unwrap();
            log.set_len(length).unwrap();
            drop(log);
            finish(
                &data,
                &format!(
                    "{:?}, its log cut to {length} of {written} bytes",
                    after.what
                ),
            );
            cuts += 1;
        }
    }
    assert!(cuts >= 10, "only {cuts} cuts");
}

#[test]
fn an_interrupted_directory_says_so_and_keeps_its_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let moments = moments(folder.path());
    let middle = moments
        .iter()
        .find(|moment| matches!(moment.what, Progress::Batch { .. }))
        .unwrap();

    let plan = plan_with(STEPS, 3, &middle.data).unwrap();
    assert!(plan.interrupted);
    assert_eq!((plan.found, plan.steps.len()), (1, 2));

    let mut told = Vec::new();
    let report = migrate_with(STEPS, 3, &middle.data, &mut |what| told.push(what)).unwrap();
    assert_eq!(report.checkpoint, None);
    assert!(matches!(told[0], Progress::StepStarted { resumed: true, step } if step.to == 2));
    assert!(!middle.data.join("checkpoint-v1-2").exists());
}
