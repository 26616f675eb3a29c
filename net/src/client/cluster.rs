//! The cluster as an operator sees it, and how they change it.

use bytes::Bytes;
use mesh_ring::ids::{ClusterId, Epoch, NodeId, Offset, PartitionId};
use mesh_ring::map::ClusterMap;
use prost::Message;

use super::status::{NodeStatus, status};
use super::{Client, ClientError, TopicDescription};
use crate::wire::proto::{self, reply, request};

/// One version of the cluster map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterView {
    /// Higher is newer.
    pub version: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// Copies of each partition where there are enough nodes.
    pub replication: u8,
    /// All nodes, also those that were removed.
    pub nodes: Vec<NodeView>,
    /// All partitions, in the order of their numbers.
    pub partitions: Vec<PartitionView>,
}

/// A node in the map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is reached, `HOST:PORT`.
    pub address: String,
    /// Its zone, or nothing.
    pub zone: String,
    /// What the map says about it.
    pub state: NodeState,
    /// Whether it votes in the control plane.
    pub votes: bool,
}

/// What the map says about a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeState {
    /// Admitted, and not seen yet, or being given its partitions.
    Joining,
    /// It takes part.
    Up,
    /// It gives its partitions away.
    Draining,
    /// It does not answer.
    Down,
    /// Gone for ever.
    Removed,
}

/// A partition in the map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PartitionView {
    /// Its number.
    pub id: PartitionId,
    /// Who holds it, in preference order.
    pub replicas: Vec<NodeId>,
    /// Who is being filled, in order to hold it.
    pub learners: Vec<NodeId>,
    /// Who orders its topics.
    pub leader: Option<NodeId>,
    /// The epoch of that leader and replica set.
    pub epoch: Epoch,
    /// Whether the leader is known to have taken over.
    pub active: bool,
    /// The replica set that it is moving to.
    pub target: Option<Vec<NodeId>>,
}

/// A change of the ring. It needs a grant for the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClusterChange {
    /// Lets a node join.
    Admit {
        /// Its id.
        node: NodeId,
        /// Its name.
        name: String,
        /// Where it is reached.
        address: String,
        /// Its zone, or nothing.
        zone: String,
    },
    /// Moves everything away from a node.
    Drain(NodeId),
    /// Gives a node up for ever; what it held is made anew from other copies.
    Remove(NodeId),
    /// Spreads the partitions evenly again.
    Rebalance,
    /// Refuses a certificate from now on.
    Revoke {
        /// Its SHA-256.
        fingerprint: [u8; 32],
        /// Whose it was.
        name: String,
    },
}

/// A digest of what one node stores of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopicHash {
    /// The root over the records' bytes.
    pub root: [u8; 32],
    /// How many records were hashed.
    pub records: u64,
    /// How many of them could not be read.
    pub damaged: u64,
    /// The first offset hashed.
    pub from: Offset,
    /// The offset after the last.
    pub until: Offset,
}

impl Client {
    /// The cluster map of the node that answers.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn cluster(&self) -> Result<ClusterView, ClientError> {
        view(decode(self.map(false).await?)?)
    }

    /// The same as nodes themselves keep it, for what is computed from it, such as the plan of a change.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn cluster_map(&self) -> Result<ClusterMap, ClientError> {
        let body = self.map(true).await?;
        serde_json::from_slice(&body).map_err(|_| ClientError::protocol("an ill-formed map"))
    }

    async fn map(&self, exact: bool) -> Result<Bytes, ClientError> {
        let asked = request::Kind::Map(proto::GetMap { known: 0, exact });
        match self.ask_safe("cluster map", asked).await?.one()? {
            (reply::Kind::Map(_), body) => Ok(body),
            _ => Err(other_kind()),
        }
    }

    /// What the node that the client is connected to says about itself.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn node_status(&self) -> Result<NodeStatus, ClientError> {
        let asked = request::Kind::NodeStatus(proto::GetNodeStatus {});
        match self.ask_safe("status", asked).await?.one()? {
            (reply::Kind::NodeStatus(_), body) => status(decode(body)?),
            _ => Err(other_kind()),
        }
    }

    /// Changes the ring, and gives the version of the map that has the change. Asking twice for the same changes
    /// nothing.
    ///
    /// # Errors
    /// [`ClientError::Refused`] without a grant for the cluster, [`ClientError::Invalid`] for what makes no sense,
    /// [`ClientError::Unavailable`] where the control plane has no majority.
    pub async fn change_cluster(&self, change: ClusterChange) -> Result<u64, ClientError> {
        let asked = request::Kind::ChangeCluster(encode(change));
        let doing = "change the cluster";
        match self.ask_safe(doing, asked).await?.one()? {
            (reply::Kind::Changed(changed), _) => Ok(changed.map_version),
            _ => Err(other_kind()),
        }
    }

    /// Reads and hashes what the node that the client is connected to stores of a topic, from `from` up to `until`.
    /// It waits until that node knows all of it to be committed.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] where the node keeps no copy or does not catch up in time.
    pub async fn hash_topic(
        &self,
        topic: &TopicDescription,
        from: Offset,
        until: Offset,
    ) -> Result<TopicHash, ClientError> {
        let asked = request::Kind::HashTopic(proto::HashTopic {
            topic: topic.name.clone(),
            incarnation: Some(proto::TopicId {
                partition: topic.partition.into(),
                id: topic.id,
            }),
            from,
            until,
        });
        match self.ask_safe("hash", asked).await?.one()? {
            (reply::Kind::TopicHash(hash), _) => Ok(TopicHash {
                root: fixed(&hash.root)?,
                records: hash.records,
                damaged: hash.damaged,
                from: hash.from,
                until: hash.until,
            }),
            _ => Err(other_kind()),
        }
    }
}

