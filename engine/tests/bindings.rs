//! Bindings through the engine's doors: contexts, siblings, expiry, tombstones, listings, leaves.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::ops::ControlFlow;

use bytes::Bytes;
use mesh_engine::{BindingError, BindingWrite, Solo, Written};
use mesh_ring::limits::{BINDING_VALUE_BYTES_MAX, SIBLINGS_MAX};
use mesh_ring::name::BindingKey;
use mesh_ring::version::VersionVector;
use support::*;

fn key(name: &str) -> BindingKey {
    BindingKey::new(name.as_bytes()).unwrap()
}

fn write(
    engine: &Solo,
    name: &str,
    value: Option<&'static str>,
    context: Option<&VersionVector>,
    expires_ms: Option<u64>,
) -> Result<Written, BindingError> {
    engine.write_binding(BindingWrite {
        key: key(name),
        value: value.map(Bytes::from),
        context: context.cloned(),
        expires_ms,
    })
}

fn live(engine: &Solo, bench: &Bench, name: &str) -> Vec<String> {
    let now = bench.clock.load(std::sync::atomic::Ordering::Relaxed);
    let Some(binding) = engine.binding(&key(name)).unwrap() else {
        return Vec::new();
    };
    binding
        .live(now)
        .into_iter()
        .map(|version| String::from_utf8(version.live(now).unwrap().to_vec()).unwrap())
        .collect()
}

fn assert_leaves_are_true(engine: &Solo) {
    let report = engine.scrub(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.damages, []);
}

#[test]
fn the_last_write_without_a_context_wins() {
    let bench = Bench::new();
    let engine = bench.open();
    assert_eq!(live(&engine, &bench, "k"), Vec::<String>::new());
    for value in ["a", "b", "c"] {
        write(&engine, "k", Some(value), None, None).unwrap();
        assert_eq!(live(&engine, &bench, "k"), [value]);
    }
    write(&engine, "k", None, None, None).unwrap();
    assert_eq!(live(&engine, &bench, "k"), Vec::<String>::new());
    assert_leaves_are_true(&engine);
}

#[test]
fn writes_with_the_same_context_become_siblings_and_one_that_saw_all_resolves_them() {
    let bench = Bench::new();
    let engine = bench.open();
    let base = write(&engine, "k", Some("base"), None, None)
        .unwrap()
        .context;
    write(&engine, "k", Some("left"), Some(&base), None).unwrap();
    write(&engine, "k", Some("right"), Some(&base), None).unwrap();
    assert_eq!(
        live(&engine, &bench, "k"),
        ["right", "left"],
        "the newest first"
    );
    let seen = engine
        .binding(&key("k"))
        .unwrap()
        .unwrap()
        .context()
        .clone();
    write(&engine, "k", Some("both"), Some(&seen), None).unwrap();
    assert_eq!(live(&engine, &bench, "k"), ["both"]);
    assert_leaves_are_true(&engine);
}

#[test]
fn siblings_are_bounded() {
    let bench = Bench::new();
    let engine = bench.open();
    let empty = VersionVector::default();
    for _ in 0..SIBLINGS_MAX {
        write(&engine, "k", Some("v"), Some(&empty), None).unwrap();
    }
    assert_eq!(live(&engine, &bench, "k").len(), SIBLINGS_MAX);
    for context in [Some(&empty), None] {
        assert!(matches!(
            write(&engine, "k", Some("v"), context, None),
            Err(BindingError::Refused(_))
        ));
    }
    assert_eq!(live(&engine, &bench, "k").len(), SIBLINGS_MAX);
    let seen = engine
        .binding(&key("k"))
        .unwrap()
        .unwrap()
        .context()
        .clone();
    write(&engine, "k", Some("v"), Some(&seen), None).unwrap();
    assert_eq!(live(&engine, &bench, "k").len(), 1);
}

