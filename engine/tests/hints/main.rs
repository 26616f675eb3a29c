//! Hints: durable when they are acknowledged, bounded across restarts, in order, never lost on their way to another node.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use mesh_engine::{
    BindingError, BindingWrite, Engine, Hint, HintError, HintStats, Options, ReadError, Written,
};
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::limits::BINDING_VALUE_BYTES_MAX;
use mesh_ring::name::BindingKey;
use mesh_ring::version::Dot;
use support::damage::{data_bytes, files, flip, scrub};
use support::*;

const HOME: NodeId = NodeId([7; 16]);

fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("k{n}").as_bytes()).unwrap()
}

/// A binding that another node wrote as its write `n`, at `START_MS + n`.
fn written(n: u64, bytes: usize) -> Binding {
    let dot = Dot {
        node: NodeId([9; 16]),
        boot: 1,
        counter: n + 1,
    };
    let version = Version {
        dot,
        hlc: Hlc::default().next(START_MS + n),
        expires_ms: None,
        content: Content::Value(noise(n, bytes).into()),
    };
    Binding::default().write(None, version).unwrap()
}

fn submit(
    engine: &Engine,
    target: NodeId,
    key: &BindingKey,
    binding: &Binding,
) -> Receiver<Result<(), HintError>> {
    let (sender, receiver) = sync_channel(1);
    engine.submit_hint(target, key.clone(), binding.clone(), move |result| {
        sender.send(result).unwrap();
    });
    receiver
}

fn keep(engine: &Engine, target: NodeId, n: u64, bytes: usize) -> Result<(), HintError> {
    submit(engine, target, &key(n), &written(n, bytes))
        .recv()
        .unwrap()
}

/// All hints for a node, a few at a time.
fn all(engine: &Engine, target: NodeId) -> Vec<Hint> {
    let mut found: Vec<Hint> = Vec::new();
    loop {
        let after = found.last().map(|hint| (hint.partition, hint.sequence));
        let more = engine.hints(target, after, 300).unwrap();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// What the counts say must be what is there.
fn assert_counted(engine: &Engine, targets: &[NodeId]) {
    let stats = engine.hint_stats();
    let mut bytes = 0;
    for target in targets {
        let hints = all(engine, *target);
        let Some(stats) = stats.get(target) else {
            assert_eq!(hints, [], "{target} has hints that are not counted");
            continue;
        };
        assert_eq!(stats.count, hints.len() as u64);
        assert!(hints.iter().all(|hint| stats.oldest_ms <= hint.oldest_ms));
        bytes += stats.bytes;
    }
    assert_eq!(engine.hint_bytes(), bytes);
    for partition in (0..8).map(PartitionId) {
        let mut there = targets.iter().flat_map(|target| all(engine, *target));
        let is_there = there.any(|hint| hint.partition == partition);
        assert_eq!(engine.oldest_hint_ms(partition).is_some(), is_there);
    }
    assert_eq!(scrub(engine).damages, []);
}

#[test]
fn a_hint_comes_back_as_it_was_written() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    assert_eq!(engine.hints(HOME, None, 1).unwrap(), []);
    keep(&engine, HOME, 3, 50).unwrap();
    let hints = all(&engine, HOME);
    let hint = &hints[0];
    assert_eq!((hints.len(), hint.home), (1, HOME));
    assert_eq!(hint.key, key(3));
    assert_eq!(hint.partition, engine.partition_of(key(3).as_bytes()));
    assert_eq!(Binding::decode(&hint.binding).unwrap(), written(3, 50));
    assert_eq!(hint.oldest_ms, START_MS + 3);
    assert_eq!(engine.oldest_hint_ms(hint.partition), Some(START_MS + 3));
    assert_eq!(
        engine.binding(&key(3)).unwrap(),
        None,
        "a stand-in holds no copy"
    );
    assert_eq!(all(&engine, NodeId([8; 16])), []);
    assert_counted(&engine, &[HOME]);
}

#[test]
fn a_hint_with_siblings_is_as_old_as_the_oldest() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let both = written(90, 5).merge(&{
        let version = Version {
            dot: Dot {
                node: NodeId([5; 16]),
                boot: 1,
                counter: 1,
            },
            hlc: Hlc::default().next(START_MS + 10),
            expires_ms: None,
            content: Content::Tombstone,
        };
        Binding::default().write(None, version).unwrap()
    });
    assert_eq!(both.versions().len(), 2);
    submit(&engine, HOME, &key(1), &both)
        .recv()
        .unwrap()
        .unwrap();
    assert_eq!(all(&engine, HOME)[0].oldest_ms, START_MS + 10);
}

