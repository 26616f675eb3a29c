//! The engine and the migrations speak of the same formats and the same places.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use mesh_engine::{Engine, Options};

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of the data directory that is kept for format 1.
fn fixture() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    copy_dir(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/fixtures/v1/data"),
        &data,
    );
    (dir, data)
}

#[test]
fn the_newest_migration_leads_to_the_format_that_the_engine_opens() {
    assert_eq!(mesh_migrations::FORMAT_CURRENT, mesh_engine::FORMAT_VERSION);
}

#[test]
fn migrations_find_the_format_of_a_store_that_the_engine_made() {
    let (_dir, data) = fixture();
    let plan = mesh_migrations::plan(&data).unwrap();
    assert_eq!(
        (plan.found, plan.steps.len(), plan.interrupted),
        (mesh_engine::FORMAT_VERSION, 0, false)
    );
    let report = mesh_migrations::migrate(&data, &mut |_| {}).unwrap();
    assert_eq!(
        (report.now, report.checkpoint),
        (mesh_engine::FORMAT_VERSION, None)
    );
    Engine::open(&data, Options::default()).unwrap();
}

#[test]
fn migrations_and_the_engine_keep_each_other_out() {
    let (_dir, data) = fixture();
    let engine = Engine::open(&data, Options::default()).unwrap();
    let error = mesh_migrations::migrate(&data, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("process"), "{error}");
    drop(engine);
    mesh_migrations::migrate(&data, &mut |_| {}).unwrap();
}
