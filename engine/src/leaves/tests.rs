//! What is stored of leaves stays small, and says what memory says.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use mesh_ring::merkle::{MERKLE_LEAVES, binding_digest, leaf_of};
use mesh_ring::version::Dot;

use super::*;
use crate::options::Options;

/// How many rows of changes and pages are stored.
fn stored(store: &Store) -> (usize, usize) {
    let mut iterator = store.iterate(family::MERKLE, &[]);
    iterator.seek_to_first();
    let (mut rows, mut pages) = (0, 0);
    while let Some(key) = iterator.key() {
        match keys::parse_merkle_changes_key(key) {
            Some(_) => rows += 1,
            None => pages += 1,
        }
        iterator.next();
    }
    (rows, pages)
}

fn load(store: &Store) -> Leaves {
    Leaves::load(store, 8, false).unwrap()
}

fn write(leaves: &Leaves, store: &Store, changes: Changes) {
    let mut batch = WriteBatch::default();
    let settled = leaves.settle(store, changes, &mut batch).unwrap();
    store.write_synced(batch).unwrap();
    leaves.show(settled);
}

fn change(leaves: &Leaves, store: &Store, partition: u16, leaf: u16, n: u64) {
    let (partition, leaf) = (PartitionId(partition), LeafId(leaf));
    leaves.check(store, partition, leaf).unwrap();
    let mut changes = Changes::default();
    changes.add(partition, leaf, LeafSum([n, 1, 0, 0]));
    changes.bound(partition, leaf, &n.to_be_bytes());
    write(leaves, store, changes);
}

fn index(store: &Store) -> usize {
    let mut iterator = store.iterate(family::BINDING_INDEX, &[]);
    iterator.seek_to_first();
    let mut rows = 0;
    while iterator.valid() {
        rows += 1;
        iterator.next();
    }
    rows
}

#[test]
fn rows_of_changes_are_folded_and_removed_and_a_partition_at_rest_holds_none_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &Options::default(), true).unwrap();
    let leaves = Leaves::default();
    // Written once, and never again.
    change(&leaves, &store, 7, 9, 1);
    let groups = 6 * ROWS_REMOVED_MIN;
    let mut most = 0;
    for n in 0..groups {
        change(&leaves, &store, (n % 3) as u16, (n * 37 % 4_096) as u16, n);
        if n % 256 == 0 {
            most = most.max(stored(&store).0);
        }
    }
    assert!(most > 1, "{most}");
    assert!(
        most < 5 * ROWS_REMOVED_MIN as usize,
        "{most} rows of changes"
    );
    let sums = |leaves: &Leaves, partition| leaves.sums(&store, PartitionId(partition)).unwrap();
    let again = load(&store);
    for partition in [0, 1, 2, 3, 7] {
        assert!(
            sums(&again, partition) == sums(&leaves, partition),
            "{partition}"
        );
    }
    let expected = sums(&leaves, 7);
    assert_eq!(expected[9], LeafSum([1, 1, 0, 0]));

    let mut batch = WriteBatch::default();
    again.fold_all(&store, &mut batch);
    store.write_synced(batch).unwrap();
    let (rows, pages) = stored(&store);
    assert_eq!(rows, 0);
    assert!(pages > 3 * 200, "{pages}");
    assert_eq!(index(&store), groups as usize + 1);
    let folded = load(&store);
    for partition in [0, 1, 2, 3, 7] {
        assert!(
            sums(&folded, partition) == sums(&leaves, partition),
            "{partition}"
        );
    }
}

#[test]
fn a_page_that_cannot_be_read_is_refused_until_all_of_it_is_summed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &Options::default(), true).unwrap();
    let (id, leaf) = (PartitionId(1), LeafId(20));
    let mut batch = WriteBatch::default();
    let key = keys::merkle_page_key(id, page_of(leaf));
    batch.put_cf(store.family(family::MERKLE), key, b"garbage");
    store.write_synced(batch).unwrap();
    let leaves = load(&store);
    assert!(matches!(
        leaves.check(&store, id, leaf),
        Err(ReadError::Damaged(_))
    ));
    assert!(matches!(
        leaves.sums(&store, id),
        Err(ReadError::Damaged(_))
    ));
    leaves.check(&store, id, LeafId(40)).unwrap();
    let beside: Vec<LeafId> = Leaves::beside(leaf).collect();
    assert_eq!((beside.len(), beside.contains(&leaf)), (16, true));
    for half in beside.chunks(8) {
        assert!(leaves.check(&store, id, leaf).is_err());
        let mut changes = Changes::default();
        for leaf in half {
            changes.set(id, *leaf, LeafSum([leaf.0.into(), 0, 0, 0]));
        }
        write(&leaves, &store, changes);
    }
    leaves.check(&store, id, leaf).unwrap();
    // After a crash as well: the page itself is as it was.
    for leaves in [leaves, load(&store)] {
        let sums = leaves.sums(&store, id).unwrap();
        assert_eq!(
            (sums[20], sums[40]),
            (LeafSum([20, 0, 0, 0]), LeafSum::ZERO)
        );
    }
}

/// A binding of partition 1, with its leaf.
fn bind(leaves: &Leaves, store: &Store, n: u64) -> (Vec<u8>, LeafId) {
    let (id, key) = (PartitionId(1), format!("key {n}").into_bytes());
    let leaf = leaf_of(&key);
    let encoded: Bytes = binding(n).encode().into();
    leaves.check(store, id, leaf).unwrap();
    let mut changes = Changes::default();
    changes.change(id, leaf, &key, None, Some(&encoded));
    changes.bound(id, leaf, &key);
    let mut batch = WriteBatch::default();
    let settled = leaves.settle(store, changes, &mut batch).unwrap();
    let row = keys::binding_key(id, &key);
    batch.put_cf(store.family(family::BINDINGS), row, encoded);
    store.write_synced(batch).unwrap();
    leaves.show(settled);
    (key, leaf)
}

