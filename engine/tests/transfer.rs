//! A partition's copy: taken while the partition goes on, taken in chunk by chunk, also across crashes of the receiver.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use mesh_engine::{
    Append, BindingWrite, CHUNK_BYTES, Engine, Export, ExportHeader, ImportError, Persist,
    ReadError, Solo, TopicConfig, prepare,
};
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId, TopicKey};
use mesh_ring::name::{BindingKey, CursorName, TopicName};
use mesh_ring::replica::Position;
use support::journal::*;
use support::*;

/// An empty store of another node of the cluster.
fn other(bench: &Bench, name: &str) -> (std::path::PathBuf, Engine) {
    let data = bench.dir.path().join(name);
    let identity = mesh_engine::Identity {
        node: NodeId([9; 16]),
        name: name.into(),
        ..identity()
    };
    prepare(&data, &identity).unwrap();
    let engine = bench.open_engine_at(&data);
    (data, engine)
}

/// Sends every chunk that is missing; `limit` of them at most. Returns how many that were.
fn send(export: &Export<'_>, to: &Engine, limit: usize) -> usize {
    let mut cursor = to.import_begin(export.header()).unwrap();
    for sent in 0..limit {
        let chunk = export.chunk(&cursor).unwrap();
        assert!(chunk.rows.len() < CHUNK_BYTES + (5 << 20));
        to.import_chunk(export.header(), &chunk).unwrap();
        if chunk.is_last() {
            return sent + 1;
        }
        cursor = chunk.upto;
    }
    limit
}

fn damages(engine: &Engine) -> u64 {
    let report = engine.scrub(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.damages, []);
    report.batches
}

/// A partition with a bit of everything: topics (one deleted, one trimmed), producers, cursors, bindings.
struct Everything {
    kept: TopicKey,
    deleted: TopicKey,
    partition: PartitionId,
}

/// A topic name that lies in the partition.
fn name_in(engine: &Engine, partition: PartitionId, stem: &str) -> TopicName {
    (0..)
        .map(|n| TopicName::new(&format!("{stem}{n}")).unwrap())
        .find(|name| engine.partition_of(name.as_bytes()) == partition)
        .unwrap()
}

fn fill(solo: &Solo, batches: u64, bytes: usize) -> Everything {
    let partition = PartitionId(3);
    let config = TopicConfig {
        retention_age_ms: Some(1 << 40),
        retention_bytes: None,
    };
    let kept = solo
        .create_topic(&name_in(solo, partition, "kept"), config)
        .unwrap();
    let deleted = create(solo, name_in(solo, partition, "deleted").as_str());
    for topic in [kept.key, deleted] {
        for n in 0..batches {
            let batch = noise_batch(n, 4, bytes);
            solo.append(Append {
                topic,
                batch,
                expected: None,
            })
            .unwrap();
        }
    }
    let stamped = batch(&["once"], stamp(1, 2, 0));
    let append = Append {
        topic: kept.key,
        batch: stamped,
        expected: None,
    };
    assert!(!solo.append(append).unwrap().duplicate);
    solo.trim(kept.key, 6).unwrap();
    solo.delete_topic(deleted).unwrap();
    let reader = CursorName::new("reader").unwrap();
    solo.commit_cursor(kept.key, &reader, 7).unwrap();
    for n in 0..40 {
        let write = BindingWrite {
            key: binding_in(solo, partition, n),
            value: (n % 5 != 0).then(|| Bytes::from(vec![7; 300])),
            context: None,
            expires_ms: (n % 2 == 0).then_some(START_MS + 1_000),
        };
        solo.write_binding(write).unwrap();
    }
    Everything {
        kept: kept.key,
        deleted,
        partition,
    }
}

fn binding_in(engine: &Engine, partition: PartitionId, n: u64) -> BindingKey {
    (0..)
        .map(|m| format!("binding{n}/{m}").into_bytes())
        .find(|key| engine.partition_of(key) == partition)
        .map(|key| BindingKey::new(&key).unwrap())
        .unwrap()
}

fn check_same(from: &Engine, to: &Engine, all: &Everything) {
    let (topic, reader) = (all.kept, CursorName::new("reader").unwrap());
    assert_eq!(to.describe(topic), from.describe(topic));
    assert_eq!(read_all(to, topic, 6), read_all(from, topic, 6));
    assert_eq!(to.read(topic, 5, 1), from.read(topic, 5, 1));
    assert_eq!(to.read(all.deleted, 0, 1), Err(ReadError::TopicDeleted));
    assert_eq!(to.cursor(topic, &reader).unwrap(), Some(7));
    for n in 0..40 {
        let key = binding_in(from, all.partition, n);
        assert_eq!(to.binding(&key).unwrap(), from.binding(&key).unwrap());
        assert!(to.binding(&key).unwrap().is_some());
    }
    let (source, copy) = (from.replica(all.partition), to.replica(all.partition));
    let (source, copy) = (source.unwrap(), copy.unwrap());
    assert_eq!((copy.last, copy.commit), (source.last, source.commit));
    assert_eq!(copy.last.index, copy.commit);
    assert_eq!(
        to.read_entries(all.partition, copy.first, 64 << 20)
            .unwrap(),
        from.read_entries(all.partition, copy.first, 64 << 20)
            .unwrap()
    );
}

