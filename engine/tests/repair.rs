//! Repair of bindings: leaves and their index, collecting tombstones, healing what cannot be read, wiping an old copy.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

use mesh_engine::{BindingWrite, Engine, OldTombstone, ReadError, prepare};
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES, binding_digest, leaf_of, root};
use mesh_ring::name::BindingKey;
use support::damage::{files, flip, scrub};
use support::*;

const PARTITIONS: u16 = 8;

fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("k{n}").as_bytes()).unwrap()
}

fn put(engine: &Engine, n: u64, value: Option<String>, expires_ms: Option<u64>) {
    engine
        .write_binding(BindingWrite {
            key: key(n),
            value: value.map(Into::into),
            context: None,
            expires_ms,
        })
        .unwrap();
}

/// A value that does not compress much.
fn text(n: u64) -> Option<String> {
    let hex = noise(n, 50).into_iter().map(|byte| format!("{byte:02x}"));
    Some(hex.collect())
}

fn partitions() -> impl Iterator<Item = PartitionId> {
    (0..PARTITIONS).map(PartitionId)
}

/// Every binding that the index leads to, page by page; none may be unreadable.
fn by_index(engine: &Engine) -> BTreeMap<Vec<u8>, LeafSum> {
    let mut found = BTreeMap::new();
    for partition in partitions() {
        let sums = engine.leaf_sums(partition).unwrap();
        for leaf in (0..MERKLE_LEAVES).map(LeafId) {
            let mut sum = LeafSum::ZERO;
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = engine
                    .leaf_bindings(partition, leaf, after.as_deref(), 2)
                    .unwrap();
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                for binding in page {
                    let digest = binding.digest.unwrap();
                    assert_eq!(leaf_of(&binding.key), leaf);
                    assert_eq!(engine.partition_of(&binding.key), partition);
                    sum = sum.add(digest);
                    assert_eq!(found.insert(binding.key, digest), None);
                }
            }
            assert_eq!(sum, sums[usize::from(leaf.0)], "leaf {leaf}");
        }
    }
    found
}

fn by_key(engine: &Engine, keys: u64) -> BTreeMap<Vec<u8>, LeafSum> {
    let digest = |n| {
        let encoded = engine.binding_encoded(&key(n)).unwrap()?;
        assert!(Binding::decode(&encoded).is_ok());
        let name = key(n).as_bytes().to_vec();
        let digest = binding_digest(&name, &encoded);
        Some((name, digest))
    };
    (0..keys).filter_map(digest).collect()
}

fn collect(engine: &Engine, partition: PartitionId, bindings: Vec<(Vec<u8>, LeafSum)>) -> u64 {
    let (sender, receiver) = sync_channel(1);
    engine.submit_collect(partition, bindings, move |result| {
        sender.send(result).unwrap();
    });
    receiver.recv().unwrap().unwrap()
}

fn tombstones(engine: &Engine, before_ms: u64) -> BTreeSet<(Vec<u8>, u64)> {
    let mut all = BTreeSet::new();
    for partition in partitions() {
        let mut after: Option<OldTombstone> = None;
        loop {
            let page = engine
                .old_tombstones(partition, before_ms, after.as_ref(), 3)
                .unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.is_sorted_by_key(|old| old.since_ms));
            after = Some(last.clone());
            all.extend(page.into_iter().map(|old| (old.key, old.since_ms)));
        }
    }
    all
}

