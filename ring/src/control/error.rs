//! Why a change of the cluster map is refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Epoch, NodeId, PartitionId};
use crate::map::{NODES_MAX, NodeState, REPLICATION_MAX, REVOKED_MAX};

/// Most commands of one batch.
pub const BATCH_COMMANDS_MAX: usize = 8192;
/// Longest node name, address or zone, in bytes.
pub const NODE_TEXT_BYTES_MAX: usize = 255;

/// The change was refused, and the map is as it was.
#[derive(Clone, Debug, Eq, PartialEq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlError {
    /// The cluster has no such node. A node joins before it registers.
    #[error("this cluster has no node {node}; a new node joins with 'meshctl node join'")]
    UnknownNode {
        /// The id.
        node: NodeId,
    },
    /// The node was removed. Its data directory cannot come back: join with an empty one.
    #[error(
        "node {node} was removed from this cluster and cannot come back; delete its data directory and join it as a new node"
    )]
    NodeRemoved {
        /// The id.
        node: NodeId,
    },
    /// A node that is not removed has this name.
    #[error(
        "the name {name} belongs to node {node}; remove that node first, or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        node: NodeId,
    },
    /// A name, address or zone is empty or too long.
    #[error("the {what} has {bytes} bytes; it has {least} to {NODE_TEXT_BYTES_MAX}")]
    NodeText {
        /// What it is of the node.
        what: String,
        /// Its length.
        bytes: usize,
        /// The least length.
        least: usize,
    },
    /// The cluster is full.
    #[error("the cluster has {NODES_MAX} nodes, which is the limit; remove one first")]
    TooManyNodes,
    /// The node's disk is not the one that it last registered with: an old copy, or a second one that is in use.
    #[error(
        "the data of node {node} is an old copy: it has started {presented} times, and the cluster has last seen its start {registered}; delete the copy and join as a new node"
    )]
    OldCopy {
        /// The node.
        node: NodeId,
        /// The count of the start that the cluster knows.
        registered: u32,
        /// The count of the start that was presented.
        presented: u32,
    },
    /// The cluster has fewer partitions.
    #[error("the cluster has no partition {partition}")]
    UnknownPartition {
        /// The id.
        partition: PartitionId,
    },
    /// The report is of another epoch than the current one. Look at the map.
    #[error("epoch {epoch} of partition {partition} is not current; the current one is {current}")]
    StaleEpoch {
        /// The partition.
        partition: PartitionId,
        /// The epoch of the report.
        epoch: Epoch,
        /// The current epoch.
        current: Epoch,
    },
    /// The report is not from the leader.
    #[error("node {node} does not lead partition {partition}; {leader} does")]
    NotLeader {
        /// The partition.
        partition: PartitionId,
        /// Who reported.
        node: NodeId,
        /// Who leads.
        leader: NodeId,
    },
    /// The node is no learner of the partition.
    #[error("node {node} is not being filled with partition {partition}")]
    NotLearner {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
    },
    /// No other replica is alive.
    #[error("no other replica of partition {partition} is alive; its leader stays")]
    NoSuccessor {
        /// The partition.
        partition: PartitionId,
    },
    /// Without this node, no running node would be left to hold anything.
    #[error("node {node} is the last that holds partitions; join another before it leaves")]
    LastNode {
        /// The node.
        node: NodeId,
    },
    /// Too few nodes would be left to hold as many copies as now.
    #[error(
        "{left} nodes would be left, and {needed} are needed for as many copies as now; join another node, or remove this one"
    )]
    TooFewNodes {
        /// How many would be left.
        left: usize,
        /// How many are needed.
        needed: usize,
    },
    /// The node is in a state in which this is not done.
    #[error("node {node} is {}; {advice}", state_name(.state))]
    WrongState {
        /// The node.
        node: NodeId,
        /// Its state.
        state: NodeState,
        /// What to do instead.
        advice: String,
    },
    /// Records that only a majority with this node can vouch for would be lost.
    #[error(
        "without node {node}, partition {partition} has no majority of its replicas left; bring back one of the others first"
    )]
    LosesMajority {
        /// The node.
        node: NodeId,
        /// The first such partition.
        partition: PartitionId,
    },
    /// The voters are none, too many, the same twice, or not all nodes of the cluster.
    #[error("the voters are 1 to 7 different nodes of the cluster")]
    Voters,
    /// A setting is out of its range.
    #[error("replicas are 1 to {REPLICATION_MAX}, and fills per node at least 1")]
    Settings,
    /// There is no room for another revoked certificate.
    #[error("{REVOKED_MAX} certificates are revoked, which is the limit; replace the CA instead")]
    TooManyRevoked,
    /// The batch is too large, or holds a batch.
    #[error("a batch holds at most {BATCH_COMMANDS_MAX} commands, none of them a batch")]
    Batch,
}

fn state_name(state: &NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Drained => "drained",
        NodeState::Down => "down",
        NodeState::Removed => "removed",
    }
}
