//! What a node says of itself and of the cluster, to anyone whose certificate the cluster accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::{ClusterMap, NodeState};
use prost::Message;

use super::{Answers, on_disk, plain};
use crate::node::partition::{Partition, PartitionRole};
use crate::node::{Shared, reply};
use crate::wire::proto::{
    self, Error, Info, MapIs, MapNode, MapPartition, MapTarget, NodeStatusIs, PartitionStatus,
    ReplicaLag, Storage, reply::Kind as Answer,
};

pub(super) fn info(shared: &Shared) -> Result<Answers, Error> {
    let identity = shared.engine.identity();
    Ok(plain(Answer::Info(Info {
        name: identity.name.clone(),
        node: Bytes::copy_from_slice(&identity.node.0),
        cluster: Bytes::copy_from_slice(&identity.cluster.0),
        partitions: identity.partitions.into(),
        epoch: 0,
        boot: shared.engine.boot(),
        address: shared.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format: mesh_engine::FORMAT_VERSION,
        free_bytes: shared.engine.free_bytes().unwrap_or(0),
        uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        connections: shared.connection_count(),
        now_ms: shared.clocks.machine_ms(),
        read_repairs: shared.bindings.read_repairs(),
    })))
}

pub(super) fn storage(shared: &Shared) -> Result<Answers, Error> {
    let families = shared.engine.storage();
    Ok(plain(Answer::Storage(Storage {
        families: families
            .into_iter()
            .map(|family| proto::Family {
                name: family.name.to_owned(),
                bytes: family.table_bytes + family.blob_bytes + family.memory_bytes,
                keys_estimate: family.keys_estimate,
            })
            .collect(),
    })))
}

pub(super) fn map(shared: &Shared, asked: proto::GetMap) -> Result<Answers, Error> {
    let map = shared.map();
    let body = if asked.exact {
        let exact = serde_json::to_vec(&*map).map_err(|_| reply::internal())?;
        exact.into()
    } else {
        let leaderless = leaderless(shared, &map);
        if asked.known >= map.version() && leaderless.is_empty() {
            Bytes::new()
        } else {
            on_the_wire(&map, &leaderless).encode_to_vec().into()
        }
    };
    let version = map.version();
    Ok(vec![(Answer::Map(MapIs { version }), body)])
}

/// Writes that this node keeps for others.
fn pending_hints(shared: &Shared) -> u32 {
    let kept = shared.engine.hint_stats();
    let count: u64 = kept.values().map(|stats| stats.count).sum();
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) async fn status(shared: &Arc<Shared>) -> Result<Answers, Error> {
    let sizes = on_disk(shared, |shared| Ok(shared.engine.partition_sizes())).await?;
    let status = proto::NodeStatus {
        map_version: shared.map().version(),
        control_leader: shared
            .control
            .leader()
            .map_or_else(Bytes::new, |node| Bytes::copy_from_slice(&node.0)),
        control_quorum: shared.control.has_quorum(),
        pending_hints: pending_hints(shared),
        partitions: shared
            .partitions
            .running()
            .iter()
            .map(|partition| {
                let bytes = sizes.get(&partition.id).copied().unwrap_or(0);
                partition_status(shared, partition, bytes)
            })
            .collect(),
        transfers: shared.transfers.status(),
        warnings: shared.warnings(),
        repair: Some(shared.repairs.status()),
        leaving: u32::try_from(shared.partitions.leaving()).unwrap_or(u32::MAX),
        tombstones: Some(shared.waiting.status()),
    };
    Ok(vec![(
        Answer::NodeStatus(NodeStatusIs {}),
        status.encode_to_vec().into(),
    )])
}

fn partition_status(shared: &Shared, partition: &Partition, bytes: u64) -> PartitionStatus {
    let (status, progress) = (partition.status(), partition.progress());
    let lag = progress
        .lag()
        .into_iter()
        .map(|(node, entries)| ReplicaLag {
            node: Bytes::copy_from_slice(&node.0),
            entries,
            connected: shared.peers.is_connected(node),
        });
    PartitionStatus {
        partition: partition.id.0.into(),
        epoch: status.epoch.0,
        leads: status.role == PartitionRole::Leads,
        suspect: status.suspect,
        last_index: progress.last().0,
        commit_index: progress.committed().0,
        bytes,
        lag: lag.collect(),
    }
}

/// Partitions whose leader is dead and which cannot get another, as too few of their replicas live.
fn leaderless(shared: &Shared, map: &ClusterMap) -> BTreeSet<PartitionId> {
    let dead = map
        .assignments()
        .filter(|(_, assignment)| !shared.is_alive(assignment.leader));
    dead.map(|(id, _)| id)
        .filter(|id| shared.shortage(*id).is_some())
        .collect()
}

/// The map as clients get it: nodes are named by their place in it.
fn on_the_wire(map: &ClusterMap, leaderless: &BTreeSet<PartitionId>) -> proto::ClusterMap {
    let places: BTreeMap<NodeId, u32> = (0u32..)
        .zip(map.nodes())
        .map(|(place, member)| (member.id, place))
        .collect();
    // A node that is gone altogether has no place.
    let place = |nodes: &[NodeId]| -> Vec<u32> {
        let known = nodes.iter().filter_map(|node| places.get(node));
        known.copied().collect()
    };
    proto::ClusterMap {
        version: map.version(),
        cluster: Bytes::copy_from_slice(&map.cluster().0),
        replication: map.settings().replication.into(),
        nodes: map
            .nodes()
            .iter()
            .map(|member| MapNode {
                id: Bytes::copy_from_slice(&member.id.0),
                name: member.name.clone(),
                address: member.address.clone(),
                zone: member.zone.clone(),
                state: state(member.state).into(),
                boot: member.boot.count,
            })
            .collect(),
        partitions: map
            .assignments()
            .map(|(id, assignment)| MapPartition {
                replicas: place(&assignment.replicas),
                learners: place(&assignment.learners),
                leader: places
                    .get(&assignment.leader)
                    .filter(|_| !leaderless.contains(&id))
                    .copied(),
                epoch: assignment.epoch.0,
                activated_epoch: assignment.activated.epoch.0,
                activated_replicas: place(&assignment.activated.replicas),
                target: assignment.target.as_ref().map(|target| MapTarget {
                    replicas: place(&target.replicas),
                }),
            })
            .collect(),
        voters: place(map.voters()),
        revoked: map
            .revoked()
            .iter()
            .map(|revoked| Bytes::copy_from_slice(&revoked.fingerprint))
            .collect(),
    }
}

fn state(state: NodeState) -> proto::NodeState {
    match state {
        NodeState::Joining => proto::NodeState::Joining,
        NodeState::Up => proto::NodeState::Up,
        NodeState::Draining | NodeState::Drained => proto::NodeState::Draining,
        NodeState::Down => proto::NodeState::Down,
        NodeState::Removed => proto::NodeState::Removed,
    }
}
