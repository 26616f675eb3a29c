//! What a node has on disk, and what it has not yet synced.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::walk::Source;
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES, Tree, binding_digest, leaf_of};
use mesh_ring::tombstone::Holding;

/// Most hints of a node and partition.
pub(crate) const HINTS_MAX: usize = 24;

#[derive(Clone, Debug)]
pub(crate) struct Hint {
    pub(crate) home: NodeId,
    pub(crate) key: Bytes,
    pub(crate) state: Binding,
}

/// All that a node has of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) copy: Option<BTreeMap<Bytes, Binding>>,
    /// In the order in which they came.
    pub(crate) hints: BTreeMap<u64, Hint>,
    pub(crate) fence: u64,
    pub(crate) generation: u32,
    /// Something was forgotten since dots were last minted under this generation.
    pub(crate) has_forgotten: bool,
    /// The tree over the copy, until that changes: most walks find nothing new.
    tree: Option<Rc<Tree>>,
}

impl Part {
    /// The copy, which is about to change.
    pub(crate) fn copy_mut(&mut self) -> Option<&mut BTreeMap<Bytes, Binding>> {
        self.tree = None;
        self.copy.as_mut()
    }

    /// All that it knows of a key.
    pub(crate) fn state(&self, key: &Bytes) -> Binding {
        let copy = self.copy.as_ref().and_then(|copy| copy.get(key));
        let hints = self.hints.values().filter(|hint| hint.key == *key);
        hints.fold(copy.cloned().unwrap_or_default(), |all, hint| {
            all.merge(&hint.state)
        })
    }

    pub(crate) fn merge(&mut self, key: &Bytes, state: &Binding) {
        if let Some(copy) = self.copy_mut() {
            let held = copy.entry(key.clone()).or_default();
            *held = held.merge(state);
        }
    }

    pub(crate) fn begin_copy(&mut self) {
        if self.copy.is_none() {
            self.copy = Some(BTreeMap::new());
            self.tree = None;
            self.has_forgotten = true;
        }
    }

    pub(crate) fn drop_copy(&mut self) {
        self.copy = None;
        self.tree = None;
        self.has_forgotten = true;
    }

    pub(crate) fn remove_hint(&mut self, at: u64) {
        if self.hints.remove(&at).is_some() {
            self.has_forgotten = true;
        }
    }

    pub(crate) fn holding(&self, key: &[u8]) -> Holding {
        let held = self.copy.as_ref().and_then(|copy| copy.get(key));
        held.map_or(Holding::Nothing, |held| Holding::Binding(digest(key, held)))
    }

    pub(crate) fn tree(&mut self) -> Rc<Tree> {
        if let Some(tree) = &self.tree {
            return Rc::clone(tree);
        }
        let mut leaves = [LeafSum::ZERO; MERKLE_LEAVES as usize];
        for (key, binding) in self.copy.iter().flatten() {
            let sum = &mut leaves[usize::from(leaf_of(key).0)];
            *sum = sum.add(digest(key, binding));
        }
        let tree = Rc::new(Tree::of(&leaves));
        self.tree = Some(Rc::clone(&tree));
        tree
    }
}

pub(crate) fn digest(key: &[u8], binding: &Binding) -> LeafSum {
    binding_digest(key, &binding.encode())
}

impl Source for Part {
    type Error = Infallible;

    fn list(
        &mut self,
        leaf: LeafId,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Bytes, LeafSum)>, Infallible> {
        let rows = self.copy.iter().flatten();
        let rows = rows.filter(|(key, _)| leaf_of(key) == leaf);
        let rows = rows.filter(|(key, _)| after.is_none_or(|after| key.as_ref() > after));
        let listed = rows.map(|(key, binding)| (key.clone(), digest(key, binding)));
        Ok(listed.take(most).collect())
    }

    fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        let held = self.copy.as_ref().and_then(|copy| copy.get(key));
        Ok(held.map(Binding::encode))
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) parts: BTreeMap<PartitionId, Part>,
    pub(crate) boot: u32,
}

impl Store {
    pub(crate) fn part(&mut self, partition: PartitionId) -> &mut Part {
        self.parts.entry(partition).or_default()
    }

    pub(crate) fn hints(&self) -> usize {
        self.parts.values().map(|part| part.hints.len()).sum()
    }
}
