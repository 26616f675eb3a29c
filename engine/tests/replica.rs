//! A replica's journal: what is durable, what a truncation takes away, what a restart and a power loss leave.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::fs::OpenOptions;
use std::sync::mpsc::sync_channel;

use mesh_engine::{Command, Engine, JournalEntry, Persist, ReadError};
use mesh_ring::ids::{Epoch, Index, TopicKey};
use mesh_ring::ledger::{Ledger, Source};
use mesh_ring::replica::Position;
use support::journal::*;
use support::*;

fn position(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

/// Next offset of all that is stored, committed or not.
fn stored_next(engine: &Engine, topic: TopicKey) -> Option<u64> {
    let tail = engine.source(topic.partition).tail(topic.id).unwrap();
    tail.map(|tail| tail.next)
}

#[test]
fn a_new_replica_holds_nothing_and_remembers_what_it_promised() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let partition = engine.partition_of(b"t");
    let empty = engine.replica(partition).unwrap();
    assert_eq!((empty.boot, empty.promised), (1, Epoch(0)));
    assert_eq!((empty.first, empty.last), (Index(1), Position::ZERO));
    assert_eq!((empty.commit, empty.suspect), (Index(0), false));
    persist(
        &engine,
        Persist {
            promise: Some(Epoch(7)),
            suspect: Some(true),
            ..Persist::entries(partition, vec![])
        },
    );
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    let again = copy.replica(partition).unwrap();
    assert_eq!(
        (again.boot, again.promised, again.suspect),
        (2, Epoch(7), true)
    );
    let other = mesh_ring::ids::PartitionId((partition.0 + 1) % 8);
    assert!(!copy.replica(other).unwrap().suspect);
}

#[test]
fn entries_come_back_with_their_batches() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, mut end) = begun(&engine, "t");
    let p = scribe.partition;
    let more = scribe.append(&mut end, &["d", "e"]);
    write(&engine, p, vec![more.clone()]);

    let all = engine.read_entries(p, Index(1), 1 << 20).unwrap();
    assert_eq!(all.len(), 5);
    assert_eq!(all[4], more);
    assert!(all.iter().all(|entry| entry.verify().is_ok()));
    assert_eq!(
        engine.read_entries(p, Index(5), 1).unwrap(),
        std::slice::from_ref(&more)
    );
    assert_eq!(engine.read_entries(p, Index(2), 1).unwrap().len(), 1);
    assert_eq!(engine.read_entries(p, Index(6), 1).unwrap(), []);
    let commands = engine.commands(p, Index(2), 2).unwrap();
    let indexes: Vec<u64> = commands.iter().map(|(index, _)| index.0).collect();
    assert_eq!(indexes, [2, 3]);

    let mut wrong = more;
    wrong.epoch = Epoch(9);
    assert!(wrong.verify().is_err(), "the stamp is of another epoch");
}

#[test]
fn a_truncation_takes_the_batches_with_the_entries() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, end) = begun(&engine, "t");
    let p = scribe.partition;
    let mut lost = end;
    let gone: Vec<JournalEntry> = (0..5)
        .map(|_| scribe.append(&mut lost, &["lost", "lost"]))
        .collect();
    write(&engine, p, gone);
    assert_eq!(stored_next(&engine, end.topic), Some(13));

    let mut new = scribe.again(Index(6));
    let barrier = new.entry(Command::Barrier);
    rewrite(&engine, p, Index(6), vec![barrier]);
    assert_eq!(stored_next(&engine, end.topic), Some(5), "entry 5 stays");
    let replica = engine.replica(p).unwrap();
    assert_eq!(replica.last, position(2, 6));
    assert_eq!(replica.epochs, [(Epoch(1), Index(1)), (Epoch(2), Index(6))]);

    // Back into the first epoch: the second one's beginning is forgotten.
    let barrier = new.again(Index(5)).entry(Command::Barrier);
    rewrite(&engine, p, Index(5), vec![barrier]);
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    let replica = copy.replica(p).unwrap();
    assert_eq!(replica.epochs, [(Epoch(1), Index(1)), (Epoch(3), Index(5))]);
    assert_eq!(stored_next(&copy, end.topic), Some(3));
    assert_eq!(copy.read_entries(p, Index(1), 1 << 20).unwrap().len(), 5);
    assert_eq!(values(&copy, end.topic), ["a", "b", "c"]);
}

