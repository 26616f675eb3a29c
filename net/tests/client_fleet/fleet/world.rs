//! What all nodes share: the map, the log, and how they lie.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use mesh_net::{
    identity::Fingerprint,
    wire::proto::{self, Error, ErrorCode, NodeState},
};
use mesh_ring::{hash::partition_of, ids::ProducerId, producer::ProducerWindow};
use quinn::Connection;

pub(crate) const PARTITIONS: u16 = 6;

/// What all nodes share.
pub(crate) struct World {
    pub(crate) version: u64,
    pub(crate) addresses: Vec<String>,
    pub(crate) down: BTreeSet<usize>,
    pub(crate) leaders: Vec<Option<usize>>,
    /// Nodes that keep no copies.
    pub(crate) outsiders: BTreeSet<usize>,
    /// Nodes that take appends of a partition into the log although they do not lead any more, and deny it.
    pub(crate) deposed: BTreeMap<u16, usize>,
    /// Whether a node that does not lead says who does.
    pub(crate) hints: bool,
    pub(crate) revoked: Vec<Fingerprint>,
    /// Refuse appends with this.
    pub(crate) refuse: Option<ErrorCode>,
    /// How many records of each topic a node does not know of yet.
    pub(crate) lag: BTreeMap<usize, u64>,
    pub(crate) topics: BTreeMap<String, Topic>,
    /// How often each node was asked to make a topic, and did.
    pub(crate) created: Vec<usize>,
    /// The certificates that clients came with.
    pub(crate) came: Vec<Fingerprint>,
    /// Live connections, by node.
    pub(super) connections: Vec<Vec<Connection>>,
}

#[derive(Default)]
pub(crate) struct Topic {
    pub(crate) id: u64,
    pub(super) next: u64,
    pub(super) batches: Vec<Bytes>,
    pub(super) windows: HashMap<ProducerId, ProducerWindow>,
}

impl World {
    pub(super) fn new(nodes: usize) -> World {
        World {
            version: 1,
            addresses: Vec::new(),
            down: BTreeSet::new(),
            leaders: (0..PARTITIONS)
                .map(|p| Some(usize::from(p) % nodes))
                .collect(),
            outsiders: BTreeSet::new(),
            deposed: BTreeMap::new(),
            hints: true,
            revoked: Vec::new(),
            refuse: None,
            lag: BTreeMap::new(),
            topics: BTreeMap::new(),
            created: vec![0; nodes],
            came: Vec::new(),
            connections: (0..nodes).map(|_| Vec::new()).collect(),
        }
    }

    pub(crate) fn leader(&self, topic: &str) -> Option<usize> {
        self.leaders[usize::from(partition_of(topic.as_bytes(), PARTITIONS).0)]
    }

    /// The topic of that name, made if it is not there.
    pub(super) fn topic(&mut self, name: &str) -> &mut Topic {
        let id = self.topics.len() as u64 + 1;
        let make = || Topic {
            id,
            ..Topic::default()
        };
        self.topics.entry(name.to_owned()).or_insert_with(make)
    }

    pub(super) fn map(&self) -> proto::ClusterMap {
        let nodes = self.addresses.iter().enumerate();
        let nodes = nodes.map(|(node, address)| proto::MapNode {
            name: format!("n{node}"),
            address: address.clone(),
            state: match self.down.contains(&node) {
                true => NodeState::Down,
                false => NodeState::Up,
            }
            .into(),
            ..Default::default()
        });
        let replicas: Vec<u32> = (0..self.addresses.len())
            .filter(|node| !self.outsiders.contains(node))
            .map(|node| node as u32)
            .collect();
        let partitions = self.leaders.iter().map(|leader| proto::MapPartition {
            replicas: replicas.clone(),
            leader: leader.map(|node| node as u32),
            ..Default::default()
        });
        proto::ClusterMap {
            version: self.version,
            nodes: nodes.collect(),
            partitions: partitions.collect(),
            revoked: self
                .revoked
                .iter()
                .map(|f| Bytes::copy_from_slice(&f.0))
                .collect(),
            ..Default::default()
        }
    }

    /// What `node` knows of a topic: its offsets' end.
    pub(super) fn end(&self, node: usize, topic: &Topic) -> u64 {
        topic
            .next
            .saturating_sub(self.lag.get(&node).copied().unwrap_or(0))
    }
}

pub(super) fn topic_id(partition: u16, id: u64) -> proto::TopicId {
    proto::TopicId {
        partition: partition.into(),
        id,
    }
}

/// What a node says when it refuses.
pub(super) fn error(code: ErrorCode) -> Error {
    Error {
        code: code.into(),
        message: format!("the node says {code:?}"),
        ..Default::default()
    }
}
