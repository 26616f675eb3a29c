//! The cluster map: which nodes there are, and which of them hold and lead each partition.
//!
//! A map is a value. It changes only through [`crate::control::apply`], command by command and alike on every node.

mod assignment;
mod check;
mod member;

use serde::{Deserialize, Serialize};

use crate::hash::KeyHash;
use crate::ids::{ClusterId, Epoch, NodeId, PartitionId};
use crate::placement;

use check::check_partitions;

pub use assignment::{Activation, Assignment, Target};
pub use check::{MapError, PartitionCountError};
pub use member::{Boot, Leaving, Member, NodeState};

/// Most nodes of a cluster, removed ones that still hold something included.
pub const NODES_MAX: usize = 256;
/// Most replicas of a partition.
pub const REPLICATION_MAX: u8 = 7;
/// Most certificates that a cluster remembers as revoked.
pub const REVOKED_MAX: usize = 1024;

/// How a cluster is kept, for all of its nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Replicas of a partition where there are as many nodes; 1 to [`REPLICATION_MAX`].
    pub replication: u8,
    /// Partitions that one node is filled with at a time; at least 1.
    pub fills_per_node: u16,
}

impl Settings {
    /// The settings of a new cluster.
    #[must_use]
    pub const fn new(replication: u8) -> Self {
        Self {
            replication,
            fills_per_node: 4,
        }
    }
}

/// A certificate that is no longer trusted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Revoked {
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// The name that it carries, for people.
    pub name: String,
}

/// Where a key or topic lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route<'a> {
    /// Its place on the ring.
    pub hash: KeyHash,
    /// The partition of that place.
    pub partition: PartitionId,
    /// Who holds the partition.
    pub assignment: &'a Assignment,
}

/// One version of the cluster map. A map of a higher version replaces one of a lower.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct ClusterMap {
    pub(crate) version: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) settings: Settings,
    /// By ascending id.
    pub(crate) nodes: Vec<Member>,
    /// One for each partition, in their order; never empty.
    pub(crate) partitions: Vec<Assignment>,
    pub(crate) voters: Vec<NodeId>,
    /// Ids that were removed and hold nothing any more, ascending.
    pub(crate) retired: Vec<NodeId>,
    pub(crate) revoked: Vec<Revoked>,
}

/// A map as it is stored and sent: checked before it is believed.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    cluster: ClusterId,
    settings: Settings,
    nodes: Vec<Member>,
    partitions: Vec<Assignment>,
    voters: Vec<NodeId>,
    retired: Vec<NodeId>,
    revoked: Vec<Revoked>,
}

impl ClusterMap {
    /// The map of a cluster of one node, which leads every partition in `epoch`; version 1.
    ///
    /// # Errors
    /// [`PartitionCountError`]: `partitions` is 0 or more than [`PARTITIONS_MAX`](crate::limits::PARTITIONS_MAX).
    pub fn single(
        cluster: ClusterId,
        node: NodeId,
        name: &str,
        partitions: u16,
        epoch: Epoch,
    ) -> Result<Self, PartitionCountError> {
        check_partitions(partitions)?;
        let mut member = Member::new(node, name, "", "");
        member.state = NodeState::Up;
        let assignment = Assignment::new(vec![node], Vec::new(), epoch, epoch);
        Ok(Self {
            version: 1,
            cluster,
            settings: Settings::new(1),
            nodes: vec![member],
            partitions: vec![assignment; usize::from(partitions)],
            voters: vec![node],
            retired: Vec::new(),
            revoked: Vec::new(),
        })
    }

