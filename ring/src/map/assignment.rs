//! Who holds a partition.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId};

/// The last replica set whose leader is known to have taken over.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    /// The epoch of that leader.
    pub epoch: Epoch,
    /// The replicas of that epoch.
    pub replicas: Vec<NodeId>,
}

/// What a partition is to become.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The replica set, in preference order; never empty.
    pub replicas: Vec<NodeId>,
    /// Nodes that then follow without counting.
    pub learners: Vec<NodeId>,
}

/// Who holds one partition.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The nodes that hold it, in preference order, the one that should lead first; never empty, all different.
    pub replicas: Vec<NodeId>,
    /// Nodes that follow without counting: those that are being filled for `target`, and in a cluster of two nodes
    /// the one that stands by. None of them is a replica.
    pub learners: Vec<NodeId>,
    /// The learners that are known to be close to the leader's end in this epoch.
    pub caught_up: Vec<NodeId>,
    /// The replica that orders its topics.
    pub leader: NodeId,
    /// The epoch of that leader and replica set. It rises with every change of either.
    pub epoch: Epoch,
    /// The last epoch whose leader is known to have taken over; until it is `epoch`, both sets must agree.
    pub activated: Activation,
    /// What it is to become: a move that is under way, or that waits for its turn.
    pub target: Option<Target>,
}

impl Assignment {
    /// An assignment of `epoch` in which nothing is under way; the first replica leads. The set counts as activated
    /// in `activated`.
    pub(crate) fn new(
        replicas: Vec<NodeId>,
        learners: Vec<NodeId>,
        epoch: Epoch,
        activated: Epoch,
    ) -> Self {
        assert!(!replicas.is_empty(), "a partition has a replica");
        Self {
            leader: replicas[0],
            learners,
            caught_up: Vec::new(),
            epoch,
            activated: Activation {
                epoch: activated,
                replicas: replicas.clone(),
            },
            target: None,
            replicas,
        }
    }

    /// Whether the leader of the current epoch is known to have taken over.
    #[must_use]
    pub fn is_activated(&self) -> bool {
        self.activated.epoch == self.epoch
    }

    /// Whether this node holds the partition, is being filled for it, or may still be asked for what it held.
    #[must_use]
    pub fn involves(&self, node: NodeId) -> bool {
        let target = self.target.as_ref();
        self.replicas.contains(&node)
            || self.learners.contains(&node)
            || self.activated.replicas.contains(&node)
            || target.is_some_and(|t| t.replicas.contains(&node) || t.learners.contains(&node))
    }

    /// Whether this node needs a copy: a replica of the current or of the last activated set, or a learner. Any other
    /// node may drop its copy.
    #[must_use]
    pub fn needs_copy(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
            || self.learners.contains(&node)
            || self.activated.replicas.contains(&node)
    }
}