#[test]
fn a_power_loss_takes_no_hint_that_was_acknowledged_and_brings_none_back() {
    let rounds = 24;
    let bench = Bench::new();
    // No marker within the test: each round knows what the log was when it was acknowledged.
    let options = Options {
        marker_after: std::time::Duration::from_secs(600),
        ..bench.options()
    };
    let engine = Engine::open(bench.data(), options).unwrap();
    for round in 0..rounds {
        keep(&engine, HOME, round, 200 + round as usize * 30).unwrap();
        if round % 3 == 2 {
            let first = &engine.hints(HOME, None, 1).unwrap()[0];
            let removed = engine.remove_hints(HOME, first.partition, vec![first.sequence]);
            assert_eq!(removed.unwrap(), 1);
        }
        let acknowledged = all(&engine, HOME);
        let safe_bytes = newest_log(&bench.data()).metadata().unwrap().len();
        let interrupted = keep(&engine, HOME, 1_000 + round, 300);
        interrupted.unwrap();
        let data = bench.crashed_copy(&format!("round{round}"));
        lose(&newest_log(&data), safe_bytes, round);
        let reopened = bench.open_engine_at(&data);
        let found = all(&reopened, HOME);
        for hint in &acknowledged {
            assert!(found.contains(hint), "round {round}: {hint:?} is gone");
        }
        assert!(found.len() <= acknowledged.len() + 1, "round {round}");
        assert_counted(&reopened, &[HOME]);
        drop(reopened);
        std::fs::remove_dir_all(data).unwrap();
    }
}

/// Cuts what lies behind `safe_bytes` somewhere, or garbles it.
fn lose(log: &Path, safe_bytes: u64, round: u64) {
    let mut file = OpenOptions::new().write(true).open(log).unwrap();
    let beyond = file.metadata().unwrap().len() - safe_bytes;
    assert!(beyond > 0);
    if round.is_multiple_of(2) {
        file.set_len(safe_bytes + round * 13 % beyond).unwrap();
    } else {
        file.seek(SeekFrom::Start(safe_bytes)).unwrap();
        file.write_all(&noise(round, beyond as usize)).unwrap();
    }
}

#[test]
fn the_bound_holds_across_restarts_and_room_comes_back() {
    let bench = Bench::new();
    let max = 20_000;
    let open = || {
        let options = Options {
            hint_bytes_max: max,
            ..bench.options()
        };
        Engine::open(bench.data(), options).unwrap()
    };
    let engine = open();
    let other = NodeId([8; 16]);
    let mut kept = 0;
    let (held, limit) = loop {
        let target = if kept % 2 == 0 { HOME } else { other };
        match keep(&engine, target, kept, 1_000) {
            Ok(()) => kept += 1,
            Err(HintError::Full { held, max }) => break (held, max),
            Err(error) => panic!("{error}"),
        }
    };
    assert!((15..20).contains(&kept), "{kept} of 1000 bytes each");
    assert_eq!((held, limit), (engine.hint_bytes(), max));
    assert!(held <= max);
    let stats = engine.hint_stats();
    drop(engine);

    let engine = open();
    assert_eq!(engine.hint_stats(), stats);
    assert!(matches!(
        keep(&engine, HOME, 99, 1_000),
        Err(HintError::Full { .. })
    ));
    let before = all(&engine, HOME);
    let (first, last) = (&before[0], before.last().unwrap());
    // One that is not there is no news.
    let removed = engine.remove_hints(HOME, first.partition, vec![first.sequence, 1]);
    assert_eq!(removed.unwrap(), 1);
    keep(&engine, HOME, 99, 900).unwrap();
    assert!(all(&engine, HOME).contains(last));
    assert_counted(&engine, &[HOME, other]);
}

