//! Flipped bytes: in every kind of data file, reported with its place, never served as data.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;

use mesh_engine::Solo;
use support::damage::*;

#[test]
fn a_flipped_byte_anywhere_in_a_blob_file_is_never_served() {
    let (bench, topic) = stored();
    let blobs = files(&bench.data(), "blob");
    assert_eq!(blobs.len(), 1, "payloads are in one blob file");
    let length = fs::metadata(&blobs[0]).unwrap().len() as usize;
    let mut reported = 0;
    for n in 0..40 {
        let at = n * length / 40 + n % 7;
        let data = bench.crashed_copy(&format!("flip{n}"));
        flip(&data.join("db").join(blobs[0].file_name().unwrap()), at);
        let seen = look(&bench, &data, topic);
        assert!(
            seen.refused_to_open || seen.damages > 0 || seen.served == RECORDS + KEYS,
            "byte {at}: {seen:?}"
        );
        reported += usize::from(seen.refused_to_open || seen.damages > 0);
        fs::remove_dir_all(data).unwrap();
    }
    // The rest fell on keys and sizes that a read does not use.
    assert!(reported >= 30, "{reported} of 40");
}

#[test]
fn a_flipped_byte_anywhere_in_a_table_file_is_never_served() {
    let (bench, topic) = stored();
    for (n, table) in files(&bench.data(), "sst").into_iter().enumerate() {
        let length = fs::metadata(&table).unwrap().len() as usize;
        for at in [0, length / 3, length / 2, length - 60] {
            let data = bench.crashed_copy(&format!("flip{n}.{at}"));
            flip(&data.join("db").join(table.file_name().unwrap()), at);
            let outcome = std::panic::catch_unwind(|| look(&bench, &data, topic));
            let seen = outcome.unwrap_or_else(|_| panic!("{} byte {at}", table.display()));
            // What a read does not need (properties, filters) may rot unseen; the rest may not.
            let all_read = seen.served == RECORDS + KEYS && seen.scrub.damages.is_empty();
            assert!(
                seen.refused_to_open || all_read || names(&seen.scrub, &name_of(&table)),
                "{} byte {at}: {seen:?}",
                table.display()
            );
            fs::remove_dir_all(data).unwrap();
        }
    }
}

#[test]
fn a_flip_in_the_data_of_any_table_file_is_reported_and_hides_nothing_else() {
    let (bench, topic) = stored();
    let data = bench.crashed_copy("whole");
    let whole = look(&bench, &data, topic);
    assert_eq!(whole.scrub.damages, []);
    assert_eq!((whole.served, whole.scrub.bindings), (RECORDS + KEYS, KEYS));
    let (mut families, mut opened) = (Vec::new(), 0);
    for (n, table) in files(&bench.data(), "sst").into_iter().enumerate() {
        for at in [10, data_bytes(&table)] {
            let data = bench.crashed_copy(&format!("flip{n}.{at}"));
            flip(&data.join("db").join(table.file_name().unwrap()), at);
            let seen = look(&bench, &data, topic);
            fs::remove_dir_all(data).unwrap();
            if seen.refused_to_open {
                continue;
            }
            opened += 1;
            let place = format!("{} byte {at}: {:#?}", table.display(), seen.scrub);
            assert!(names(&seen.scrub, &name_of(&table)), "{place}");
            assert_eq!(seen.scrub.damages.len(), 1, "{place}");
            assert!(kinds_missed(&seen.scrub, &whole.scrub) <= 1, "{place}");
            let what = &seen.scrub.damages[0].what;
            families.extend(what.split(',').next().map(str::to_owned));
        }
    }
    families.sort();
    families.dedup();
    eprintln!("{opened} stores opened; damage was found in {families:?}");
    for name in [
        "bindings",
        "cursors",
        "expiry",
        "journal",
        "log",
        "merkle",
        "producers",
        "topics",
    ] {
        assert!(families.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn a_damaged_manifest_stops_the_start() {
    let (bench, _) = stored();
    let manifest = fs::read_dir(bench.data().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("MANIFEST")
        })
        .unwrap();
    let length = fs::metadata(&manifest).unwrap().len() as usize;
    flip(&manifest, length / 2);
    let error = Solo::open(bench.data(), bench.options()).err().unwrap();
    assert!(
        matches!(error, mesh_engine::OpenError::Damaged { .. }),
        "{error}"
    );
}