impl ClusterView {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The node of this name that was not removed.
    pub fn named(&self, name: &str) -> Option<&NodeView> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.name == name && node.state != NodeState::Removed)
    }
}

fn encode(change: ClusterChange) -> proto::ChangeCluster {
    use proto::change_cluster::Change;
    let id = |node: NodeId| Bytes::copy_from_slice(&node.0);
    let change = match change {
        ClusterChange::Admit {
            node,
            name,
            address,
            zone,
        } => Change::Admit(proto::Admit {
            node: id(node),
            name,
            address,
            zone,
        }),
        ClusterChange::Drain(node) => Change::Drain(id(node)),
        ClusterChange::Remove(node) => Change::Remove(id(node)),
        ClusterChange::Rebalance => Change::Rebalance(proto::Rebalance {}),
        ClusterChange::Revoke { fingerprint, name } => Change::Revoke(proto::Revoke {
            fingerprint: Bytes::copy_from_slice(&fingerprint),
            name,
        }),
    };
    proto::ChangeCluster {
        change: Some(change),
    }
}

fn view(map: proto::ClusterMap) -> Result<ClusterView, ClientError> {
    let node = |(index, node): (usize, &proto::MapNode)| {
        Ok(NodeView {
            id: NodeId(fixed(&node.id)?),
            name: node.name.clone(),
            address: node.address.clone(),
            zone: node.zone.clone(),
            state: state(node.state())?,
            votes: map.voters.iter().any(|voter| *voter as usize == index),
        })
    };
    let nodes = map.nodes.iter().enumerate().map(node);
    let nodes: Vec<NodeView> = nodes.collect::<Result<_, ClientError>>()?;
    let id = |index: &u32| {
        let node = nodes.get(*index as usize);
        let node = node.ok_or_else(|| ClientError::protocol("a map that names no such node"))?;
        Ok::<NodeId, ClientError>(node.id)
    };
    let ids = |indices: &[u32]| indices.iter().map(id).collect::<Result<Vec<_>, _>>();
    let partition = |(number, partition): (usize, &proto::MapPartition)| {
        Ok(PartitionView {
            id: PartitionId(u16::try_from(number).map_err(|_| too_many())?),
            replicas: ids(&partition.replicas)?,
            learners: ids(&partition.learners)?,
            leader: partition.leader.as_ref().map(id).transpose()?,
            epoch: Epoch(partition.epoch),
            active: partition.activated_epoch == partition.epoch,
            target: match &partition.target {
                None => None,
                Some(target) => Some(ids(&target.replicas)?),
            },
        })
    };
    let partitions = map.partitions.iter().enumerate().map(partition);
    let partitions = partitions.collect::<Result<_, ClientError>>()?;
    Ok(ClusterView {
        version: map.version,
        cluster: ClusterId(fixed(&map.cluster)?),
        replication: u8::try_from(map.replication).unwrap_or(u8::MAX),
        nodes,
        partitions,
    })
}

fn state(state: proto::NodeState) -> Result<NodeState, ClientError> {
    Ok(match state {
        proto::NodeState::Joining => NodeState::Joining,
        proto::NodeState::Up => NodeState::Up,
        proto::NodeState::Draining => NodeState::Draining,
        proto::NodeState::Down => NodeState::Down,
        proto::NodeState::Removed => NodeState::Removed,
        proto::NodeState::Unknown => {
            return Err(ClientError::protocol(
                "a node's state that is not known here",
            ));
        }
    })
}

fn decode<M: Message + Default>(body: Bytes) -> Result<M, ClientError> {
    M::decode(body).map_err(|_| ClientError::protocol("an ill-formed answer"))
}

pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ClientError> {
    bytes
        .try_into()
        .map_err(|_| ClientError::protocol("an ill-formed id"))
}

pub(super) fn too_many() -> ClientError {
    ClientError::protocol("too many partitions")
}

fn other_kind() -> ClientError {
    ClientError::protocol("another kind of answer")
}
