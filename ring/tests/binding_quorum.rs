//! Preference lists, and the machines of writes and reads.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cluster;

use std::collections::BTreeSet;

use bytes::Bytes;
use cluster::{cluster, id};
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::preference::Preference;
use mesh_ring::quorum::{
    Answer, Outcome, Read, ReadEffect, ReadOutcome, Refused, Repair, Role, Write, WriteEffect,
};
use mesh_ring::tombstone::Stamp;
use mesh_ring::version::Dot;
use proptest::prelude::*;

/// Homes 1, 2, 3 and stand-ins 4, 5.
fn five() -> Preference {
    Preference {
        map_version: 7,
        partition: PartitionId(0),
        homes: vec![id(1), id(2), id(3)],
        copies: Vec::new(),
        stand_ins: vec![id(4), id(5)],
    }
}

fn live(nodes: &[usize]) -> impl Fn(NodeId) -> bool {
    move |node| nodes.iter().any(|number| id(*number) == node)
}

fn home(number: usize) -> WriteEffect {
    let (node, role) = (id(number), Role::Home);
    WriteEffect::Ask { node, role }
}

fn hint(number: usize, home: usize) -> WriteEffect {
    let (node, role) = (id(number), stand_in(home));
    WriteEffect::Ask { node, role }
}

fn stand_in(home: usize) -> Role {
    Role::StandIn { home: id(home) }
}

fn written(acknowledged: &[usize], hinted: &[(usize, usize)]) -> WriteEffect {
    WriteEffect::Done(Outcome::Written {
        acknowledged: acknowledged.iter().map(|n| id(*n)).collect(),
        hinted: hinted.iter().map(|(by, of)| (id(*by), id(*of))).collect(),
    })
}

fn start(own: usize, need: usize, alive: &[usize]) -> (Write, Vec<WriteEffect>) {
    let mut out = Vec::new();
    let write = Write::new(&five(), id(own), need, live(alive), &mut out).unwrap();
    (write, out)
}

#[test]
fn a_list_has_every_node_that_stays_once_and_depends_on_the_partition() {
    let map = cluster(&[1, 2, 3, 1, 2, 3, 1], 64, 3);
    let mut firsts = BTreeSet::new();
    for (partition, of) in map.assignments() {
        let preference = Preference::of(&map, partition).unwrap();
        assert_eq!(preference.homes, of.replicas);
        assert_eq!((preference.copies.len(), preference.majority()), (0, 2));
        let all: BTreeSet<NodeId> = preference
            .homes
            .iter()
            .chain(&preference.stand_ins)
            .copied()
            .collect();
        assert_eq!((all.len(), preference.stand_ins.len()), (7, 4));
        firsts.insert(preference.stand_ins[0]);
        assert_eq!(preference.coordinator(|_| true), Some(of.replicas[0]));
        let away = |node: NodeId| !of.replicas.contains(&node);
        assert_eq!(preference.coordinator(away), Some(preference.stand_ins[0]));
        assert_eq!(preference.coordinator(|_| false), None);
    }
    assert!(firsts.len() > 4, "the work is spread: {firsts:?}");
    assert_eq!(Preference::of(&map, PartitionId(64)), None);
}

#[test]
fn a_node_that_goes_moves_no_other_stand_in() {
    let of = |zones: &[usize]| {
        let map = cluster(zones, 8, 1);
        let lists = (0..8).map(|p| Preference::of(&map, PartitionId(p)).unwrap());
        let all = lists.map(|l| {
            l.homes
                .into_iter()
                .chain(l.stand_ins)
                .collect::<BTreeSet<_>>()
        });
        assert!(all.into_iter().all(|all| all.len() == zones.len()));
        map
    };
    let (six, five) = (of(&[1, 1, 1, 1, 1, 1]), of(&[1, 1, 1, 1, 1]));
    for partition in (0..8).map(PartitionId) {
        let (a, b) = (
            Preference::of(&six, partition).unwrap(),
            Preference::of(&five, partition).unwrap(),
        );
        let both = |list: &Preference, other: &Preference| -> Vec<NodeId> {
            let known = list.stand_ins.iter().copied();
            known
                .filter(|node| other.stand_ins.contains(node))
                .collect()
        };
        assert_eq!(both(&a, &b), both(&b, &a));
    }
}

