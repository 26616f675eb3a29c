//! The cluster map, and what each node says about itself: what `status` shows and what a change of the ring waits for.

use std::time::Duration;

use mesh_net::client::{
    Client, ClientError, ClusterView, CopyStatus, NodeState, NodeStatus, NodeView, PartitionView,
    TransferStatus,
};
use mesh_ring::ids::NodeId;
use tokio::task::JoinSet;

use crate::error::Failure;
use crate::session::Session;

/// Longest time that one node's answer is waited for.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// Nodes that are asked at the same time.
const ASKED_MAX: usize = 16;
/// Entries by which a copy may be behind under load without being counted as missing.
const BEHIND_ENTRIES_MAX: u64 = 50_000;

/// What is known about a cluster at one moment, as far as its nodes answer.
pub(crate) struct Survey {
    pub(crate) cluster: ClusterView,
    answers: Vec<(NodeId, Result<NodeStatus, ClientError>)>,
}

/// Asks for the map, and then every node that should answer.
pub(crate) async fn survey(client: &Client, session: &Session) -> Result<Survey, Failure> {
    let cluster = client.cluster().await?;
    let mut waiting = cluster.nodes.iter().filter(|node| answers(node));
    let mut asking = JoinSet::new();
    let mut told = Vec::new();
    loop {
        while asking.len() < ASKED_MAX
            && let Some(node) = waiting.next()
        {
            let mut config = session.client_config()?;
            config.nodes = vec![node.address.clone()];
            config.timeout = config.timeout.min(ANSWER_MAX);
            let id = node.id;
            asking.spawn(async move { (id, ask(config).await) });
        }
        match asking.join_next().await {
            None => break,
            Some(answer) => {
                told.push(answer.map_err(|e| Failure::failed(format!("cannot ask a node: {e}")))?);
            }
        }
    }
    drop(waiting);
    Ok(Survey {
        cluster,
        answers: told,
    })
}

async fn ask(config: mesh_net::client::ClientConfig) -> Result<NodeStatus, ClientError> {
    let client = Client::connect(config).await?;
    let status = client.node_status().await;
    client.close().await;
    status
}

fn answers(node: &NodeView) -> bool {
    !matches!(node.state, NodeState::Down | NodeState::Removed) && !node.address.is_empty()
}

