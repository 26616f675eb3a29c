//! Who leads: every change of a leader is a new epoch.

use std::collections::BTreeMap;

use super::ControlError;
use crate::ids::{Epoch, NodeId, PartitionId};
use crate::map::{Activation, Assignment, ClusterMap, Target};
use crate::placement;

/// How far epochs and versions leap when the last of them may be forgotten: more than any disk can lose at its end.
const LEAP: u64 = 1 << 20;

/// How many partitions each node leads.
pub(super) struct Load(BTreeMap<NodeId, usize>);

impl Load {
    pub(super) fn of(map: &ClusterMap) -> Self {
        let mut led = BTreeMap::new();
        for assignment in &map.partitions {
            *led.entry(assignment.leader).or_default() += 1;
        }
        Self(led)
    }

    fn led_by(&self, node: NodeId) -> usize {
        self.0.get(&node).copied().unwrap_or_default()
    }

    fn moved(&mut self, from: NodeId, to: NodeId) {
        if let Some(led) = self.0.get_mut(&from) {
            *led = led.saturating_sub(1);
        }
        *self.0.entry(to).or_default() += 1;
    }
}

/// How fit a node is to lead.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd)]
enum Fitness {
    Dead,
    /// It runs, and is leaving, or has no room.
    Leaving,
    Fit,
}

fn fitness(map: &ClusterMap, node: NodeId) -> Fitness {
    match map.node(node) {
        Some(member) if member.is_fit_to_lead() => Fitness::Fit,
        Some(member) if member.is_live() => Fitness::Leaving,
        _ => Fitness::Dead,
    }
}

/// Of the nodes that are not dead, the one that should lead: one that is known to hold what the leader holds, that does
/// not leave, the `preferred` one, the one that leads the fewest partitions, the first.
fn fittest(
    map: &ClusterMap,
    load: &Load,
    of: &Assignment,
    nodes: impl Iterator<Item = NodeId>,
    preferred: Option<NodeId>,
) -> Option<NodeId> {
    nodes
        .filter(|node| fitness(map, *node) > Fitness::Dead)
        .min_by_key(|node| {
            let leaves = fitness(map, *node) < Fitness::Fit;
            let rank = (!keeps_up(of, *node), leaves, Some(*node) != preferred);
            (rank, load.led_by(*node))
        })
}

/// Whether the node is known to hold, or nearly so, what the leader of the current epoch holds.
pub(super) fn keeps_up(of: &Assignment, node: NodeId) -> bool {
    of.leader == node || of.caught_up.contains(&node)
}

/// The replica of this set that should lead now: the leader if it can, else another.
pub(super) fn elect(
    map: &ClusterMap,
    load: &Load,
    of: &Assignment,
    replicas: &[NodeId],
) -> Option<NodeId> {
    fittest(map, load, of, replicas.iter().copied(), Some(of.leader))
}

/// Begins a new epoch under this leader.
pub(super) fn lead_anew(assignment: &mut Assignment, leader: NodeId, load: &mut Load) {
    assert!(assignment.replicas.contains(&leader), "a replica leads");
    load.moved(assignment.leader, leader);
    assignment.leader = leader;
    assignment.epoch = assignment.epoch.next();
    assignment.caught_up.clear();
}

/// Gives every partition whose leader is down another one, if one is alive; and every partition whose leader leaves, or
/// has no room, one that is fit, as soon as one is known to keep up.
pub(super) fn depose(map: &mut ClusterMap) {
    let mut load = Load::of(map);
    for at in 0..map.partitions.len() {
        let of = &map.partitions[at];
        let mut others = of.replicas.clone();
        others.retain(|node| *node != of.leader);
        match fitness(map, of.leader) {
            Fitness::Fit => continue,
            Fitness::Leaving => {
                others.retain(|node| keeps_up(of, *node) && fitness(map, *node) == Fitness::Fit);
            }
            Fitness::Dead => {}
        }
        if let Some(leader) = fittest(map, &load, of, others.into_iter(), None) {
            lead_anew(&mut map.partitions[at], leader, &mut load);
        }
    }
}

/// Begins a new epoch of everything that the node leads, for what it proposed in the old one is forgotten. What it holds
/// of everything else is to be seen again.
pub(super) fn restarted(map: &mut ClusterMap, node: NodeId) {
    let mut load = Load::of(map);
    for at in 0..map.partitions.len() {
        map.partitions[at].caught_up.retain(|known| *known != node);
        let of = &map.partitions[at];
        if of.leader == node {
            let leader = elect(map, &load, of, &of.replicas).unwrap_or(node);
            lead_anew(&mut map.partitions[at], leader, &mut load);
        }
    }
}