#[test]
fn values_expire_at_once_for_readers_and_then_on_disk() {
    let bench = Bench::new();
    let engine = bench.open();
    write(&engine, "k", Some("short"), None, Some(START_MS + 1_000)).unwrap();
    write(&engine, "l", Some("long"), None, None).unwrap();
    assert_eq!(engine.list_bindings(b"", None, 10).unwrap(), ["k", "l"]);
    bench.advance(1_000);
    assert_eq!(live(&engine, &bench, "k"), Vec::<String>::new());
    assert_eq!(engine.list_bindings(b"", None, 10).unwrap(), ["l"]);
    assert_eq!(engine.keep_house().unwrap().swept, 1);
    assert!(engine.binding(&key("k")).unwrap().unwrap().is_collectable());
    assert_leaves_are_true(&engine);
    assert_eq!(engine.keep_house().unwrap().swept, 0);
}

#[test]
fn tombstones_go_when_they_are_old_enough_and_not_before() {
    let bench = Bench::new();
    let engine = bench.open();
    let day = bench.options().tombstone_age_ms;
    write(&engine, "k", Some("v"), None, None).unwrap();
    write(&engine, "k", None, None, None).unwrap();
    bench.advance(day - 1);
    assert_eq!(engine.keep_house().unwrap().swept, 0);
    assert!(engine.binding(&key("k")).unwrap().is_some());
    bench.advance(2_000);
    engine.keep_house().unwrap();
    bench.advance(2_000);
    engine.keep_house().unwrap();
    assert_eq!(engine.binding(&key("k")).unwrap(), None);
    assert_leaves_are_true(&engine);
}

#[test]
fn a_key_written_again_outlives_the_expiry_of_its_older_value() {
    let bench = Bench::new();
    let engine = bench.open();
    write(&engine, "k", Some("old"), None, Some(START_MS + 10)).unwrap();
    write(&engine, "k", Some("new"), None, None).unwrap();
    bench.advance(100);
    engine.keep_house().unwrap();
    assert_eq!(live(&engine, &bench, "k"), ["new"]);
}

#[test]
fn a_value_over_the_limit_is_refused() {
    let bench = Bench::new();
    let engine = bench.open();
    let write = |bytes: usize| {
        engine.write_binding(BindingWrite {
            key: key("k"),
            value: Some(vec![0; bytes].into()),
            context: None,
            expires_ms: None,
        })
    };
    assert!(matches!(
        write(BINDING_VALUE_BYTES_MAX + 1),
        Err(BindingError::ValueTooLarge { .. })
    ));
    assert_eq!(engine.binding(&key("k")).unwrap(), None);
    write(BINDING_VALUE_BYTES_MAX).unwrap();
}

#[test]
fn keys_are_listed_in_order_page_by_page() {
    let bench = Bench::new();
    let engine = bench.open();
    for n in (0..30).rev() {
        write(&engine, &format!("user:{n:02}"), Some("v"), None, None).unwrap();
    }
    write(&engine, "zone", Some("v"), None, None).unwrap();
    write(&engine, "user:05", None, None, None).unwrap();
    let page = engine.list_bindings(b"user:", None, 6).unwrap();
    assert_eq!(
        page,
        [
            "user:00", "user:01", "user:02", "user:03", "user:04", "user:06"
        ]
    );
    let rest = engine.list_bindings(b"user:", Some(&page[5]), 100).unwrap();
    assert_eq!(rest.len(), 23);
    assert_eq!(rest.last().unwrap(), "user:29");
}

#[test]
fn concurrent_writes_to_one_key_leave_one_value_and_a_true_leaf() {
    let bench = Bench::new();
    let engine = bench.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for n in 0..50 {
                    write(
                        engine,
                        &format!("k{}", (n + thread) % 3),
                        Some("v"),
                        None,
                        None,
                    )
                    .unwrap();
                }
            });
        }
    });
    for n in 0..3 {
        assert_eq!(live(&engine, &bench, &format!("k{n}")).len(), 1);
    }
    assert_leaves_are_true(&engine);
}