impl Survey {
    /// What this node said, if it did.
    pub(crate) fn status(&self, node: NodeId) -> Option<&NodeStatus> {
        self.statuses()
            .find(|(id, _)| *id == node)
            .map(|(_, status)| status)
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = (NodeId, &NodeStatus)> {
        self.answers
            .iter()
            .filter_map(|(id, answer)| Some((*id, answer.as_ref().ok()?)))
    }

    /// Nodes that should answer and did not, and why.
    pub(crate) fn silent(&self) -> impl Iterator<Item = (NodeId, &ClientError)> {
        self.answers
            .iter()
            .filter_map(|(id, answer)| Some((*id, answer.as_ref().err()?)))
    }

    /// Partitions that have fewer whole copies than they should.
    pub(crate) fn under_replicated(&self) -> Vec<&PartitionView> {
        let wanted = self.copies_wanted();
        let partitions = self.cluster.partitions.iter();
        partitions
            .filter(|partition| self.whole_copies(partition) < wanted)
            .collect()
    }

    /// Copies that each partition should have.
    pub(crate) fn copies_wanted(&self) -> usize {
        let nodes = self.cluster.nodes.iter();
        let staying = nodes
            .filter(|node| node.state != NodeState::Removed)
            .count();
        usize::from(self.cluster.replication).min(staying.max(1))
    }

    /// Partitions that nobody serves just now.
    pub(crate) fn unavailable(&self) -> usize {
        let partitions = self.cluster.partitions.iter();
        partitions
            .filter(|partition| !partition.active || !self.is_alive(partition.leader))
            .count()
    }

    fn whole_copies(&self, partition: &PartitionView) -> usize {
        let learners = match &partition.target {
            // Of two nodes one leads and the other learns for ever: that is its copy.
            None => &partition.learners[..],
            Some(_) => &[],
        };
        let holders = partition.replicas.iter().chain(learners);
        holders
            .filter(|node| self.is_whole(partition, **node))
            .count()
    }

    fn is_whole(&self, partition: &PartitionView, node: NodeId) -> bool {
        if !self.is_alive(Some(node)) || self.copy(partition, node).is_some_and(|copy| copy.suspect)
        {
            return false;
        }
        let leads = partition
            .leader
            .and_then(|leader| self.copy(partition, leader));
        let lag = leads.and_then(|copy| copy.lag.iter().find(|lag| lag.node == node));
        lag.is_none_or(|lag| lag.connected && lag.entries <= BEHIND_ENTRIES_MAX)
    }

    fn copy(&self, partition: &PartitionView, node: NodeId) -> Option<&CopyStatus> {
        let copies = &self.status(node)?.partitions;
        copies.iter().find(|copy| copy.partition == partition.id)
    }

    fn is_alive(&self, node: Option<NodeId>) -> bool {
        node.is_some_and(|id| {
            !matches!(
                self.state(id),
                None | Some(NodeState::Down | NodeState::Removed)
            )
        })
    }

    /// What can be said of the node: what the map says, unless the map cannot change just now and the node is silent.
    pub(crate) fn state(&self, id: NodeId) -> Option<NodeState> {
        let state = self.cluster.node(id)?.state;
        let silent = self.silent().any(|(node, _)| node == id);
        Some(if silent && self.control_leader().is_none() {
            NodeState::Down
        } else {
            state
        })
    }

    /// Who leads the control plane, by its own account.
    pub(crate) fn control_leader(&self) -> Option<NodeId> {
        let mut nodes = self.statuses();
        let leads = |(node, status): &(NodeId, &NodeStatus)| {
            status.control_quorum && status.control_leader == Some(*node)
        };
        nodes.find(leads).map(|(node, _)| node)
    }

    /// Entries that this node's copies are behind their leaders.
    pub(crate) fn lag(&self, node: NodeId) -> u64 {
        let copies = self.statuses().flat_map(|(_, status)| &status.partitions);
        let behind = copies
            .flat_map(|copy| &copy.lag)
            .filter(|lag| lag.node == node);
        behind.map(|lag| lag.entries).sum()
    }

    /// Copies under way, each once, as its receiver tells it or else its sender.
    pub(crate) fn transfers(&self) -> Vec<&TransferStatus> {
        let mut transfers: Vec<&TransferStatus> = Vec::new();
        for (node, status) in self.statuses() {
            for transfer in &status.transfers {
                let same = |other: &&TransferStatus| {
                    (other.partition, other.to) == (transfer.partition, transfer.to)
                };
                match transfers.iter().position(same) {
                    None => transfers.push(transfer),
                    Some(at) if transfer.to == node => transfers[at] = transfer,
                    Some(_) => {}
                }
            }
        }
        transfers.sort_by_key(|transfer| (transfer.partition, transfer.to));
        transfers
    }

    /// About how many bytes a copy of this partition carries.
    pub(crate) fn bytes(&self, partition: &PartitionView) -> u64 {
        let holders = partition
            .leader
            .into_iter()
            .chain(partition.replicas.iter().copied());
        let mut copies = holders.filter_map(|node| self.copy(partition, node));
        copies.next().map_or(0, |copy| copy.bytes)
    }

    pub(crate) fn name(&self, id: NodeId) -> String {
        name(&self.cluster, id)
    }
}

/// A node's name, or its id where the map does not know it.
pub(crate) fn name(cluster: &ClusterView, id: NodeId) -> String {
    cluster
        .node(id)
        .map_or_else(|| id.to_string(), |node| node.name.clone())
}

pub(crate) fn names(cluster: &ClusterView, ids: &[NodeId]) -> Vec<String> {
    ids.iter().map(|id| name(cluster, *id)).collect()
}

/// A node's state as `status` says it.
pub(crate) fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Up => "alive",
        NodeState::Draining => "draining",
        NodeState::Down => "down",
        NodeState::Removed => "removed",
    }
}
