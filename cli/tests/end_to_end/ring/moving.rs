//! Nodes die on both sides of a copy that is on its way.

use serde_json::Value;

use super::scene::Scene;
use crate::cluster::Cluster;
use crate::mesh::until;

/// So slow that a copy is met on its way, in bytes a second.
const SLOW: u64 = 400_000;
/// For what nobody has to meet.
const FAST: u64 = 0;

const BULK: [&str; 4] = ["bulk/a", "bulk/b", "bulk/c", "bulk/d"];

/// So many nodes that copy slowly, with something to copy.
fn slow(nodes: usize) -> Scene {
    let mut cluster = Cluster::stopped(nodes, &[]);
    for number in 1..=nodes {
        cluster.configure(&format!("n{number}"), "transfer_bytes_per_second", SLOW);
    }
    cluster.serve_all(nodes);
    cluster.is_whole();
    let line = "0123456789abcdef".repeat(64);
    let lines = vec![line; 800].join("\n");
    std::fs::write(cluster.path("bulk"), lines).unwrap();
    for topic in BULK {
        cluster.ok(&["publish", topic, "--file", "bulk", "--quiet"]);
    }
    Scene::on(cluster)
}

/// Who gives and who takes, once a copy is on its way that was not before.
#[track_caller]
fn under_way(cluster: &Cluster) -> (String, String) {
    let mut last = Value::Null;
    let found = until(|| {
        let ran = cluster.run(&["status", "--output", "json"]);
        last = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        last["transfers"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    assert!(found, "no copy on its way: {last}");
    let text = |field: &str| last["transfers"][0][field].as_str().unwrap().to_owned();
    (text("from"), text("to"))
}

/// Kills and starts again, and everything else goes on. What it gives from now on, it gives quickly.
fn dies_and_returns(scene: &mut Scene, name: &str) {
    scene.cluster.kill(name);
    scene.gets_on();
    scene
        .cluster
        .configure(name, "transfer_bytes_per_second", FAST);
    scene.cluster.serve(name);
    scene.gets_on();
}

fn ends_well(scene: Scene) {
    let cluster = scene.ends_well(3);
    for topic in BULK {
        cluster.is_identical(topic, 3);
    }
}

#[test]
fn a_join_outlives_the_death_of_either_side() {
    let mut scene = slow(3);
    scene.cluster.ok(&["node", "new", "mesh/n4", "--port", "0"]);
    scene.cluster.ok(&["node", "join", "mesh/n4", "--no-wait"]);
    scene.cluster.serve("n4");
    let (_, taker) = under_way(&scene.cluster);
    assert_eq!(taker, "n4");
    dies_and_returns(&mut scene, &taker);
    let (giver, _) = under_way(&scene.cluster);
    dies_and_returns(&mut scene, &giver);
    scene
        .cluster
        .ok(&["node", "join", "mesh/n4", "--wait", "--timeout", "60s"]);
    assert_eq!(scene.cluster.count("n4", "partitions"), 6);
    ends_well(scene);
}

#[test]
fn a_drain_outlives_the_death_of_either_side() {
    let mut scene = slow(4);
    scene.cluster.ok(&["node", "drain", "n1", "--no-wait"]);
    let (_, taker) = under_way(&scene.cluster);
    assert_ne!(taker, "n1");
    dies_and_returns(&mut scene, &taker);
    let (giver, _) = under_way(&scene.cluster);
    dies_and_returns(&mut scene, &giver);
    if giver != "n1" {
        dies_and_returns(&mut scene, "n1");
    }
    scene
        .cluster
        .ok(&["node", "drain", "n1", "--timeout", "60s"]);
    assert_eq!(scene.cluster.count("n1", "partitions"), 0);
    assert!(scene.cluster.stop("n1").success());
    scene.cluster.ok(&["node", "remove", "n1"]);
    ends_well(scene);
}