#[test]
fn entries_may_come_and_go_in_one_group() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, end) = begun(&engine, "t");
    let p = scribe.partition;
    // All of it is queued while the writer is busy with the first: some share a write, whichever.
    for round in 0..50 {
        let mut scribe = Scribe {
            epoch: Epoch(1 + 2 * round),
            ..scribe.clone()
        };
        let (mut one, mut two) = (end, end);
        let from = scribe.next;
        let old = vec![
            scribe.append(&mut one, &["old"]),
            scribe.append(&mut one, &["old"]),
            scribe.append(&mut one, &["old"]),
        ];
        engine.submit_persist(Persist::entries(p, old), |result| result.unwrap());
        let mut new = scribe.again(from.next());
        two.next += 1;
        two.position = {
            let mut again = end;
            Scribe {
                next: from,
                ..scribe.clone()
            }
            .append(&mut again, &["old"]);
            again.position
        };
        let replaced = Persist {
            truncate: Some(from.next()),
            ..Persist::entries(p, vec![new.append(&mut two, &["new", "new"])])
        };
        engine.submit_persist(replaced, |result| result.unwrap());
        let nothing = Persist {
            truncate: Some(from),
            ..Persist::entries(p, vec![])
        };
        engine.submit_persist(nothing, |result| result.unwrap());
    }
    let last = scribe.append(&mut { end }, &["d"]);
    write(
        &engine,
        p,
        vec![JournalEntry {
            epoch: Epoch(1),
            ..last
        }],
    );
    assert_eq!(stored_next(&engine, end.topic), Some(4));
    commit(&engine, p, Index(5));
    assert_eq!(values(&engine, end.topic), ["a", "b", "c", "d"]);
    assert_eq!(
        engine
            .scrub(&mut |_| std::ops::ControlFlow::Continue(()))
            .batches,
        3
    );
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    assert_eq!(copy.replica(p).unwrap().last, position(1, 5));
    assert_eq!(copy.read_entries(p, Index(1), 1 << 20).unwrap().len(), 5);
}

#[test]
fn a_power_loss_leaves_a_truncation_whole_or_undone() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, end) = begun(&engine, "t");
    let p = scribe.partition;
    let mut old_end = end;
    let old: Vec<JournalEntry> = (0..4)
        .map(|_| scribe.append(&mut old_end, &["old", "old"]))
        .collect();
    write(&engine, p, old.clone());
    let log = newest_log(&bench.data());
    let before = written_bytes(&log);
    let mut new_end = end;
    let mut new = scribe.again(Index(5));
    let new: Vec<JournalEntry> = (0..2)
        .map(|_| new.append(&mut new_end, &["new", "new", "new"]))
        .collect();
    rewrite(&engine, p, Index(5), new.clone());
    let after = written_bytes(&log);
    assert!(after > before);

    let mut seen = [false; 2];
    for step in 0..=16 {
        let keep = before + (after - before) * step / 16;
        let data = bench.crashed_copy(&format!("cut{step}"));
        let cut = data.join("db").join(log.file_name().unwrap());
        let file = OpenOptions::new().write(true).open(&cut).unwrap();
        file.set_len(keep).unwrap();
        let copy = bench.open_engine_at(&data);
        let found = copy.read_entries(p, Index(5), 1 << 20).unwrap();
        let is_new = found == new;
        assert!(is_new || found == old, "cut at {step}/16: {found:?}");
        assert_eq!(
            stored_next(&copy, end.topic),
            Some(if is_new { 9 } else { 11 })
        );
        let epoch = if is_new { Epoch(2) } else { Epoch(1) };
        assert_eq!(copy.replica(p).unwrap().last.epoch, epoch);
        seen[usize::from(is_new)] = true;
    }
    assert_eq!(seen, [true, true], "both outcomes were met");
}