#[test]
fn the_index_leads_to_every_binding_and_to_no_other() {
    for seed in 0..3 {
        eprintln!("seed {seed}");
        let bench = Bench::new();
        let mut engine = bench.open_engine();
        let keys = 150;
        for step in 0..600_u64 {
            let dice = noise(seed * 10_000 + step, 16);
            let n = u64::from(dice[8]) % keys;
            match dice[9] % 8 {
                0..4 => put(&engine, n, text(step), None),
                4 => put(
                    &engine,
                    n,
                    text(step),
                    Some(bench.now_ms() + u64::from(dice[10])),
                ),
                5 => put(&engine, n, None, None),
                6 => {
                    bench.advance(20);
                    engine.sweep_bindings(bench.now_ms());
                }
                _ => {
                    // What is a tombstone goes, whatever its age: here is nobody who could bring it back.
                    let name = key(n).as_bytes().to_vec();
                    if let Some(encoded) = engine.binding_encoded(&key(n)).unwrap() {
                        let digest = binding_digest(&name, &encoded);
                        let held = Binding::decode(&encoded).unwrap();
                        let partition = engine.partition_of(&name);
                        let went = collect(&engine, partition, vec![(name, digest)]);
                        assert_eq!(went == 1, held.is_collectable());
                        assert_eq!(
                            engine.binding(&key(n)).unwrap().is_none(),
                            held.is_collectable()
                        );
                    }
                }
            }
            if step % 200 == 199 {
                drop(engine);
                engine = bench.open_engine();
            }
        }
        assert_eq!(by_index(&engine), by_key(&engine, keys), "seed {seed}");
        let dead: BTreeSet<Vec<u8>> = (0..keys)
            .filter(|n| {
                let held = engine.binding(&key(*n)).unwrap();
                held.is_some_and(|held| held.is_collectable())
            })
            .map(|n| key(n).as_bytes().to_vec())
            .collect();
        let listed = tombstones(&engine, u64::MAX);
        assert_eq!(listed.len(), dead.len());
        assert_eq!(
            listed
                .into_iter()
                .map(|(key, _)| key)
                .collect::<BTreeSet<_>>(),
            dead
        );
        assert_eq!(scrub(&engine).damages, []);
    }
}

#[test]
fn replicas_with_the_same_bindings_have_the_same_root_and_one_difference_shows_in_one_leaf() {
    let bench = Bench::new();
    let (one, other) = (bench.open_engine(), second(&bench));
    for n in 0..100 {
        put(&one, n, text(n), None);
        let copy = one.binding(&key(n)).unwrap().unwrap();
        assert!(!other.heal_binding(key(n), copy).unwrap());
    }
    for partition in partitions() {
        let (mine, theirs) = (
            one.leaf_sums(partition).unwrap(),
            other.leaf_sums(partition).unwrap(),
        );
        assert_eq!(root(&mine), root(&theirs));
    }
    put(&one, 7, text(8), None);
    let partition = one.partition_of(key(7).as_bytes());
    let (mine, theirs) = (
        one.leaf_sums(partition).unwrap(),
        other.leaf_sums(partition).unwrap(),
    );
    let leaf = usize::from(leaf_of(key(7).as_bytes()).0);
    let differing: Vec<usize> = (0..mine.len())
        .filter(|at| mine[*at] != theirs[*at])
        .collect();
    assert_eq!(differing, [leaf]);
}

fn second(bench: &Bench) -> Engine {
    let data = bench.dir.path().join("second");
    let identity = mesh_engine::Identity {
        node: NodeId([3; 16]),
        name: "n2".into(),
        ..identity()
    };
    prepare(&data, &identity).unwrap();
    bench.open_engine_at(&data)
}

#[test]
fn only_what_is_still_the_same_tombstone_is_collected_and_it_stays_gone() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    (0..4).for_each(|n| put(&engine, n, text(n), None));
    bench.advance(1_000);
    (0..3).for_each(|n| put(&engine, n, None, None));
    bench.advance(1_000);
    let names: Vec<Vec<u8>> = (0..4).map(|n| key(n).as_bytes().to_vec()).collect();
    let agreed = by_key(&engine, 4);
    assert_eq!(tombstones(&engine, START_MS + 1_000), BTreeSet::new());
    let listed = tombstones(&engine, START_MS + 1_001);
    let expected = (0..3).map(|n| (names[n].clone(), START_MS + 1_000));
    assert_eq!(listed, expected.collect());

    // Written again, and deleted again, since it was agreed on: both stay.
    put(&engine, 1, text(5), None);
    put(&engine, 2, None, None);
    let mut went = 0;
    for name in &names {
        let partition = engine.partition_of(name);
        went += collect(&engine, partition, vec![(name.clone(), agreed[name])]);
    }
    assert_eq!(went, 1);
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    for engine in [&engine, &copy] {
        assert_eq!(engine.binding(&key(0)).unwrap(), None);
        assert!(engine.binding(&key(2)).unwrap().unwrap().is_collectable());
        assert_eq!(
            tombstones(engine, u64::MAX),
            BTreeSet::from([(names[2].clone(), START_MS + 2_000)])
        );
        assert_eq!(by_index(engine), by_key(engine, 4));
        assert_eq!(scrub(engine).damages, []);
    }
}

