//! Nodes that are stopped in an orderly way, one by one and all at once, while records come and go.

use std::thread;
use std::time::Duration;

use super::scene::Scene;

/// How long nothing may be acknowledged while a leader hands over, in a debug build, beside what the machine does to
/// everything anyway.
const GAP_MAX: Duration = Duration::from_secs(1);

#[test]
fn a_rolling_restart_is_hardly_felt() {
    let mut scene = Scene::three_nodes();
    let (usual, ()) = scene.longest_gap(|| thread::sleep(Duration::from_secs(2)));
    let mut gaps = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let address = scene.cluster.address(name).to_owned();
        let pid = scene.cluster.process(name).id();
        let (gap, ()) = scene.longest_gap(|| {
            // The harness needs the cluster for itself to stop a node, and so does the meter.
            terminate(pid);
            let gone = crate::mesh::until(|| is_gone(pid));
            assert!(gone, "{name} at {address} stops");
        });
        assert!(scene.cluster.stop(name).success(), "{name}");
        gaps.push(gap);
        scene.gets_on();
        scene.cluster.serve(name);
        scene.cluster.is_whole();
    }
    println!("longest time without an acknowledgement: usually {usual:?}, at each SIGTERM {gaps:?}");
    gaps.sort();
    assert!(gaps[1] < GAP_MAX + 2 * usual, "{gaps:?}, usually {usual:?}");
    scene.ends_well(3);
}

#[test]
fn a_cluster_that_is_stopped_whole_comes_back_whole() {
    let mut scene = Scene::three_nodes();
    for _ in 0..2 {
        scene.cluster.stop_all();
        scene.cluster.serve_all(3);
        scene.gets_on();
        scene.load.check();
    }
    scene.ends_well(3);
}