#[test]
fn a_write_is_done_at_the_quorum_and_goes_on_to_the_rest() {
    let (mut write, mut out) = start(1, 2, &[1, 2, 3, 4, 5]);
    assert_eq!(out, [home(1), home(2), home(3)]);
    out.clear();
    write.acknowledged(id(1), Role::Home, &mut out);
    write.acknowledged(id(1), Role::Home, &mut out);
    assert_eq!(out, []);
    write.acknowledged(id(3), Role::Home, &mut out);
    assert_eq!(out, [written(&[1, 3], &[])]);
    assert!(!write.is_settled());
    out.clear();
    write.failed(id(2), Role::Home, &mut out);
    assert_eq!(out, [hint(4, 2)]);
    out.clear();
    write.acknowledged(id(4), stand_in(2), &mut out);
    assert!(out.is_empty() && write.is_settled());
}

#[test]
fn the_coordinator_counts_like_any_other() {
    let (mut write, mut out) = start(1, 2, &[1, 2, 3]);
    out.clear();
    write.failed(id(1), Role::Home, &mut out);
    write.acknowledged(id(2), Role::Home, &mut out);
    assert_eq!(out, []);
    write.acknowledged(id(3), Role::Home, &mut out);
    assert_eq!(out, [written(&[2, 3], &[])]);

    let (mut write, mut out) = start(1, 2, &[1, 2, 3]);
    out.clear();
    write.acknowledged(id(2), Role::Home, &mut out);
    write.deadline(&mut out);
    let too_few = WriteEffect::Done(Outcome::TooFew { need: 2, have: 1 });
    assert_eq!(out, [too_few]);
    assert!(write.is_settled());
}

#[test]
fn homes_that_are_away_are_stood_in_for() {
    let (mut write, mut out) = start(3, 3, &[3, 4, 5]);
    assert_eq!(out, [home(3), hint(4, 1), hint(5, 2)]);
    out.clear();
    write.acknowledged(id(3), Role::Home, &mut out);
    write.acknowledged(id(5), stand_in(2), &mut out);
    write.acknowledged(id(4), stand_in(1), &mut out);
    assert_eq!(out, [written(&[3, 5, 4], &[(4, 1), (5, 2)])]);
}

#[test]
fn all_homes_are_away_and_two_others_are_enough() {
    let (mut write, mut out) = start(5, 2, &[4, 5]);
    assert_eq!(out, [hint(5, 1), hint(4, 2)]);
    out.clear();
    write.acknowledged(id(4), stand_in(2), &mut out);
    write.acknowledged(id(5), stand_in(1), &mut out);
    assert_eq!(out, [written(&[4, 5], &[(5, 1), (4, 2)])]);
}

#[test]
fn too_few_say_both_numbers() {
    let (mut write, mut out) = start(1, 2, &[1]);
    assert_eq!(out, [home(1)]);
    out.clear();
    write.acknowledged(id(1), Role::Home, &mut out);
    let too_few = WriteEffect::Done(Outcome::TooFew { need: 2, have: 1 });
    assert_eq!(out, [too_few]);
    assert!(write.is_settled());

    let mut out = Vec::new();
    for need in [0, 4] {
        let refused = Write::new(&five(), id(1), need, |_| true, &mut out).err();
        assert_eq!(refused, Some(Refused::Impossible { need, max: 3 }));
    }
    let stranger = Write::new(&five(), id(9), 1, |_| true, &mut out).err();
    assert_eq!((stranger, out.len()), (Some(Refused::NotResponsible), 0));
}

