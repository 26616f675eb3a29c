//! The cluster map: which nodes there are, and which of them hold and lead each partition.

use thiserror::Error;

use crate::hash::KeyHash;
use crate::ids::{ClusterId, Epoch, NodeId, PartitionId};
use crate::limits::PARTITIONS_MAX;

/// A number of partitions that no cluster has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
#[error("a cluster has 1 to {PARTITIONS_MAX} partitions, not {partitions}")]
pub struct PartitionCountError {
    /// The number that was asked for.
    pub partitions: u16,
}

/// A node that is in the map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its id, for as long as its data directory lives.
    pub id: NodeId,
    /// The name that its certificate carries.
    pub name: String,
}

/// Who holds one partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// The nodes that hold it, in preference order; never empty.
    pub replicas: Vec<NodeId>,
    /// The replica that orders its topics.
    pub leader: NodeId,
    /// The epoch of that leader and replica set.
    pub epoch: Epoch,
    /// The last epoch whose leader is known to have taken over; until it is `epoch`, both sets must agree.
    pub activated: Epoch,
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
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterMap {
    version: u64,
    cluster: ClusterId,
    nodes: Vec<Member>,
    /// One for each partition, in their order; never empty.
    partitions: Vec<Assignment>,
}

impl ClusterMap {
    /// The map of a cluster of one node, which leads every partition in `epoch`; version 1.
    ///
    /// # Errors
    /// [`PartitionCountError`]: `partitions` is 0 or more than [`PARTITIONS_MAX`].
    pub fn single(
        cluster: ClusterId,
        node: NodeId,
        name: &str,
        partitions: u16,
        epoch: Epoch,
    ) -> Result<Self, PartitionCountError> {
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(PartitionCountError { partitions });
        }
        let assignment = Assignment {
            replicas: vec![node],
            leader: node,
            epoch,
            activated: epoch,
        };
        Ok(Self {
            version: 1,
            cluster,
            nodes: vec![Member {
                id: node,
                name: name.to_owned(),
            }],
            partitions: vec![assignment; usize::from(partitions)],
        })
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

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Member> {
        self.nodes.iter().find(|member| member.id == id)
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

    /// The partition of a topic's name or a binding's key.
    #[must_use]
    pub fn partition(&self, key: &[u8]) -> PartitionId {
        self.route(key).partition
    }

    /// Where a topic's name or a binding's key lives.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Route<'_> {
        let hash = KeyHash::of(key);
        // The constructor keeps the number within u16, and above 0: every partition of a hash has its assignment.
        let partition = hash.partition(self.partitions.len() as u16);
        Route {
            hash,
            partition,
            assignment: &self.partitions[usize::from(partition.0)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([1; 16]);
    const NODE: NodeId = NodeId([2; 16]);

    #[test]
    fn a_single_node_leads_every_partition() {
        let map = ClusterMap::single(CLUSTER, NODE, "n1", 64, Epoch(3)).unwrap();
        assert_eq!((map.version(), map.cluster()), (1, CLUSTER));
        assert_eq!(
            map.nodes(),
            [Member {
                id: NODE,
                name: "n1".into()
            }]
        );
        assert_eq!(
            map.node(NODE).map(|member| member.name.as_str()),
            Some("n1")
        );
        assert_eq!(map.node(NodeId([9; 16])), None);
        assert_eq!(map.partitions().len(), 64);
        let assignment = Assignment {
            replicas: vec![NODE],
            leader: NODE,
            epoch: Epoch(3),
            activated: Epoch(3),
        };
        assert!(
            map.partitions()
                .iter()
                .all(|partition| *partition == assignment)
        );
        assert_eq!(map.assignment(PartitionId(63)), Some(&assignment));
        assert_eq!(map.assignment(PartitionId(64)), None);
    }

    #[test]
    fn a_route_follows_the_hash() {
        let map = ClusterMap::single(CLUSTER, NODE, "n1", 64, Epoch(3)).unwrap();
        let route = map.route(b"abc");
        assert_eq!(
            (route.hash, route.partition),
            (KeyHash(0x6437_b3ac_3846_5133), PartitionId(25))
        );
        assert_eq!(map.partition(b"abc"), PartitionId(25));
        assert_eq!(route.assignment.leader, NODE);
    }

    #[test]
    fn the_number_of_partitions_is_bounded() {
        let make = |partitions| ClusterMap::single(CLUSTER, NODE, "n1", partitions, Epoch(1));
        assert!(make(1).is_ok() && make(4096).is_ok());
        assert_eq!(make(0), Err(PartitionCountError { partitions: 0 }));
        assert_eq!(
            make(4097).unwrap_err().to_string(),
            "a cluster has 1 to 4096 partitions, not 4097"
        );
    }
}
