//! Copies of bindings that differ are compared and healed when somebody asks for it.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::mesh::until;

/// Runs a repair; what each node has done, by name.
fn repair(cluster: &Cluster, words: &[&str]) -> Vec<Value> {
    let words = [&["repair", "--output", "json"], words].concat();
    let text = cluster.text(&words);
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn sum(nodes: &[Value], field: &str) -> u64 {
    nodes.iter().map(|node| node[field].as_u64().unwrap()).sum()
}

#[test]
fn a_node_that_missed_puts_and_deletes_is_healed_by_a_repair() {
    let mut cluster = Cluster::stopped(3, &[]);
    for name in ["n1", "n2", "n3"] {
        // Nothing is compared but what this test asks for.
        cluster.configure(name, "repair_every_seconds", 0);
    }
    cluster.serve_all(3);
    cluster.is_whole();
    for n in 0..8 {
        cluster.ok(&["put", &format!("k{n}"), "old", "--write", "3"]);
    }
    let nodes = repair(&cluster, &[]);
    let names: Vec<&str> = nodes
        .iter()
        .map(|node| node["node"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    assert_eq!((sum(&nodes, "partitions"), sum(&nodes, "sent")), (24, 0));
    assert!(sum(&nodes, "bytes") <= 48 * 1024, "{nodes:?}");

    cluster.kill("n3");
    assert!(until(|| cluster.states()["n3"] == "down"));
    for n in 0..4 {
        cluster.ok(&["put", &format!("k{n}"), "new"]);
    }
    for n in 4..6 {
        cluster.ok(&["delete", &format!("k{n}")]);
    }
    // Those that are there compare; the one that is away is named.
    let told = cluster.run(&["repair"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stderr.contains("n3"), "{told:?}");
    assert!(!told.stderr.contains("n2"), "{told:?}");
    // What they may still be about to tell it goes with them.
    for name in ["n1", "n2"] {
        cluster.kill(name);
        cluster.serve(name);
    }
    cluster.serve("n3");
    cluster.is_whole();

    let nodes = repair(&cluster, &[]);
    assert_eq!(
        sum(&nodes, "sent") + sum(&nodes, "received"),
        6,
        "{nodes:?}"
    );
    assert_eq!(sum(&nodes, "differing_leaves"), 6);
    assert_eq!(sum(&nodes, "damaged"), 0);
    let told = cluster.text(&["status"]);
    assert!(told.contains("copies of bindings differed"), "{told}");
    let again = repair(&cluster, &[]);
    assert_eq!(
        sum(&again, "sent") + sum(&again, "received"),
        0,
        "{again:?}"
    );
    let one = repair(&cluster, &["--partition", "3"]);
    assert_eq!(sum(&one, "partitions"), 3);
    cluster
        .run(&["repair", "--partition", "8"])
        .refused(2, &["partition 8"]);

    // It has all of it by itself now.
    for name in ["n1", "n2"] {
        cluster.kill(name);
    }
    let read = |key: &str| cluster.run(&["get", key, "--read", "1"]);
    assert!(until(|| read("k0").code == Some(0)));
    for n in 0..4 {
        assert_eq!(read(&format!("k{n}")).text(), "new");
    }
    for n in 4..6 {
        read(&format!("k{n}")).refused(3, &[]);
    }
    cluster.kill("n3");
    assert_eq!(cluster.run(&["repair"]).code, Some(4));
}
