//! Nodes die and freeze under load: what was acknowledged stays, and what goes on goes on by itself.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::load::{Load, TOPICS, topic};
use crate::mesh::{signal, until};

/// Acknowledgements between two blows.
const ROUND_ACKS: usize = 150;
/// How long it may take until others are acknowledged again, in a debug build on a machine that does other things, too.
const TAKEOVER_MAX: Duration = Duration::from_secs(10);

fn with_load() -> (Cluster, Load) {
    let cluster = Cluster::start(3);
    for number in 0..TOPICS {
        cluster.ok(&["topic", "create", &topic(number)]);
    }
    let load = Load::start(&cluster.client_file());
    (cluster, load)
}

/// Waits until the load gets on, and says how long that took.
#[track_caller]
fn gets_on(load: &Load) -> Duration {
    let began = Instant::now();
    let before = load.acknowledged();
    assert!(
        until(|| load.acknowledged() >= before + ROUND_ACKS),
        "the load stands still"
    );
    began.elapsed()
}

fn all_identical(cluster: &Cluster) {
    for number in 0..TOPICS {
        cluster.is_identical(&topic(number), 3);
    }
}

#[test]
fn each_node_in_turn_is_killed_under_load() {
    let (mut cluster, load) = with_load();
    gets_on(&load);
    for name in ["n1", "n2", "n3"] {
        cluster.kill(name);
        let took = gets_on(&load);
        assert!(took < TAKEOVER_MAX, "{took:?} without {name}");
        assert!(until(|| cluster.states()[name] == "down"));
        let lacking = cluster.json(&["status"])["under_replicated"].as_u64();
        assert_eq!(lacking, Some(8));
        cluster.serve(name);
        cluster.is_whole();
        load.check();
    }
    load.finish();
    all_identical(&cluster);
    cluster.stop_all();
}

#[test]
fn all_nodes_are_killed_at_once_under_load() {
    let (mut cluster, load) = with_load();
    for _ in 0..2 {
        gets_on(&load);
        cluster.kill_all();
        cluster.serve_all(3);
        gets_on(&load);
        load.check();
    }
    cluster.is_whole();
    load.finish();
    all_identical(&cluster);
}

#[test]
fn a_frozen_leader_is_fenced_when_it_comes_to() {
    let (cluster, load) = with_load();
    gets_on(&load);
    let leader = cluster.leader(&topic(0));
    signal(cluster.process(&leader), Signal::STOP);
    gets_on(&load);
    // Longer than anyone waits for it.
    thread::sleep(Duration::from_secs(5));
    assert_ne!(cluster.leader(&topic(0)), leader);
    signal(cluster.process(&leader), Signal::CONT);
    cluster.is_whole();
    gets_on(&load);
    load.finish();
    all_identical(&cluster);
}
