//! What goes wrong: every kind of fault that the design names, at random times.

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::NodeId;
use mesh_ring::map::{ClusterMap, NodeState};

use crate::node::Node;
use crate::shared::{Breakage, Event, Shared, short};

/// Most nodes of a run, those that were removed included.
const NODES_MAX: usize = 8;

const SECOND_US: u64 = 1_000_000;

/// One trouble. What it does to the control plane goes through `map` and the queue.
pub(crate) fn make(nodes: &mut Vec<Node>, map: &ClusterMap, shared: &mut Shared) {
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let at = victim(&ids, map, shared);
    let kind = shared.chance.below(34);
    shared.trace(&[30, kind, at as u64], || {
        format!("trouble {kind} for n{}", short(ids[at]))
    });
    match kind {
        0..5 => crash(&mut nodes[at], shared),
        5 => {
            let down_us = shared.chance.between(SECOND_US / 10, 2 * SECOND_US);
            for node in nodes {
                node.crash(shared);
                let skew_us = shared.chance.below(SECOND_US);
                shared.after(down_us + skew_us, Event::Start(node.id));
            }
        }
        6..9 => pause(&mut nodes[at], shared),
        9..12 => isolate(ids[at], &ids, shared),
        12 => split(&ids, shared),
        13 => bridge(&ids, shared),
        14..16 => one_way(&ids, shared),
        16 => {
            shared.network.uncontrolled.insert(ids[at]);
        }
        17..19 => {
            for _ in 0..3 {
                if let (Some(a), Some(b)) = (shared.chance.pick(&ids), shared.chance.pick(&ids)) {
                    let slow_us = shared.chance.between(20_000, 400_000);
                    shared.network.slow.insert((a, b), slow_us);
                }
            }
        }
        19 => {
            shared.network.lost_per_mille = shared.chance.between(0, 200);
            shared.network.doubled_per_mille = shared.chance.between(0, 100);
        }
        20..23 => calm(shared),
        23 => {
            let hours = shared.chance.between(0, 48) as i64 - 24;
            nodes[at].clock_ms = hours * 3_600_000;
        }
        24..26 => rot(nodes, at, map, shared),
        26 => join(nodes, shared),
        27 => shared.after(0, Event::Propose(ControlCommand::Drain { node: ids[at] })),
        28 => remove(nodes, at, map, shared),
        // Gossip is wrong.
        29..31 => shared.after(
            0,
            Event::Propose(ControlCommand::NodeDown { node: ids[at] }),
        ),
        31 => {
            // A leader is told to hand over.
            for (partition, of) in map.assignments() {
                if of.leader == ids[at] {
                    let command = ControlCommand::Resign {
                        partition,
                        epoch: of.epoch,
                        to: shared.chance.pick(&of.replicas),
                    };
                    shared.after(0, Event::Propose(command));
                }
            }
        }
        _ => {
            let most = shared.chance.between(1, 4) as u16;
            shared.after(0, Event::Propose(ControlCommand::Balance { most }));
        }
    }
}

/// Anyone, and every other time a leader.
fn victim(ids: &[NodeId], map: &ClusterMap, shared: &mut Shared) -> usize {
    let at = shared.chance.below(ids.len() as u64) as usize;
    let leaders: Vec<NodeId> = map.partitions().iter().map(|of| of.leader).collect();
    let leader = shared.chance.pick(&leaders);
    let leader = ids.iter().position(|id| Some(*id) == leader);
    leader.filter(|_| shared.chance.one_in(2)).unwrap_or(at)
}

fn crash(node: &mut Node, shared: &mut Shared) {
    node.crash(shared);
    let down_us = match shared.chance.below(4) {
        0 => shared.chance.between(1, 50_000),
        1 | 2 => shared.chance.between(50_000, 2 * SECOND_US),
        _ => shared.chance.between(2 * SECOND_US, 10 * SECOND_US),
    };
    shared.after(down_us, Event::Start(node.id));
}

fn pause(node: &mut Node, shared: &mut Shared) {
    if node.is_up && !node.paused {
        node.paused = true;
        let pause_us = shared.chance.between(50_000, 4 * SECOND_US);
        shared.after(pause_us, Event::Resume(node.id));
    }
}

fn isolate(node: NodeId, ids: &[NodeId], shared: &mut Shared) {
    for other in ids {
        shared.network.cut.insert((node, *other));
        shared.network.cut.insert((*other, node));
    }
    // A client always reaches it.
    shared.network.cut.remove(&(node, node));
    if shared.chance.one_in(2) {
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
        if is_left(*a) {
            shared.network.uncontrolled.insert(*a);
        }
    }
}

