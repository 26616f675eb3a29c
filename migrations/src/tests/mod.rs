//! A directory of an invented format is carried over by two test-only steps, through every crash and every refusal.

mod crash;
mod refusals;
mod sample;

use crate::runner::{migrate_with, plan_with};
use crate::{FORMAT_CURRENT, Plan, Progress, STEPS};
use sample::{AddOne, MoveFamily, Sample};

#[test]
fn released_steps_lead_from_version_1_to_the_current_one() {
    let mut at = 1;
    for step in STEPS {
        let info = step.info();
        assert_eq!(
            info.from, at,
            "{} begins where the one before ends",
            info.name
        );
        assert!(info.to > info.from, "{} moves forward", info.name);
        at = info.to;
    }
    assert_eq!(at, FORMAT_CURRENT);
}

#[test]
fn a_current_directory_needs_nothing_and_is_left_alone() {
    let sample = Sample::new(5);
    let before = sample.contents();
    let plan = crate::plan(sample.data()).unwrap();
    assert_eq!(
        plan,
        Plan {
            found: 1,
            current: 1,
            steps: vec![],
            interrupted: false
        }
    );

    let mut told = Vec::new();
    let report = crate::migrate(sample.data(), &mut |progress| told.push(progress)).unwrap();
    assert_eq!((report.found, report.now), (1, 1));
    assert_eq!((report.steps, report.checkpoint), (vec![], None));
    assert_eq!(told, []);
    assert_eq!(sample.contents(), before);
    assert_eq!(sample.checkpoints(), Vec::<String>::new());
}

#[test]
fn a_plan_names_the_steps_and_changes_nothing() {
    let sample = Sample::new(5);
    let before = sample.contents();
    let plan = plan_with(&[&AddOne(3), &MoveFamily(2)], 3, sample.data()).unwrap();
    let names: Vec<_> = plan.steps.iter().map(|step| step.name).collect();
    assert_eq!((plan.found, plan.current), (1, 3));
    assert_eq!(names, ["add-one", "move-family"]);
    assert!(!plan.interrupted);
    assert_eq!(sample.contents(), before);
}

#[test]
fn an_uninterrupted_run_carries_everything_over() {
    for keys in [0, 1, 3, 7] {
        let sample = Sample::new(keys);
        let before = sample.contents();
        let mut told = Vec::new();
        let report = migrate_with(
            &[&AddOne(3), &MoveFamily(2)],
            3,
            sample.data(),
            &mut |progress| told.push(progress),
        )
        .unwrap();

        assert_eq!((report.found, report.now), (1, 3));
        assert_eq!(sample.contents(), Sample::expected(keys));
        let checkpoint = report.checkpoint.unwrap();
        assert_eq!(checkpoint, sample.data().join("checkpoint-v1-1"));
        assert_eq!(sample::contents_of(&checkpoint), before);

        assert_eq!(
            told.first(),
            Some(&Progress::Checkpointed { path: checkpoint })
        );
        let finished: Vec<_> = told
            .iter()
            .filter_map(|progress| match progress {
                Progress::StepFinished { step } => Some(step.to),
                _ => None,
            })
            .collect();
        assert_eq!(finished, [2, 3]);
        let written = told.iter().rev().find_map(|progress| match progress {
            Progress::Batch { step, keys } if step.to == 3 => Some(*keys),
            _ => None,
        });
        assert_eq!(
            written,
            Some(2 * u64::from(keys)),
            "one put and one delete a key"
        );
    }
}

#[test]
fn a_later_run_never_overwrites_an_earlier_checkpoint() {
    let sample = Sample::new(4);
    migrate_with(&[&AddOne(3)], 2, sample.data(), &mut |_| {}).unwrap();
    let second =
        migrate_with(&[&AddOne(3), &MoveFamily(2)], 3, sample.data(), &mut |_| {}).unwrap();
    assert_eq!(second.found, 2);
    assert_eq!(sample.checkpoints(), ["checkpoint-v1-1", "checkpoint-v2-1"]);
    assert_eq!(sample.contents(), Sample::expected(4));
}
