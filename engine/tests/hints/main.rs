//! Hints: durable when they are acknowledged, bounded across restarts, in order, never lost on their way to another node.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod losses;
#[path = "../support/mod.rs"]
mod support;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, sync_channel};

use mesh_engine::{BindingError, Engine, Hint, HintError, Options};
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::name::BindingKey;
use mesh_ring::version::Dot;
use support::damage::scrub;
use support::{Bench, START_MS, noise};

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
fn a_partition_drops_its_hints_for_everybody_and_no_others() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let other = NodeId([8; 16]);
    for n in 0..40 {
        keep(&engine, HOME, n, 50).unwrap();
        keep(&engine, other, n, 50).unwrap();
    }
    let partition = engine.partition_of(key(0).as_bytes());
    let goes = |hint: &Hint| hint.partition == partition;
    let mut left: Vec<Vec<Hint>> = [HOME, other].map(|home| all(&engine, home)).into();
    let before = left.iter().flatten().count();
    left.iter_mut()
        .for_each(|hints| hints.retain(|hint| !goes(hint)));
    let dropped = before - left.iter().flatten().count();
    assert!(dropped >= 2 && dropped < before);
    assert_eq!(engine.drop_hints(partition).unwrap(), dropped as u64);
    assert_eq!(engine.drop_hints(partition).unwrap(), 0);
    assert_eq!(engine.oldest_hint_ms(partition), None);
    assert_counted(&engine, &[HOME, other]);
    engine.close().unwrap();
    drop(engine);
    let engine = bench.open_engine();
    assert_eq!([HOME, other].map(|home| all(&engine, home))[..], left);
    assert_counted(&engine, &[HOME, other]);
}
