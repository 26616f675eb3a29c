//! What goes wrong, at random times.

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::NodeId;
use mesh_ring::map::{Boot, ClusterMap, Member, NodeState};

use crate::node::Node;
use crate::shared::{Event, MILLI_US, SECOND_US, Shared, short};

/// Most nodes of a run, those that were removed included.
const NODES_MAX: usize = 8;

pub(crate) fn id(number: usize) -> NodeId {
    let mut id = [0; 16];
    id[14..].copy_from_slice(&(number as u16).to_be_bytes());
    NodeId(id)
}

pub(crate) fn member(number: usize) -> Member {
    let name = format!("n{number}");
    Member::new(id(number), &name, &format!("{name}:1"), "")
}

pub(crate) fn calm(shared: &mut Shared) {
    shared.network.cut.clear();
    shared.network.uncontrolled.clear();
    shared.network.lost_per_mille = 0;
    shared.network.doubled_per_mille = 5;
    shared.network.stray_per_mille = 5;
}

/// One trouble. What it does to the control plane goes through the proposals.
pub(crate) fn make(nodes: &mut Vec<Node>, map: &ClusterMap, shared: &mut Shared) {
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let at = shared.chance.below(nodes.len() as u64) as usize;
    let kind = shared.chance.below(30);
    shared.trace(&[30, kind, at as u64], || {
        format!("trouble {kind} for n{}", short(ids[at]))
    });
    match kind {
        0..3 => crash(&mut nodes[at], shared),
        3..6 => {
            let dirty = nodes.iter().position(Node::is_dirty);
            crash(&mut nodes[dirty.unwrap_or(at)], shared);
        }
        6 => {
            // The homes of one partition, and maybe more.
            let partition = shared.chance.below(map.partitions().len() as u64) as usize;
            for home in &map.partitions()[partition].replicas {
                if let Some(node) = nodes.iter_mut().find(|node| node.id == *home) {
                    crash(node, shared);
                }
            }
        }
        7..10 => isolate(ids[at], &ids, shared),
        10 => split(&ids, shared),
        11..13 => one_way(&ids, shared),
        13 => {
            shared.network.uncontrolled.insert(ids[at]);
        }
        14..16 => {
            shared.network.lost_per_mille = shared.chance.below(150);
            shared.network.doubled_per_mille = shared.chance.below(100);
            shared.network.stray_per_mille = shared.chance.below(60);
        }
        16..20 => calm(shared),
        20..22 => {
            let minutes = shared.chance.between(0, 240) as i64 - 120;
            nodes[at].clock_ms = minutes * 60_000;
        }
        22..24 => join(nodes, map, shared),
        24..26 => {
            shared.count("drains");
            let node = ids[at];
            shared.proposals.push(ControlCommand::Drain { node });
        }
        26 => remove(nodes, at, map, shared),
        27 => shared.proposals.push(ControlCommand::Plan),
        _ => {
            let node = ids[at];
            shared.proposals.push(ControlCommand::NodeDown { node });
        }
    }
}

pub(crate) fn crash(node: &mut Node, shared: &mut Shared) {
    if !node.is_up {
        return;
    }
    shared.count("crashes");
    node.crash(shared);
    let down_us = match shared.chance.below(6) {
        0 => shared.chance.between(1, 50) * MILLI_US,
        1..4 => shared.chance.between(50, 2_000) * MILLI_US,
        4 => shared.chance.between(2, 10) * SECOND_US,
        // Longer than any period.
        _ => shared.chance.between(10, 30) * SECOND_US,
    };
    shared.after(down_us, Event::Start(node.id));
}

fn isolate(node: NodeId, ids: &[NodeId], shared: &mut Shared) {
    for other in ids.iter().filter(|other| **other != node) {
        shared.network.cut.insert((node, *other));
        shared.network.cut.insert((*other, node));
    }
    if !shared.chance.one_in(4) {
        shared.network.uncontrolled.insert(node);
    }
}

fn split(ids: &[NodeId], shared: &mut Shared) {
    let side = shared.chance.next();
    let is_left = |node: NodeId| side >> (short(node) % 64) & 1 == 1;
    for a in ids {
        for b in ids {
            if is_left(*a) != is_left(*b) {
                shared.network.cut.insert((*a, *b));
            }
        }
    }
}

fn one_way(ids: &[NodeId], shared: &mut Shared) {
    for _ in 0..3 {
        if let (Some(a), Some(b)) = (shared.chance.pick(ids), shared.chance.pick(ids))
            && a != b
        {
            shared.network.cut.insert((a, b));
        }
    }
}

fn join(nodes: &mut Vec<Node>, map: &ClusterMap, shared: &mut Shared) {
    if nodes.len() >= NODES_MAX {
        return;
    }
    shared.count("joins");
    let new = member(nodes.len() + 1);
    shared.proposals.push(ControlCommand::Admit {
        node: new.id,
        name: new.name,
        address: new.address.clone(),
        zone: String::new(),
    });
    let boot = Boot {
        count: 1,
        token: [1; 16],
    };
    shared.proposals.push(ControlCommand::Register {
        node: new.id,
        boot,
        previous: Vec::new(),
        address: new.address,
        zone: String::new(),
    });
    // It takes part once it knows a map that it is in.
    nodes.push(Node::new(new.id, map));
}

/// A drained node that has handed over everything, or one that is down, with what it alone has.
fn remove(nodes: &mut [Node], at: usize, map: &ClusterMap, shared: &mut Shared) {
    let node = &nodes[at];
    let state = map.node(node.id).map(|member| member.state);
    let is_done = state == Some(NodeState::Drained) && node.is_empty();
    if is_done || (state == Some(NodeState::Down) && !node.is_up) {
        let node = node.id;
        shared.proposals.push(ControlCommand::Remove { node });
    }
}