#[test]
#[should_panic(expected = "is committed and stays")]
fn what_is_committed_is_never_truncated() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (scribe, _) = begun(&engine, "t");
    rewrite(&engine, scribe.partition, Index(4), vec![]);
}

#[test]
fn records_that_came_without_their_batch_are_trimmed_away() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, mut end) = begun(&engine, "t");
    let p = scribe.partition;
    let mut bare = scribe.append(&mut end, &["x", "y"]);
    bare.batch = None;
    let with = scribe.append(&mut end, &["z"]);
    write(&engine, p, vec![bare, with]);
    assert_eq!(
        values(&engine, end.topic),
        ["a", "b", "c"],
        "nothing is committed yet"
    );
    let copy = bench.open_engine_at(&bench.crashed_copy("before"));
    for engine in [&engine, &copy] {
        assert_eq!(
            engine.read_entries(p, Index(5), 1 << 20).unwrap()[0].batch,
            None
        );
        commit(engine, p, Index(6));
        let extent = engine.describe(end.topic).unwrap();
        assert_eq!((extent.first, extent.next), (5, 6));
        assert_eq!(values(engine, end.topic), ["z"]);
        assert_eq!(
            engine.read(end.topic, 4, 1),
            Err(ReadError::Trimmed { from: 4, first: 5 })
        );
        // Once more from elsewhere: it is trimmed here now, and goes on without its batch.
        let entries = engine.read_entries(p, Index(3), 1 << 20).unwrap();
        let batches: Vec<bool> = entries.iter().map(|entry| entry.batch.is_some()).collect();
        assert_eq!(batches, [false, false, false, true]);
    }
}

#[test]
fn commands_are_applied_once_whatever_happens_between_persist_and_commit() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, mut end) = begun(&engine, "t");
    let p = scribe.partition;
    let trim = scribe.entry(Command::Trim {
        topic: end.topic.id,
        first: 2,
        position: 0,
        time_ms: 5,
    });
    let more = scribe.append(&mut end, &["d"]);
    let delete = scribe.entry(Command::DeleteTopic {
        topic: end.topic.id,
    });
    let (create, other) = scribe.create("t");
    let cursor = scribe.entry(Command::CommitCursor {
        topic: other.topic.id,
        name: "c".into(),
        next: 0,
    });
    write(&engine, p, vec![trim, more, delete, create, cursor]);
    let cursor_name = mesh_ring::name::CursorName::new("c").unwrap();
    let uncommitted = bench.crashed_copy("persisted");

    let check_old = |engine: &Engine| {
        assert_eq!(named(engine, "t").unwrap().key, end.topic);
        assert_eq!(engine.cursor(other.topic, &cursor_name).unwrap(), None);
    };
    check_old(&engine);
    // In two steps, the second of them after a crash, and the other way round: all at once after a crash.
    commit(&engine, p, Index(6));
    assert_eq!(values(&engine, end.topic), ["c", "d"]);
    let half = bench.crashed_copy("half");
    for (data, first) in [(uncommitted, 0), (half, 2)] {
        let engine = bench.open_engine_at(&data);
        check_old(&engine);
        assert_eq!(engine.describe(end.topic).unwrap().first, first);
        commit(&engine, p, Index(9));
        assert_eq!(named(&engine, "t").unwrap().key, other.topic);
        assert_eq!(engine.read(end.topic, 0, 1), Err(ReadError::TopicDeleted));
        assert_eq!(engine.cursor(other.topic, &cursor_name).unwrap(), Some(0));
        drop(engine);
        let engine = bench.open_engine_at(&data);
        assert_eq!(engine.replica(p).unwrap().commit, Index(9));
        assert_eq!(named(&engine, "t").unwrap().key, other.topic);
    }
}

