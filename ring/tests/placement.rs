//! Placement against what is best possible: how even it can be, and how little must move.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cluster;

use std::collections::BTreeMap;

use cluster::{cluster, crowding, finish, id, join, loads};
use mesh_ring::control::{ControlCommand, apply};
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;
use mesh_ring::placement::{Change, choose_voters, copies, plan};
use proptest::prelude::*;

/// Asserts that the nodes which stay hold and lead alike many partitions, to within one.
fn assert_even(map: &ClusterMap) {
    let nodes = staying(map);
    let loads = loads(map, &nodes);
    for (what, loads) in [
        ("hold", loads.iter().map(|l| l.0).collect::<Vec<_>>()),
        ("lead", loads.iter().map(|l| l.1).collect()),
    ] {
        let (least, most) = (loads.iter().min(), loads.iter().max());
        assert!(
            most.unwrap() - least.unwrap() <= 1,
            "nodes {what} {loads:?}"
        );
    }
    let held: usize = loads.iter().map(|l| l.0).sum();
    let copies = copies(map.settings().replication, nodes.len());
    assert_eq!(held, copies * map.partitions().len());
}

fn staying(map: &ClusterMap) -> Vec<NodeId> {
    let nodes = map.nodes().iter().filter(|node| node.is_staying());
    nodes.map(|node| node.id).collect()
}

/// The least number of copies that must go to a node which has none of the partition, for the nodes in `stay` to hold
/// alike many.
fn lower_bound(map: &ClusterMap, stay: &[NodeId], gone: &[NodeId]) -> usize {
    let copies = copies(map.settings().replication, stay.len());
    let total = copies * map.partitions().len();
    let (floor, ceiling) = (total / stay.len(), total.div_ceil(stay.len()));
    let held = |nodes: &[NodeId]| loads(map, nodes).into_iter().map(|load| load.0);
    let missing: usize = held(stay).map(|load| floor.saturating_sub(load)).sum();
    let excess: usize = held(stay).map(|load| load.saturating_sub(ceiling)).sum();
    let orphaned: usize = held(gone).sum();
    // More copies than before come from nowhere, fewer go nowhere.
    let before: usize = held(stay).sum::<usize>() + orphaned;
    missing.max((excess + orphaned + total).saturating_sub(before))
}

fn filled(map: &ClusterMap, change: &Change) -> usize {
    let plan = plan(map, change).unwrap();
    plan.moves.iter().filter(|to| to.to.is_some()).count()
}

fn join_change(number: usize, zone: usize) -> Change {
    Change::Join {
        node: id(number),
        name: format!("n{number}"),
        zone: format!("z{zone}"),
    }
}

#[test]
fn clusters_of_one_to_a_hundred_nodes_begin_even() {
    for nodes in [1, 2, 3, 4, 5, 7, 10, 33, 64, 100] {
        for partitions in [1, 64, 100, 256] {
            assert_even(&cluster(&vec![0; nodes], partitions, 3));
        }
    }
    assert_even(&cluster(&[0; 100], 4096, 3));
}

#[test]
fn one_zone_more_than_copies_keeps_them_apart() {
    for (zones, apart) in [
        (vec![0, 1, 2], 1),
        (vec![0, 1, 2, 0, 1, 2, 0], 1),
        (vec![0, 0, 0, 1, 2], 1),
        (vec![0, 0, 0, 1, 1, 1], 2),
        (vec![0, 0, 0, 0, 1], 2),
    ] {
        let map = cluster(&zones, 64, 3);
        assert_eq!(crowding(&map), apart, "{zones:?}");
    }
}

#[test]
fn a_zone_of_few_nodes_gives_each_more_to_hold_but_shares_it_evenly() {
    // A copy in each zone: the two lonely nodes hold everything, the other two half.
    let map = cluster(&[0, 1, 2, 2], 64, 3);
    let held: Vec<usize> = loads(&map, &staying(&map)).iter().map(|l| l.0).collect();
    assert_eq!(held, [64, 64, 32, 32]);
}

#[test]
fn the_partitions_of_a_node_are_shared_with_all_others() {
    let map = cluster(&[0; 10], 256, 3);
    for node in staying(&map) {
        let mut partners = BTreeMap::new();
        for of in map
            .partitions()
            .iter()
            .filter(|of| of.replicas.contains(&node))
        {
            for other in of.replicas.iter().filter(|other| **other != node) {
                *partners.entry(*other).or_insert(0) += 1;
            }
        }
        // 76 partitions with two others each: 17 with each of the nine, were it perfectly even.
        assert_eq!(partners.len(), 9, "{partners:?}");
        assert!(
            partners.values().all(|shared| *shared <= 40),
            "{partners:?}"
        );
    }
}

