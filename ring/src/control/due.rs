//! What the leader of the control plane should propose, given what gossip says.

use std::collections::BTreeMap;

use super::{ControlCommand, apply};
use crate::ids::NodeId;
use crate::map::{ClusterMap, Leaving, Member, NodeState};

/// What gossip says of a node, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Observed {
    /// Whether it is alive.
    pub alive: bool,
    /// For how long this has been said, in milliseconds.
    pub for_ms: u64,
}

/// How long the control plane waits before it does something about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// A node that was dead for this long is replaced, in milliseconds.
    pub dead_after_ms: u64,
    /// Leaders return to a node that was alive for this long, in milliseconds.
    pub settled_after_ms: u64,
    /// Most leaders that return at once.
    pub leaders_at_once: u16,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            dead_after_ms: 10 * 60 * 1000,
            settled_after_ms: 5000,
            leaders_at_once: 4,
        }
    }
}

/// What to propose now: who died and who returned; if nobody, who was dead for too long; if nobody, moves that make
/// the cluster even; if none, leaders that return. Nothing that would change nothing, and nothing that would be
/// refused. A node that `observed` does not name, such as this one, is left as it is.
#[must_use]
pub fn due(
    map: &ClusterMap,
    observed: &BTreeMap<NodeId, Observed>,
    patience: &Patience,
) -> Vec<ControlCommand> {
    let seen = |member: &Member, alive: bool, for_ms: u64| {
        let seen = observed.get(&member.id);
        seen.is_some_and(|seen| seen.alive == alive && seen.for_ms >= for_ms)
    };
    let died = |member: &&Member| member.is_live() && seen(member, false, 0);
    let returned = |member: &&Member| member.state == NodeState::Down && seen(member, true, 0);
    let mut commands: Vec<ControlCommand> = Vec::new();
    let nodes = map.nodes().iter();
    commands.extend(
        nodes
            .clone()
            .filter(died)
            .map(|m| ControlCommand::NodeDown { node: m.id }),
    );
    commands.extend(
        nodes
            .clone()
            .filter(returned)
            .map(|m| ControlCommand::NodeUp { node: m.id }),
    );
    if !commands.is_empty() {
        return commands;
    }
    let lost = |member: &&Member| {
        let down = member.state == NodeState::Down && member.leaving != Some(Leaving::Drained);
        down && seen(member, false, patience.dead_after_ms)
    };
    for member in nodes.clone().filter(lost) {
        let command = ControlCommand::Replace { node: member.id };
        // One at a time: whether there are enough nodes for the next depends on it.
        if changes(map, &command) {
            return vec![command];
        }
    }
    if changes(map, &ControlCommand::Plan) {
        return vec![ControlCommand::Plan];
    }
    let restless = |member: &Member| {
        let seen = observed.get(&member.id);
        seen.is_some_and(|seen| !seen.alive || seen.for_ms < patience.settled_after_ms)
    };
    let balance = ControlCommand::Balance {
        most: patience.leaders_at_once,
    };
    let under_way = map.partitions().iter().any(|of| !of.is_activated());
    if !under_way && !nodes.clone().filter(|m| m.is_live()).any(restless) && changes(map, &balance)
    {
        return vec![balance];
    }
    Vec::new()
}

fn changes(map: &ClusterMap, command: &ControlCommand) -> bool {
    apply(&mut map.clone(), command).is_ok_and(|outcome| outcome.changed)
}
