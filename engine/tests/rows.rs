//! Rows of the control plane, and what a node presents when it registers.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::sync::mpsc::sync_channel;

use mesh_engine::{Founding, FoundingMember, RowChange, Solo, prepare_with};
use mesh_ring::ids::NodeId;
use support::*;

fn change(engine: &Solo, changes: Vec<RowChange>) {
    let (sender, receiver) = sync_channel(1024);
    engine.submit_rows(changes, move |result| sender.send(result).unwrap());
    receiver.recv().unwrap().unwrap();
}

fn put(key: &[u8], value: &[u8]) -> RowChange {
    RowChange::Put {
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

fn keys(engine: &Solo, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
    let rows = engine.rows(from, to, 100).unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn rows_are_changed_in_order_and_survive_a_crash() {
    let bench = Bench::new();
    let engine = bench.open();
    change(
        &engine,
        vec![put(b"a", b"1"), put(b"b", b"2"), put(b"c", b"3")],
    );
    assert_eq!(engine.row(b"b").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(keys(&engine, b"a", b"c"), [b"a", b"b"]);
    assert_eq!(keys(&engine, b"b", b""), [b"b", b"c"]);
    assert_eq!(engine.rows(b"", b"", 1).unwrap().len(), 1);

    // Within a call as across calls, what comes later stands on what came before.
    let range = RowChange::DeleteRange {
        from: b"a".to_vec(),
        to: b"c".to_vec(),
    };
    let nothing = RowChange::DeleteRange {
        from: b"z".to_vec(),
        to: b"a".to_vec(),
    };
    let delete = RowChange::Delete { key: b"c".to_vec() };
    change(&engine, vec![range, put(b"b", b"4"), nothing, delete]);
    assert_eq!(keys(&engine, b"", b""), [b"b"]);
    let last = engine.last_row(b"", b"").unwrap().unwrap();
    assert_eq!((&last.0[..], &last.1[..]), (&b"b"[..], &b"4"[..]));
    assert_eq!(engine.last_row(b"", b"b").unwrap(), None);

    let reopened = bench.open_at(&bench.crashed_copy("crash"));
    assert_eq!(reopened.row(b"b").unwrap().as_deref(), Some(&b"4"[..]));
    assert_eq!(keys(&reopened, b"", b""), [b"b"]);
}

#[test]
fn rows_are_refused_once_the_store_is_closed() {
    let bench = Bench::new();
    let engine = bench.open();
    engine.close().unwrap();
    let (sender, receiver) = sync_channel(1024);
    engine.submit_rows(vec![put(b"a", b"1")], move |result| {
        sender.send(result).unwrap();
    });
    assert!(receiver.recv().unwrap().is_err());
}

#[test]
fn each_boot_has_a_token_that_an_old_copy_does_not_know() {
    let bench = Bench::new();
    let engine = bench.open();
    let first = engine.boot_token();
    assert_eq!((first.count, engine.earlier_boots().count()), (1, 0));
    drop(engine);
    let copy = bench.crashed_copy("copy");

    let engine = bench.open();
    let second = engine.boot_token();
    assert_eq!(second.count, 2);
    assert_eq!(engine.earlier_boots().collect::<Vec<_>>(), [first]);
    drop(engine);
    let engine = bench.open();
    assert_eq!(engine.earlier_boots().collect::<Vec<_>>(), [second, first]);

    let old = bench.open_at(&copy);
    assert_eq!(old.boot_token().count, 2);
    assert_ne!(old.boot_token(), second);
}

#[test]
fn founding_members_are_kept_for_ever() {
    let bench = Bench::new();
    assert_eq!(bench.open().founding(), None, "it joins");
    let member = |n: u8| FoundingMember {
        node: NodeId([n; 16]),
        name: format!("n{n}"),
        address: format!("host{n}:7400"),
        zone: "z".into(),
    };
    let founding = Founding {
        members: vec![member(2), member(3)],
        replicas: 3,
    };
    let data = bench.dir.path().join("founder");
    prepare_with(&data, &identity(), &founding).unwrap();
    for _ in 0..2 {
        assert_eq!(bench.open_at(&data).founding(), Some(&founding));
    }
}
