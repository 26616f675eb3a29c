//! What a client knows of its cluster: which node leads and which hold the partition of a name.

use std::sync::Arc;

use mesh_ring::{hash::partition_of, limits::PARTITIONS_MAX};

use super::error::ClientError;
use crate::wire::proto::{self, NodeState};

/// Where requests go. A newer version replaces an older one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Routes {
    /// Nobody has been asked.
    Unknown,
    /// One node is all there is, or the node knows of no others: everything goes there.
    One {
        address: Arc<str>,
        /// 0 where it has no map.
        version: u64,
    },
    /// Several nodes.
    Ring(Ring),
}

/// A cluster map as far as routes need it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ring {
    version: u64,
    nodes: Vec<Node>,
    /// In the order of their numbers; never empty.
    partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Node {
    address: Arc<str>,
    /// Whether the cluster believes that it answers.
    answers: bool,
}

/// Nodes are indices.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Partition {
    leader: Option<usize>,
    replicas: Vec<usize>,
}

impl Routes {
    /// The routes of a map that the node at `from` told.
    ///
    /// # Errors
    /// [`ClientError::Failed`] for a map that makes no sense.
    pub(super) fn of_map(map: &proto::ClusterMap, from: &Arc<str>) -> Result<Self, ClientError> {
        let bad = |what: &str| ClientError::protocol(what);
        let nodes: Vec<Node> = map
            .nodes
            .iter()
            .map(|node| Node {
                address: node.address.as_str().into(),
                answers: matches!(node.state(), NodeState::Up | NodeState::Draining),
            })
            .collect();
        let there = |node: &proto::MapNode| node.state() != NodeState::Removed;
        if map.nodes.iter().filter(|node| there(node)).count() <= 1 {
            // It may be known to itself by an address that is no good here.
            return Ok(Self::One {
                address: from.clone(),
                version: map.version,
            });
        }
        if map.partitions.is_empty() || map.partitions.len() > usize::from(PARTITIONS_MAX) {
            return Err(bad("a map of no partitions"));
        }
        let index = |at: u32| {
            let at = at as usize;
            (at < nodes.len()).then_some(at)
        };
        let partition = |partition: &proto::MapPartition| {
            let replicas: Option<Vec<usize>> =
                partition.replicas.iter().map(|&at| index(at)).collect();
            Some(Partition {
                leader: match partition.leader {
                    None => None,
                    Some(at) => Some(index(at)?),
                },
                replicas: replicas?,
            })
        };
        let partitions: Option<Vec<Partition>> = map.partitions.iter().map(partition).collect();
        let partitions = partitions.ok_or_else(|| bad("a map that names unknown nodes"))?;
        Ok(Self::Ring(Ring {
            version: map.version,
            nodes,
            partitions,
        }))
    }

