//! Nodes that are stopped in an orderly way, one by one and all at once, while records come and go.

use std::thread;
use std::time::Duration;

use super::scene::{Scene, longest_gap};

/// How long nothing may be acknowledged while a leader hands over, in a debug build, beside what the machine does to
/// everything anyway.
const GAP_MAX: Duration = Duration::from_secs(1);

/// How long the meter looks on when the node is gone.
const AFTERWARDS: Duration = Duration::from_secs(1);

#[test]
fn a_rolling_restart_is_hardly_felt() {
    let mut scene = Scene::three_nodes();
    let (usual, ()) = longest_gap(&scene.load, || thread::sleep(AFTERWARDS));
    let mut gaps = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let Scene { cluster, load } = &mut scene;
        let (gap, status) = longest_gap(load, || {
            let status = cluster.stop(name);
            thread::sleep(AFTERWARDS);
            status
        });
        assert!(status.success(), "{name}: {status}");
        gaps.push(gap);
        scene.gets_on();
        scene.cluster.serve(name);
        scene.cluster.is_whole();
    }
    println!(
        "longest time without an acknowledgement: usually {usual:?}, at each SIGTERM {gaps:?}"
    );
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