#[test]
fn a_copy_has_everything_and_goes_on_by_itself() {
    let bench = Bench::new();
    let from = bench.open();
    let all = fill(&from, 30, 40_000);
    let (data, to) = other(&bench, "to");
    let export = from.export(all.partition).unwrap();
    // What happens from now on is not in the copy.
    let later = create(&from, name_in(&from, all.partition, "later").as_str());
    append(&from, all.kept, &["later"]).unwrap();

    let chunks = send(&export, &to, usize::MAX);
    assert!(chunks > 3, "{chunks} chunks");
    assert_eq!(to.replica(all.partition), Err(ReadError::Incomplete));
    to.import_finish(export.header()).unwrap();
    assert_eq!(to.read(later, 0, 1), Err(ReadError::TopicDeleted));
    assert_eq!(
        to.describe(all.kept).unwrap().next + 1,
        from.describe(all.kept).unwrap().next
    );
    drop(export);

    // The rest comes as to any follower.
    let copy = to.replica(all.partition).unwrap();
    let rest = from
        .read_entries(all.partition, copy.last.index.next(), 1 << 20)
        .unwrap();
    let last = rest.last().unwrap().index;
    write(&to, all.partition, rest);
    commit(&to, all.partition, last);
    check_same(&from, &to, &all);
    damages(&to);

    // A retry is known, values expire, tombstones go: the copy is as good as what it is a copy of.
    drop(to);
    let to = bench.open_at(&data);
    let again = to.append(Append {
        topic: all.kept,
        batch: batch(&["once"], stamp(1, 2, 0)),
        expected: None,
    });
    assert!(again.unwrap().duplicate);
    bench.advance(2_000);
    assert!(to.keep_house().unwrap().swept > 0);
    bench.advance(2 * 24 * 60 * 60 * 1000);
    to.keep_house().unwrap();
    let key = binding_in(&to, all.partition, 0);
    assert_eq!(to.binding(&key).unwrap(), None, "the tombstone went");
    let created = to.create_topic(&name_in(&to, all.partition, "new"), TopicConfig::default());
    append(&to, created.unwrap().key, &["x"]).unwrap();
}

#[test]
fn a_receiver_that_crashes_goes_on_where_it_was() {
    let bench = Bench::new();
    let from = bench.open();
    let all = fill(&from, 40, 60_000);
    let (mut data, mut to) = other(&bench, "to");
    let export = from.export(all.partition).unwrap();
    let mut sent = 0;
    for crash in 0..100 {
        let now = send(&export, &to, 2);
        sent += now;
        let state = to.import_state(all.partition).unwrap().unwrap();
        let done = export.chunk(&state.cursor);
        if now < 2 || done.is_ok_and(|chunk| chunk.is_last() && chunk.rows.is_empty()) {
            break;
        }
        assert_eq!(to.describe(all.kept), Err(ReadError::Incomplete));
        let copy = bench.dir.path().join(format!("crash{crash}"));
        copy_dir(&data, &copy);
        (data, to) = (copy.clone(), bench.open_engine_at(&copy));
        assert_eq!(to.replica(all.partition), Err(ReadError::Incomplete));
        let state = to.import_state(all.partition).unwrap().unwrap();
        assert_eq!(state.id, export.header().id);
    }
    let total = count_chunks(&export);
    assert!(
        total >= sent && sent + 1 >= total,
        "{sent} of {total}: none came twice"
    );
    if !matches!(to.import_finish(export.header()), Ok(())) {
        send(&export, &to, usize::MAX);
        to.import_finish(export.header()).unwrap();
    }
    check_same(&from, &to, &all);
    let to = bench.open_engine_at(&{
        let copy = bench.dir.path().join("finished");
        copy_dir(&data, &copy);
        copy
    });
    check_same(&from, &to, &all);
    assert_eq!(to.import_state(all.partition).unwrap(), None);
}

fn count_chunks(export: &Export<'_>) -> usize {
    let mut cursor = Vec::new();
    for count in 1.. {
        let chunk = export.chunk(&cursor).unwrap();
        if chunk.is_last() {
            return count;
        }
        cursor = chunk.upto;
    }
    unreachable!()
}

