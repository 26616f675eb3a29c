//! The walk of two replicas: what it costs, and that both are equal after it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use mesh_ring::merkle::walk::{
    KEYS_AT_ONCE, NODES_AT_ONCE, Request, Response, STATES_BYTES_MAX, Salt, Source, State, Step,
    Walk, WalkError, answer,
};
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES, Tree, binding_digest, leaf_of};
use mesh_ring::version::Dot;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Replica {
    rows: BTreeMap<(LeafId, Bytes), Binding>,
    leaves: Vec<LeafSum>,
    damaged: Option<Bytes>,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            leaves: vec![LeafSum::ZERO; MERKLE_LEAVES.into()],
            damaged: None,
        }
    }
}

impl Replica {
    fn merge(&mut self, key: &Bytes, binding: &Binding) {
        let held = self.rows.get(&(leaf_of(key), key.clone()));
        let is_damaged = self.damaged.as_ref() == Some(key);
        let merged = match held.filter(|_| !is_damaged) {
            Some(held) => held.merge(binding),
            None => binding.clone(),
        };
        self.put(key, merged);
    }

    fn put(&mut self, key: &Bytes, binding: Binding) {
        self.remove(key);
        let digest = self.digest(key, &binding);
        let sum = &mut self.leaves[usize::from(leaf_of(key).0)];
        *sum = sum.add(digest);
        self.rows.insert((leaf_of(key), key.clone()), binding);
    }

    fn remove(&mut self, key: &Bytes) {
        let Some(held) = self.rows.remove(&(leaf_of(key), key.clone())) else {
            return;
        };
        let digest = self.digest(key, &held);
        let sum = &mut self.leaves[usize::from(leaf_of(key).0)];
        *sum = sum.sub(digest);
        self.damaged = self.damaged.take().filter(|damaged| damaged != key);
    }

    /// Its bytes rot: its leaf is what it was without it.
    fn damage(&mut self, key: &Bytes) {
        let held = self.rows[&(leaf_of(key), key.clone())].clone();
        self.remove(key);
        self.damaged = Some(key.clone());
        self.rows.insert((leaf_of(key), key.clone()), held);
    }

    fn digest(&self, key: &Bytes, binding: &Binding) -> LeafSum {
        match self.damaged.as_ref() == Some(key) {
            true => LeafSum::ZERO,
            false => binding_digest(key, &binding.encode()),
        }
    }

    fn tree(&self) -> Tree {
        let leaves = self.leaves.as_slice().try_into().unwrap();
        Tree::of(leaves)
    }

    fn take(&mut self, states: &[State]) {
        for State { key, binding } in states {
            self.merge(key, &Binding::decode(binding).unwrap());
        }
    }
}

impl Source for Replica {
    type Error = Infallible;

    fn list(
        &mut self,
        leaf: LeafId,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Bytes, LeafSum)>, Infallible> {
        let rows = self.rows.range((leaf, Bytes::new())..);
        let rows = rows.take_while(|((of, _), _)| *of == leaf);
        let rows = rows.filter(|((_, key), _)| after.is_none_or(|after| key.as_ref() > after));
        Ok(rows
            .take(most)
            .map(|((_, key), binding)| (key.clone(), self.digest(key, binding)))
            .collect())
    }

    fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        let key = Bytes::copy_from_slice(key);
        let is_damaged = self.damaged.as_ref() == Some(&key);
        let binding = self.rows.get(&(leaf_of(&key), key)).filter(|_| !is_damaged);
        Ok(binding.map(Binding::encode))
    }
}

#[derive(Debug, Default)]
struct Cost {
    messages: usize,
    bytes: usize,
    largest: usize,
    differed: usize,
}

/// A whole walk of `a` with `b`, over the bytes of its messages.
fn walk(a: &mut Replica, b: &mut Replica, salt: u64) -> Cost {
    let mut cost = Cost::default();
    let mut walk = Walk::new(a.tree(), Salt(salt.to_be_bytes()));
    let theirs = b.tree();
    loop {
        let request = match walk.next(a).unwrap() {
            Step::Send(request) => request.encode(),
            Step::Done { differed } => return Cost { differed, ..cost },
        };
        let asked = Request::decode(&request).unwrap();
        if let Request::States(states) = &asked {
            b.take(states);
        }
        let response = answer(&asked, &theirs, b).unwrap().encode();
        cost.messages += 2;
        cost.bytes += request.len() + response.len();
        cost.largest = cost.largest.max(request.len()).max(response.len());
        let news = walk
            .answered(Response::decode(&response).unwrap(), a)
            .unwrap();
        a.take(&news);
        assert!(cost.messages < 20_000, "it ends: {cost:?}");
    }
}

