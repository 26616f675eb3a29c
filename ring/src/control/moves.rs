//! How a partition gets other replicas: a target, learners that are filled for it, then a new epoch with the new set.

use std::collections::BTreeMap;

use super::ControlError;
use super::leaders::{self, Load};
use crate::ids::{Epoch, NodeId, PartitionId};
use crate::map::{Assignment, ClusterMap, NodeState, Target};
use crate::placement;

/// Carries everything as far as it can go without another command.
pub(super) fn settle(map: &mut ClusterMap) {
    leaders::depose(map);
    if needs_targets(map) {
        retarget(map);
    }
    start(map);
    complete(map);
    start(map);
    close_departures(map);
}

/// Gives every partition the target that [`placement::place`] finds for it.
pub(super) fn retarget(map: &mut ClusterMap) -> bool {
    let targets = placement::place(map);
    let mut changed = false;
    for (assignment, target) in map.partitions.iter_mut().zip(targets) {
        changed |= aim(assignment, target);
    }
    changed
}

/// Notes that a learner or replica is close to the leader's end.
pub(super) fn caught_up(
    map: &mut ClusterMap,
    partition: PartitionId,
    epoch: Epoch,
    node: NodeId,
) -> Result<bool, ControlError> {
    let assignment = leaders::current(map, partition, epoch)?;
    if !assignment.learners.contains(&node) && !assignment.replicas.contains(&node) {
        return Err(ControlError::NotLearner { partition, node });
    }
    let new = !leaders::keeps_up(assignment, node);
    if new {
        assignment.caught_up.push(node);
    }
    Ok(new)
}

/// Whether what is under way leads to a node that leaves, or waits for one that is down.
fn needs_targets(map: &ClusterMap) -> bool {
    let leaves = |node: &NodeId| map.node(*node).is_none_or(|member| !member.is_staying());
    map.partitions.iter().any(|of| match &of.target {
        Some(target) => target
            .replicas
            .iter()
            .chain(&target.learners)
            .any(|node| leaves(node) || (!of.needs_copy(*node) && !map.is_live(*node))),
        None => of.replicas.iter().chain(&of.learners).any(leaves),
    })
}

fn aim(assignment: &mut Assignment, target: Target) -> bool {
    let before = (
        assignment.replicas.clone(),
        assignment.learners.clone(),
        assignment.target.clone(),
    );
    if let Some(old) = &assignment.target {
        // Fills for a target that is given up end; fills that the new one needs go on.
        let wanted = |n: &NodeId| target.replicas.contains(n) || target.learners.contains(n);
        let filled = |n: &NodeId| old.replicas.contains(n) || old.learners.contains(n);
        assignment.learners.retain(|n| wanted(n) || !filled(n));
    }
    if same_nodes(&assignment.replicas, &target.replicas) {
        // The order decides nothing that an epoch protects.
        assignment.replicas.clone_from(&target.replicas);
        let done = same_nodes(&assignment.learners, &target.learners);
        assignment.target = (!done).then_some(target);
    } else {
        assignment.target = Some(target);
    }
    keep_caught_up(assignment);
    if assignment.target.is_some() && assignment.target != before.2 {
        // Whoever kept up long ago may have fallen behind: for a new set, it has to be seen again.
        assignment.caught_up.clear();
    }
    let Assignment {
        replicas,
        learners,
        target,
        ..
    } = assignment;
    (&before.0, &before.1, &before.2) != (replicas, learners, target)
}

/// Begins the moves whose turn it is: of activated partitions, to nodes that are live and have room.
fn start(map: &mut ClusterMap) {
    let mut fills: BTreeMap<NodeId, u16> = BTreeMap::new();
    for assignment in &map.partitions {
        for learner in &assignment.learners {
            if !assignment.caught_up.contains(learner) {
                *fills.entry(*learner).or_default() += 1;
            }
        }
    }
    for at in 0..map.partitions.len() {
        let of = &map.partitions[at];
        let Some(target) = of.target.as_ref().filter(|_| of.is_activated()) else {
            continue;
        };
        let wanted = target.replicas.iter().chain(&target.learners);
        let incoming: Vec<NodeId> = wanted
            .filter(|node| !of.replicas.contains(node) && !of.learners.contains(node))
            .copied()
            .collect();
        let full = |node: &NodeId| {
            fills.get(node).copied().unwrap_or_default() >= map.settings.fills_per_node
        };
        if incoming
            .iter()
            .any(|node| full(node) || !map.is_live(*node))
        {
            continue;
        }
        for node in &incoming {
            *fills.entry(*node).or_default() += 1;
        }
        let learners_only = same_nodes(&of.replicas, &target.replicas);
        let assignment = &mut map.partitions[at];
        assignment.learners.extend(incoming);
        if learners_only && let Some(target) = assignment.target.take() {
            assignment.learners.retain(|n| target.learners.contains(n));
            keep_caught_up(assignment);
        }
    }
}

/// Makes the target of every move that is filled the replica set, in a new epoch.
fn complete(map: &mut ClusterMap) {
    let mut load = Load::of(map);
    for at in 0..map.partitions.len() {
        let of = &map.partitions[at];
        let Some(target) = of.target.as_ref().filter(|to| is_filled(map, of, to)) else {
            continue;
        };
        let Some(leader) = leaders::elect(map, &load, of, &target.replicas) else {
            continue;
        };
        let assignment = &mut map.partitions[at];
        if let Some(target) = assignment.target.take() {
            assignment.replicas = target.replicas;
            assignment.learners = target.learners;
            leaders::lead_anew(assignment, leader, &mut load);
        }
    }
}

/// Whether a majority of the target lives, and all of it that lives keeps up. A replica that is down and stays one holds
/// up no move: it counted before, and counts no more for that.
fn is_filled(map: &ClusterMap, of: &Assignment, target: &Target) -> bool {
    let keeps_up = |node: &&NodeId| leaders::keeps_up(of, **node) && map.is_live(**node);
    let stays_down = |node: &&NodeId| of.replicas.contains(node) && !map.is_live(**node);
    let ready = target.replicas.iter().filter(keeps_up).count();
    let away = target.replicas.iter().filter(stays_down).count();
    of.is_activated()
        && !same_nodes(&of.replicas, &target.replicas)
        && ready + away == target.replicas.len()
        && ready > away
}

/// A node that leaves and that no partition needs any more is drained, or gone.
fn close_departures(map: &mut ClusterMap) {
    let partitions = &map.partitions;
    let mut retired = Vec::new();
    map.nodes.retain_mut(|member| {
        let departs = matches!(member.state, NodeState::Draining | NodeState::Removed);
        if !departs || partitions.iter().any(|of| of.involves(member.id)) {
            return true;
        }
        if member.state == NodeState::Removed {
            retired.push(member.id);
            return false;
        }
        member.state = NodeState::Drained;
        true
    });
    map.voters.retain(|node| !retired.contains(node));
    map.retired.extend(retired);
    map.retired.sort_unstable();
}

fn keep_caught_up(assignment: &mut Assignment) {
    let (replicas, learners) = (&assignment.replicas, &assignment.learners);
    let follows = |node: &NodeId| replicas.contains(node) || learners.contains(node);
    assignment.caught_up.retain(follows);
}

fn same_nodes(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}
