//! Nodes that freeze for longer than anyone waits, and then go on as if nothing had been.

use std::thread;
use std::time::Duration;

use super::scene::{Scene, others};
use crate::load::topic;
use crate::mesh::{meshctl, until, wait};

/// Longer than a node may be silent before it counts as dead.
const PAUSE: Duration = Duration::from_secs(5);

/// A frozen leader takes a request as it comes to: it must not answer it by what it believes.
#[test]
fn what_a_frozen_leader_is_asked_is_done_by_its_successor() {
    let scene = Scene::three_nodes();
    let cluster = &scene.cluster;
    let stage = topic(0);
    let before = cluster.json(&["topic", "describe", &stage]);
    let frozen = before["leader"].as_str().unwrap().to_owned();
    cluster.ok(&["publish", "asked", "before"]);
    cluster.pause(&frozen);
    let mut asked = meshctl(&cluster.path(""));
    asked.args(["publish", "asked", "of the frozen one", "--timeout", "30s"]);
    asked.args(["--node", cluster.address(&frozen)]);
    let mut asked = asked.spawn().unwrap();
    let began = std::time::Instant::now();
    scene.gets_on();
    thread::sleep(PAUSE.saturating_sub(began.elapsed()));

    let through = others(cluster, &[&frozen]).remove(0);
    let now = cluster.json(&[
        "topic",
        "describe",
        &stage,
        "--node",
        cluster.address(&through),
    ]);
    assert_ne!(now["leader"], before["leader"], "somebody else leads");
    assert!(now["epoch"].as_u64() > before["epoch"].as_u64(), "{now}");
    assert_eq!(cluster.states()[&frozen], "down");

    cluster.go_on(&frozen);
    let status = wait(&mut asked).expect("what was asked of it is answered");
    assert!(status.success(), "{status}");
    assert_eq!(
        cluster.text(&["tail", "asked"]),
        "before\nof the frozen one",
        "once"
    );
    let node = cluster.address(&frozen).to_owned();
    assert!(
        until(|| {
            let ran = cluster.run(&["tail", "asked", "--last", "1", "--node", &node]);
            ran.stdout == b"of the frozen one\n"
        }),
        "it follows again"
    );
    scene.gets_on();
    let cluster = scene.ends_well(3);
    cluster.is_identical("asked", 3);
}

#[test]
fn a_cluster_that_freezes_whole_goes_on_where_it_was() {
    let scene = Scene::three_nodes();
    let names = scene.cluster.names();
    names.iter().for_each(|name| scene.cluster.pause(name));
    thread::sleep(Duration::from_secs(2));
    // One after the other, so that each in turn finds the rest silent.
    for name in &names {
        scene.cluster.go_on(name);
        thread::sleep(Duration::from_millis(300));
    }
    scene.gets_on();
    scene.ends_well(3);
}
