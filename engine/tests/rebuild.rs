//! A replica that is too far behind takes a new copy in place of its journal: at no moment, and after no crash, does it
//! look like one that has acknowledged nothing.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::ops::ControlFlow;

use bytes::Bytes;
use mesh_engine::{BindingWrite, Engine, Held, Identity, Persist, ReadError, prepare};
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::name::BindingKey;
use mesh_ring::replica::{Left, Position};
use support::journal::*;
use support::*;

/// The store of the leader, with more than the other one has.
fn leader(bench: &Bench) -> (Engine, PartitionId) {
    let data = bench.dir.path().join("leader");
    let node = NodeId([9; 16]);
    prepare(&data, &Identity { node, ..identity() }).unwrap();
    let engine = bench.open_engine_at(&data);
    let (mut scribe, mut end) = begun(&engine, "t");
    for _ in 0..40 {
        let entry = scribe.append(&mut end, &["more", "and more"]);
        write(&engine, scribe.partition, vec![entry]);
    }
    let last = engine.replica(scribe.partition).unwrap().last;
    commit(&engine, scribe.partition, last.index);
    (engine, scribe.partition)
}

fn bind(engine: &Engine, partition: PartitionId, name: &str) -> BindingKey {
    let key = (0..)
        .map(|n| BindingKey::new(format!("{name}{n}").as_bytes()).unwrap())
        .find(|key| engine.partition_of(key.as_bytes()) == partition)
        .unwrap();
    let value = Some(Bytes::from_static(b"v"));
    let (key_too, context, expires_ms) = (key.clone(), None, None);
    engine
        .write_binding(BindingWrite {
            key,
            value,
            context,
            expires_ms,
        })
        .unwrap();
    key_too
}

#[test]
fn of_a_journal_that_is_replaced_the_end_and_the_promise_are_never_forgotten() {
    let bench = Bench::new();
    let (from, partition) = leader(&bench);
    let theirs = bind(&from, partition, "theirs");
    let to = bench.open_engine();
    let (mut scribe, mut end) = begun(&to, "t");
    let acknowledged = scribe.append(&mut end, &["old"]);
    assert_eq!(scribe.partition, partition);
    rewrite(&to, partition, Index(5), vec![acknowledged]);
    let promise = Persist {
        promise: Some(Epoch(40)),
        ..Persist::entries(partition, vec![])
    };
    persist(&to, promise);
    let mine = bind(&to, partition, "mine");
    assert_eq!(to.held(partition), Ok(Held::Journal));
    let left = Left {
        promised: Epoch(40),
        suspect: false,
        last: to.replica(partition).unwrap().last,
    };

    let mut copies = 0;
    let check = |moment: String| {
        let engine = bench.open_engine_at(&bench.crashed_copy(&moment));
        match engine.held(partition).unwrap() {
            Held::Nothing => panic!("{moment}: something was acknowledged"),
            Held::Arriving => {
                assert_eq!(engine.replica(partition), Err(ReadError::Incomplete));
                assert_eq!(engine.left(partition), Ok(left), "{moment}");
            }
            Held::Journal => {
                let copy = engine.replica(partition).unwrap();
                assert!(copy.last >= left.last && !copy.suspect, "{moment}");
            }
        }
    };
    // A first copy is given up half way, a second one comes whole.
    for given_up in [true, false] {
        let export = from.export(partition).unwrap();
        let mut cursor = to.import_begin(export.header()).unwrap();
        assert_eq!(to.held(partition), Ok(Held::Arriving));
        check(format!("begun{copies}"));
        copies += 1;
        if given_up {
            continue;
        }
        // What is acknowledged while the copy comes in stays too.
        let meanwhile = bind(&to, partition, "meanwhile");
        loop {
            let chunk = export.chunk(&cursor).unwrap();
            to.import_chunk(export.header(), &chunk).unwrap();
            check(format!("chunk{copies}"));
            copies += 1;
            if chunk.is_last() {
                break;
            }
            cursor = chunk.upto;
        }
        to.import_finish(export.header()).unwrap();
        check("finished".into());
        for key in [&mine, &meanwhile, &theirs] {
            assert!(to.binding(key).unwrap().is_some(), "{key:?}");
        }
    }
    let durable = to.replica(partition).unwrap();
    // It holds all that can be committed of the one that went.
    assert!(!durable.suspect);
    assert_eq!(durable.promised, Epoch(40));
    assert_eq!(durable.last, from.replica(partition).unwrap().last);
    let report = to.scrub(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.damages, []);
}

#[test]
fn a_node_that_held_nothing_is_not_suspect() {
    let bench = Bench::new();
    let (from, partition) = leader(&bench);
    let to = bench.open_engine();
    assert_eq!(to.held(partition), Ok(Held::Nothing));
    // A promise is not an acknowledgement.
    let promise = Persist {
        promise: Some(Epoch(2)),
        ..Persist::entries(partition, vec![])
    };
    persist(&to, promise);
    assert_eq!(to.held(partition), Ok(Held::Nothing));
    let export = from.export(partition).unwrap();
    let mut cursor = to.import_begin(export.header()).unwrap();
    loop {
        let chunk = export.chunk(&cursor).unwrap();
        to.import_chunk(export.header(), &chunk).unwrap();
        if chunk.is_last() {
            break;
        }
        cursor = chunk.upto;
    }
    to.import_finish(export.header()).unwrap();
    let durable = to.replica(partition).unwrap();
    assert!(!durable.suspect);
    assert_eq!(to.held(partition), Ok(Held::Journal));

    to.drop_partition(partition).unwrap();
    assert_eq!(to.held(partition), Ok(Held::Nothing));
    assert_eq!(to.replica(partition).unwrap().promised, Epoch(2));
}

#[test]
fn positions_and_sizes_are_those_of_what_is_held() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    assert_eq!(engine.partition_sizes().len(), 0);
    let (scribe, mut end) = begun(&engine, "t");
    let partition = scribe.partition;
    let at = |epoch, index| {
        Some(Position {
            epoch: Epoch(epoch),
            index: Index(index),
        })
    };
    let last = engine.replica(partition).unwrap().last.index;
    let mut second = scribe.again(last.next());
    let large = "x".repeat(100_000);
    let entries = (0..20)
        .map(|_| second.append(&mut end, &[&large]))
        .collect();
    write(&engine, partition, entries);
    assert_eq!(engine.position_at(partition, Index(0)), Ok(None));
    assert_eq!(engine.position_at(partition, last), Ok(at(1, last.0)));
    let next = last.next();
    assert_eq!(engine.position_at(partition, next), Ok(at(2, next.0)));
    let end = engine.replica(partition).unwrap().last.index;
    assert_eq!(engine.position_at(partition, end.next()), Ok(None));

    // What is in files is counted.
    let data = bench.data();
    engine.close().unwrap();
    drop(engine);
    let engine = bench.open_engine_at(&data);
    let sizes = engine.partition_sizes();
    assert_eq!(sizes.keys().collect::<Vec<_>>(), [&partition]);
    let size = sizes[&partition];
    assert!((1_000_000..4_000_000).contains(&size), "{size} bytes");
}
