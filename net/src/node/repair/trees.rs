//! The trees of comparisons under way, at the side that answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::Tree;
use mesh_ring::merkle::walk::Salt;

/// How long a tree is kept for the next step of its walk.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Most trees that are kept, of about 140 KiB each. Without one a step costs reading the leaves once more.
const TREES_MAX: usize = 32;

/// Trees by the partition and the node that walks. A walk begins with a salt of its own, which tells it from others.
#[derive(Debug, Default)]
pub(super) struct Trees(Mutex<BTreeMap<(PartitionId, NodeId), Kept>>);

#[derive(Debug)]
struct Kept {
    salt: Salt,
    tree: Arc<Tree>,
    at: Instant,
}

impl Trees {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PartitionId, NodeId), Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree that the walk began with, if it is kept.
    pub(super) fn get(&self, of: (PartitionId, NodeId), salt: Salt) -> Option<Arc<Tree>> {
        let trees = self.lock();
        let kept = trees.get(&of).filter(|kept| kept.salt == salt);
        kept.map(|kept| Arc::clone(&kept.tree))
    }

    /// Keeps the tree of a walk that goes on.
    pub(super) fn keep(&self, of: (PartitionId, NodeId), salt: Salt, tree: Arc<Tree>) {
        let mut trees = self.lock();
        trees.retain(|_, kept| kept.at.elapsed() < KEPT_FOR);
        if trees.len() < TREES_MAX || trees.contains_key(&of) {
            let at = Instant::now();
            trees.insert(of, Kept { salt, tree, at });
        }
    }

    /// Lets go of what no walk asks for any more.
    pub(super) fn tidy(&self) {
        self.lock().retain(|_, kept| kept.at.elapsed() < KEPT_FOR);
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::merkle::{LeafSum, MERKLE_LEAVES};

    use super::*;

    #[test]
    fn a_tree_serves_its_own_walk_and_there_are_never_too_many() {
        let trees = Trees::default();
        let tree = Arc::new(Tree::of(&[LeafSum::ZERO; MERKLE_LEAVES as usize]));
        let node = NodeId([1; 16]);
        for partition in 0..2 * TREES_MAX as u16 {
            let of = (PartitionId(partition), node);
            trees.keep(of, Salt([1; 8]), Arc::clone(&tree));
        }
        assert_eq!(trees.lock().len(), TREES_MAX);
        let first = (PartitionId(0), node);
        assert!(trees.get(first, Salt([1; 8])).is_some());
        assert!(trees.get(first, Salt([2; 8])).is_none());
        trees.keep(first, Salt([2; 8]), tree);
        assert!(trees.get(first, Salt([2; 8])).is_some());
    }
}