fn version(node: u8, counter: u64, bytes: usize) -> Version {
    Version {
        dot: Dot {
            node: NodeId([node; 16]),
            boot: 1,
            counter,
        },
        hlc: Hlc(counter),
        expires_ms: None,
        content: Content::Value(Bytes::from(vec![node; bytes])),
    }
}

fn value(counter: u64, bytes: usize) -> Binding {
    Binding::default()
        .write(None, version(1, counter, bytes))
        .unwrap()
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("a key of 20 b{number:07}"))
}

fn filled(keys: std::ops::Range<u64>) -> Replica {
    let mut replica = Replica::default();
    for number in keys {
        replica.merge(&key(number), &value(number + 1, 100));
    }
    replica
}

#[test]
fn replicas_in_sync_spend_one_small_message_and_an_answer() {
    let mut a = filled(0..15_625);
    let cost = walk(&mut a.clone(), &mut a, 1);
    assert_eq!((cost.messages, cost.differed), (2, 0));
    assert!(cost.bytes <= 100, "{cost:?}");
}

/// Which side has the newer binding of the difference with this number.
const STALE: [&str; 4] = [
    "the walking side",
    "the answering side",
    "either side",
    "keys that one side has not",
];

#[test]
fn a_hundred_differences_among_a_million_cost_at_most_100_kib() {
    let (mut bytes, mut differed) = ([0; 4], [0; 4]);
    for partition in 0..64_u64 {
        let base = partition * 15_625;
        let fresh = filled(base..base + 15_625);
        for (scenario, stale) in STALE.iter().enumerate() {
            let (mut a, mut b) = (fresh.clone(), fresh.clone());
            for at in (partition..100).step_by(64) {
                let changed = key(base + at * 150);
                let (leaf, newer) = (leaf_of(&changed), version(2, at + 1, 100));
                let old = b.rows[&(leaf, changed.clone())].clone();
                let newer = old.write(None, newer).unwrap();
                match *stale {
                    "the walking side" => b.merge(&changed, &newer),
                    "the answering side" => a.merge(&changed, &newer),
                    "either side" if at % 2 == 0 => a.merge(&changed, &newer),
                    "either side" => b.merge(&changed, &newer),
                    _ if at % 2 == 0 => a.remove(&changed),
                    _ => b.remove(&changed),
                }
            }
            let cost = walk(&mut a, &mut b, partition);
            assert!(a.rows == b.rows, "partition {partition}");
            bytes[scenario] += cost.bytes;
            differed[scenario] += cost.differed;
        }
    }
    println!("stale are {STALE:?}: {bytes:?} bytes");
    assert_eq!(differed, [100; 4]);
    assert!(bytes.iter().all(|bytes| *bytes <= 100 << 10), "{bytes:?}");
}

#[test]
fn an_empty_replica_is_filled_in_bounded_messages_from_either_side() {
    let full = filled(0..15_625);
    for salt in 0..2 {
        let (mut a, mut b) = (full.clone(), Replica::default());
        let cost = match salt {
            0 => walk(&mut a, &mut b, salt),
            _ => walk(&mut b, &mut a, salt),
        };
        assert!(a.rows == b.rows && a.rows == full.rows);
        assert_eq!(cost.differed, 15_625);
        assert!(cost.largest < STATES_BYTES_MAX + 1_000, "{cost:?}");
    }
}

/// Keys that all fall into one leaf.
fn one_leaf(keys: usize) -> Vec<Bytes> {
    let all = (0_u64..).map(|n| Bytes::from(n.to_be_bytes().to_vec()));
    all.filter(|key| leaf_of(key) == LeafId(5))
        .take(keys)
        .collect()
}

#[test]
fn a_leaf_that_is_larger_than_a_message_goes_in_pieces() {
    let (mut a, mut b) = (Replica::default(), Replica::default());
    for (at, key) in one_leaf(2_500).iter().enumerate() {
        match at % 5 {
            0 => a.merge(key, &value(1, 2_000)),
            1 => b.merge(key, &value(1, 2_000)),
            2 => {
                a.merge(key, &value(1, 10));
                b.merge(key, &value(2, 500));
            }
            _ => {
                a.merge(key, &value(1, 10));
                b.merge(key, &value(1, 10));
            }
        }
    }
    let cost = walk(&mut a, &mut b, 3);
    assert!(a.rows == b.rows && a.rows.len() == 2_500);
    assert_eq!(cost.differed, 1_500);
    assert!(cost.largest < STATES_BYTES_MAX + 3_000, "{cost:?}");
}

