//! Three nodes are one system: any of them takes any request, and all hold the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::input::{commits, count, from_line};

#[test]
fn any_node_takes_any_request_and_all_hold_the_same() {
    let cluster = Cluster::start(3);
    let input = commits();
    let records = count(&input);
    std::fs::write(cluster.path("commits.ndjson"), &input).unwrap();
    let published = cluster.text(&["publish", "commits", "--file", "commits.ndjson"]);
    assert_eq!(published, format!("0..{}", records - 1));
    let from = (records - 100).to_string();
    for name in ["n1", "n2", "n3"] {
        let node = ["--node", cluster.address(name)];
        let tail = [&["tail", "commits", "--from-offset", &from], &node[..]].concat();
        assert!(
            cluster.ok(&tail) == from_line(&input, records - 100),
            "{name}"
        );
        let topic = format!("via/{name}");
        assert_eq!(
            cluster.text(&[&["publish", &topic, "v"], &node[..]].concat()),
            "0"
        );
        cluster.ok(&[&["put", &topic, name], &node[..]].concat());
    }
    for name in ["n1", "n2", "n3"] {
        assert_eq!(cluster.text(&["get", &format!("via/{name}")]), name);
        cluster.is_identical(&format!("via/{name}"), 3);
    }
    cluster.is_identical("commits", 3);
    let acked = cluster.json(&["publish", "commits", "{}"]);
    let synced = acked["synced"].as_array().unwrap();
    assert!(synced.len() >= 2, "acknowledged by a majority: {acked}");
}

#[test]
fn the_cluster_is_described() {
    let cluster = Cluster::start(3);
    let status = cluster.json(&["status"]);
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        assert_eq!(
            (&node["state"], &node["partitions"]),
            (&json!("alive"), &json!(8))
        );
        assert!(
            (2..=3).contains(&node["leads"].as_u64().unwrap()),
            "{status}"
        );
        assert_eq!(node["id"].as_str().unwrap().len(), 32);
        let name = node["name"].as_str().unwrap();
        assert_eq!(node["address"], cluster.address(name));
        let info = cluster.json(&["info", name]);
        assert_eq!((&info["name"], &info["id"]), (&node["name"], &node["id"]));
        let storage = cluster.text(&["storage", name]);
        assert!(storage.contains("journal"), "{storage}");
    }
    assert_eq!(status["transfers"], json!([]));
    assert!(status["control_leader"].is_string(), "{status}");
    let words = cluster.text(&["status"]);
    assert!(
        words.contains("each of the 8 partitions has its 3 copies"),
        "{words}"
    );

    cluster.ok(&["publish", "t", "v"]);
    let route = cluster.json(&["routes", "--topic", "t"]);
    let described = cluster.json(&["topic", "describe", "t"]);
    for field in ["partition", "leader", "epoch", "replicas"] {
        assert_eq!(route[field], described[field], "{field}");
    }
    let ring = cluster.text(&["ring", "--output", "json"]);
    assert_eq!(ring.lines().count(), 8);
    let partition = ring
        .lines()
        .nth(route["partition"].as_u64().unwrap() as usize)
        .unwrap();
    let partition: Value = serde_json::from_str(partition).unwrap();
    assert_eq!(partition["leader"], route["leader"]);
    assert_eq!(partition["replicas"].as_array().unwrap().len(), 3);
    cluster
        .run(&["info", "n9"])
        .refused(3, &["n9", "n1, n2, n3"]);
    cluster.run(&["verify", "nothing"]).refused(3, &["nothing"]);
}

#[test]
fn copies_are_kept_in_different_zones() {
    let mut cluster = Cluster::stopped(4, &["--zones", "east,east,west,north"]);
    cluster.serve_all(4);
    cluster.is_whole();
    let status = cluster.json(&["status"]);
    let nodes = status["nodes"].as_array().unwrap();
    let zone = |name: &Value| {
        let mut named = nodes.iter().filter(|node| node["name"] == *name);
        named.next().unwrap()["zone"].as_str().unwrap().to_owned()
    };
    for line in cluster.text(&["ring", "--output", "json"]).lines() {
        let partition: Value = serde_json::from_str(line).unwrap();
        let replicas = partition["replicas"].as_array().unwrap().iter();
        let zones: BTreeSet<String> = replicas.map(zone).collect();
        assert_eq!(zones.len(), 3, "{line}");
    }
}

#[test]
fn two_nodes_are_a_leader_and_a_learner() {
    let cluster = Cluster::start(2);
    cluster.ok(&["publish", "t", "a", "b"]);
    let status = cluster.json(&["status"]);
    assert_eq!(status["under_replicated"], 0);
    assert_eq!(cluster.ok(&["tail", "t"]), b"a\nb\n");
}

#[test]
fn one_node_grows_to_three() {
    let mut cluster = Cluster::start(1);
    cluster.ok(&["publish", "t", "a", "b", "c"]);
    for name in ["n2", "n3"] {
        let folder = format!("mesh/{name}");
        cluster.ok(&["node", "new", &folder, "--port", "0"]);
        cluster.ok(&["node", "join", &folder, "--no-wait"]);
        cluster.serve(name);
        cluster.ok(&["node", "join", &folder, "--wait"]);
    }
    cluster.is_whole();
    cluster.is_identical("t", 3);
    cluster.kill(&cluster.leader("t"));
    cluster.publish_soon("t", "d");
    assert_eq!(cluster.ok(&["tail", "t", "--limit", "4"]), b"a\nb\nc\nd\n");
}