/// Two sides that do not reach each other, and one node that reaches both.
fn bridge(ids: &[NodeId], shared: &mut Shared) {
    let Some(middle) = shared.chance.pick(ids) else {
        return;
    };
    split(ids, shared);
    shared
        .network
        .cut
        .retain(|(a, b)| *a != middle && *b != middle);
    shared.network.uncontrolled.clear();
}

fn one_way(ids: &[NodeId], shared: &mut Shared) {
    if let (Some(a), Some(b)) = (shared.chance.pick(ids), shared.chance.pick(ids))
        && a != b
    {
        shared.network.cut.insert((a, b));
    }
}

/// The network is whole again.
pub(crate) fn calm(shared: &mut Shared) {
    shared.network.cut.clear();
    shared.network.uncontrolled.clear();
    shared.network.slow.clear();
    shared.network.lost_per_mille = 10;
    shared.network.doubled_per_mille = 10;
}

/// A disk begins to lose what it syncs, and comes back damaged soon after. Never two at a time, and only where every
/// partition has others to vouch for what was acknowledged.
fn rot(nodes: &mut [Node], at: usize, map: &ClusterMap, shared: &mut Shared) {
    let lies = shared.is_broken(Breakage::SyncedWritesLost);
    let one = nodes
        .iter()
        .any(|node| node.disk.is_rotting() || node.is_suspect());
    if !nodes[at].is_up || !lies && (one || !can_lose_a_disk(map)) {
        return;
    }
    nodes[at].disk.begin_to_rot();
    if !lies {
        let rot_us = shared.chance.between(10_000, 3 * SECOND_US);
        shared.after(rot_us, Event::Damage(nodes[at].id));
    }
}

/// Whether every partition has so many replicas, none of them removed, that one of them may forget.
fn can_lose_a_disk(map: &ClusterMap) -> bool {
    let removed = |id: &NodeId| {
        let member = map.node(*id);
        member.is_none_or(|member| member.state == NodeState::Removed)
    };
    map.partitions().iter().all(|of| {
        let sets = [&of.replicas, &of.activated.replicas];
        let whole = |set: &Vec<NodeId>| set.len() >= 3 && !set.iter().any(removed);
        of.is_activated() && sets.into_iter().all(whole)
    })
}

/// The damage shows: the node stops, and comes back with what is left.
pub(crate) fn damage(node: &mut Node, map: &ClusterMap, shared: &mut Shared) {
    if !can_lose_a_disk(map) {
        node.disk.heal();
        return;
    }
    shared.count("damaged disks");
    node.crash(shared);
    node.disk.damage(map.partitions().len() as u16, true);
    let down_us = shared.chance.between(10_000, 3 * SECOND_US);
    shared.after(down_us, Event::Start(node.id));
}

fn join(nodes: &mut Vec<Node>, shared: &mut Shared) {
    if nodes.len() >= NODES_MAX {
        return;
    }
    let node = new_node(nodes.len(), shared);
    let command = ControlCommand::Admit {
        node: node.id,
        name: node.name.clone(),
        address: format!("{}:1", node.name),
        zone: node.zone.clone(),
    };
    shared.after(0, Event::Propose(command));
    shared.after(100_000, Event::Start(node.id));
    nodes.push(node);
}

/// The node with this number.
pub(crate) fn new_node(at: usize, shared: &mut Shared) -> Node {
    let mut id = [0; 16];
    id[15] = at as u8 + 1;
    let zone = format!("z{}", shared.chance.below(3));
    Node::new(NodeId(id), format!("n{}", at + 1), zone)
}

/// Takes a node out for good, running or not, unless somebody else's disk may have forgotten something.
fn remove(nodes: &mut [Node], at: usize, map: &ClusterMap, shared: &mut Shared) {
    if nodes
        .iter()
        .any(|node| node.disk.is_rotting() || node.is_suspect())
    {
        return;
    }
    let id = nodes[at].id;
    let state = map.node(id).map(|member| member.state);
    if !matches!(state, Some(NodeState::Drained | NodeState::Down)) {
        nodes[at].crash(shared);
        shared.after(0, Event::Propose(ControlCommand::NodeDown { node: id }));
    }
    shared.after(1, Event::Propose(ControlCommand::Remove { node: id }));
    shared.after(SECOND_US, Event::Start(id));
}