#[test]
fn who_is_late_is_replaced_and_still_counts() {
    let (mut write, mut out) = start(1, 3, &[1, 2, 3, 4]);
    write.acknowledged(id(1), Role::Home, &mut out);
    write.acknowledged(id(2), Role::Home, &mut out);
    out.clear();
    write.late(id(3), Role::Home, &mut out);
    assert_eq!(out, [hint(4, 3)]);
    out.clear();
    write.failed(id(4), stand_in(3), &mut out);
    assert_eq!(out, []);
    write.acknowledged(id(3), Role::Home, &mut out);
    assert_eq!(out, [written(&[1, 2, 3], &[])]);
}

#[test]
fn a_coordinator_that_is_no_home_keeps_a_hint() {
    let (_, out) = start(5, 1, &[1, 2, 3, 4, 5]);
    assert_eq!(out, [hint(5, 1), home(1), home(2), home(3)]);
}

#[test]
fn a_copy_counts_for_nothing_until_it_stands_in() {
    let mut preference = five();
    preference.copies = vec![id(4)];
    let mut out = Vec::new();
    let mut write = Write::new(&preference, id(1), 2, live(&[1, 2, 3, 4]), &mut out).unwrap();
    let (node, role) = (id(4), Role::Copy);
    let copy = WriteEffect::Ask { node, role };
    assert_eq!(out, [home(1), home(2), home(3), copy]);
    out.clear();
    write.acknowledged(id(1), Role::Home, &mut out);
    write.failed(id(2), Role::Home, &mut out);
    assert_eq!(out, [hint(4, 2)]);
    out.clear();
    write.acknowledged(id(4), Role::Copy, &mut out);
    assert_eq!(out, []);
    write.acknowledged(id(4), stand_in(2), &mut out);
    assert_eq!(out, [written(&[1, 4], &[(4, 2)])]);
}

fn state(counter: u64) -> Binding {
    let node = id(1);
    let version = Version {
        dot: Dot {
            node,
            boot: 1,
            counter,
        },
        hlc: Hlc(counter),
        expires_ms: None,
        content: Content::Value(Bytes::from(counter.to_string())),
    };
    Binding::default().write(None, version).unwrap()
}

fn says(counter: u64, fence: u64) -> Answer {
    let binding = if counter == 0 {
        Binding::default()
    } else {
        state(counter)
    };
    let stamp = Stamp {
        map_version: 7,
        fence,
    };
    Answer { binding, stamp }
}

fn read(own: usize, need: usize, alive: &[usize], away: &[usize]) -> (Read, Vec<ReadEffect>) {
    let mut out = Vec::new();
    let read = Read::new(&five(), id(own), need, live(alive), live(away), &mut out).unwrap();
    (read, out)
}

fn ask(numbers: &[usize]) -> Vec<ReadEffect> {
    numbers.iter().map(|n| ReadEffect::Ask(id(*n))).collect()
}

fn found(counter: u64, homes: &[usize], stand_ins: &[usize]) -> ReadEffect {
    ReadEffect::Done(ReadOutcome::Read {
        binding: if counter == 0 {
            Binding::default()
        } else {
            state(counter)
        },
        homes: homes.iter().map(|n| id(*n)).collect(),
        stand_ins: stand_ins.iter().map(|n| id(*n)).collect(),
    })
}

#[test]
fn a_read_is_done_at_the_quorum_and_repairs_when_all_have_answered() {
    let (mut read, mut out) = read(1, 2, &[1, 2, 3, 4, 5], &[]);
    assert_eq!(out, ask(&[1, 2, 3]));
    out.clear();
    read.answered(id(1), says(1, 5), &mut out);
    read.answered(id(2), says(2, 3), &mut out);
    assert_eq!(out, [found(2, &[1, 2], &[])]);
    out.clear();
    read.answered(id(3), says(2, 4), &mut out);
    let (node, binding) = (id(1), state(2));
    let stamp = Stamp {
        map_version: 7,
        fence: 3,
    };
    assert_eq!(
        out,
        [ReadEffect::Repair(Repair {
            node,
            binding,
            stamp
        })]
    );
    assert!(read.is_settled());
}

