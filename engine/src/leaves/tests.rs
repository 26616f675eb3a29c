//! What is stored of leaves stays small, and says what memory says.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

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

fn write(leaves: &Leaves, store: &Store, changes: Changes) {
    let mut batch = WriteBatch::default();
    let settled = leaves.settle(store, changes, &mut batch);
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
    let again = Leaves::default();
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
    let folded = Leaves::default();
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
    let leaves = Leaves::default();
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
    for leaves in [leaves, Leaves::default()] {
        let sums = leaves.sums(&store, id).unwrap();
        assert_eq!(
            (sums[20], sums[40]),
            (LeafSum([20, 0, 0, 0]), LeafSum::ZERO)
        );
    }
}
