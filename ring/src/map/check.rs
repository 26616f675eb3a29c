//! What no map may be.

use thiserror::Error;

use super::{Assignment, ClusterMap, NODES_MAX, NodeState, REPLICATION_MAX};
use crate::ids::{NodeId, PartitionId};
use crate::limits::PARTITIONS_MAX;

/// A number of partitions that no cluster has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
#[error("a cluster has 1 to {PARTITIONS_MAX} partitions, not {partitions}")]
pub struct PartitionCountError {
    /// The number that was asked for.
    pub partitions: u16,
}

/// What no cluster can be founded with, or a stored map that is not whole.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum MapError {
    /// There are too many partitions, or none.
    #[error(transparent)]
    Partitions(#[from] PartitionCountError),
    /// There are too many nodes, or none.
    #[error("a cluster has 1 to {NODES_MAX} nodes, not {nodes}")]
    Nodes {
        /// How many there are.
        nodes: usize,
    },
    /// Two nodes have one id or one name.
    #[error("two nodes are called {name}; every node has an id and a name of its own")]
    SameNode {
        /// The id or name.
        name: String,
    },
    /// There are too many replicas, or none.
    #[error("a partition has 1 to {REPLICATION_MAX} replicas, not {replication}")]
    Replication {
        /// The number that was asked for.
        replication: u8,
    },
    /// A partition names a node that is not in the map, one twice, or none.
    #[error("the map is not whole: partition {partition} {what}")]
    Broken {
        /// The partition.
        partition: PartitionId,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl ClusterMap {
    /// Looks for what no map may be.
    ///
    /// # Errors
    /// [`MapError`] names the first thing found.
    pub fn check(&self) -> Result<(), MapError> {
        let count = self.partitions.len();
        check_partitions(u16::try_from(count).unwrap_or(u16::MAX))?;
        self.check_nodes()?;
        for (partition, assignment) in self.assignments() {
            if let Some(what) = self.fault(assignment) {
                return Err(MapError::Broken { partition, what });
            }
        }
        Ok(())
    }

    pub(super) fn check_nodes(&self) -> Result<(), MapError> {
        let replication = self.settings.replication;
        if !(1..=REPLICATION_MAX).contains(&replication) {
            return Err(MapError::Replication { replication });
        }
        let nodes = self.nodes.len();
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(MapError::Nodes { nodes });
        }
        if let Some(pair) = self.nodes.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            let name = pair[1].id.to_string();
            return Err(MapError::SameNode { name });
        }
        let mut names: Vec<&str> = self
            .nodes
            .iter()
            .filter(|member| member.state != NodeState::Removed)
            .map(|member| member.name.as_str())
            .collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(MapError::SameNode {
                name: pair[0].to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn fault(&self, assignment: &Assignment) -> Option<&'static str> {
        let Assignment {
            replicas,
            learners,
            leader,
            epoch,
            activated,
            target,
            ..
        } = assignment;
        if replicas.is_empty() || activated.replicas.is_empty() {
            return Some("has no replica");
        }
        if !distinct(replicas.iter().chain(learners)) || !distinct(activated.replicas.iter()) {
            return Some("names a node twice");
        }
        if !replicas.contains(leader) {
            return Some("is led by a node that is no replica");
        }
        if activated.epoch > *epoch {
            return Some("was activated in an epoch to come");
        }
        let wanted = target
            .iter()
            .flat_map(|t| t.replicas.iter().chain(&t.learners));
        if target.as_ref().is_some_and(|t| t.replicas.is_empty()) || !distinct(wanted.clone()) {
            return Some("is to have no replica, or one twice");
        }
        let mut named = replicas.iter().chain(learners).chain(&activated.replicas);
        let known = named.all(|node| self.node(*node).is_some())
            && wanted.clone().all(|node| self.node(*node).is_some());
        (!known).then_some("names a node that is not in the map")
    }
}

pub(super) fn check_partitions(partitions: u16) -> Result<(), PartitionCountError> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        Ok(())
    } else {
        Err(PartitionCountError { partitions })
    }
}

fn distinct<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> bool {
    let mut seen: Vec<&NodeId> = nodes.collect();
    seen.sort_unstable();
    seen.windows(2).all(|pair| pair[0] != pair[1])
}
