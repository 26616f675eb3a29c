//! What the cluster map says about one partition, as far as replication goes.

use crate::ids::{Epoch, NodeId};

pub use crate::map::Activation;

/// Who replicates a partition in one epoch. Leader and replicas of an epoch never change; the rest may.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Config {
    /// The epoch.
    pub epoch: Epoch,
    /// Who leads in it: one of `replicas`.
    pub leader: NodeId,
    /// Whose votes count in it.
    pub replicas: Vec<NodeId>,
    /// Who gets everything and has no vote.
    pub learners: Vec<NodeId>,
    /// The last activated epoch: this one, or an earlier one.
    pub activated: Activation,
}

impl Config {
    /// Whether this epoch itself is activated, so that its own replicas are enough.
    #[must_use]
    pub fn is_activated(&self) -> bool {
        self.activated.epoch == self.epoch
    }

    /// Everyone whose answer may be needed: the replicas, and those of the last activated epoch.
    pub(super) fn voters(&self) -> impl Iterator<Item = NodeId> {
        let old = &self.activated.replicas;
        let old = old.iter().filter(|node| !self.replicas.contains(node));
        self.replicas.iter().chain(old).copied()
    }

    pub(super) fn check(&self) {
        assert!(
            self.replicas.contains(&self.leader),
            "epoch {}: its leader is not one of its replicas",
            self.epoch
        );
        assert!(
            self.activated.epoch <= self.epoch,
            "epoch {}: a later one is activated",
            self.epoch
        );
        assert!(
            !self.activated.replicas.is_empty(),
            "epoch {}: no epoch was ever activated",
            self.epoch
        );
    }
}
