//! Who may import whom, by Cargo's own account.

use std::collections::{BTreeMap, BTreeSet};

use crate::cargo;

/// Each crate, and the crates of this workspace that it may depend on.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("mesh-ring", &[]),
    ("mesh-engine", &["mesh-ring"]),
    ("mesh-net", &["mesh-engine", "mesh-ring"]),
    ("mesh-migrations", &[]),
    (
        "meshctl",
        &["mesh-net", "mesh-engine", "mesh-ring", "mesh-migrations"],
    ),
    // What peers are measured with as well: it knows nothing of Meshlog.
    ("bench-drive", &[]),
    (
        "mesh-benches",
        &[
            "mesh-net",
            "mesh-engine",
            "mesh-ring",
            "mesh-migrations",
            "bench-drive",
        ],
    ),
];

/// Crates from outside that a crate may not depend on, not even in tests.
const MAY_NOT_USE: &[(&str, &[&str])] = &[
    (
        "mesh-ring",
        &[
            "tokio",
            "mio",
            "rocksdb",
            "rustix",
            "libc",
            "quinn",
            "rustls",
            // Not rand: foca asks for its trait. What ring names of it is told in source.rs.
            "fastrand",
            "getrandom",
            "prost",
        ],
    ),
    ("mesh-engine", &["tokio", "mio", "quinn", "rustls", "prost"]),
    ("mesh-migrations", &["tokio", "prost", "quinn", "rustls"]),
];

/// The same for what a crate ships with. Its tests may: those of the node damage stores behind its back.
const MAY_NOT_SHIP: &[(&str, &[&str])] = &[("mesh-net", &["rocksdb"])];

/// Frozen decoders stand on nothing that moves: this is all that `mesh-migrations` ships with.
const MIGRATIONS_USE: &[&str] = &["rocksdb", "rustix", "thiserror"];

#[test]
fn crates_import_only_downward() {
    let crates = workspace_crates();
    assert_eq!(crates.len(), MAY_IMPORT.len(), "{:?}", crates.keys());
    assert_eq!(import_violations(&crates), Vec::<String>::new());
}

/// What a crate depends on, in order to be built, and in order to be tested.
#[derive(Debug, Default)]
struct Dependencies {
    shipped: BTreeSet<String>,
    all: BTreeSet<String>,
}

fn workspace_crates() -> BTreeMap<String, Dependencies> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let mut crates = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let mut dependencies = Dependencies::default();
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap().to_owned();
            if dependency["kind"].is_null() {
                dependencies.shipped.insert(name.clone());
            }
            dependencies.all.insert(name);
        }
        crates.insert(package["name"].as_str().unwrap().to_owned(), dependencies);
    }
    crates
}

fn import_violations(crates: &BTreeMap<String, Dependencies>) -> Vec<String> {
    let ours: BTreeSet<_> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let mut found = Vec::new();
    for (name, dependencies) in crates {
        let Some(allowed) = row(MAY_IMPORT, name) else {
            found.push(format!("{name} is not on the floor plan"));
            continue;
        };
        let forbidden = row(MAY_NOT_USE, name).unwrap_or_default();
        for other in &dependencies.all {
            let ours_but_not_allowed = ours.contains(&**other) && !allowed.contains(&&**other);
            if ours_but_not_allowed || forbidden.contains(&&**other) {
                found.push(format!("{name} may not import {other}"));
            }
        }
        for other in row(MAY_NOT_SHIP, name).unwrap_or_default() {
            if dependencies.shipped.contains(*other) {
                found.push(format!("{name} may not import {other}"));
            }
        }
        if name == "mesh-migrations" {
            for other in &dependencies.shipped {
                if !MIGRATIONS_USE.contains(&&**other) && !ours.contains(&**other) {
                    found.push(format!("{name} may not import {other}"));
                }
            }
        }
    }
    found
}

fn row<'t>(table: &'t [(&str, &'t [&'t str])], name: &str) -> Option<&'t [&'t str]> {
    table
        .iter()
        .find(|(of, _)| *of == name)
        .map(|(_, row)| *row)
}

mod the_checks_themselves {
    use super::*;

    fn crates(of: &[(&str, &[&str])]) -> BTreeMap<String, Dependencies> {
        of.iter()
            .map(|(name, others)| {
                let all: BTreeSet<_> = others.iter().map(|other| (*other).to_owned()).collect();
                let shipped = all.clone();
                ((*name).to_owned(), Dependencies { shipped, all })
            })
            .collect()
    }

    #[test]
    fn flag_an_import_that_goes_up_or_out() {
        let found = import_violations(&crates(&[
            ("mesh-ring", &["blake3", "tokio"]),
            ("mesh-engine", &["mesh-ring", "mesh-net"]),
            ("mesh-net", &["mesh-engine", "mesh-migrations", "rocksdb"]),
            ("mesh-migrations", &["mesh-engine", "rocksdb", "serde"]),
            ("meshctl", &["mesh-net", "mesh-benches"]),
            ("mesh-benches", &["mesh-net", "mesh-engine", "fjall"]),
            ("mesh-attic", &[]),
        ]));
        assert_eq!(
            found,
            [
                "mesh-attic is not on the floor plan",
                "mesh-engine may not import mesh-net",
                "mesh-migrations may not import mesh-engine",
                "mesh-migrations may not import serde",
                "mesh-net may not import mesh-migrations",
                "mesh-net may not import rocksdb",
                "mesh-ring may not import tokio",
                "meshctl may not import mesh-benches",
            ]
        );
        assert_eq!(
            import_violations(&crates(&[("meshctl", &["mesh-net", "mesh-ring", "clap"])])),
            Vec::<String>::new()
        );
    }
}
