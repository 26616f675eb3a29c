//! Which nodes to ask, so that together they are homes of everything that is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::hash::partition_of;
use mesh_ring::ids::PartitionId;
use mesh_ring::limits::PARTITIONS_MAX;

use super::WatchTarget;
use crate::client::ClientError;
use crate::wire::proto::{self, NodeState};

/// The cluster map as far as a watch needs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct WatchMap {
    pub(super) version: u64,
    nodes: Vec<MapNode>,
    /// The homes of each partition in the order of preference, as places in `nodes`; never empty.
    homes: Vec<Vec<usize>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct MapNode {
    name: String,
    address: Arc<str>,
    /// Whether the cluster believes that it answers.
    answers: bool,
}

/// A node to ask, and for what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Share {
    pub(super) address: Arc<str>,
    pub(super) partitions: BTreeSet<PartitionId>,
}

impl WatchMap {
    /// Understands a map. `near`: where a node that is all by itself has answered, which may not be where it thinks it is.
    ///
    /// # Errors
    /// [`ClientError::Failed`] for a map that makes no sense.
    pub(super) fn of(map: &proto::ClusterMap, near: Option<Arc<str>>) -> Result<Self, ClientError> {
        let there = |node: &&proto::MapNode| node.state() != NodeState::Removed;
        let alone = map.nodes.iter().filter(there).count() <= 1;
        let nodes = map.nodes.iter().map(|node| MapNode {
            name: node.name.clone(),
            address: match &near {
                Some(near) if alone => near.clone(),
                _ => node.address.as_str().into(),
            },
            answers: matches!(node.state(), NodeState::Up | NodeState::Draining),
        });
        let nodes: Vec<MapNode> = nodes.collect();
        if map.partitions.is_empty() || map.partitions.len() > usize::from(PARTITIONS_MAX) {
            return Err(ClientError::protocol("a map of no partitions"));
        }
        let mut homes = Vec::with_capacity(map.partitions.len());
        for partition in &map.partitions {
            let replicas = partition.replicas.iter().map(|at| *at as usize);
            let replicas: Vec<usize> = replicas.collect();
            if replicas.iter().any(|at| *at >= nodes.len()) {
                return Err(ClientError::protocol("a map that names unknown nodes"));
            }
            homes.push(replicas);
        }
        Ok(Self {
            version: map.version,
            nodes,
            homes,
        })
    }

    pub(super) fn partition(&self, key: &[u8]) -> PartitionId {
        // There are at most PARTITIONS_MAX.
        partition_of(key, u16::try_from(self.homes.len()).unwrap_or(u16::MAX))
    }

    /// All partitions in which there can be something to watch.
    pub(super) fn partitions_of(&self, target: &WatchTarget) -> BTreeSet<PartitionId> {
        match target {
            WatchTarget::Key(key) => [self.partition(key)].into(),
            WatchTarget::Prefix(_) => (0..=u16::MAX)
                .zip(&self.homes)
                .map(|(number, _)| PartitionId(number))
                .collect(),
        }
    }

    fn homes(&self, partition: PartitionId) -> impl Iterator<Item = &MapNode> {
        let homes = self.homes.get(usize::from(partition.0)).into_iter();
        homes.flatten().filter_map(|at| self.nodes.get(*at))
    }

    /// The names of a partition's homes, in the order of preference.
    pub(super) fn owners(&self, partition: PartitionId) -> Vec<String> {
        self.homes(partition)
            .map(|node| node.name.clone())
            .collect()
    }

    /// Few nodes that are homes of all these partitions together: best those that answer and of which `is_bad` is not
    /// true, in the order of preference. Partitions without a home are left out.
    pub(super) fn shares(
        &self,
        mut partitions: BTreeSet<PartitionId>,
        is_bad: impl Fn(&Arc<str>) -> bool,
    ) -> Vec<Share> {
        let rank = |node: &MapNode| (is_bad(&node.address), !node.answers);
        let mut shares = Vec::new();
        while !partitions.is_empty() {
            // How much of the rest each node has, among those for whom nobody better can stand in.
            let mut takes: BTreeMap<&Arc<str>, (BTreeSet<PartitionId>, usize)> = BTreeMap::new();
            for partition in &partitions {
                let best = self.homes(*partition).map(rank).min();
                let good = self.homes(*partition).enumerate();
                for (place, node) in good.filter(|(_, node)| Some(rank(node)) == best) {
                    let take = takes.entry(&node.address).or_default();
                    take.0.insert(*partition);
                    take.1 += place;
                }
            }
            // Of those with most, the one that is preferred most.
            let most = takes.into_iter().max_by(|(_, a), (_, b)| {
                let (a_many, b_many) = (a.0.len(), b.0.len());
                a_many.cmp(&b_many).then(b.1.cmp(&a.1))
            });
            let Some((address, (taken, _))) = most else {
                break;
            };
            partitions.retain(|partition| !taken.contains(partition));
            shares.push(Share {
                address: address.clone(),
                partitions: taken,
            });
        }
        shares
    }
}

