//! Commands in any order: whatever happens, a map keeps what replication relies on.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cluster;

use cluster::{activate_all, boot, cluster, fill_all, finish, id};
use mesh_ring::control::{ControlCommand, apply};
use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use mesh_ring::map::{Assignment, ClusterMap, NodeState, Settings};
use proptest::prelude::*;
use proptest::sample::Index;

const NODES: usize = 8;
const PARTITIONS: u16 = 6;

/// A command, its node and partition chosen when it is applied, so that most of them make sense.
#[derive(Clone, Debug)]
enum Step {
    Admit(usize),
    Restart(usize),
    OldCopy(usize),
    Down(usize),
    Up(usize),
    Drain(usize),
    Replace(usize),
    Remove(usize),
    Activated(u16),
    StaleActivated(u16),
    CaughtUp(u16, Index),
    Resign(u16, Option<usize>),
    Plan,
    Balance,
    Replication(u8),
    AllReports,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1..=NODES;
    let partition = 0..PARTITIONS;
    prop_oneof![
        2 => node.clone().prop_map(Step::Admit),
        4 => node.clone().prop_map(Step::Restart),
        1 => node.clone().prop_map(Step::OldCopy),
        3 => node.clone().prop_map(Step::Down),
        3 => node.clone().prop_map(Step::Up),
        2 => node.clone().prop_map(Step::Drain),
        2 => node.clone().prop_map(Step::Replace),
        2 => node.clone().prop_map(Step::Remove),
        6 => partition.clone().prop_map(Step::Activated),
        2 => partition.clone().prop_map(Step::StaleActivated),
        8 => (partition.clone(), any::<Index>()).prop_map(|(p, i)| Step::CaughtUp(p, i)),
        2 => (partition, prop::option::of(node)).prop_map(|(p, n)| Step::Resign(p, n)),
        2 => Just(Step::Plan),
        1 => Just(Step::Balance),
        1 => (1..=5u8).prop_map(Step::Replication),
        3 => Just(Step::AllReports),
    ]
}

fn command(map: &ClusterMap, step: &Step) -> Option<ControlCommand> {
    let of = |partition: u16| map.assignment(PartitionId(partition));
    Some(match step.clone() {
        Step::Admit(number) => ControlCommand::Admit {
            node: id(number),
            name: format!("n{number}"),
            address: "h:1".into(),
            zone: format!("z{}", number % 3),
        },
        Step::Restart(number) => {
            let last = map.node(id(number)).map_or(0, |node| node.boot.count);
            register(number, last + 1, last)
        }
        Step::OldCopy(number) => register(number, 3, 40),
        Step::Down(number) => ControlCommand::NodeDown { node: id(number) },
        Step::Up(number) => ControlCommand::NodeUp { node: id(number) },
        Step::Drain(number) => ControlCommand::Drain { node: id(number) },
        Step::Replace(number) => ControlCommand::Replace { node: id(number) },
        Step::Remove(number) => ControlCommand::Remove { node: id(number) },
        Step::Activated(at) => ControlCommand::Activated {
            partition: PartitionId(at),
            epoch: of(at)?.epoch,
            leader: of(at)?.leader,
        },
        Step::StaleActivated(at) => ControlCommand::Activated {
            partition: PartitionId(at),
            epoch: Epoch(of(at)?.epoch.0 - 1),
            leader: of(at)?.leader,
        },
        Step::CaughtUp(at, which) => {
            let followers = [&of(at)?.learners[..], &of(at)?.replicas[..]].concat();
            ControlCommand::CaughtUp {
                partition: PartitionId(at),
                epoch: of(at)?.epoch,
                node: *which.get(&followers),
            }
        }
        Step::Resign(at, to) => ControlCommand::Resign {
            partition: PartitionId(at),
            epoch: of(at)?.epoch,
            to: to.map(id),
        },
        Step::Plan => ControlCommand::Plan,
        Step::Balance => ControlCommand::Balance { most: 2 },
        Step::Replication(replication) => ControlCommand::Configure {
            settings: Settings {
                replication,
                fills_per_node: 2,
            },
        },
        Step::AllReports => return None,
    })
}

fn register(number: usize, count: u32, last: u32) -> ControlCommand {
    ControlCommand::Register {
        node: id(number),
        boot: boot(count),
        previous: vec![boot(last)],
        address: "h:1".into(),
        zone: format!("z{}", number % 3),
    }
}

fn same_set(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}

