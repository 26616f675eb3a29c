//! Nodes come, start, die, return and leave.

use super::leaders;
use super::{ControlError, NODE_TEXT_BYTES_MAX};
use crate::ids::NodeId;
use crate::map::{Boot, ClusterMap, Leaving, Member, NODES_MAX, NodeState};
use crate::placement;

pub(super) fn admit(
    map: &mut ClusterMap,
    id: NodeId,
    name: &str,
    address: &str,
    zone: &str,
) -> Result<bool, ControlError> {
    check_text("name", name, 1)?;
    check_text("address", address, 1)?;
    check_text("zone", zone, 0)?;
    if map.is_removed(id) {
        return Err(ControlError::NodeRemoved { node: id });
    }
    let same_id = map.node(id).map(|member| (member.name.clone(), id));
    let same_name = map.named(name).map(|member| (name.to_owned(), member.id));
    match same_id.or(same_name) {
        Some((taken, node)) if taken == name && node == id => return Ok(false),
        Some((name, node)) => return Err(ControlError::NameTaken { name, node }),
        None if map.nodes.len() >= NODES_MAX => return Err(ControlError::TooManyNodes),
        None => {}
    }
    let at = map.nodes.partition_point(|member| member.id < id);
    map.nodes.insert(at, Member::new(id, name, address, zone));
    Ok(true)
}

pub(super) fn register(
    map: &mut ClusterMap,
    node: NodeId,
    boot: Boot,
    previous: &[Boot],
    address: &str,
    zone: &str,
) -> Result<bool, ControlError> {
    check_text("address", address, 1)?;
    check_text("zone", zone, 0)?;
    let member = listed(map, node)?;
    let registered = member.boot;
    let same = boot == registered;
    let first = registered.count == 0 && boot.count > 0;
    let next = boot.count > registered.count && previous.contains(&registered);
    if !(same || first || next) {
        return Err(ControlError::OldCopy {
            node,
            registered: registered.count,
            presented: boot.count,
        });
    }
    let moved = (member.address.as_str(), member.zone.as_str()) != (address, zone);
    member.boot = boot;
    if moved {
        member.address = address.to_owned();
        member.zone = zone.to_owned();
    }
    let was_away = matches!(member.state, NodeState::Joining | NodeState::Down);
    if was_away {
        come_up(map, node);
    }
    if next {
        leaders::restarted(map, node);
    }
    Ok(!same || moved || was_away)
}

pub(super) fn down(map: &mut ClusterMap, node: NodeId) -> Result<bool, ControlError> {
    let member = listed(map, node)?;
    match member.state {
        NodeState::Joining => Err(never_started(node)),
        NodeState::Down => Ok(false),
        _ => {
            member.state = NodeState::Down;
            Ok(true)
        }
    }
}

pub(super) fn up(map: &mut ClusterMap, node: NodeId) -> Result<bool, ControlError> {
    match listed(map, node)?.state {
        NodeState::Joining => Err(never_started(node)),
        NodeState::Down => {
            come_up(map, node);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The node takes part again. One that was being replaced stays, and keeps what nobody has begun to take over.
fn come_up(map: &mut ClusterMap, node: NodeId) {
    let Ok(member) = listed(map, node) else {
        return;
    };
    let replaced = member.leaving == Some(Leaving::Replaced);
    if replaced {
        member.leaving = None;
    }
    member.state = match member.leaving {
        Some(_) => NodeState::Draining,
        None => NodeState::Up,
    };
    if !replaced {
        return;
    }
    for assignment in &mut map.partitions {
        let Some(target) = &assignment.target else {
            continue;
        };
        let begun = target
            .replicas
            .iter()
            .any(|n| assignment.learners.contains(n));
        let loses = assignment.replicas.contains(&node) && !target.replicas.contains(&node);
        if loses && !begun {
            assignment.target = None;
        }
    }
}

pub(super) fn drain(map: &mut ClusterMap, node: NodeId) -> Result<bool, ControlError> {
    if listed(map, node)?.leaving == Some(Leaving::Drained) {
        return Ok(false);
    }
    keep_one(map, node)?;
    let member = listed(map, node)?;
    member.leaving = Some(Leaving::Drained);
    member.state = match member.state {
        // It holds nothing.
        NodeState::Joining => NodeState::Drained,
        NodeState::Down => NodeState::Down,
        _ => NodeState::Draining,
    };
    Ok(true)
}

pub(super) fn room(map: &mut ClusterMap, node: NodeId, full: bool) -> Result<bool, ControlError> {
    let member = listed(map, node)?;
    Ok(std::mem::replace(&mut member.full, full) != full)
}

pub(super) fn replace(map: &mut ClusterMap, node: NodeId) -> Result<bool, ControlError> {
    let member = listed(map, node)?;
    if member.state != NodeState::Down {
        return Err(ControlError::WrongState {
            node,
            state: member.state,
            advice: "only a node that is down is replaced".to_owned(),
        });
    }
    if member.leaving.is_some() {
        return Ok(false);
    }
    let staying = map.nodes.iter().filter(|member| member.is_staying());
    let needed = placement::copies(map.settings.replication, staying.clone().count());
    let left = staying.filter(|member| member.is_live()).count();
    if left < needed {
        return Err(ControlError::TooFewNodes { left, needed });
    }
    listed(map, node)?.leaving = Some(Leaving::Replaced);
    Ok(true)
}

pub(super) fn remove(map: &mut ClusterMap, node: NodeId) -> Result<bool, ControlError> {
    if map.is_removed(node) {
        return Ok(false);
    }
    let state = listed(map, node)?.state;
    keep_one(map, node)?;
    let holds = map.partitions.iter().any(|of| of.involves(node));
    if holds && state != NodeState::Down {
        return Err(ControlError::WrongState {
            node,
            state,
            advice: "drain it first, so that others hold what it holds: 'meshctl node drain'"
                .to_owned(),
        });
    }
    let survives = |nodes: &[NodeId]| {
        let others = nodes.iter().filter(|n| **n != node && !map.is_removed(**n));
        !nodes.contains(&node) || others.count() > nodes.len() / 2
    };
    let lost = map
        .assignments()
        .find(|(_, of)| !survives(&of.replicas) || !survives(&of.activated.replicas));
    if let Some((partition, _)) = lost {
        return Err(ControlError::LosesMajority { node, partition });
    }
    listed(map, node)?.state = NodeState::Removed;
    Ok(true)
}

/// Refuses to let the last node go that stays.
fn keep_one(map: &ClusterMap, node: NodeId) -> Result<(), ControlError> {
    let mut others = map.nodes.iter().filter(|member| member.id != node);
    if others.any(Member::is_staying) {
        Ok(())
    } else {
        Err(ControlError::LastNode { node })
    }
}

fn listed(map: &mut ClusterMap, node: NodeId) -> Result<&mut Member, ControlError> {
    if map.is_removed(node) {
        return Err(ControlError::NodeRemoved { node });
    }
    map.nodes
        .iter_mut()
        .find(|member| member.id == node)
        .ok_or(ControlError::UnknownNode { node })
}

fn never_started(node: NodeId) -> ControlError {
    ControlError::WrongState {
        node,
        state: NodeState::Joining,
        advice: "it has not registered yet".to_owned(),
    }
}

fn check_text(what: &str, text: &str, least: usize) -> Result<(), ControlError> {
    let bytes = text.len();
    if (least..=NODE_TEXT_BYTES_MAX).contains(&bytes) {
        Ok(())
    } else {
        Err(ControlError::NodeText {
            what: what.to_owned(),
            bytes,
            least,
        })
    }
}
