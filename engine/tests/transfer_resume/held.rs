//! What another giver makes of what is held, and what is given up because it does not fit.

use std::ops::ControlFlow;

use bytes::Bytes;
use mesh_engine::{Engine, Export, Holding, ImportError, Persist, ReadError};
use mesh_ring::ids::{Epoch, Index, PartitionId};
use mesh_ring::ledger::Checkpoint;
use mesh_ring::replica::{Left, Position};

use crate::support::journal::*;
use crate::support::*;
use crate::{CHUNK, copied, empty};

/// A follower's engine with the same journal, entry by entry.
fn follow(from: &Engine, to: &Engine, partition: PartitionId, upto: Index) {
    loop {
        let next = to.replica(partition).unwrap().last.index.next();
        let mut entries = from.read_entries(partition, next, 1 << 20).unwrap();
        entries.retain(|entry| entry.index <= upto);
        if entries.is_empty() {
            break;
        }
        write(to, partition, entries);
    }
    commit(to, partition, upto);
}

/// A scribe's leader with 60 batches, all committed, and a taker that has some of them.
fn begun_transfer(bench: &Bench) -> (Engine, Engine, Scribe, End) {
    let leader = bench.open_engine();
    let (mut scribe, mut end) = begun(&leader, "t");
    let value = "x".repeat(500);
    for _ in 0..60 {
        let entry = scribe.append(&mut end, &[&value]);
        write(&leader, scribe.partition, vec![entry]);
    }
    let last = leader.replica(scribe.partition).unwrap().last.index;
    commit(&leader, scribe.partition, last);
    let taker = bench.open_engine_at(&empty(bench, "taker"));
    let export = leader.export(scribe.partition).unwrap();
    let mut cursor = taker.import_begin(export.header()).unwrap();
    for _ in 0..5 {
        let chunk = export.chunk_of(&cursor, CHUNK).unwrap();
        taker.import_chunk(export.header(), &chunk).unwrap();
        cursor = chunk.upto;
    }
    drop(export);
    (leader, taker, scribe, end)
}

fn take_all(export: &Export<'_>, taker: &Engine) {
    let mut cursor = taker.import_begin(export.header()).unwrap();
    loop {
        let chunk = export.chunk(&cursor).unwrap();
        taker.import_chunk(export.header(), &chunk).unwrap();
        if chunk.is_last() {
            break;
        }
        cursor = chunk.upto;
    }
    taker.import_finish(export.header()).unwrap();
}

fn rows_of(engine: &Engine, partition: PartitionId) -> Bytes {
    let export = engine.export(partition).unwrap();
    export.chunk_of(&[], 1 << 30).unwrap().rows
}

#[test]
fn a_follower_that_leads_now_goes_on_with_what_it_has_committed_alone() {
    let bench = Bench::new();
    let (leader, taker, mut scribe, mut end) = begun_transfer(&bench);
    let p = scribe.partition;
    let last = leader.replica(p).unwrap().last.index;
    let second = bench.open_engine_at(&empty(&bench, "second"));
    follow(&leader, &second, p, last);
    // It has more, of which a part is not committed.
    let more = scribe.append(&mut end, &["more"]);
    let uncommitted = scribe.append(&mut end, &["lost"]);
    write(&second, p, vec![more, uncommitted]);
    commit(&second, p, last.next());
    let held = taker.import_holding(p).unwrap().unwrap();
    let export = second.export_behind(p, Some(&held)).unwrap();
    assert_eq!(export.header().continues, Some(held.token));
    take_all(&export, &taker);
    assert_eq!(taker.replica(p).unwrap().commit, last.next());
    assert_eq!(
        values(&taker, end.topic).last().map(String::as_str),
        Some("more")
    );
    assert_eq!(rows_of(&taker, p), rows_of(&second, p));
}

#[test]
fn a_giver_that_knows_less_begins_anew() {
    let bench = Bench::new();
    let (leader, taker, scribe, _) = begun_transfer(&bench);
    let p = scribe.partition;
    let last = leader.replica(p).unwrap().last.index;
    let behind = bench.open_engine_at(&empty(&bench, "behind"));
    follow(&leader, &behind, p, Index(last.0 - 1));
    let held = taker.import_holding(p).unwrap().unwrap();
    assert_eq!(held.commit, last);
    let export = behind.export_behind(p, Some(&held)).unwrap();
    assert_eq!(export.header().continues, None);
    assert_eq!(
        taker.import_begin(export.header()).unwrap(),
        Vec::<u8>::new()
    );
    assert_eq!(taker.import_holding(p).unwrap().unwrap().topics, []);
    take_all(&export, &taker);
    assert_eq!(rows_of(&taker, p), rows_of(&behind, p));
}

