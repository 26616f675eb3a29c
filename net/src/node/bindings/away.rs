//! Who is or was away lately.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_ring::ids::NodeId;
use tokio::time::Instant;

/// How long after a node's return stand-ins are asked beside it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// When each node was last seen to be away.
#[derive(Debug, Default)]
pub(in crate::node) struct Away(Mutex<BTreeMap<NodeId, Instant>>);

impl Away {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are away now.
    pub(super) fn note(&self, nodes: impl Iterator<Item = NodeId>) {
        self.note_at(Instant::now(), nodes);
    }

    fn note_at(&self, now: Instant, nodes: impl Iterator<Item = NodeId>) {
        let mut seen = self.lock();
        seen.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        seen.extend(nodes.map(|node| (node, now)));
    }

    /// Whether the node was away lately: hints for it may still be on their way.
    pub(super) fn was(&self, node: NodeId) -> bool {
        self.was_at(Instant::now(), node)
    }

    fn was_at(&self, now: Instant, node: NodeId) -> bool {
        let at = self.lock().get(&node).copied();
        at.is_some_and(|at| now.duration_since(at) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_remembered_for_a_while() {
        let (away, node) = (Away::default(), NodeId([1; 16]));
        let begin = Instant::now();
        assert!(!away.was_at(begin, node));
        away.note_at(begin, [node].into_iter());
        assert!(away.was_at(begin + REMEMBERED / 2, node));
        away.note_at(begin + REMEMBERED / 2, std::iter::empty());
        assert!(
            away.was_at(begin + REMEMBERED / 2, node),
            "others' absences do not end it"
        );
        assert!(!away.was_at(begin + REMEMBERED, node));
    }
}
