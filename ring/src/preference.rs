//! Who keeps the bindings of a partition, and who stands in for whom.

use crate::ids::{NodeId, PartitionId};
use crate::map::ClusterMap;

const STAND_IN_DOMAIN: &str = "meshlog stand-in order v1";

/// The nodes that a partition's bindings go to, by one version of the map. Every node that has this version finds the
/// same, in the same order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Preference {
    /// The version of the map that it follows. Every request that is made by it carries this version.
    pub map_version: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replicas, in the order of the map: a write is whole when all of them have it.
    pub homes: Vec<NodeId>,
    /// Learners, and replicas of the last activated set that are none any more: they get every write, and count for
    /// nothing.
    pub copies: Vec<NodeId>,
    /// All other nodes that stay, copies among them: the first that lives keeps a hint for a home that is away.
    pub stand_ins: Vec<NodeId>,
}

impl Preference {
    /// The preference list of a partition; `None` if the cluster has fewer partitions.
    #[must_use]
    pub fn of(map: &ClusterMap, partition: PartitionId) -> Option<Self> {
        let assignment = map.assignment(partition)?;
        let homes = assignment.replicas.clone();
        let mut copies = assignment.learners.clone();
        let former = assignment.activated.replicas.iter();
        copies.extend(former.filter(|node| !homes.contains(node)));
        copies.sort_unstable();
        copies.dedup();
        let mut stand_ins: Vec<NodeId> = map
            .nodes()
            .iter()
            .filter(|member| member.is_staying() && !homes.contains(&member.id))
            .map(|member| member.id)
            .collect();
        stand_ins.sort_by_cached_key(|node| (stand_in_rank(partition, *node), *node));
        Some(Self {
            map_version: map.version(),
            partition,
            homes,
            copies,
            stand_ins,
        })
    }

    /// The majority of the homes: how many nodes a write or read needs unless it says otherwise.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.homes.len() / 2 + 1
    }

    /// Who coordinates a request: the first home that lives, and only where none does the first stand-in that lives.
    #[must_use]
    pub fn coordinator(&self, live: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let mut nodes = self.homes.iter().chain(&self.stand_ins).copied();
        nodes.find(|node| live(*node))
    }
}

/// A place in the order of stand-ins that depends on the partition and the node alone: a node that comes or goes
/// moves no other, and the work for a node that is away is spread over all that stay.
fn stand_in_rank(partition: PartitionId, node: NodeId) -> [u8; 32] {
    let mut input = [0; 18];
    input[..2].copy_from_slice(&partition.0.to_be_bytes());
    input[2..].copy_from_slice(&node.0);
    blake3::derive_key(STAND_IN_DOMAIN, &input)
}
