//! Which starts of which nodes may take part, by the newest map that this node has.
//!
//! The map knows the last registered start of every node. A node that presents an earlier one runs on an old copy of its
//! disk, and what it has acknowledged since is not there. It is refused on both sides of a connection, so that it neither
//! votes nor answers before the map itself can refuse it.

use std::sync::{Arc, PoisonError, RwLock};

use mesh_ring::ids::NodeId;
use mesh_ring::map::{Boot, ClusterMap};
use tokio::sync::watch;

/// What a node does that may not take part as it is.
pub(in crate::node) const REJOIN: &str = "move its data directory away, make a new node with `meshctl node new`, and let it join with `meshctl node join`";

/// The map, as connections need it, and whether others have refused this node.
#[derive(Debug)]
pub(super) struct Starts {
    map: RwLock<Option<Arc<ClusterMap>>>,
    pub(super) refused: watch::Sender<Option<String>>,
}

impl Default for Starts {
    fn default() -> Self {
        Self {
            map: RwLock::default(),
            refused: watch::Sender::new(None),
        }
    }
}

impl Starts {
    pub(super) fn set_map(&self, map: Arc<ClusterMap>) {
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Some(map);
    }

    /// Why the node may not take part with this start of it, in words for its owner.
    pub(super) fn refusal(
        &self,
        node: NodeId,
        name: &str,
        boot: u32,
        token: &[u8],
    ) -> Option<String> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let map = map.as_ref()?;
        if map.is_removed(node) {
            return Some(removed(name));
        }
        let registered = map.node(node)?.boot;
        old_copy(name, registered, boot, token)
    }
}

/// Said of a node that was removed.
pub(in crate::node) fn removed(name: &str) -> String {
    format!("node {name} was removed from the cluster and does not come back: {REJOIN}")
}

/// Said of a node that presents an earlier start than one that is known, or another of the same number.
pub(in crate::node) fn old_copy(
    name: &str,
    known: Boot,
    boot: u32,
    token: &[u8],
) -> Option<String> {
    let older = boot < known.count || boot == known.count && token != known.token;
    older.then(|| {
        format!(
            "node {name} runs on an old copy of its data directory, which was opened {boot} times, and the cluster knows of opening {}: what it has acknowledged since is not on it: {REJOIN}",
            known.count
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Boot = Boot {
        count: 5,
        token: [5; 16],
    };

    #[test]
    fn a_start_that_is_not_later_than_the_known_one_is_of_an_old_copy() {
        for (boot, token, refused) in [
            (4, [5; 16], true),
            (5, [4; 16], true),
            (5, [5; 16], false),
            (6, [6; 16], false),
        ] {
            let refusal = old_copy("n1", KNOWN, boot, &token);
            assert_eq!(refusal.is_some(), refused, "{boot}");
        }
        let words = old_copy("n1", KNOWN, 4, &[]).unwrap_or_default();
        assert!(
            words.contains("meshctl node new") && words.contains("opening 5"),
            "{words}"
        );
    }
}