#[test]
fn age_alone_collects_nothing_in_a_replica() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    put(&engine, 1, text(1), None);
    put(&engine, 1, None, None);
    put(&engine, 2, text(2), Some(START_MS + 5));
    bench.advance(400 * 24 * 60 * 60 * 1000);
    assert_eq!(engine.sweep_bindings(bench.now_ms()), 1);
    assert_eq!(engine.sweep_bindings(bench.now_ms()), 0);
    for n in [1, 2] {
        let held = engine.binding(&key(n)).unwrap().unwrap();
        assert!(held.is_collectable(), "key {n}");
    }
    assert_eq!(tombstones(&engine, u64::MAX).len(), 2);
}

#[test]
fn a_wiped_partition_has_nothing_left_and_the_others_all() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    for n in 0..60 {
        let expires_ms = (n % 3 == 0).then_some(START_MS + 50);
        put(&engine, n, text(n), expires_ms);
        if n % 5 == 0 {
            put(&engine, n, None, None);
        }
    }
    let before = by_key(&engine, 60);
    let partition = engine.partition_of(key(1).as_bytes());
    let others: BTreeMap<_, _> = before
        .iter()
        .filter(|(name, _)| engine.partition_of(name) != partition)
        .map(|(name, digest)| (name.clone(), *digest))
        .collect();
    assert!(!others.is_empty() && others.len() < before.len());
    engine.wipe_bindings(partition).unwrap();
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    for engine in [&engine, &copy] {
        assert_eq!(by_key(engine, 60), others);
        assert_eq!(by_index(engine), others);
        let empty = Box::new([LeafSum::ZERO; MERKLE_LEAVES as usize]);
        assert_eq!(engine.leaf_sums(partition).unwrap(), empty);
        assert_eq!(
            engine
                .old_tombstones(partition, u64::MAX, None, 10)
                .unwrap(),
            []
        );
        assert_eq!(scrub(engine).damages, []);
    }
    // A new copy comes, under a new name, and expires by itself.
    put(&engine, 1, text(1), Some(START_MS + 70));
    let dot = engine.binding(&key(1)).unwrap().unwrap().versions()[0].dot;
    assert_ne!(dot.node, engine.identity().node);
    bench.advance(60);
    engine.sweep_bindings(bench.now_ms());
    assert!(
        engine
            .binding(&key(1))
            .unwrap()
            .unwrap()
            .newest_live(bench.now_ms())
            .is_some()
    );
    bench.advance(60);
    assert_eq!(engine.sweep_bindings(bench.now_ms()), 1);
    assert_eq!(scrub(&engine).damages, []);
}

#[test]
fn what_is_written_over_no_longer_expires() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    put(&engine, 1, text(1), Some(START_MS + 10));
    put(&engine, 1, text(2), Some(START_MS + 1_000));
    bench.advance(500);
    assert_eq!(engine.sweep_bindings(bench.now_ms()), 0);
    assert!(
        engine
            .binding(&key(1))
            .unwrap()
            .unwrap()
            .newest_live(bench.now_ms())
            .is_some()
    );
    bench.advance(500);
    assert_eq!(engine.sweep_bindings(bench.now_ms()), 1);
}

