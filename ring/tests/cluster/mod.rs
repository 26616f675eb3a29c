//! Clusters for tests: maps of nodes in zones, and a world in which every leader takes over and every learner is filled.

#![allow(dead_code, reason = "each test uses a part of it")]

use mesh_ring::control::{ControlCommand, ControlError, Outcome, apply};
use mesh_ring::ids::{ClusterId, NodeId, PartitionId};
use mesh_ring::map::{Boot, ClusterMap, Member};

/// Node `number`, from 1.
pub(crate) fn id(number: usize) -> NodeId {
    let mut id = [0; 16];
    id[14..].copy_from_slice(&(number as u16).to_be_bytes());
    NodeId(id)
}

pub(crate) fn member(number: usize, zone: usize) -> Member {
    let name = format!("n{number}");
    let address = format!("{name}.example:7400");
    Member::new(id(number), &name, &address, &format!("z{zone}"))
}

/// A cluster of nodes 1, 2, 3 …, one in each of these zones, every leader in office.
pub(crate) fn cluster(zones: &[usize], partitions: u16, replication: u8) -> ClusterMap {
    let members: Vec<Member> = zones
        .iter()
        .enumerate()
        .map(|(at, zone)| member(at + 1, *zone))
        .collect();
    let mut map =
        ClusterMap::founding(ClusterId([1; 16]), &members, partitions, replication).unwrap();
    for number in 1..=zones.len() {
        register(&mut map, number, 1).unwrap();
    }
    activate_all(&mut map);
    map
}

pub(crate) fn boot(count: u32) -> Boot {
    Boot {
        count,
        token: [count as u8; 16],
    }
}

pub(crate) fn register(
    map: &mut ClusterMap,
    number: usize,
    count: u32,
) -> Result<Outcome, ControlError> {
    let zone = map.node(id(number)).map(|node| node.zone.clone());
    let command = ControlCommand::Register {
        node: id(number),
        boot: boot(count),
        previous: (1..count).map(boot).collect(),
        address: format!("n{number}.example:7400"),
        zone: zone.unwrap_or_default(),
    };
    apply(map, &command)
}

/// A node joins and registers; nothing moves to it yet.
pub(crate) fn join(map: &mut ClusterMap, number: usize, zone: usize) {
    let new = member(number, zone);
    let command = ControlCommand::Admit {
        node: new.id,
        name: new.name,
        address: new.address,
        zone: new.zone,
    };
    apply(map, &command).unwrap();
    register(map, number, 1).unwrap();
}

/// Every leader that is live reports that it has taken over.
pub(crate) fn activate_all(map: &mut ClusterMap) -> bool {
    let reports: Vec<ControlCommand> = map
        .assignments()
        .filter(|(_, of)| !of.is_activated() && map.is_live(of.leader))
        .map(|(partition, of)| ControlCommand::Activated {
            partition,
            epoch: of.epoch,
            leader: of.leader,
        })
        .collect();
    batch(map, reports)
}

/// Everyone who is live has caught up with the leader.
pub(crate) fn fill_all(map: &mut ClusterMap) -> bool {
    let mut reports = Vec::new();
    for (partition, of) in map.assignments().filter(|(_, of)| of.is_activated()) {
        for node in of.learners.iter().chain(&of.replicas) {
            let known = of.caught_up.contains(node) || of.leader == *node;
            if map.is_live(*node) && !known {
                reports.push(ControlCommand::CaughtUp {
                    partition,
                    epoch: of.epoch,
                    node: *node,
                });
            }
        }
    }
    batch(map, reports)
}

fn batch(map: &mut ClusterMap, commands: Vec<ControlCommand>) -> bool {
    if commands.is_empty() {
        return false;
    }
    let outcome = apply(map, &ControlCommand::Batch { commands }).unwrap();
    assert_eq!(outcome.refused, []);
    outcome.changed
}

/// Carries every move to its end; tells after how many rounds of reports.
pub(crate) fn finish(map: &mut ClusterMap) -> usize {
    let mut rounds = 0;
    while activate_all(map) | fill_all(map) {
        rounds += 1;
        assert!(rounds < 10_000, "the moves come to no end");
    }
    rounds
}

/// How many partitions each of the nodes holds, as replica or learner, and how many it should lead.
pub(crate) fn loads(map: &ClusterMap, nodes: &[NodeId]) -> Vec<(usize, usize)> {
    nodes
        .iter()
        .map(|node| {
            let held = map
                .partitions()
                .iter()
                .filter(|of| of.replicas.contains(node) || of.learners.contains(node));
            let led = map.partitions().iter().filter(|of| of.replicas[0] == *node);
            (held.count(), led.count())
        })
        .collect()
}

/// Most copies of one partition in one zone.
pub(crate) fn crowding(map: &ClusterMap) -> usize {
    let mut most = 0;
    for of in map.partitions() {
        let zones: Vec<&str> = of
            .replicas
            .iter()
            .filter_map(|node| map.node(*node))
            .map(|node| node.zone.as_str())
            .collect();
        for zone in &zones {
            most = most.max(zones.iter().filter(|other| *other == zone).count());
        }
    }
    most
}

pub(crate) fn partition(number: u16) -> PartitionId {
    PartitionId(number)
}