    /// The map that a cluster of these nodes begins with: version 1, every partition in epoch 1 and not yet
    /// activated, replicas and leaders balanced, voters chosen. It is the same whatever the order of `members`.
    ///
    /// The nodes count as up, though none has registered: of a `Member`, only id, name, address and zone are taken.
    ///
    /// # Errors
    /// [`MapError`]: too many or too few of something, or two nodes with one id or name.
    pub fn founding(
        cluster: ClusterId,
        members: &[Member],
        partitions: u16,
        replication: u8,
    ) -> Result<Self, MapError> {
        check_partitions(partitions)?;
        let mut nodes: Vec<Member> = members
            .iter()
            .map(|m| Member {
                state: NodeState::Up,
                ..Member::new(m.id, &m.name, &m.address, &m.zone)
            })
            .collect();
        nodes.sort_by_key(|member| member.id);
        let mut map = Self {
            version: 1,
            cluster,
            settings: Settings::new(replication),
            nodes,
            partitions: Vec::new(),
            voters: Vec::new(),
            retired: Vec::new(),
            revoked: Vec::new(),
        };
        map.check_nodes()?;
        map.partitions = placement::founding(&map, partitions)
            .into_iter()
            .map(|target| Assignment::new(target.replicas, target.learners, Epoch(1), Epoch(0)))
            .collect();
        map.voters = placement::choose_voters(&map);
        map.check()?;
        Ok(map)
    }

    /// The map's version.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The cluster that it is of.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How the cluster is kept.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// All nodes, by ascending id.
    #[must_use]
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Member> {
        let at = self.nodes.binary_search_by_key(&id, |member| member.id);
        at.ok().map(|at| &self.nodes[at])
    }

    /// The node with this name that is not removed.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Member> {
        let mut nodes = self.nodes.iter();
        nodes.find(|member| member.name == name && member.state != NodeState::Removed)
    }

    /// The ids of nodes that were removed, of which nothing is left, in ascending order.
    #[must_use]
    pub fn retired(&self) -> &[NodeId] {
        &self.retired
    }

    /// Whether the node was removed from the cluster: its id never comes back.
    #[must_use]
    pub fn is_removed(&self, id: NodeId) -> bool {
        let listed = self.node(id);
        listed.is_some_and(|member| member.state == NodeState::Removed)
            || self.retired.binary_search(&id).is_ok()
    }

    /// Whether the node is thought to be running.
    #[must_use]
    pub fn is_live(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(Member::is_live)
    }

    /// All assignments; the position is the partition's id.
    #[must_use]
    pub fn partitions(&self) -> &[Assignment] {
        &self.partitions
    }

    /// Who holds this partition; `None` if the cluster has fewer.
    #[must_use]
    pub fn assignment(&self, partition: PartitionId) -> Option<&Assignment> {
        self.partitions.get(usize::from(partition.0))
    }

    /// Every partition with its id.
    pub fn assignments(&self) -> impl Iterator<Item = (PartitionId, &Assignment)> {
        self.partitions
            .iter()
            .enumerate()
            // There are at most PARTITIONS_MAX.
            .map(|(at, assignment)| (PartitionId(at as u16), assignment))
    }

    /// The nodes that the replicated group of the control plane was last told to vote in.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// The certificates that are no longer trusted.
    #[must_use]
    pub fn revoked(&self) -> &[Revoked] {
        &self.revoked
    }

    /// The partition of a topic's name or a binding's key.
    #[must_use]
    pub fn partition(&self, key: &[u8]) -> PartitionId {
        self.route(key).partition
    }

    /// Where a topic's name or a binding's key lives.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Route<'_> {
        let hash = KeyHash::of(key);
        // Every way of making a map keeps the number within u16, and above 0: a partition has its assignment.
        let partition = hash.partition(self.partitions.len() as u16);
        Route {
            hash,
            partition,
            assignment: &self.partitions[usize::from(partition.0)],
        }
    }
}

impl TryFrom<Stored> for ClusterMap {
    type Error = MapError;

    fn try_from(stored: Stored) -> Result<Self, MapError> {
        let map = Self {
            version: stored.version,
            cluster: stored.cluster,
            settings: stored.settings,
            nodes: stored.nodes,
            partitions: stored.partitions,
            voters: stored.voters,
            retired: stored.retired,
            revoked: stored.revoked,
        };
        map.check()?;
        Ok(map)
    }
}

impl From<ClusterMap> for Stored {
    fn from(map: ClusterMap) -> Self {
        Self {
            version: map.version,
            cluster: map.cluster,
            settings: map.settings,
            nodes: map.nodes,
            partitions: map.partitions,
            voters: map.voters,
            retired: map.retired,
            revoked: map.revoked,
        }
    }
}