#[test]
fn no_sequence_comes_twice_so_that_a_late_removal_hits_nothing_else() {
    let bench = Bench::new();
    let mut seen: Vec<(PartitionId, u64)> = Vec::new();
    for _ in 0..3 {
        let engine = bench.open_engine();
        for _ in 0..3 {
            keep(&engine, HOME, 1, 10).unwrap();
            let hint = all(&engine, HOME).remove(0);
            for (partition, sequence) in &seen {
                let late = engine.remove_hints(HOME, *partition, vec![*sequence]);
                assert_eq!(late.unwrap(), 0);
            }
            assert!(seen.iter().all(|(_, earlier)| *earlier < hint.sequence));
            seen.push((hint.partition, hint.sequence));
            assert_eq!(
                engine
                    .remove_hints(HOME, hint.partition, vec![hint.sequence])
                    .unwrap(),
                1
            );
            assert_eq!(engine.hint_stats(), BTreeMap::new());
        }
    }
}

#[test]
fn rerouted_hints_go_behind_those_of_the_new_target_and_keep_their_home() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let successor = NodeId([8; 16]);
    let partition = engine.partition_of(key(5).as_bytes());
    let mut keys = (0..).filter(|n| engine.partition_of(key(*n).as_bytes()) == partition);
    let keep_at = |target, n: u64, at| {
        submit(&engine, target, &key(n), &written(at, 20))
            .recv()
            .unwrap()
            .unwrap();
    };
    keep_at(successor, keys.next().unwrap(), 1);
    for (n, at) in keys.take(698).zip(2..) {
        keep_at(HOME, n, at);
    }
    let elsewhere = (0..).find(|n| engine.partition_of(key(*n).as_bytes()) != partition);
    keep(&engine, HOME, elsewhere.unwrap(), 20).unwrap();
    let bytes = engine.hint_bytes();
    assert_eq!(engine.reroute_hints(HOME, HOME, partition).unwrap(), 0);
    assert_eq!(
        engine.reroute_hints(HOME, successor, partition).unwrap(),
        698
    );
    assert_eq!(engine.reroute_hints(HOME, successor, partition).unwrap(), 0);
    assert_eq!(engine.hint_bytes(), bytes);
    let moved = all(&engine, successor);
    let order: Vec<u64> = moved.iter().map(|hint| hint.oldest_ms - START_MS).collect();
    assert_eq!(order, (1..700).collect::<Vec<_>>());
    assert_eq!(moved[1].home, HOME);
    assert_eq!(all(&engine, HOME).len(), 1, "another partition's stay");
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    assert_eq!(all(&copy, successor), moved);
    assert_counted(&copy, &[HOME, successor]);
}

#[test]
fn whatever_is_done_with_hints_the_counts_stay_true() {
    let targets: Vec<NodeId> = (0..3).map(|n| NodeId([n + 20; 16])).collect();
    for seed in 0..4 {
        eprintln!("seed {seed}");
        let bench = Bench::new();
        let mut engine = bench.open_engine();
        let mut model: BTreeMap<NodeId, BTreeSet<BindingKey>> = BTreeMap::new();
        for step in 0..60_u64 {
            let dice = noise(seed * 1_000 + step, 16);
            let target = targets[usize::from(dice[8] % 3)];
            match dice[9] % 6 {
                // Several in flight, so that they share groups.
                0..3 => {
                    let count = u64::from(dice[10] % 9);
                    let keys: Vec<_> = (0..count).map(|n| key((step * 10 + n) % 17)).collect();
                    let waiting: Vec<_> = keys
                        .iter()
                        .zip(step * 10..)
                        .map(|(key, n)| submit(&engine, target, key, &written(n, 30)))
                        .collect();
                    waiting
                        .into_iter()
                        .for_each(|done| done.recv().unwrap().unwrap());
                    model.entry(target).or_default().extend(keys);
                }
                3 => {
                    let hints = engine.hints(target, None, 400).unwrap();
                    // Twice, and in flight together: the second finds nothing.
                    let answers: Vec<_> = hints
                        .iter()
                        .chain(&hints)
                        .map(|hint| {
                            let (sender, answer) = sync_channel(1);
                            engine.submit_remove_hints(
                                target,
                                hint.partition,
                                vec![hint.sequence],
                                move |result| sender.send(result).unwrap(),
                            );
                            answer
                        })
                        .collect();
                    let removed: u64 = answers
                        .into_iter()
                        .map(|answer| answer.recv().unwrap().unwrap())
                        .sum();
                    assert_eq!(removed, hints.len() as u64);
                    let left = model.entry(target).or_default();
                    assert!(hints.iter().all(|hint| left.remove(&hint.key)));
                }
                4 => {
                    let to = targets[usize::from(dice[11] % 3)];
                    let partition = PartitionId(u16::from(dice[12] % 8));
                    let moved = engine.reroute_hints(target, to, partition).unwrap();
                    if to != target {
                        let all = model.remove(&target).unwrap_or_default();
                        let (go, stay): (BTreeSet<_>, _) = all
                            .into_iter()
                            .partition(|key| engine.partition_of(key.as_bytes()) == partition);
                        assert_eq!(moved, go.len() as u64);
                        model.insert(target, stay);
                        model.entry(to).or_default().extend(go);
                    }
                }
                _ => {
                    drop(engine);
                    engine = bench.open_engine();
                }
            }
        }
        for target in &targets {
            let expected = model.remove(target).unwrap_or_default();
            let hints = all(&engine, *target);
            assert_eq!(hints.len(), expected.len(), "seed {seed}");
            let keys: BTreeSet<_> = hints.into_iter().map(|hint| hint.key).collect();
            assert_eq!(keys, expected, "seed {seed}");
        }
        assert_counted(&engine, &targets);
    }
}

