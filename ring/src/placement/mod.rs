//! Which nodes should hold and lead each partition, and which should vote in the control plane: pure functions of the
//! map.
//!
//! Nodes that stay hold alike many partitions, to within one, and each leads alike many of them; the copies of a
//! partition are in as many zones as there are; and no more moves than that makes necessary. Zones go before balance:
//! a zone with few nodes gives each of them more to hold. Both are found as cheapest flows through a network whose
//! costs are the moves.

mod flow;
mod leaders;
mod plan;
mod spread;

use crate::ids::{NodeId, PartitionId};
use crate::map::{Assignment, ClusterMap, Member, NodeState, Target};

use leaders::Candidate;
pub use plan::{Change, Move, Plan, plan};
use spread::{Site, spread};

/// Most voters of the control plane.
pub const VOTERS_MAX: usize = 5;

/// How many copies a partition has in a cluster of so many nodes that stay.
#[must_use]
pub fn copies(replication: u8, nodes: usize) -> usize {
    nodes.min(usize::from(replication))
}

/// What every partition should be, in the order of their ids.
///
/// What is under way counts as done: right after the moves were begun, it is what they lead to. With two copies, one
/// node is the replica and the other one a learner that stands by, because of two replicas neither could go on
/// without the other. A partition for which there are too few nodes that take it stays as it is, or is to be.
#[must_use]
pub fn place(map: &ClusterMap) -> Vec<Target> {
    let now: Vec<Target> = map.partitions.iter().map(|of| begun(map, of)).collect();
    let found = targets(map, &now).into_iter().zip(&map.partitions);
    found
        .map(|(target, of)| target.unwrap_or_else(|| aimed_at(of)))
        .collect()
}

/// What the partitions of a new cluster begin with.
pub(crate) fn founding(map: &ClusterMap, partitions: u16) -> Vec<Target> {
    let nothing = Target {
        replicas: Vec::new(),
        learners: Vec::new(),
    };
    let found = targets(map, &vec![nothing; usize::from(partitions)]);
    found.into_iter().flatten().collect()
}

/// What a partition becomes when what is under way is done.
fn aimed_at(assignment: &Assignment) -> Target {
    assignment.target.clone().unwrap_or_else(|| Target {
        replicas: assignment.replicas.clone(),
        learners: assignment.learners.clone(),
    })
}

/// The same without nodes that never began to hold it and are down.
fn begun(map: &ClusterMap, assignment: &Assignment) -> Target {
    let mut target = aimed_at(assignment);
    let begun = |node: &NodeId| assignment.needs_copy(*node) || map.is_live(*node);
    target.replicas.retain(begun);
    target.learners.retain(begun);
    target
}

/// What every partition that is now so should be; `None` where there are too few nodes for as many copies.
fn targets(map: &ClusterMap, now: &[Target]) -> Vec<Option<Target>> {
    let members: Vec<&Member> = map.nodes.iter().filter(|node| node.is_staying()).collect();
    let sites: Vec<Site> = members
        .iter()
        .map(|member| Site {
            node: member.id,
            zone: member.zone.clone(),
            takes: member.state == NodeState::Up,
        })
        .collect();
    let copies = copies(map.settings.replication, sites.len());
    let position = |node: &NodeId| members.iter().position(|member| member.id == *node);
    let current: Vec<Vec<usize>> = now
        .iter()
        .map(|now| nodes_of(now).filter_map(position).collect())
        .collect();
    let mut sets = spread(&sites, copies, &current);
    for set in sets.iter_mut().filter(|set| set.len() < copies) {
        set.clear();
    }
    let candidates: Vec<Vec<Candidate>> = sets
        .iter()
        .zip(now)
        .enumerate()
        .map(|(at, (set, now))| {
            let leader = map.partitions.get(at).map(|assignment| assignment.leader);
            candidates(set, &members, now, leader)
        })
        .collect();
    let leaders = leaders::choose(members.len(), &candidates);
    sets.iter()
        .zip(leaders)
        .zip(now)
        .map(|((set, leader), now)| Some(ordered(set, leader?, &members, now, copies)))
        .collect()
}

fn nodes_of(target: &Target) -> impl Iterator<Item = &NodeId> {
    target.replicas.iter().chain(&target.learners)
}

fn candidates(
    set: &[usize],
    members: &[&Member],
    now: &Target,
    leader: Option<NodeId>,
) -> Vec<Candidate> {
    let cost = |node: NodeId| {
        if now.replicas.first() == Some(&node) {
            0
        } else if leader == Some(node) {
            1
        } else if now.replicas.contains(&node) {
            2
        } else {
            3
        }
    };
    set.iter()
        .map(|site| Candidate {
            node: *site,
            cost: cost(members[*site].id),
        })
        .collect()
}

/// The leader first, then those that hold the partition in their order, then the new ones.
fn ordered(
    set: &[usize],
    leader: usize,
    members: &[&Member],
    now: &Target,
    copies: usize,
) -> Target {
    let chosen: Vec<NodeId> = set.iter().map(|site| members[*site].id).collect();
    let rank = |node: &NodeId| nodes_of(now).position(|held| held == node);
    let mut others: Vec<NodeId> = chosen
        .into_iter()
        .filter(|node| *node != members[leader].id)
        .collect();
    others.sort_by_key(|node| (rank(node).unwrap_or(usize::MAX), *node));
    let leader = members[leader].id;
    if copies == 2 {
        return Target {
            replicas: vec![leader],
            learners: others,
        };
    }
    others.insert(0, leader);
    Target {
        replicas: others,
        learners: Vec::new(),
    }
}

/// The nodes that should vote in the control plane: 5 of 5 or more nodes that stay, 3 of 3 or 4, else 1; in as many
/// zones as there are, and those that vote already where possible. A node that is down votes only where no other can.
#[must_use]
pub fn choose_voters(map: &ClusterMap) -> Vec<NodeId> {
    let mut candidates: Vec<&Member> = map.nodes.iter().filter(|node| node.is_staying()).collect();
    let most = match candidates.len() {
        0..3 => 1,
        3..VOTERS_MAX => 3,
        _ => VOTERS_MAX,
    };
    let mut voters: Vec<&Member> = Vec::new();
    while voters.len() < most {
        let next = candidates.iter().enumerate().min_by_key(|(_, member)| {
            let same_zone = voters.iter().filter(|voter| voter.zone == member.zone);
            let votes = map.voters.contains(&member.id);
            (!member.is_live(), same_zone.count(), !votes, member.id)
        });
        let Some((at, _)) = next else { break };
        voters.push(candidates.swap_remove(at));
    }
    let mut ids: Vec<NodeId> = voters.iter().map(|voter| voter.id).collect();
    ids.sort_unstable();
    ids
}

/// Every partition that this node should lead and does not, although it could: a live replica that stays, of a
/// partition in which nothing else is under way.
pub(crate) fn misled(map: &ClusterMap) -> impl Iterator<Item = PartitionId> {
    map.assignments()
        .filter(|(_, of)| {
            let first = of.replicas[0];
            let should = map.node(first).is_some_and(Member::is_fit_to_lead);
            should && of.leader != first && of.is_activated() && of.target.is_none()
        })
        .map(|(partition, _)| partition)
}