#[test]
fn a_join_and_a_leave_move_no_more_than_they_must() {
    for nodes in [3, 4, 5, 9, 20, 50, 99] {
        let mut map = cluster(&vec![0; nodes], 256, 3);
        let mut stay = staying(&map);
        stay.push(id(nodes + 1));
        let join_moves = filled(&map, &join_change(nodes + 1, 0));
        assert_eq!(
            join_moves,
            lower_bound(&map, &stay, &[]),
            "join of {}",
            nodes + 1
        );
        join(&mut map, nodes + 1, 0);
        apply(&mut map, &ControlCommand::Plan).unwrap();
        finish(&mut map);
        assert_even(&map);

        let gone = id(2);
        stay.retain(|node| *node != gone);
        let leave = filled(&map, &Change::Drain { node: gone });
        assert_eq!(
            leave,
            lower_bound(&map, &stay, &[gone]),
            "leave of {}",
            nodes + 1
        );
        apply(&mut map, &ControlCommand::Drain { node: gone }).unwrap();
        finish(&mut map);
        assert_even(&map);
    }
}

#[test]
fn a_cluster_grows_from_one_node_to_three_and_shrinks_back() {
    let mut map = cluster(&[0], 64, 3);
    for (nodes, replicas, learners) in [(2, 1, 1), (3, 3, 0), (4, 3, 0)] {
        join(&mut map, nodes, 0);
        apply(&mut map, &ControlCommand::Plan).unwrap();
        finish(&mut map);
        assert_even(&map);
        for of in map.partitions() {
            assert_eq!((of.replicas.len(), of.learners.len()), (replicas, learners));
        }
    }
    for (gone, replicas, learners) in [(1, 3, 0), (4, 1, 1), (2, 1, 0)] {
        apply(&mut map, &ControlCommand::Drain { node: id(gone) }).unwrap();
        finish(&mut map);
        assert_even(&map);
        for of in map.partitions() {
            assert_eq!((of.replicas.len(), of.learners.len()), (replicas, learners));
            assert!(!of.replicas.contains(&id(gone)) && !of.learners.contains(&id(gone)));
        }
    }
}

#[test]
fn five_vote_and_zones_share_the_votes() {
    let voters = |zones: &[usize]| choose_voters(&cluster(zones, 1, 3));
    assert_eq!(voters(&[0, 0]).len(), 1);
    assert_eq!(voters(&[0, 0, 0, 0]).len(), 3);
    let zones = [0, 0, 0, 0, 1, 1, 2, 2];
    let chosen = voters(&zones);
    let in_zone = |zone| {
        let of = |node: &&NodeId| zones[usize::from(node.0[15]) - 1] == zone;
        chosen.iter().filter(of).count()
    };
    let mut votes = [in_zone(0), in_zone(1), in_zone(2)];
    votes.sort_unstable();
    assert_eq!(votes, [1, 2, 2], "{chosen:?}");
}

#[test]
fn a_voter_that_is_down_is_replaced_if_another_node_can_vote() {
    let mut map = cluster(&[0, 0, 0, 0], 1, 3);
    let before = choose_voters(&map);
    let dead = before[0];
    apply(&mut map, &ControlCommand::NodeDown { node: dead }).unwrap();
    let after = choose_voters(&map);
    assert!(!after.contains(&dead) && after.len() == 3);
    assert!(before[1..].iter().all(|voter| after.contains(voter)));

    let mut map = cluster(&[0, 0, 0], 1, 3);
    apply(&mut map, &ControlCommand::NodeDown { node: id(1) }).unwrap();
    assert_eq!(choose_voters(&map).len(), 3);
}

#[test]
fn several_nodes_at_once_move_no_more_than_they_must() {
    for (nodes, join_count, gone_count) in
        [(3, 3, 0), (10, 5, 0), (50, 50, 0), (10, 0, 4), (100, 0, 30)]
    {
        let mut map = cluster(&vec![0; nodes], 256, 3);
        let before = map.clone();
        for number in 1..=join_count {
            join(&mut map, nodes + number, 0);
        }
        let gone: Vec<NodeId> = (1..=gone_count).map(id).collect();
        let drains = gone
            .iter()
            .map(|node| ControlCommand::Drain { node: *node });
        let commands = drains.chain([ControlCommand::Plan]).collect();
        let mut after = map.clone();
        apply(&mut after, &ControlCommand::Batch { commands }).unwrap();
        let moves = gained(&before, &after);
        assert_eq!(moves, lower_bound(&map, &staying(&after), &gone));
        finish(&mut after);
        assert_even(&after);
    }
}