#[test]
fn a_commit_waits_for_what_is_not_durable_yet() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, mut end) = begun(&engine, "t");
    let p = scribe.partition;
    let (sender, receiver) = sync_channel(1024);
    for n in 0..200_u64 {
        let entry = scribe.append(&mut end, &["x"]);
        let index = entry.index;
        let persisted = sender.clone();
        engine.submit_persist(Persist::entries(p, vec![entry]), move |result| {
            persisted.send((n, false, result)).unwrap();
        });
        let committed = sender.clone();
        engine.submit_commit(p, index, move |result| {
            committed.send((n, true, result)).unwrap();
        });
    }
    drop(sender);
    let order: Vec<(u64, bool)> = receiver
        .iter()
        .map(|(n, committed, result)| {
            result.unwrap();
            (n, committed)
        })
        .collect();
    let expected: Vec<(u64, bool)> = (0..200).flat_map(|n| [(n, false), (n, true)]).collect();
    assert_eq!(order, expected);
    assert_eq!(engine.describe(end.topic).unwrap().next, 203);
}

#[test]
fn a_checkpoint_lets_old_entries_go() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let (mut scribe, mut end) = begun(&engine, "t");
    let p = scribe.partition;
    let total = 2 * mesh_engine::JOURNAL_ENTRIES_KEPT + 10;
    let mut ledger = Ledger::new(engine.checkpointed(p).unwrap());
    for (index, command) in engine.commands(p, Index(1), 10).unwrap() {
        ledger.follow(&engine.source(p), index, &command).unwrap();
    }
    while scribe.next.0 <= total {
        scribe.epoch = Epoch(1 + scribe.next.0 / 4_000);
        let count = (total + 1 - scribe.next.0).min(500);
        let entries: Vec<JournalEntry> = (0..count)
            .map(|_| scribe.append(&mut end, &["x"]))
            .collect();
        for entry in &entries {
            ledger
                .follow(&engine.source(p), entry.index, &entry.command)
                .unwrap();
        }
        write(&engine, p, entries);
    }
    commit(&engine, p, Index(total));
    ledger.settle(Index(total));
    let before = engine.replica(p).unwrap();
    assert!(before.epochs.len() > 3, "{:?}", before.epochs);
    let (sender, receiver) = sync_channel(1024);
    let checkpoint = ledger.checkpoint().unwrap();
    engine.submit_checkpoint(p, checkpoint, move |result| sender.send(result).unwrap());
    let first = receiver.recv().unwrap().unwrap();
    assert_eq!(first, Index(total + 1 - mesh_engine::JOURNAL_ENTRIES_KEPT));
    for engine in [&engine, &bench.open_engine_at(&bench.crashed_copy("crash"))] {
        let replica = engine.replica(p).unwrap();
        assert_eq!((replica.first, replica.last.index), (first, Index(total)));
        assert_eq!(engine.checkpointed(p).unwrap().upto, Index(total));
        let at = engine.read_entries(p, first, 1).unwrap();
        assert_eq!(at[0].index, first);
        assert_eq!(
            engine.read_entries(p, Index(first.0 - 1), 1),
            Err(ReadError::JournalGone { first })
        );
        assert_eq!(replica.before.index.0, first.0 - 1);
        // The epochs that are left, as the ones before said it.
        let kept: Vec<_> = before
            .epochs
            .iter()
            .enumerate()
            .filter(|(n, _)| {
                before
                    .epochs
                    .get(n + 1)
                    .is_none_or(|(_, begin)| *begin > first)
            })
            .map(|(_, (epoch, begin))| (*epoch, (*begin).max(first)))
            .collect();
        assert_eq!(replica.epochs, kept);
        assert!(replica.before.epoch <= kept[0].0);
    }
}
