//! What a change of the cluster would move, before it is made.

use crate::control::{ControlCommand, ControlError, apply};
use crate::ids::{NodeId, PartitionId};
use crate::map::{Assignment, Boot, ClusterMap};

/// A change that somebody thinks about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A node joins.
    Join {
        /// An id that no node has.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its zone.
        zone: String,
    },
    /// A node is drained.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// A node is removed.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Nothing but the balance.
    Rebalance,
}

/// One copy of a partition that goes somewhere else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// The partition.
    pub partition: PartitionId,
    /// The node that no longer holds it; `None`: it gets one copy more.
    pub from: Option<NodeId>,
    /// The node that is filled with it; `None`: it gets one copy less, and nothing is sent.
    pub to: Option<NodeId>,
}

/// What a change would do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The copies that move, by partition.
    pub moves: Vec<Move>,
    /// Partitions that change their leader, sooner or later.
    pub leaders: Vec<PartitionId>,
    /// Partitions that have fewer live copies than they should until the moves are done. All others keep every copy
    /// until the new one is filled.
    pub exposed: Vec<PartitionId>,
}

/// What the change would move, given what is already under way.
///
/// # Errors
/// What [`apply`] would refuse it with.
pub fn plan(map: &ClusterMap, change: &Change) -> Result<Plan, ControlError> {
    let mut after = map.clone();
    for command in commands(change) {
        apply(&mut after, &command)?;
    }
    let mut plan = Plan::default();
    for ((partition, before), (_, after_)) in map.assignments().zip(after.assignments()) {
        let (old, new) = (holders(before), holders(after_));
        let mut left = old.iter().filter(|node| !new.contains(node)).copied();
        let mut came = new.iter().filter(|node| !old.contains(node)).copied();
        loop {
            let (from, to) = (left.next(), came.next());
            if from.is_none() && to.is_none() {
                break;
            }
            plan.moves.push(Move {
                partition,
                from,
                to,
            });
        }
        let leads = after_
            .target
            .as_ref()
            .map_or(&after_.replicas, |t| &t.replicas);
        if leads[0] != before.leader {
            plan.leaders.push(partition);
        }
        let live = |node: &&NodeId| after.is_live(**node);
        if old.iter().filter(live).count() < new.len().min(old.len()) {
            plan.exposed.push(partition);
        }
    }
    Ok(plan)
}

fn commands(change: &Change) -> Vec<ControlCommand> {
    match change.clone() {
        Change::Join { node, name, zone } => vec![
            ControlCommand::Admit {
                node,
                name,
                address: "-".to_owned(),
                zone: zone.clone(),
            },
            ControlCommand::Register {
                node,
                boot: Boot {
                    count: 1,
                    token: [0; 16],
                },
                previous: Vec::new(),
                address: "-".to_owned(),
                zone,
            },
            ControlCommand::Plan,
        ],
        Change::Drain { node } => vec![ControlCommand::Drain { node }],
        Change::Remove { node } => vec![ControlCommand::Remove { node }],
        Change::Rebalance => vec![ControlCommand::Plan],
    }
}

/// The nodes that hold a partition when what is under way is done.
fn holders(assignment: &Assignment) -> Vec<NodeId> {
    let (replicas, learners) = match &assignment.target {
        Some(target) => (&target.replicas, &target.learners),
        None => (&assignment.replicas, &assignment.learners),
    };
    replicas.iter().chain(learners).copied().collect()
}