    /// The version of the map that they were made of; 0: of none.
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::One { version, .. } => *version,
            Self::Ring(ring) => ring.version,
        }
    }

    /// Whether every partition has a leader in it. Where one has none, the same map may soon be told with more.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.partitions.iter().all(|p| p.leader.is_some()),
            Self::Unknown | Self::One { .. } => true,
        }
    }

    /// Whether another node than the one that was asked may have something else to say.
    pub(super) fn has_others(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    /// The node that orders the topic or coordinates the key. `None`: not known, or nobody just now.
    pub(super) fn leader(&self, key: &[u8]) -> Option<&Arc<str>> {
        match self {
            Self::Unknown => None,
            Self::One { address, .. } => Some(address),
            Self::Ring(ring) => {
                let leader = ring.partition(key)?.leader?;
                Some(&ring.nodes.get(leader)?.address)
            }
        }
    }

    /// The nodes that hold the topic or key, in preference order.
    pub(super) fn replicas(&self, key: &[u8]) -> Vec<&Arc<str>> {
        match self {
            Self::Unknown => Vec::new(),
            Self::One { address, .. } => vec![address],
            Self::Ring(ring) => {
                let replicas = ring.partition(key).map_or(&[][..], |p| &p.replicas);
                ring.by_answering(replicas.iter().copied())
            }
        }
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> Vec<&Arc<str>> {
        match self {
            Self::Unknown => Vec::new(),
            Self::One { address, .. } => vec![address],
            Self::Ring(ring) => ring.by_answering(0..ring.nodes.len()),
        }
    }
}

impl Ring {
    fn partition(&self, key: &[u8]) -> Option<&Partition> {
        // At most `PARTITIONS_MAX`, which is checked where they are made.
        let partition = partition_of(key, self.partitions.len() as u16);
        self.partitions.get(usize::from(partition.0))
    }

    /// Those that answer first; the others may, as the map may be late.
    fn by_answering(&self, nodes: impl Iterator<Item = usize>) -> Vec<&Arc<str>> {
        let mut nodes: Vec<&Node> = nodes.filter_map(|at| self.nodes.get(at)).collect();
        nodes.sort_by_key(|node| !node.answers);
        nodes.into_iter().map(|node| &node.address).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(address: &str, state: NodeState) -> proto::MapNode {
        proto::MapNode {
            address: address.into(),
            state: state.into(),
            ..Default::default()
        }
    }

    fn map(nodes: Vec<proto::MapNode>, partitions: Vec<proto::MapPartition>) -> proto::ClusterMap {
        proto::ClusterMap {
            version: 7,
            nodes,
            partitions,
            ..Default::default()
        }
    }

    fn from() -> Arc<str> {
        "contact:1".into()
    }

    fn texts(addresses: Vec<&Arc<str>>) -> Vec<&str> {
        addresses.into_iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_name_goes_to_the_leader_of_its_partition() {
        let nodes = vec![
            node("a:1", NodeState::Down),
            node("b:1", NodeState::Up),
            node("c:1", NodeState::Draining),
        ];
        let partition = |leader: Option<u32>, replicas: &[u32]| proto::MapPartition {
            leader,
            replicas: replicas.to_vec(),
            ..Default::default()
        };
        let partitions = vec![
            partition(Some(1), &[0, 1]),
            partition(None, &[2, 0]),
            partition(Some(2), &[2, 1, 0]),
            partition(Some(0), &[0, 2]),
        ];
        let routes = Routes::of_map(&map(nodes, partitions), &from()).unwrap();
        assert_eq!((routes.version(), routes.has_others()), (7, true));
        // "abc" hashes to 0x6437…: in the second of four arcs.
        assert_eq!(routes.leader(b"abc"), None);
        assert_eq!(texts(routes.replicas(b"abc")), ["c:1", "a:1"]);
        // The empty name to 0xaf13…: in the third.
        assert_eq!(routes.leader(b"").map(AsRef::as_ref), Some("c:1"));
        assert_eq!(texts(routes.replicas(b"")), ["c:1", "b:1", "a:1"]);
        assert_eq!(texts(routes.nodes()), ["b:1", "c:1", "a:1"]);
    }

    #[test]
    fn one_node_is_reached_where_it_answered() {
        let nodes = vec![
            node("0.0.0.0:1", NodeState::Up),
            node("gone:1", NodeState::Removed),
        ];
        let routes = Routes::of_map(&map(nodes, vec![Default::default()]), &from()).unwrap();
        assert_eq!(routes.leader(b"abc"), Some(&from()));
        assert!(!routes.has_others());
    }

    proptest! {
        #[test]
        fn any_map_is_understood_or_refused(
            states in prop::collection::vec(0..8_i32, 0..5),
            partitions in prop::collection::vec((any::<Option<u8>>(), prop::collection::vec(0..6_u32, 0..4)), 0..9),
            key: Vec<u8>,
        ) {
            let nodes = states.iter().map(|&state| proto::MapNode { state, ..Default::default() }).collect();
            let partitions = partitions
                .into_iter()
                .map(|(leader, replicas)| proto::MapPartition { leader: leader.map(u32::from), replicas, ..Default::default() })
                .collect();
            if let Ok(routes) = Routes::of_map(&map(nodes, partitions), &from()) {
                let _ = (routes.leader(&key), routes.replicas(&key), routes.nodes());
            }
        }
    }
}
