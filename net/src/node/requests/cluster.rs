//! Changes of the ring, and what nodes ask each other about it.

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::replica::Position;
use prost::Message;

use super::access::{allow, only_nodes};
use super::{Answers, Caller, plain};
use crate::identity::{Access, Scope};
use crate::node::control::ProposeError;
use crate::node::partitions::Outdated;
use crate::node::{Shared, reply, seen};
use crate::wire::proto::{
    self, Changed, ControlAnswer, Error, ErrorCode, Seen, SeenPosition, SeenPositions,
    change_cluster::Change, reply::Kind as Answer,
};

pub(super) async fn change(
    shared: &Arc<Shared>,
    caller: &Caller,
    change: proto::ChangeCluster,
) -> Result<Answers, Error> {
    allow(&caller.peer, Access::Write, Scope::Cluster, b"")?;
    let change = change
        .change
        .ok_or_else(|| reply::malformed("a change of the ring of no known kind"))?;
    let command = match change {
        Change::Admit(admit) => ControlCommand::Admit {
            node: node_id(&admit.node)?,
            name: admit.name,
            address: admit.address,
            zone: admit.zone,
        },
        Change::Drain(node) => ControlCommand::Drain {
            node: node_id(&node)?,
        },
        Change::Remove(node) => ControlCommand::Remove {
            node: node_id(&node)?,
        },
        Change::Rebalance(_) => ControlCommand::Plan,
        Change::Revoke(revoke) => ControlCommand::Revoke {
            fingerprint: revoke
                .fingerprint
                .as_ref()
                .try_into()
                .map_err(|_| reply::malformed("a fingerprint has 32 bytes"))?,
            name: revoke.name,
        },
    };
    let removes_me = matches!(&command, ControlCommand::Remove { node } if *node == shared.me());
    let proposed = tokio::select! {
        proposed = shared.propose(command) => proposed,
        // The others let go of a node that they have removed before it hears from the group that this is done.
        _ = shared.peers.refused(), if removes_me => {
            let map_version = shared.map().version();
            return Ok(plain(Answer::Changed(Changed { map_version })));
        }
    };
    match proposed {
        Ok(outcome) => Ok(plain(Answer::Changed(Changed {
            map_version: outcome.version,
        }))),
        Err(ProposeError::Refused(error)) => Err(reply::invalid(error)),
        Err(error) => Err(reply::error(ErrorCode::Unavailable, error.to_string())),
    }
}

/// What this node has seen another one acknowledge: no copy of its disk that lacks it is the newest.
pub(super) async fn seen_of(
    shared: &Arc<Shared>,
    caller: &Caller,
    of: proto::SeenOf,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let node = node_id(&of.node)?;
    let map = shared.map();
    let boot = map.node(node).map(|member| member.boot).unwrap_or_default();
    let positions = seen::of(shared, node)
        .await
        .map_err(|error| reply::of_read(&error))?;
    let seen = SeenPositions {
        boot: boot.count,
        token: Bytes::copy_from_slice(&boot.token),
        map_version: map.version(),
        positions: positions
            .into_iter()
            .map(|(PartitionId(partition), at)| SeenPosition {
                partition: partition.into(),
                epoch: at.epoch.0,
                index: at.index.0,
            })
            .collect(),
    };
    Ok(vec![(Answer::Seen(Seen {}), seen.encode_to_vec().into())])
}

pub(super) async fn control_call(
    shared: &Arc<Shared>,
    caller: &Caller,
    body: Bytes,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let answer = shared.control.handle(body).await;
    Ok(vec![(Answer::ControlAnswer(ControlAnswer {}), answer)])
}

/// The leader keeps less than this node lacks: its copy is pulled anew.
pub(super) async fn rebuild(
    shared: &Arc<Shared>,
    caller: &Caller,
    rebuild: proto::RebuildPartition,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let map = shared.map();
    let by = map.named(&caller.peer.name).map(|member| member.id);
    let before = rebuild.before.map(|at| Position {
        epoch: Epoch(at.epoch),
        index: Index(at.index),
    });
    let asked = Outdated {
        by: by.ok_or_else(|| reply::malformed("the asking node is not in the map"))?,
        epoch: Epoch(rebuild.epoch),
        before: before
            .ok_or_else(|| reply::malformed("it does not say where its journal begins"))?,
    };
    let partition = u16::try_from(rebuild.partition)
        .map(PartitionId)
        .map_err(reply::malformed)?;
    shared.rebuild(partition, asked);
    Ok(plain(Answer::Done(proto::Done {})))
}

fn node_id(bytes: &[u8]) -> Result<NodeId, Error> {
    let id = bytes.try_into();
    id.map(NodeId)
        .map_err(|_| reply::malformed("a node's id has 16 bytes"))
}
