//! Copies of bindings that nodes take from each other: in any order, more than once, they come to the same.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_engine::{BindingWrite, Engine, Identity, prepare};
use mesh_ring::binding::Binding;
use mesh_ring::ids::NodeId;
use mesh_ring::name::BindingKey;
use support::*;

const NODES: usize = 3;
const KEYS: u64 = 6;

/// A store of another node.
fn node(bench: &Bench, n: usize) -> Engine {
    let name = format!("n{n}");
    let data = bench.dir.path().join(&name);
    let node = NodeId([n as u8 + 10; 16]);
    prepare(
        &data,
        &Identity {
            node,
            name,
            ..identity()
        },
    )
    .unwrap();
    bench.open_engine_at(&data)
}

fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("k{n}").as_bytes()).unwrap()
}

fn merge(engine: &Engine, key: &BindingKey, theirs: Binding) {
    let (sender, done) = sync_channel(1);
    engine.submit_merge(key.clone(), theirs, move |result| {
        sender.send(result).unwrap();
    });
    done.recv().unwrap().unwrap();
}

fn pass_on(from: &Engine, to: &Engine, key: &BindingKey) {
    if let Some(binding) = from.binding(key).unwrap() {
        merge(to, key, binding);
    }
}

fn assert_leaves_are_true(engine: &Engine) {
    let report = engine.scrub(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.damages, []);
}

/// A dice of its own: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        let bytes = noise(self.0, 16);
        self.0 = self.0.wrapping_add(1);
        u64::from_le_bytes(bytes[8..].try_into().unwrap()) % end
    }
}

fn random_write(dice: &mut Dice, bench: &Bench, engine: &Engine, round: u64) {
    let key = key(dice.below(KEYS));
    let held = engine.binding(&key).unwrap().unwrap_or_default();
    let context = (dice.below(2) == 0).then(|| held.context().clone());
    let write = BindingWrite {
        key,
        value: (dice.below(4) > 0).then(|| Bytes::from(format!("v{round}"))),
        context,
        expires_ms: (dice.below(4) == 0).then(|| bench.now_ms() + dice.below(50)),
    };
    // As many siblings as there may be is a refusal that changes nothing.
    let _ = engine.write_binding(write);
}

#[test]
fn whatever_is_written_where_all_end_with_the_same() {
    for seed in 0..8 {
        eprintln!("seed {seed}");
        let bench = Bench::new();
        let nodes: Vec<Engine> = (0..NODES).map(|n| node(&bench, n)).collect();
        let mut dice = Dice(seed * 1_000_000 + 1);
        for round in 0..120 {
            let (one, other) = (dice.below(3) as usize, dice.below(3) as usize);
            match dice.below(8) {
                0..4 => random_write(&mut dice, &bench, &nodes[one], round),
                4..7 => pass_on(&nodes[one], &nodes[other], &key(dice.below(KEYS))),
                _ => {
                    bench.advance(10);
                    nodes[one].sweep_bindings(bench.now_ms());
                }
            }
        }
        for _ in 0..2 {
            for from in &nodes {
                for to in &nodes {
                    (0..KEYS).for_each(|n| pass_on(from, to, &key(n)));
                }
            }
        }
        let mut values = 0;
        for key in (0..KEYS).map(key) {
            let copies: Vec<_> = nodes
                .iter()
                .map(|node| node.binding(&key).unwrap())
                .collect();
            assert!(copies.iter().all(|copy| *copy == copies[0]), "{copies:?}");
            values += copies[0].as_ref().map_or(0, |copy| copy.versions().len());
        }
        assert!(values > 0, "nothing was written");
        nodes.iter().for_each(assert_leaves_are_true);

        // Due times came along: everything that expires does, everywhere.
        bench.advance(1_000);
        for node in &nodes {
            node.sweep_bindings(bench.now_ms());
            for key in (0..KEYS).map(key) {
                let held = node.binding(&key).unwrap().unwrap_or_default();
                assert!(
                    held.versions()
                        .iter()
                        .all(|version| version.expires_ms.is_none())
                );
            }
            assert_leaves_are_true(node);
        }
    }
}

#[test]
fn a_merge_is_durable_when_it_is_answered_and_later_writes_are_later() {
    let bench = Bench::new();
    let (ahead, behind) = (node(&bench, 0), bench.open_engine());
    bench.advance(60_000);
    let written = ahead
        .write_binding(BindingWrite {
            key: key(1),
            value: Some("theirs".into()),
            context: None,
            expires_ms: None,
        })
        .unwrap();
    bench
        .clock
        .fetch_sub(60_000, std::sync::atomic::Ordering::Relaxed);
    pass_on(&ahead, &behind, &key(1));
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    assert_eq!(
        copy.binding(&key(1)).unwrap(),
        ahead.binding(&key(1)).unwrap()
    );
    // With a context that has seen nothing it stays beside the other, and is the newer of both.
    let later = behind
        .write_binding(BindingWrite {
            key: key(1),
            value: Some("mine".into()),
            context: Some(Default::default()),
            expires_ms: None,
        })
        .unwrap();
    assert!(later.hlc > written.hlc);
    let held = behind.binding(&key(1)).unwrap().unwrap();
    let live = held.live(bench.now_ms());
    assert_eq!((live.len(), live[0].dot), (2, later.dot));
}