#[test]
fn what_cannot_be_read_is_healed_and_never_sent() {
    let whole = filled(0..1_000);
    for salt in 0..2 {
        let (mut a, mut b) = (whole.clone(), whole.clone());
        a.damage(&key(77));
        match salt {
            0 => walk(&mut a, &mut b, salt),
            _ => walk(&mut b, &mut a, salt),
        };
        assert_eq!(a.damaged, None);
        assert!(a.rows == whole.rows && b.rows == whole.rows);
    }
}

#[test]
fn answers_that_do_not_fit_end_the_walk() {
    let mut a = filled(0..10);
    for response in [
        Response::Merged,
        Response::Children(Vec::new()),
        Response::Children(vec![[[0; 8]; 16]; 2]),
    ] {
        let mut walk = Walk::new(a.tree(), Salt([0; 8]));
        walk.next(&mut a).unwrap();
        assert_eq!(walk.answered(response, &mut a), Err(WalkError::Unexpected));
        assert_eq!(
            walk.answered(Response::Same, &mut a),
            Err(WalkError::Unexpected)
        );
    }
}

#[test]
fn message_bytes_are_pinned() {
    let root = Request::Root {
        salt: Salt([7; 8]),
        root: [9; 16],
    };
    let mut bytes = vec![1, 1];
    bytes.extend([7; 8]);
    bytes.extend([9; 16]);
    assert_eq!(root.encode(), bytes);
    let children = Request::Children {
        salt: Salt([7; 8]),
        level: 2,
        nodes: vec![0x0102],
    };
    let bytes = [1, 2, 7, 7, 7, 7, 7, 7, 7, 7, 2, 1, 1, 2];
    assert_eq!(children.encode(), bytes);
    let state = State {
        key: Bytes::from_static(b"k"),
        binding: Bytes::from_static(b"b"),
    };
    assert_eq!(
        Request::States(vec![state]).encode(),
        [1, 4, 1, 1, b'k', 1, b'b']
    );
    assert_eq!(Response::Same.encode(), [1, 1]);
    let many = Request::Children {
        salt: Salt([0; 8]),
        level: 1,
        nodes: vec![0; NODES_AT_ONCE + 1],
    };
    let refused = Request::decode(&many.encode()).unwrap_err().to_string();
    assert_eq!(refused, "65 nodes in a request; the limit is 64");
    assert_eq!(KEYS_AT_ONCE, 1024);
}

fn replicas() -> impl Strategy<Value = (Replica, Replica)> {
    // Few keys and few writers, so that histories overlap.
    let write = (0_u64..40, 0_u8..3, 0_u8..3, 1_u64..4, any::<bool>());
    prop::collection::vec(write, 0..120).prop_map(|writes| {
        let mut both = [Replica::default(), Replica::default()];
        for (counter, (at, node, side, length, sees)) in writes.into_iter().enumerate() {
            let (at, side) = (key(at), usize::from(side % 2));
            let before = both[side]
                .rows
                .get(&(leaf_of(&at), at.clone()))
                .cloned()
                .unwrap_or_default();
            let seen = (!sees).then(|| {
                both[1 - side]
                    .rows
                    .get(&(leaf_of(&at), at.clone()))
                    .cloned()
                    .unwrap_or_default()
            });
            let written = version(node * 2 + side as u8, counter as u64 + 1, length as usize);
            if let Ok(after) = before.write(seen.as_ref().map(Binding::context), written) {
                both[side].put(&at, after);
            }
        }
        let [a, b] = both;
        (a, b)
    })
}

proptest! {
    #[test]
    fn both_sides_are_the_merge_of_both_after_a_walk((a, b) in replicas(), salt: u64) {
        let (mut mine, mut theirs) = (a.clone(), b.clone());
        walk(&mut mine, &mut theirs, salt);
        let mut merged = a;
        b.rows.iter().for_each(|((_, key), binding)| merged.merge(key, binding));
        prop_assert!(mine.rows == merged.rows && theirs.rows == merged.rows);
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(mut bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 1_u8..6) {
        if bytes.len() > 1 {
            (bytes[0], bytes[1]) = (1, kind);
        }
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), bytes.clone());
        }
        if let Ok(response) = Response::decode(&bytes) {
            prop_assert_eq!(response.encode(), bytes);
        }
    }
}