#[test]
fn a_stand_in_without_hints_does_not_pass_for_a_home_that_lives() {
    let (mut read, mut out) = read(1, 2, &[1, 2, 3, 4], &[1]);
    assert_eq!(out, ask(&[1, 4, 2, 3]));
    out.clear();
    // Node 1 has just returned, stale; the last write is at 2 and 3.
    read.answered(id(1), says(0, 1), &mut out);
    read.answered(id(4), says(0, 1), &mut out);
    assert_eq!(out, []);
    read.answered(id(3), says(2, 1), &mut out);
    assert_eq!(out, [found(2, &[1, 3], &[4])]);
}

#[test]
fn stand_ins_answer_for_homes_that_are_away() {
    let (mut read, mut out) = read(4, 2, &[4, 5], &[]);
    assert_eq!(out, ask(&[4, 5]));
    out.clear();
    read.answered(id(5), says(1, 1), &mut out);
    read.answered(id(4), says(0, 1), &mut out);
    assert_eq!(out, [found(1, &[], &[4, 5])]);
    assert!(read.is_settled());
}

#[test]
fn a_read_without_enough_answers_says_both_numbers() {
    let (mut read, mut out) = read(1, 2, &[1, 2], &[]);
    out.clear();
    read.answered(id(1), says(1, 1), &mut out);
    read.failed(id(2), &mut out);
    assert_eq!(
        out,
        [ReadEffect::Done(ReadOutcome::TooFew { need: 2, have: 1 })]
    );
}

proptest! {
    /// Whatever answers come in whatever order: one outcome, never success below the quorum, no node asked twice.
    #[test]
    fn a_write_never_succeeds_below_its_quorum(
        need in 1_usize..=3, own in 1_usize..=5, alive: [bool; 5], answers in prop::collection::vec(0_usize..24, 0..40)
    ) {
        let alive: Vec<usize> = (1..=5).filter(|n| alive[n - 1]).collect();
        let mut out = Vec::new();
        let mut write = Write::new(&five(), id(own), need, live(&alive), &mut out).unwrap();
        let mut acknowledged = BTreeSet::new();
        let mut answered = BTreeSet::new();
        for answer in answers {
            let asked: Vec<(NodeId, Role)> = out.iter().filter_map(|effect| match effect {
                WriteEffect::Ask { node, role } => Some((*node, *role)),
                WriteEffect::Done(_) => None,
            }).collect();
            let (node, role) = asked[answer / 4 % asked.len()];
            match answer % 4 {
                0 | 1 => {
                    if answered.insert(node) { acknowledged.insert(node); }
                    write.acknowledged(node, role, &mut out);
                }
                2 => { answered.insert(node); write.failed(node, role, &mut out); }
                _ => write.late(node, role, &mut out),
            }
            let done = out.iter().find_map(|effect| match effect {
                WriteEffect::Done(outcome) => Some(outcome.clone()),
                WriteEffect::Ask { .. } => None,
            });
            if let Some(Outcome::Written { acknowledged: by, .. }) = done {
                let by: BTreeSet<NodeId> = by.into_iter().collect();
                prop_assert!(by.len() >= need && by.is_subset(&acknowledged));
            }
        }
        write.deadline(&mut out);
        prop_assert!(write.is_settled());
        let outcomes = out.iter().filter(|effect| matches!(effect, WriteEffect::Done(_))).count();
        prop_assert_eq!(outcomes, 1);
        let asked: Vec<String> = out.iter().filter_map(|effect| match effect {
            WriteEffect::Ask { node, .. } => Some(node.to_string()),
            WriteEffect::Done(_) => None,
        }).collect();
        let distinct: BTreeSet<&String> = asked.iter().collect();
        prop_assert_eq!(distinct.len(), asked.len());
        let enough = acknowledged.len() >= need;
        let succeeded = out.iter().any(|e| matches!(e, WriteEffect::Done(Outcome::Written { .. })));
        prop_assert!(!succeeded || enough);
    }
}