#[test]
fn a_full_disk_refuses_hints() {
    let bench = Bench::new();
    let options = Options {
        reserve_bytes: u64::MAX,
        ..bench.options()
    };
    let engine = Engine::open(bench.data(), options).unwrap();
    assert!(matches!(
        keep(&engine, HOME, 1, 10),
        Err(HintError::DiskFull { .. })
    ));
    assert_eq!(engine.hint_stats(), BTreeMap::new());
}

#[test]
fn a_closed_store_acknowledges_no_hint() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    engine.close().unwrap();
    assert!(matches!(
        keep(&engine, HOME, 1, 10),
        Err(HintError::Stopped(_))
    ));
    let wiped = engine.wipe_bindings(PartitionId(1));
    assert!(matches!(wiped, Err(BindingError::Stopped(_))));
}

#[test]
fn a_damaged_hint_is_told_of_never_served_and_never_dropped() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    (0..400).for_each(|n| keep(&engine, HOME, n, 60).unwrap());
    let whole = all(&engine, HOME);
    engine.close().unwrap();
    drop(engine);
    let mut told = 0;
    for table in files(&bench.data(), "sst") {
        let data = bench.crashed_copy("flip");
        let copy = data.join("db").join(table.file_name().unwrap());
        flip(&copy, data_bytes(&table));
        if let Ok(engine) = Engine::open(&data, bench.options()) {
            let before: HintStats = engine.hint_stats()[&HOME];
            let mut after = None;
            let mut served = Vec::new();
            loop {
                match engine.hints(HOME, after, 2_000) {
                    Ok(hints) => {
                        let Some(last) = hints.last() else { break };
                        after = Some((last.partition, last.sequence));
                        served.extend(hints);
                    }
                    Err(error) => {
                        assert!(matches!(error, ReadError::Damaged(_)), "{error}");
                        told += 1;
                        after = match after {
                            None => Some((PartitionId(0), u64::MAX)),
                            Some((PartitionId(passed), u64::MAX)) => {
                                Some((PartitionId(passed + 1), u64::MAX))
                            }
                            Some((partition, _)) => Some((partition, u64::MAX)),
                        };
                    }
                }
            }
            assert!(served.iter().all(|hint| whole.contains(hint)));
            for hint in &whole {
                let _ = engine.remove_hints(HOME, hint.partition, vec![hint.sequence]);
            }
            let left = engine.hint_stats().get(&HOME).map_or(0, |held| held.count);
            assert!(left < before.count);
            let readable = 400 - left;
            assert!(served.is_empty() || readable > 0);
            told += u32::from(left > 0);
        }
        std::fs::remove_dir_all(data).unwrap();
    }
    assert!(told >= 2, "no table of hints was damaged");
}

fn write(n: u64, value: &'static str) -> BindingWrite {
    BindingWrite {
        key: key(n),
        value: Some(value.into()),
        context: None,
        expires_ms: None,
    }
}

fn hinted_write(engine: &Engine, n: u64, value: &'static str) -> Result<Written, HintError> {
    let (sender, receiver) = sync_channel(1);
    let decided = |_: &Binding, _: &Written| {};
    engine.submit_hinted_write(HOME, write(n, value), decided, move |result| {
        sender.send(result).unwrap();
    });
    receiver.recv().unwrap()
}

