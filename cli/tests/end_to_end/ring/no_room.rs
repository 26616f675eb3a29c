//! A node whose disk has reached its reserve leads nothing: others have room.

use std::time::{Duration, Instant};

use super::scene::{Scene, others};
use crate::load::topic;
use crate::mesh::until;

/// Longer than it takes until leaders go back to a node that was away.
const SETTLED: Duration = Duration::from_secs(12);

#[test]
fn a_leader_at_its_reserve_resigns_and_goes_on_as_a_follower() {
    let mut scene = Scene::three_nodes();
    let full = scene.cluster.leader(&topic(0));
    assert!(scene.cluster.stop(&full).success());
    scene.cluster.configure(&full, "reserve_bytes", 1 << 60);
    scene.cluster.serve(&full);
    scene.cluster.is_whole();
    let began = Instant::now();
    while began.elapsed() < SETTLED {
        scene.gets_on();
    }
    assert!(
        until(|| scene.cluster.count(&full, "leads") == 0),
        "{}",
        scene.told()
    );
    // It has no room for requests, but for what others have decided.
    let other = others(&scene.cluster, &[&full]).remove(0);
    scene.cluster.kill(&other);
    scene.gets_on();
    scene.cluster.serve(&other);
    scene.cluster.is_whole();
    scene.gets_on();

    assert!(scene.cluster.stop(&full).success());
    scene.cluster.configure(&full, "reserve_bytes", 64 << 20);
    scene.cluster.serve(&full);
    scene.ends_well(3);
}