#[test]
fn only_committed_records_travel() {
    let bench = Bench::new();
    let from = bench.open_engine();
    let (mut scribe, mut end) = begun(&from, "t");
    let p = scribe.partition;
    let kept = scribe.append(&mut end, &["d"]);
    let committed_end = end;
    let lost = scribe.append(&mut end, &["u"]);
    let (create, mut new) = scribe.create("new");
    let in_new = scribe.append(&mut new, &["u"]);
    write(&from, p, vec![kept, lost, create, in_new]);
    commit(&from, p, Index(5));
    let export = from.export(p).unwrap();
    assert_eq!(export.header().commit, Index(5));
    // All of it is committed and another epoch has begun, when the first chunk is read.
    commit(&from, p, Index(8));
    let barrier = scribe.again(Index(9)).entry(mesh_engine::Command::Barrier);
    write(&from, p, vec![barrier]);

    let (_data, to) = other(&bench, "to");
    send(&export, &to, usize::MAX);
    to.import_finish(export.header()).unwrap();
    assert_eq!(values(&to, end.topic), ["a", "b", "c", "d"]);
    assert_eq!(
        to.describe(end.topic).unwrap().bytes,
        committed_end.position
    );
    assert_eq!(damages(&to), 3);
    let copy = to.replica(p).unwrap();
    let expected = Position {
        epoch: Epoch(1),
        index: Index(5),
    };
    assert_eq!(
        (copy.last, copy.commit, copy.first),
        (expected, Index(5), Index(1))
    );
    assert_eq!(copy.epochs, [(Epoch(1), Index(1))]);
}

#[test]
fn what_is_not_a_chunk_of_this_copy_is_refused_and_nothing_is_written() {
    let bench = Bench::new();
    let from = bench.open();
    let all = fill(&from, 8, 100_000);
    let (_data, to) = other(&bench, "to");
    let export = from.export(all.partition).unwrap();
    let header = export.header().clone();
    let first = export.chunk(&[]).unwrap();
    let second = export.chunk(&first.upto).unwrap();
    assert_eq!(
        to.import_chunk(&header, &first),
        Err(ImportError::OtherExport)
    );
    to.import_begin(&header).unwrap();
    let wanted = |cursor: &[u8]| {
        Err(ImportError::OutOfOrder {
            cursor: cursor.to_vec(),
        })
    };
    assert_eq!(to.import_chunk(&header, &second), wanted(&[]));
    for at in [0, first.rows.len() / 2, first.rows.len() - 1] {
        let mut rows = first.rows.to_vec();
        rows[at] ^= 1;
        let mut broken = first.clone();
        broken.rows = rows.into();
        let refused = to.import_chunk(&header, &broken);
        assert!(
            matches!(refused, Err(ImportError::Damaged(_))),
            "{refused:?}"
        );
    }
    to.import_chunk(&header, &first).unwrap();
    assert_eq!(to.import_chunk(&header, &first), wanted(&first.upto));
    assert_eq!(to.import_finish(&header), wanted(&first.upto));
    let other_header = ExportHeader {
        id: [1; 16],
        ..header.clone()
    };
    assert_eq!(
        to.import_finish(&other_header),
        Err(ImportError::OtherExport)
    );

    // A new copy begins from nothing.
    let again = from.export(all.partition).unwrap();
    assert_eq!(to.import_begin(again.header()).unwrap(), Vec::<u8>::new());
    assert_eq!(
        to.import_chunk(&header, &second),
        Err(ImportError::OtherExport)
    );
    send(&again, &to, usize::MAX);
    to.import_finish(again.header()).unwrap();
    check_same(&from, &to, &all);
}

#[test]
fn a_dropped_partition_is_empty_but_for_its_promise() {
    let bench = Bench::new();
    let solo = bench.open();
    let all = fill(&solo, 4, 1_000);
    let elsewhere = PartitionId(all.partition.0 + 1);
    let bystander = create(&solo, name_in(&solo, elsewhere, "bystander").as_str());
    append(&solo, bystander, &["x"]).unwrap();
    drop(solo);
    let engine = bench.open_engine();
    persist(
        &engine,
        Persist {
            promise: Some(Epoch(40)),
            ..Persist::entries(all.partition, vec![])
        },
    );
    engine.drop_partition(all.partition).unwrap();
    let check = |engine: &Engine| {
        let replica = engine.replica(all.partition).unwrap();
        assert_eq!(
            (replica.promised, replica.last),
            (Epoch(40), Position::ZERO)
        );
        assert_eq!((replica.first, replica.commit), (Index(1), Index(0)));
        assert_eq!(replica.epochs, []);
        assert_eq!(engine.read(all.kept, 6, 1), Err(ReadError::TopicDeleted));
        let key = binding_in(engine, all.partition, 1);
        assert_eq!(engine.binding(&key).unwrap(), None);
        assert_eq!(values(engine, bystander), ["x"]);
        assert_eq!(damages(engine), 1);
    };
    check(&engine);
    check(&bench.open_engine_at(&bench.crashed_copy("crash")));
    engine.reclaim(true);
    check(&engine);
    check(&bench.open_engine_at(&closed_copy(&bench, engine)));
}

fn closed_copy(bench: &Bench, engine: Engine) -> std::path::PathBuf {
    engine.close().unwrap();
    drop(engine);
    let copy: &Path = &bench.crashed_copy("closed");
    copy.to_owned()
}