fn binding(n: u64) -> Binding {
    let dot = Dot {
        node: NodeId([3; 16]),
        boot: 1,
        counter: n + 1,
    };
    // It does not compress much.
    let noise = (0..12)
        .flat_map(|word: u64| binding_digest(&word.to_be_bytes(), &n.to_be_bytes()).to_bytes());
    let version = Version {
        dot,
        hlc: Hlc(n),
        expires_ms: None,
        content: Content::Value(noise.collect()),
    };
    Binding::default().write(None, version).unwrap()
}

/// The sums of the bindings that can be read one by one.
fn sums_of(store: &Store, bound: &[(Vec<u8>, LeafId)]) -> (Box<Sums>, usize) {
    let (mut sums, mut unreadable) = (Box::new([LeafSum::ZERO; MERKLE_LEAVES as usize]), 0);
    for (key, leaf) in bound {
        match store.get(family::BINDINGS, &keys::binding_key(PartitionId(1), key)) {
            Ok(encoded) => {
                let sum = &mut sums[usize::from(leaf.0)];
                *sum = sum.add(binding_digest(key, &encoded.unwrap()));
            }
            Err(_) => unreadable += 1,
        }
    }
    (sums, unreadable)
}

/// The store again, after a block of what it has flushed of a family was damaged.
fn damaged(dir: &Path, store: Store, name: &str) -> Store {
    store.flush_all().unwrap();
    let files = store.files(name);
    assert_eq!(files.len(), 1);
    let file = dir.join(files[0].name.trim_start_matches('/'));
    drop(store);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(8).position(|at| at == b"rocksdb.").unwrap() / 3;
    bytes[at] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    Store::open(dir, &Options::default(), true).unwrap()
}

#[test]
fn what_cannot_be_read_of_changes_is_made_anew_from_the_bindings() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &Options::default(), true).unwrap();
    let leaves = load(&store);
    let mut bound: Vec<_> = (0..400).map(|n| bind(&leaves, &store, n)).collect();
    let store = damaged(dir.path(), store, family::MERKLE);
    // As where a crash ends it before its last write.
    rebuild::rebuild_partition(&store, PartitionId(1)).unwrap();
    assert!(matches!(State::replay(&store), Err(ReadError::Damaged(_))));
    let mut leaves = load(&store);
    // What is written from then on is found after a crash; the damage may be met again.
    for round in 0..3 {
        let sums = leaves.sums(&store, PartitionId(1)).unwrap();
        assert!(sums == sums_of(&store, &bound).0, "round {round}");
        bound.extend((0..20).map(|n| bind(&leaves, &store, 1_000 + 20 * round + n)));
        leaves = load(&store);
    }
    let mut batch = WriteBatch::default();
    leaves.fold_all(&store, &mut batch);
    store.write_synced(batch).unwrap();
    assert_eq!(index(&store), bound.len());
}

#[test]
fn a_binding_that_cannot_be_read_is_left_out_of_its_sum_and_stays_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &Options::default(), true).unwrap();
    let leaves = load(&store);
    let bound: Vec<_> = (0..400).map(|n| bind(&leaves, &store, n)).collect();
    let mut batch = WriteBatch::default();
    leaves.fold_all(&store, &mut batch);
    let gone = keys::under_leaf_key(PartitionId(1), LeafId(5), b"gone long ago");
    batch.put_cf(store.family(family::BINDING_INDEX), gone, []);
    store.write_synced(batch).unwrap();
    let store = damaged(dir.path(), store, family::BINDINGS);
    let leaves = Leaves::load(&store, 8, true).unwrap();
    let (sums, unreadable) = sums_of(&store, &bound);
    assert!(unreadable > 0 && unreadable < 100, "{unreadable}");
    assert!(leaves.sums(&store, PartitionId(1)).unwrap() == sums);
    assert_eq!(index(&store), bound.len());
}

#[test]
fn sums_of_a_layout_without_pages_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &Options::default(), true).unwrap();
    let leaves = load(&store);
    let bound: Vec<_> = (0..40).map(|n| bind(&leaves, &store, n)).collect();
    let mut batch = WriteBatch::default();
    let merkle = store.family(family::MERKLE);
    batch.delete_range_cf(merkle, &[0][..], &[u8::MAX; 11][..]);
    for (_, leaf) in &bound {
        let [high, low] = leaf.0.to_be_bytes();
        batch.put_cf(merkle, [0, 1, high, low], [7; 32]);
    }
    store.write_synced(batch).unwrap();
    let leaves = load(&store);
    let sums = leaves.sums(&store, PartitionId(1)).unwrap();
    assert!(sums == sums_of(&store, &bound).0);
    assert_eq!(index(&store), bound.len());
}

#[test]
fn a_partition_that_nobody_asked_for_is_read_before_it_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &Options::default(), true).unwrap();
    let leaves = load(&store);
    change(&leaves, &store, 1, 9, 5);
    let mut batch = WriteBatch::default();
    leaves.fold_all(&store, &mut batch);
    store.write_synced(batch).unwrap();
    let leaves = load(&store);
    let mut changes = Changes::default();
    changes.add(PartitionId(1), LeafId(9), LeafSum([2, 0, 0, 0]));
    write(&leaves, &store, changes);
    for leaves in [leaves, load(&store)] {
        let sums = leaves.sums(&store, PartitionId(1)).unwrap();
        assert_eq!(sums[9], LeafSum([7, 1, 0, 0]));
    }
}
