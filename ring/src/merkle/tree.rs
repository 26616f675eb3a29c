//! The levels above the leaves.

use super::{FANOUT, LeafSum, MERKLE_LEAVES};

const NODE_DOMAIN: &str = "meshlog merkle node v1";

/// The leaves of a partition at one moment, and the hashes above them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tree {
    /// From the root, one node, down to the leaves.
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    /// The tree over these leaves.
    #[must_use]
    pub fn of(leaves: &[LeafSum; MERKLE_LEAVES as usize]) -> Self {
        let mut levels = vec![leaves.iter().map(|leaf| leaf.to_bytes()).collect()];
        let mut level: &Vec<[u8; 32]> = &levels[0];
        while level.len() > 1 {
            levels.push(level.chunks(FANOUT).map(parent).collect());
            level = &levels[levels.len() - 1];
        }
        levels.reverse();
        Self { levels }
    }

    /// The hash of everything.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.levels[0][0]
    }

    /// The number of the leaves' level; the root's is 0.
    #[must_use]
    pub fn depth(&self) -> u8 {
        (self.levels.len() - 1) as u8
    }

    /// The children of a node, [`FANOUT`] of them; none if there is no such node, or if it is a leaf.
    #[must_use]
    pub fn children(&self, level: u8, node: u16) -> &[[u8; 32]] {
        let at = usize::from(node) * FANOUT;
        let below = self.levels.get(usize::from(level) + 1);
        below
            .and_then(|below| below.get(at..at + FANOUT))
            .unwrap_or_default()
    }
}

fn parent(children: &[[u8; 32]]) -> [u8; 32] {
    blake3::derive_key(NODE_DOMAIN, children.as_flattened())
}