/// What must be true of any change of one partition by one command.
fn check_change(
    after_map: &ClusterMap,
    command: &ControlCommand,
    partition: PartitionId,
    before: &Assignment,
    after: &Assignment,
) {
    assert!(after.epoch >= before.epoch, "epochs only rise");
    let set_changed = !same_set(&before.replicas, &after.replicas);
    if set_changed || before.leader != after.leader {
        assert!(after.epoch > before.epoch, "a change is a new epoch");
    }
    let reported =
        matches!(command, ControlCommand::Activated { partition: p, .. } if *p == partition);
    if before.activated != after.activated {
        assert!(reported, "only the leader's report activates");
        assert_eq!(
            after.activated.epoch, before.epoch,
            "and only the current epoch"
        );
        assert_eq!(after.activated.replicas, before.replicas);
    }
    let goes_back = matches!(command, ControlCommand::Resign { partition: p, .. } if *p == partition)
        && !before.is_activated()
        && same_set(&after.replicas, &before.activated.replicas);
    if set_changed && !goes_back {
        // Two sets matter at most: this one and the last, which was activated.
        assert_eq!(
            after.activated.epoch, before.epoch,
            "not before it is activated"
        );
        assert!(same_set(&after.activated.replicas, &before.replicas));
        assert!(before.is_activated() || reported);
        for node in &after.replicas {
            let just_now = matches!(command, ControlCommand::CaughtUp { partition: p, node: n, .. }
                if *p == partition && n == node);
            let holds = before.leader == *node || before.caught_up.contains(node);
            let stays_away = !after_map.is_live(*node) && before.replicas.contains(node);
            assert!(
                holds || just_now || stays_away,
                "everyone of a new set who lives keeps up, and who does not was in the old one"
            );
        }
        let live = after
            .replicas
            .iter()
            .filter(|n| after_map.is_live(**n))
            .count();
        assert!(live > after.replicas.len() / 2, "the new set can go on");
    }
}

/// What must be true of every map.
fn check_map(map: &ClusterMap) {
    map.check().unwrap();
    for of in map.partitions() {
        let node = |id: &NodeId| map.node(*id).unwrap();
        let mut live = of.replicas.iter().filter(|id| node(id).is_live());
        assert!(
            map.is_live(of.leader) || live.next().is_none(),
            "a live replica leads"
        );
        let leader = node(&of.leader);
        let mut fit = of
            .replicas
            .iter()
            .filter(|id| node(id).state == NodeState::Up && of.caught_up.contains(id));
        assert!(
            leader.state == NodeState::Up || fit.next().is_none(),
            "one that stays leads, as soon as it keeps up"
        );
        for holder in of.replicas.iter().chain(&of.learners) {
            assert_ne!(node(holder).state, NodeState::Joining);
            assert_ne!(node(holder).state, NodeState::Drained);
        }
        let follows = |id: &NodeId| of.learners.contains(id) || of.replicas.contains(id);
        assert!(of.caught_up.iter().all(follows));
        assert!(!of.caught_up.contains(&of.leader));
    }
}

/// Brings every node up that can be, and carries everything to its end.
fn heal(map: &mut ClusterMap) {
    for number in 1..=NODES {
        let _ = apply(map, &ControlCommand::NodeUp { node: id(number) });
    }
    finish(map);
    apply(map, &ControlCommand::Plan).unwrap();
    finish(map);
}

fn run(steps: &[Step]) {
    let mut map = cluster(&[0, 1, 2, 0], PARTITIONS, 3);
    let mut gone: Vec<NodeId> = Vec::new();
    for step in steps {
        if matches!(step, Step::AllReports) {
            activate_all(&mut map);
            fill_all(&mut map);
            check_map(&map);
        }
        let Some(command) = command(&map, step) else {
            continue;
        };
        let before = map.clone();
        match apply(&mut map, &command) {
            Err(_) => assert_eq!(map, before, "a refusal changes nothing"),
            Ok(outcome) => {
                assert_eq!(outcome.changed, map != before, "{command:?}");
                let version = before.version() + u64::from(outcome.changed);
                assert_eq!((outcome.version, map.version()), (version, version));
            }
        }
        for ((partition, old), (_, new)) in before.assignments().zip(map.assignments()) {
            check_change(&map, &command, partition, old, new);
        }
        check_map(&map);
        let removed = (1..=NODES).map(id).filter(|node| map.is_removed(*node));
        let removed: Vec<NodeId> = removed.collect();
        assert!(
            gone.iter().all(|node| removed.contains(node)),
            "removed for good"
        );
        gone = removed;
    }
    heal(&mut map);
    check_map(&map);
    for of in map.partitions() {
        assert!(of.is_activated(), "it comes to rest: {of:?}");
    }
    let takers = map
        .nodes()
        .iter()
        .filter(|node| node.state == NodeState::Up);
    let staying = map.nodes().iter().filter(|node| node.is_staying());
    if takers.count() == staying.count() {
        assert!(
            map.partitions().iter().all(|of| of.target.is_none()),
            "{map:?}"
        );
        let leaving = map
            .nodes()
            .iter()
            .filter(|node| node.state == NodeState::Draining);
        assert_eq!(leaving.count(), 0, "what can leave has left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_commands_keep_the_invariants(steps in prop::collection::vec(step(), 1..120)) {
        run(&steps);
    }
}