/// How many copies go to nodes that had none of the partition.
fn gained(before: &ClusterMap, after: &ClusterMap) -> usize {
    let pairs = before.partitions().iter().zip(after.partitions());
    let gained = pairs.map(|(old, new)| {
        let aim = new.target.as_ref().map_or(&new.replicas, |to| &to.replicas);
        aim.iter()
            .filter(|node| !old.replicas.contains(node))
            .count()
    });
    gained.sum()
}

/// How many nodes stay in each zone.
fn zones(map: &ClusterMap) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    for node in map.nodes().iter().filter(|node| node.is_staying()) {
        *sizes.entry(node.zone.clone()).or_default() += 1;
    }
    sizes
}

/// The least possible number of copies of one partition in its fullest zone.
fn least_crowding(map: &ClusterMap) -> usize {
    let sizes = zones(map);
    let copies = copies(map.settings().replication, sizes.values().sum());
    let fits = |most: &usize| sizes.values().map(|size| size.min(most)).sum::<usize>() >= copies;
    (1..=copies).find(fits).unwrap()
}

/// What each node would hold if partitions could be divided: the water stands at one level, except where a zone is
/// full.
fn ideal(map: &ClusterMap) -> BTreeMap<NodeId, f64> {
    let (sizes, apart) = (zones(map), least_crowding(map));
    let partitions = map.partitions().len() as f64;
    let nodes = staying(map);
    let cap = |node: &NodeId| {
        let size = sizes[&map.node(*node).unwrap().zone];
        partitions * size.min(apart) as f64 / size as f64
    };
    let total = partitions * copies(map.settings().replication, nodes.len()) as f64;
    let (mut low, mut high) = (0.0, partitions);
    for _ in 0..100 {
        let level = (low + high) / 2.0;
        let held: f64 = nodes.iter().map(|node| cap(node).min(level)).sum();
        if held < total {
            low = level;
        } else {
            high = level;
        }
    }
    nodes
        .iter()
        .map(|node| (*node, cap(node).min(high)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Joins and leaves in any order, in one zone or in several of equal size: even, apart, and no needless move.
    #[test]
    fn any_history_stays_even_and_moves_little(
        zones in prop_oneof![Just(1usize), Just(3), Just(4)],
        each in 1usize..12,
        partitions in prop_oneof![Just(16u16), Just(64), Just(100)],
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let first = zones * each;
        prop_assume!(first >= 3);
        let layout: Vec<usize> = (0..first).map(|at| at % zones).collect();
        let mut map = cluster(&layout, partitions, 3);
        let mut number = first;
        for (joins, which) in steps {
            let (stay, before) = (staying(&map), map.clone());
            if joins || stay.len() <= 3 {
                number += 1;
                let zone = number % zones;
                let mut with = stay.clone();
                with.push(id(number));
                let moves = filled(&map, &join_change(number, zone));
                if zones == 1 {
                    prop_assert_eq!(moves, lower_bound(&map, &with, &[]));
                }
                join(&mut map, number, zone);
                apply(&mut map, &ControlCommand::Plan).unwrap();
            } else {
                let gone = stay[which.index(stay.len())];
                let rest: Vec<NodeId> = stay.into_iter().filter(|node| *node != gone).collect();
                let moves = filled(&map, &Change::Drain { node: gone });
                if zones == 1 {
                    prop_assert_eq!(moves, lower_bound(&map, &rest, &[gone]));
                }
                apply(&mut map, &ControlCommand::Drain { node: gone }).unwrap();
            }
            finish(&mut map);
            if zones == 1 {
                assert_even(&map);
            }
            prop_assert!(crowding(&map) <= least_crowding(&map));
            for (node, ideal) in ideal(&map) {
                let held = loads(&map, &[node])[0].0 as f64;
                prop_assert!((held - ideal).abs() < 1.0 + 1e-6, "{held} of {ideal}");
            }
            // What the new shares ask for moves, and little else: where the zones do not fit, a copy has to make room.
            let nodes = staying(&map);
            let more = loads(&before, &nodes).into_iter().zip(loads(&map, &nodes));
            let more: usize = more.map(|(old, new)| new.0.saturating_sub(old.0)).sum();
            let moved = gained(&before, &map);
            prop_assert!(moved >= more && moved <= more + if zones == 1 { 0 } else { 2 + more }, "{moved}, {more}");
            prop_assert!(map.partitions().iter().all(|of| of.target.is_none()));
            let plan = plan(&map, &Change::Rebalance).unwrap();
            prop_assert_eq!(plan.moves.len(), 0);
        }
    }
}