#[test]
fn a_taker_goes_on_with_nothing_that_knows_less_whatever_it_is_told() {
    let bench = Bench::new();
    let (leader, taker, scribe, _) = begun_transfer(&bench);
    let held = taker.import_holding(scribe.partition).unwrap().unwrap();
    let export = leader.export_behind(scribe.partition, Some(&held)).unwrap();
    let mut header = export.header().clone();
    header.commit = Index(header.commit.0 - 1);
    assert_eq!(taker.import_begin(&header), Err(ImportError::OtherExport));
    assert_eq!(taker.import_holding(scribe.partition).unwrap(), Some(held));
}

#[test]
fn a_giver_goes_on_however_far_its_journal_reaches_back() {
    let bench = Bench::new();
    let (leader, taker, mut scribe, mut end) = begun_transfer(&bench);
    let p = scribe.partition;
    let held = taker.import_holding(p).unwrap().unwrap();
    for _ in 0..10 {
        let entries = (0..4_000).map(|_| scribe.append(&mut end, &["y"]));
        write(&leader, p, entries.collect());
        let last = leader.replica(p).unwrap().last.index;
        commit(&leader, p, last);
        let checkpoint = Checkpoint {
            upto: last,
            forgotten_before_ms: 0,
            deleted: Vec::new(),
            windows: Vec::new(),
        };
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        leader.submit_checkpoint(p, checkpoint, move |kept| sender.send(kept).unwrap());
        receiver.recv().unwrap().unwrap();
    }
    assert!(leader.replica(p).unwrap().first > held.commit.next());
    let export = leader.export_behind(p, Some(&held)).unwrap();
    assert_eq!(export.header().continues, Some(held.token));
    take_all(&export, &taker);
    assert_eq!(rows_of(&taker, p), rows_of(&leader, p));
    let report = taker.scrub(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.damages, []);
}

#[test]
fn what_continues_another_state_is_refused() {
    let bench = Bench::new();
    let (leader, taker, scribe, _) = begun_transfer(&bench);
    let p = scribe.partition;
    let state = taker.import_state(p).unwrap().unwrap();
    let held = taker.import_holding(p).unwrap().unwrap();
    let export = leader.export_behind(p, Some(&held)).unwrap();
    // Another export goes on meanwhile.
    let meanwhile = leader.export_behind(p, Some(&held)).unwrap();
    taker.import_begin(meanwhile.header()).unwrap();
    assert_eq!(
        taker.import_begin(export.header()),
        Err(ImportError::OtherExport)
    );
    let now = taker.import_state(p).unwrap().unwrap();
    assert_eq!((now.id, &now.cursor[..]), (meanwhile.header().id, &[][..]));
    assert_eq!(now.log_bytes, state.log_bytes);
    take_all(&meanwhile, &taker);
    assert_eq!(rows_of(&taker, p), rows_of(&leader, p));

    // Nothing is held where the partition was dropped.
    taker.drop_partition(p).unwrap();
    assert_eq!(taker.import_holding(p).unwrap(), None);
    let export = leader.export_behind(p, Some(&held)).unwrap();
    assert_eq!(
        taker.import_begin(export.header()),
        Err(ImportError::OtherExport)
    );
}

#[test]
fn rows_that_do_not_fit_what_is_held_are_given_up_and_it_begins_anew() {
    let bench = Bench::new();
    let (leader, taker, scribe, _) = begun_transfer(&bench);
    let p = scribe.partition;
    let held = taker.import_holding(p).unwrap().unwrap();
    let (topic, next) = held.topics[0];
    for (name, told) in [
        ("more is held than there is", next - 1),
        ("a gap", next + 3),
    ] {
        let crashed = copied(
            &bench,
            &bench.dir.path().join("taker"),
            &name.replace(' ', "-"),
        );
        let taker = bench.open_engine_at(&crashed);
        // As a giver would that has other batches there.
        let lie = Holding {
            topics: vec![(topic, told)],
            ..held.clone()
        };
        let export = leader.export_behind(p, Some(&lie)).unwrap();
        let mut cursor = taker.import_begin(export.header()).unwrap();
        let mut refused = Ok(());
        while refused.is_ok() && cursor != [255] {
            let chunk = export.chunk_of(&cursor, CHUNK).unwrap();
            refused = taker.import_chunk(export.header(), &chunk);
            cursor = chunk.upto;
        }
        if refused.is_ok() {
            refused = taker.import_finish(export.header());
        }
        if told < next {
            // The same batch as before: it takes its own place.
            assert_eq!(refused, Ok(()), "{name}");
            assert_eq!(rows_of(&taker, p), rows_of(&leader, p));
            continue;
        }
        assert!(
            matches!(refused, Err(ImportError::Diverged(_))),
            "{name}: {refused:?}"
        );
        assert_eq!(taker.replica(p), Err(ReadError::Incomplete));
        assert_eq!(taker.import_state(p).unwrap(), None);
        drop(taker);
        let taker = bench.open_engine_at(&crashed);
        let export = export_of(&leader, &taker, p);
        assert_eq!(export.header().continues, None);
        take_all(&export, &taker);
        assert_eq!(rows_of(&taker, p), rows_of(&leader, p));
    }
}

