//! Nodes die and freeze under load: what was acknowledged stays, and what goes on goes on by itself.

use std::thread;
use std::time::Duration;

use crate::load::topic;
use crate::mesh::until;
use crate::ring::scene::Scene;

/// How long it may take until others are acknowledged again, in a debug build on a machine that does other things, too.
const TAKEOVER_MAX: Duration = Duration::from_secs(10);

#[test]
fn each_node_in_turn_is_killed_under_load() {
    let mut scene = Scene::three_nodes();
    for name in ["n1", "n2", "n3"] {
        scene.cluster.kill(name);
        let took = scene.gets_on();
        assert!(took < TAKEOVER_MAX, "{took:?} without {name}");
        assert!(until(|| scene.cluster.states()[name] == "down"));
        let lacking = scene.cluster.json(&["status"])["under_replicated"].as_u64();
        assert_eq!(lacking, Some(8));
        scene.cluster.serve(name);
        scene.cluster.is_whole();
        scene.load.check();
    }
    scene.ends_well(3).stop_all();
}

#[test]
fn all_nodes_are_killed_at_once_under_load() {
    let mut scene = Scene::three_nodes();
    for _ in 0..2 {
        scene.gets_on();
        scene.cluster.kill_all();
        scene.cluster.serve_all(3);
        scene.gets_on();
        scene.load.check();
    }
    scene.ends_well(3);
}

#[test]
fn a_frozen_leader_is_fenced_when_it_comes_to() {
    let scene = Scene::three_nodes();
    let leader = scene.cluster.leader(&topic(0));
    scene.cluster.pause(&leader);
    scene.gets_on();
    // Longer than anyone waits for it.
    thread::sleep(Duration::from_secs(5));
    assert_ne!(scene.cluster.leader(&topic(0)), leader);
    scene.cluster.go_on(&leader);
    scene.cluster.is_whole();
    scene.gets_on();
    scene.ends_well(3);
}