/// Two replicas with the same bindings, the first with a flipped byte in a table of them.
fn damaged_pair(keys: u64) -> (Bench, Engine, Engine) {
    let bench = Bench::new();
    let (one, other) = (bench.open_engine(), second(&bench));
    for n in 0..keys {
        put(&one, n, text(n), None);
        other
            .heal_binding(key(n), one.binding(&key(n)).unwrap().unwrap())
            .unwrap();
    }
    one.close().unwrap();
    drop(one);
    let bytes = |table: &PathBuf| std::fs::metadata(table).unwrap().len() as usize;
    let tables = files(&bench.data(), "sst");
    let values = tables.iter().max_by_key(|table| bytes(table)).unwrap();
    flip(values, bytes(values) / 3);
    let one = bench.open_engine();
    (bench, one, other)
}

#[test]
fn a_damaged_block_is_found_by_the_leaves_and_healed_from_the_other_replica() {
    let keys = 600;
    let (bench, one, other) = damaged_pair(keys);
    let lost: Vec<u64> = (0..keys)
        .filter(|n| matches!(one.binding(&key(*n)), Err(ReadError::Damaged(_))))
        .collect();
    assert!(
        !lost.is_empty() && lost.len() < keys as usize,
        "{}",
        lost.len()
    );
    let report = scrub(&one);
    assert!(!report.damages.is_empty());
    let expected: BTreeSet<(u16, LeafId)> = lost
        .iter()
        .map(|n| {
            let name = key(*n);
            (
                one.partition_of(name.as_bytes()).0,
                leaf_of(name.as_bytes()),
            )
        })
        .collect();
    let leaves: BTreeSet<_> = report.leaves.iter().map(|(p, leaf)| (p.0, *leaf)).collect();
    assert_eq!(leaves, expected);

    // The leaves still say what was written: only once they are summed anew do the replicas differ.
    for (partition, leaf) in &report.leaves {
        let at = usize::from(leaf.0);
        let theirs = other.leaf_sums(*partition).unwrap()[at];
        assert_eq!(one.leaf_sums(*partition).unwrap()[at], theirs);
        assert!(one.recount_leaf(*partition, *leaf).unwrap() > 0);
        assert_ne!(one.leaf_sums(*partition).unwrap()[at], theirs);
    }
    let mut healed = 0;
    for (partition, leaf) in &report.leaves {
        for binding in one.leaf_bindings(*partition, *leaf, None, 100).unwrap() {
            if binding.digest.is_none() {
                let name = BindingKey::new(&binding.key).unwrap();
                let theirs = other.binding(&name).unwrap().unwrap();
                assert!(one.heal_binding(name.clone(), theirs.clone()).unwrap());
                // Again: now there is nothing to heal.
                assert!(!one.heal_binding(name, theirs).unwrap());
                healed += 1;
            }
        }
    }
    assert_eq!(healed, lost.len());
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    for engine in [&one, &copy] {
        assert_eq!(by_key(engine, keys), by_key(&other, keys));
        assert_eq!(by_index(engine), by_key(&other, keys));
    }
}

#[test]
fn a_damaged_binding_is_not_collected_and_refuses_writes_until_it_is_healed() {
    let keys = 600;
    let (_bench, one, other) = damaged_pair(keys);
    let lost = (0..keys).find(|n| one.binding(&key(*n)).is_err()).unwrap();
    let name = key(lost).as_bytes().to_vec();
    let partition = one.partition_of(&name);
    let digest = by_key(&other, keys)[&name];
    assert_eq!(collect(&one, partition, vec![(name, digest)]), 0);
    let write = BindingWrite {
        key: key(lost),
        value: text(1).map(Into::into),
        context: None,
        expires_ms: None,
    };
    // A write supersedes what is held: without knowing that, it would be a sibling for ever.
    assert!(one.write_binding(write.clone()).is_err());
    let theirs = other.binding(&key(lost)).unwrap().unwrap();
    assert!(one.heal_binding(key(lost), theirs).unwrap());
    one.write_binding(write).unwrap();
    assert_eq!(
        one.binding(&key(lost)).unwrap().unwrap().versions().len(),
        1
    );
}