/// What to ask of the node of this share.
pub(super) fn open(target: &WatchTarget, share: &Share, map_version: u64) -> proto::WatchOpen {
    let (key, is_prefix): (&Bytes, bool) = match target {
        WatchTarget::Key(key) => (key, false),
        WatchTarget::Prefix(prefix) => (prefix, true),
    };
    proto::WatchOpen {
        key: key.clone(),
        is_prefix,
        partitions: share.partitions.iter().map(|id| id.0.into()).collect(),
        map_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(nodes: &[(&str, NodeState)], homes: &[&[u32]]) -> WatchMap {
        let map = proto::ClusterMap {
            version: 3,
            nodes: nodes
                .iter()
                .map(|(name, state)| proto::MapNode {
                    name: (*name).into(),
                    address: format!("{name}:1"),
                    state: (*state).into(),
                    ..Default::default()
                })
                .collect(),
            partitions: homes
                .iter()
                .map(|replicas| proto::MapPartition {
                    replicas: replicas.to_vec(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        WatchMap::of(&map, Some("near:1".into())).unwrap()
    }

    fn told(shares: Vec<Share>) -> Vec<(String, Vec<u16>)> {
        let numbers = |share: &Share| share.partitions.iter().map(|id| id.0).collect();
        let told = shares.iter();
        told.map(|share| (share.address.to_string(), numbers(share)))
            .collect()
    }

    use NodeState::{Down, Up};
    const ALL: WatchTarget = WatchTarget::Prefix(Bytes::new());

    #[test]
    fn few_nodes_cover_everything() {
        let map = map(
            &[("a", Up), ("b", Up), ("c", Up), ("d", Up)],
            &[&[0, 1], &[1, 2], &[2, 1], &[3, 0], &[1, 3]],
        );
        let shares = map.shares(map.partitions_of(&ALL), |_| false);
        let expected = [("b:1".into(), vec![0, 1, 2, 4]), ("d:1".into(), vec![3])];
        assert_eq!(told(shares), expected);
        let shares = map.shares(map.partitions_of(&ALL), |address| &**address == "b:1");
        let all: BTreeSet<u16> = told(shares.clone()).into_iter().flat_map(|s| s.1).collect();
        assert_eq!(all.len(), 5);
        assert!(shares.iter().all(|share| &*share.address != "b:1"));
    }

    #[test]
    fn one_key_is_watched_at_its_first_home_that_answers() {
        let map = map(&[("a", Down), ("b", Up), ("c", Up)], &[&[0, 2, 1]]);
        let partitions = map.partitions_of(&WatchTarget::Key("k".into()));
        let at = |bad: &[&str]| {
            let shares = map.shares(partitions.clone(), |address| bad.contains(&&**address));
            shares[0].address.to_string()
        };
        assert_eq!(at(&[]), "c:1");
        assert_eq!(at(&["c:1"]), "b:1");
        // Where all have failed, also one that is said to be down is tried in its turn.
        assert_eq!(at(&["c:1", "b:1"]), "a:1");
        assert_eq!(at(&["a:1", "c:1", "b:1"]), "c:1");
        assert_eq!(map.owners(PartitionId(0)), ["a", "c", "b"]);
    }

    #[test]
    fn a_node_by_itself_is_where_it_answered() {
        let alone = map(&[("a", Up)], &[&[0], &[0]]);
        let shares = alone.shares(alone.partitions_of(&ALL), |_| false);
        assert_eq!(told(shares), [("near:1".to_owned(), vec![0, 1])]);
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused() {
        let partition = |replicas: &[u32]| proto::MapPartition {
            replicas: replicas.to_vec(),
            ..Default::default()
        };
        let map = |partitions| proto::ClusterMap {
            partitions,
            ..Default::default()
        };
        assert!(WatchMap::of(&map(vec![]), None).is_err());
        assert!(WatchMap::of(&map(vec![partition(&[0])]), None).is_err());
    }
}