/// Begins new epochs of all partitions, and a version of the map, that nobody who knows more than this map can ever have
/// seen: an epoch with two leaders would be two journals that look the same.
pub(super) fn salvaged(map: &mut ClusterMap, node: NodeId) -> Result<bool, ControlError> {
    if map.node(node).is_none() {
        return Err(ControlError::UnknownNode { node });
    }
    map.version += LEAP;
    let mut load = Load::of(map);
    for at in 0..map.partitions.len() {
        let of = &map.partitions[at];
        let leader = elect(map, &load, of, &of.replicas).unwrap_or(of.leader);
        let assignment = &mut map.partitions[at];
        assignment.epoch.0 += LEAP;
        lead_anew(assignment, leader, &mut load);
    }
    Ok(true)
}

/// Gives at most so many partitions back to the first of their replicas, where that keeps up.
pub(super) fn balance(map: &mut ClusterMap, most: u16) -> bool {
    let first_keeps_up = |partition: &PartitionId| {
        let of = &map.partitions[usize::from(partition.0)];
        keeps_up(of, of.replicas[0])
    };
    let misled = placement::misled(map).filter(first_keeps_up);
    let misled: Vec<PartitionId> = misled.take(usize::from(most)).collect();
    let mut load = Load::of(map);
    for partition in &misled {
        let assignment = &mut map.partitions[usize::from(partition.0)];
        lead_anew(assignment, assignment.replicas[0], &mut load);
    }
    !misled.is_empty()
}

/// Notes that the leader of the epoch has taken over.
pub(super) fn activated(
    map: &mut ClusterMap,
    partition: PartitionId,
    epoch: Epoch,
    leader: NodeId,
) -> Result<bool, ControlError> {
    let assignment = current(map, partition, epoch)?;
    if assignment.leader != leader {
        return Err(ControlError::NotLeader {
            partition,
            node: leader,
            leader: assignment.leader,
        });
    }
    if assignment.is_activated() {
        return Ok(false);
    }
    assignment.activated = Activation {
        epoch,
        replicas: assignment.replicas.clone(),
    };
    Ok(true)
}

/// Lets the replica lead that the leader names, which may be itself, or else another.
///
/// A leader that has not taken over may name one that only the last activated set has, or may be the only one of its set
/// that is alive: then nobody of the new set can lead, and the partition goes back to the old set until somebody can.
pub(super) fn resign(
    map: &mut ClusterMap,
    partition: PartitionId,
    epoch: Epoch,
    to: Option<NodeId>,
) -> Result<bool, ControlError> {
    let leader = current(map, partition, epoch)?.leader;
    let mut load = Load::of(map);
    let at = usize::from(partition.0);
    let of = &map.partitions[at];
    let others = |set: &[NodeId]| {
        let others = set.iter().copied().filter(|node| *node != leader);
        fittest(map, &load, of, others, to)
    };
    let named = to.filter(|node| fitness(map, *node) > Fitness::Dead);
    let of_old = |node: &NodeId| !of.is_activated() && of.activated.replicas.contains(node);
    let of_new = |node: &NodeId| of.replicas.contains(node);
    let chosen = named
        .filter(|node| of_new(node) || of_old(node))
        .or_else(|| others(&of.replicas))
        .or_else(|| others(&of.activated.replicas).filter(of_old));
    let chosen = chosen.ok_or(ControlError::NoSuccessor { partition })?;
    let assignment = &mut map.partitions[at];
    if !assignment.replicas.contains(&chosen) {
        go_back(assignment);
    }
    lead_anew(assignment, chosen, &mut load);
    Ok(true)
}

/// Makes the last activated set the replica set again. The one that was to replace it is the target again.
fn go_back(assignment: &mut Assignment) {
    let replicas = assignment.activated.replicas.clone();
    let replicas = std::mem::replace(&mut assignment.replicas, replicas);
    let learners = std::mem::take(&mut assignment.learners);
    let newcomers = replicas.iter().chain(&learners).copied();
    let known = &assignment.replicas;
    assignment.learners = newcomers.filter(|node| !known.contains(node)).collect();
    assignment
        .target
        .get_or_insert(Target { replicas, learners });
}

/// The partition, if this is its current epoch.
pub(super) fn current(
    map: &mut ClusterMap,
    partition: PartitionId,
    epoch: Epoch,
) -> Result<&mut Assignment, ControlError> {
    let assignment = map
        .partitions
        .get_mut(usize::from(partition.0))
        .ok_or(ControlError::UnknownPartition { partition })?;
    if assignment.epoch == epoch {
        Ok(assignment)
    } else {
        Err(ControlError::StaleEpoch {
            partition,
            epoch,
            current: assignment.epoch,
        })
    }
}