fn export_of<'e>(from: &'e Engine, to: &Engine, partition: PartitionId) -> Export<'e> {
    let holding = to.import_holding(partition).unwrap();
    from.export_behind(partition, holding.as_ref()).unwrap()
}

#[test]
fn batches_that_overlap_what_is_held_are_given_up() {
    let bench = Bench::new();
    let (_, taker, scribe, _) = begun_transfer(&bench);
    let p = scribe.partition;
    let held = taker.import_holding(p).unwrap().unwrap();
    let (topic, next) = held.topics[0];
    // Another history: one batch reaches across the end of what is held.
    let other = bench.open_engine_at(&empty(&bench, "other"));
    let (mut scribe, mut end) = begun(&other, "t");
    let many: Vec<&str> = vec!["z"; usize::try_from(next).unwrap()];
    let across = scribe.append(&mut end, &many);
    write(&other, p, vec![across]);
    for _ in 0..80 {
        let entry = scribe.append(&mut end, &["z"]);
        write(&other, p, vec![entry]);
    }
    let last = other.replica(p).unwrap().last.index;
    assert!(last > held.commit);
    commit(&other, p, last);
    let export = other.export_behind(p, Some(&held)).unwrap();
    assert_eq!(topic, end.topic.id);
    let cursor = taker.import_begin(export.header()).unwrap();
    let chunk = export.chunk_of(&cursor, CHUNK).unwrap();
    let refused = taker.import_chunk(export.header(), &chunk);
    assert!(
        matches!(refused, Err(ImportError::Diverged(_))),
        "{refused:?}"
    );
    assert_eq!(taker.import_holding(p).unwrap(), None);
    take_all(&export_of(&other, &taker, p), &taker);
    assert_eq!(rows_of(&taker, p), rows_of(&other, p));
}

/// Takes a copy, from two givers and with a restart in between, in place of a journal that ends in `epoch`. Whether the
/// replica is suspect then.
fn replaced(epoch: Epoch) -> bool {
    let bench = Bench::new();
    let (leader, _, mut scribe, mut end) = begun_transfer(&bench);
    let p = scribe.partition;
    let data = empty(&bench, "behind");
    let taker = bench.open_engine_at(&data);
    let (mut own, mut own_end) = begun(&taker, "t");
    let mut acknowledged = own.append(&mut own_end, &["own"]);
    acknowledged.epoch = acknowledged.epoch.max(epoch);
    let last = Position {
        epoch: acknowledged.epoch,
        index: acknowledged.index,
    };
    write(&taker, p, vec![acknowledged]);
    let promise = Persist {
        promise: Some(Epoch(40)),
        ..Persist::entries(p, vec![])
    };
    persist(&taker, promise);
    let left = |promised| Left {
        promised: Epoch(promised),
        suspect: false,
        last,
    };
    assert_eq!(taker.left(p).unwrap(), left(40), "while it has its journal");
    let export = leader.export(p).unwrap();
    let mut cursor = taker.import_begin(export.header()).unwrap();
    // Of its own journal nothing counts as held.
    assert_eq!(taker.import_holding(p).unwrap().unwrap().topics, []);
    for _ in 0..4 {
        let chunk = export.chunk_of(&cursor, CHUNK).unwrap();
        taker.import_chunk(export.header(), &chunk).unwrap();
        cursor = chunk.upto;
    }
    assert_eq!(taker.left(p).unwrap(), left(40));
    taker.promise_without_journal(p, Epoch(41)).unwrap();
    drop(taker);
    let entry = scribe.append(&mut end, &["later"]);
    let last = entry.index;
    write(&leader, p, vec![entry]);
    commit(&leader, p, last);
    let taker = bench.open_engine_at(&data);
    assert_eq!(taker.left(p).unwrap(), left(41), "after a restart");
    let export = export_of(&leader, &taker, p);
    assert!(export.header().continues.is_some());
    take_all(&export, &taker);
    let replica = taker.replica(p).unwrap();
    assert_eq!(replica.promised, Epoch(41));
    assert_eq!(rows_of(&taker, p), rows_of(&leader, p));
    replica.suspect
}

#[test]
fn a_copy_that_ends_before_the_journal_that_went_leaves_a_suspect() {
    assert!(!replaced(Epoch(0)), "it holds all that could be committed");
    assert!(replaced(Epoch(39)), "what was acknowledged is missing");
}
