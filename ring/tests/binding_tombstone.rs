//! Stamps, and rounds about tombstones.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cluster;

use std::convert::Infallible;

use bytes::Bytes;
use cluster::{cluster, finish, id, join, partition};
use mesh_ring::control::{ControlCommand, apply};
use mesh_ring::map::ClusterMap;
use mesh_ring::merkle::LeafSum;
use mesh_ring::tombstone::{
    Answer, COLLECT_KEYS_MAX, Candidate, Holding, Knowledge, NotNow, Question, Refusal, Round,
    Stamp, Verdict, Void, look, raise,
};

fn stamp(map_version: u64, fence: u64) -> Stamp {
    Stamp { map_version, fence }
}

fn candidate(number: u64) -> Candidate {
    Candidate {
        key: Bytes::from(number.to_string()),
        digest: LeafSum([number, 0, 0, 0]),
    }
}

fn begin(map: &ClusterMap, own: usize, candidates: usize) -> Result<Round, NotNow> {
    let candidates = (0..candidates as u64).map(candidate).collect();
    Round::new(map, id(own), |_| true, partition(0), 4, candidates)
}

fn all(holding: Holding) -> impl FnMut(&[u8]) -> Result<Holding, Infallible> {
    move |_| Ok(holding)
}

fn clear(question: &Question) -> Answer {
    let Ok(answer) = look(question, question.map_version, false, all(Holding::Nothing));
    answer
}

#[test]
fn a_state_is_admitted_at_its_receivers_fence_and_above() {
    let knowledge = Knowledge {
        map_version: 9,
        member_since: 3,
        fence: 5,
    };
    assert_eq!(knowledge.admit(stamp(9, 5)), Ok(()));
    assert_eq!(knowledge.admit(stamp(3, 6)), Ok(()));
    let fenced = Refusal::Fenced { sent: 4, fence: 5 };
    assert_eq!(knowledge.admit(stamp(9, 4)), Err(fenced));
    let old = Refusal::OldMap { sent: 2, since: 3 };
    assert_eq!(knowledge.admit(stamp(2, 9)), Err(old));
    let new = Refusal::NewMap { sent: 10, known: 9 };
    assert_eq!(knowledge.admit(stamp(10, 4)), Err(new));
    assert_eq!(stamp(9, 4).oldest(stamp(3, 6)), stamp(3, 4));
    assert_eq!(Stamp::NEWEST.oldest(stamp(3, 6)), stamp(3, 6));
}

#[test]
fn a_round_collects_what_every_node_of_the_cluster_is_clear_of() {
    let map = cluster(&[1, 2, 3, 1, 2], 1, 3);
    let homes = map.partitions()[0].replicas.clone();
    let own = (1..=5).find(|n| homes[0] == id(*n)).unwrap();
    let mut round = begin(&map, own, 3).unwrap();
    let question = round.question().clone();
    assert_eq!((question.fence, question.map_version), (5, map.version()));
    assert_eq!(round.waiting().len(), 5);
    // Node 2 holds the first as it is, another of the second, and cannot read the third.
    let holds = |key: &[u8]| -> Result<Holding, Infallible> {
        Ok(match key {
            b"0" => Holding::Binding(LeafSum([0; 4])),
            b"1" => Holding::Binding(LeafSum([7; 4])),
            _ => Holding::Damaged,
        })
    };
    let Ok(answer) = look(&question, question.map_version, false, holds);
    let expected = vec![true, false, false];
    assert_eq!(answer, Answer::Looked { clear: expected });
    assert_eq!(round.answered(id(2), &answer), None);
    for node in [1, 3, 4, 1, 3] {
        assert_eq!(round.answered(id(node), &clear(&question)), None);
    }
    let candidates = vec![candidate(0)];
    let nodes = homes;
    let verdict = Verdict::Collect { nodes, candidates };
    assert_eq!(round.answered(id(5), &clear(&question)), Some(verdict));
}

#[test]
fn hints_and_other_maps_and_higher_fences_void_a_round() {
    let map = cluster(&[1, 2, 3], 1, 3);
    let question = begin(&map, 1, 1).unwrap().question().clone();
    let version = map.version();
    assert_eq!(raise(&question, version, 4), Ok(5));
    assert_eq!(raise(&question, version, 5), Err(Void::Fenced { fence: 5 }));
    let known = version + 1;
    assert_eq!(raise(&question, known, 4), Err(Void::OtherMap { known }));
    let Ok(moved) = look(&question, known, false, all(Holding::Nothing));
    assert_eq!(moved, Answer::Void(Void::OtherMap { known }));
    let Ok(hints) = look(&question, version, true, all(Holding::Nothing));
    let mut round = begin(&map, 1, 1).unwrap();
    let (node, cause) = (id(2), Void::Hints);
    assert_eq!(
        round.answered(node, &hints),
        Some(Verdict::Void { node, cause })
    );
}

#[test]
fn no_round_begins_where_it_cannot_succeed() {
    let mut map = cluster(&[1, 2, 3], 1, 3);
    assert_eq!(
        begin(&map, 9, 1).err(),
        Some(NotNow::NotReplica(partition(0)))
    );
    assert_eq!(begin(&map, 1, 0).err(), Some(NotNow::Candidates(0)));
    let many = COLLECT_KEYS_MAX + 1;
    assert_eq!(begin(&map, 1, many).err(), Some(NotNow::Candidates(many)));
    let away = |node| node != id(3);
    let candidates = vec![candidate(1)];
    let round = Round::new(&map, id(1), away, partition(0), 0, candidates.clone());
    assert_eq!(round.err(), Some(NotNow::Away(id(3))));
    let round = Round::new(&map, id(1), away, partition(7), 0, candidates);
    assert_eq!(round.err(), Some(NotNow::NoPartition(partition(7))));

    join(&mut map, 4, 4);
    apply(&mut map, &ControlCommand::Drain { node: id(3) }).unwrap();
    assert_eq!(begin(&map, 1, 1).err(), Some(NotNow::Moving(partition(0))));
    finish(&mut map);
    assert!(map.partitions()[0].replicas.contains(&id(4)));
    // A drained node may still hold hints, or its old copy.
    assert!(begin(&map, 1, 1).unwrap().waiting().contains(&id(3)));
    apply(&mut map, &ControlCommand::Remove { node: id(3) }).unwrap();
    assert!(!begin(&map, 1, 1).unwrap().waiting().contains(&id(3)));
}

#[test]
fn a_node_that_never_registered_is_not_asked() {
    let mut map = cluster(&[1, 2, 3], 1, 3);
    let command = ControlCommand::Admit {
        node: id(4),
        name: "n4".to_owned(),
        address: "n4.example:7400".to_owned(),
        zone: String::new(),
    };
    apply(&mut map, &command).unwrap();
    assert_eq!(begin(&map, 1, 1).unwrap().waiting().len(), 3);
}