#[test]
fn a_key_that_is_written_again_has_one_hint_with_all_of_it() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    keep(&engine, HOME, 1, 500).unwrap();
    let first = all(&engine, HOME).remove(0);
    // Of another node, concurrent with the first: both are to be delivered.
    let version = Version {
        dot: Dot {
            node: NodeId([5; 16]),
            boot: 1,
            counter: 1,
        },
        hlc: Hlc::default().next(START_MS),
        expires_ms: None,
        content: Content::Value("other".into()),
    };
    let other = Binding::default().write(None, version).unwrap();
    let in_flight = [
        submit(&engine, HOME, &key(1), &other),
        submit(&engine, HOME, &key(2), &written(7, 10)),
        submit(&engine, HOME, &key(1), &written(1, 500)),
    ];
    for done in in_flight {
        done.recv().unwrap().unwrap();
    }
    let hints = all(&engine, HOME);
    assert_eq!(hints.len(), 2);
    let merged = hints.iter().find(|hint| hint.key == key(1)).unwrap();
    assert_eq!(
        Binding::decode(&merged.binding).unwrap(),
        other.merge(&written(1, 500))
    );
    assert_eq!(
        engine.known_binding(&key(1)).unwrap(),
        Some(other.merge(&written(1, 500)))
    );
    // The first was delivered meanwhile: what came since stays.
    assert_eq!(
        engine
            .remove_hints(HOME, first.partition, vec![first.sequence])
            .unwrap(),
        0
    );
    assert_eq!(all(&engine, HOME), hints);
    assert_counted(&engine, &[HOME]);
}

#[test]
fn a_stand_in_writes_over_what_it_knows_and_so_do_its_own_writes() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    for value in ["a", "b"] {
        hinted_write(&engine, 1, value).unwrap();
    }
    let live = |engine: &Engine| {
        let known = engine.known_binding(&key(1)).unwrap().unwrap();
        let live: Vec<_> = known
            .live(bench.now_ms())
            .iter()
            .map(|version| version.live(START_MS).unwrap().clone())
            .collect();
        live
    };
    assert_eq!(live(&engine), ["b"], "one after the other, no siblings");
    assert_eq!(engine.binding(&key(1)).unwrap(), None);
    drop(engine);
    let engine = bench.open_engine();
    hinted_write(&engine, 1, "c").unwrap();
    assert_eq!(live(&engine), ["c"]);
    assert_eq!(all(&engine, HOME).len(), 1);
    // It becomes a home while it still keeps the hint.
    engine.write_binding(write(1, "d")).unwrap();
    assert_eq!(live(&engine), ["d"]);
    let own = engine.binding(&key(1)).unwrap().unwrap();
    let hint = Binding::decode(&all(&engine, HOME)[0].binding).unwrap();
    assert_eq!(own.merge(&hint), own, "it has seen the hint");
    let too_large = BindingWrite {
        value: Some(vec![0; BINDING_VALUE_BYTES_MAX + 1].into()),
        ..write(1, "")
    };
    let (sender, receiver) = sync_channel(1);
    let decided = |_: &Binding, _: &Written| panic!("it is refused");
    engine.submit_hinted_write(HOME, too_large, decided, move |result| {
        sender.send(result).unwrap();
    });
    assert!(matches!(
        receiver.recv().unwrap(),
        Err(HintError::Refused(_))
    ));
}

#[test]
fn after_a_delivery_new_writes_do_not_claim_to_have_seen_what_was_delivered() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let earlier = hinted_write(&engine, 1, "acknowledged").unwrap();
    let before = engine.known_binding(&key(1)).unwrap().unwrap();
    let hint = all(&engine, HOME).remove(0);
    engine
        .remove_hints(HOME, hint.partition, vec![hint.sequence])
        .unwrap();
    // Also where a crash comes between.
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    for engine in [&engine, &copy] {
        assert_eq!(engine.known_binding(&key(1)).unwrap(), None);
        let later = hinted_write(engine, 1, "later").unwrap();
        assert!(!later.context.covers(earlier.dot));
        let after = engine.known_binding(&key(1)).unwrap().unwrap();
        let both = before.merge(&after);
        assert_eq!(
            both.live(bench.now_ms()).len(),
            2,
            "neither was seen by the other"
        );
        // Nothing was forgotten since: the same name.
        let again = hinted_write(engine, 1, "again").unwrap();
        assert_eq!(again.dot.node, later.dot.node);
        assert!(again.context.covers(later.dot));
    }
}
