//! What may happen to a cluster map.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId, PartitionId};
use crate::map::{Boot, Settings};

/// One change of the cluster map, asked for by a node or a person. What each does is told in [`crate::control`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlCommand {
    /// A node with a certificate joins the cluster under an id that no node ever had.
    Admit {
        /// The new node.
        node: NodeId,
        /// The name of its certificate.
        name: String,
        /// Where it is reached, `HOST:PORT`.
        address: String,
        /// What fails together with it; may be empty.
        zone: String,
    },
    /// A node's process has started and asks to take part.
    Register {
        /// The node.
        node: NodeId,
        /// This start.
        boot: Boot,
        /// Starts that may have been registered before: the last that the node knows to be, and every one since.
        previous: Vec<Boot>,
        /// Where it is reached, `HOST:PORT`.
        address: String,
        /// What fails together with it; may be empty.
        zone: String,
    },
    /// The leader of the epoch has taken over: its barrier is committed.
    Activated {
        /// The partition.
        partition: PartitionId,
        /// The epoch that was taken over.
        epoch: Epoch,
        /// Its leader.
        leader: NodeId,
    },
    /// A learner is close to the leader's end.
    CaughtUp {
        /// The partition.
        partition: PartitionId,
        /// The epoch in which the leader saw it.
        epoch: Epoch,
        /// The learner.
        node: NodeId,
    },
    /// The leader cannot or does not want to lead.
    Resign {
        /// The partition.
        partition: PartitionId,
        /// The epoch whose leader resigns.
        epoch: Epoch,
        /// The replica that should lead next; the same one, if it only needs a new epoch.
        to: Option<NodeId>,
    },
    /// Too few voters of the control plane had kept what they had acknowledged: the map may have lost what was decided last.
    Salvaged {
        /// The voter that leads on.
        node: NodeId,
    },
    /// Gossip says that the node is dead, or the node says that it stops.
    NodeDown {
        /// The node.
        node: NodeId,
    },
    /// Gossip says that the node is alive.
    NodeUp {
        /// The node.
        node: NodeId,
    },
    /// Everything that the node holds is to move away.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// The node was dead for too long: others are to hold what it held.
    Replace {
        /// The node.
        node: NodeId,
    },
    /// The node's disk has reached its reserve, or has room again.
    Room {
        /// The node.
        node: NodeId,
        /// Whether there is none.
        full: bool,
    },
    /// The node never comes back.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Partitions move until all nodes hold alike many.
    Plan,
    /// Leaders return to the replicas that should lead.
    Balance {
        /// Most partitions that change their leader by this command.
        most: u16,
    },
    /// The replicated group of the control plane votes in these nodes.
    SetVoters {
        /// The voters.
        voters: Vec<NodeId>,
    },
    /// The cluster is kept in another way.
    Configure {
        /// All settings.
        settings: Settings,
    },
    /// A certificate is no longer trusted.
    Revoke {
        /// SHA-256 of the certificate.
        fingerprint: [u8; 32],
        /// The name that it carries.
        name: String,
    },
    /// Several changes, one after another, in one version. What is refused leaves the others alone.
    Batch {
        /// The changes; none of them a batch.
        commands: Vec<ControlCommand>,
    },
}
