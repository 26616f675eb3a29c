//! Nodes join, are drained and removed, while records come and go.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::load::{TOPICS, topic};
use crate::mesh::{Ran, until};
use crate::ring::scene::Scene;

fn copies(plan: &Value, field: &str, name: &str) -> usize {
    let moves = plan["moves"].as_array().unwrap();
    moves.iter().filter(|one| one[field] == name).count()
}

#[test]
fn a_node_joins_is_drained_and_removed_under_load() {
    let Scene { mut cluster, load } = Scene::three_nodes();
    let made = cluster.json(&["node", "new", "mesh/n4", "--port", "0"]);
    assert_eq!((&made["name"], &made["zone"]), (&json!("n4"), &json!("")));

    let plan = cluster.json(&["node", "plan", "join", "mesh/n4"]);
    let given = copies(&plan, "to", "n4");
    assert!((5..=7).contains(&given), "a quarter of 24 copies: {plan}");
    assert_eq!(
        given,
        plan["moves"].as_array().unwrap().len(),
        "no other moves: {plan}"
    );
    assert_eq!(plan["exposed"], json!([]));
    assert_eq!(cluster.states().len(), 3, "a plan changes nothing");

    let joined = cluster.json(&["node", "join", "mesh/n4", "--no-wait"]);
    assert_eq!(joined["served"], false);
    assert_eq!(cluster.states()["n4"], "joining");
    cluster.serve("n4");
    cluster.ok(&["node", "join", "mesh/n4"]);
    cluster.is_whole();
    assert_eq!(cluster.count("n4", "partitions"), given as u64);
    load.check();
    for number in 0..TOPICS {
        cluster.is_identical(&topic(number), 3);
    }

    let plan = cluster.json(&["node", "plan", "drain", "n2"]);
    assert_eq!(
        copies(&plan, "from", "n2") as u64,
        cluster.count("n2", "partitions")
    );
    cluster
        .run(&["node", "remove", "n2"])
        .refused(1, &["n2", "drain"]);
    cluster.ok(&["node", "drain", "n2"]);
    assert_eq!(cluster.count("n2", "partitions"), 0);
    assert!(cluster.stop("n2").success());
    cluster.ok(&["node", "remove", "n2"]);
    assert!(!cluster.states().contains_key("n2"));
    cluster.is_whole();
    load.check();
    let cluster = Scene { cluster, load }.ends_well(3);
    // Gone for ever: its folder does not come back.
    let back = cluster.serve_in_vain("n2");
    assert_eq!(back.code, Some(1), "{back:?}");
}

#[test]
fn a_node_that_is_dead_for_long_is_replaced() {
    let mut cluster = Cluster::stopped(4, &[]);
    for name in ["n1", "n2", "n3", "n4"] {
        cluster.configure(name, "dead_after_seconds", 2);
    }
    cluster.serve_all(4);
    cluster.is_whole();
    cluster.ok(&["publish", "t", "a", "b"]);
    cluster.kill("n3");
    let replaced = until(|| {
        cluster.count("n3", "partitions") == 0 && cluster.json(&["status"])["under_replicated"] == 0
    });
    assert!(replaced, "{}", cluster.json(&["status"]));
    cluster.is_identical("t", 3);
}

#[test]
fn a_node_that_nobody_let_in_does_not_take_part() {
    let cluster = Cluster::start(3);
    cluster.ok(&["node", "new", "mesh/n4", "--port", "0"]);
    cluster.serve_in_vain("n4").refused(1, &["node join"]);
    assert_eq!(cluster.states().len(), 3);
    cluster
        .run(&["node", "new", "mesh/n4"])
        .refused(1, &["n4", "not overwritten"]);
    cluster
        .run(&["node", "join", "mesh/n9"])
        .refused(2, &["n9"]);
    cluster.run(&["node", "drain", "n9"]).refused(3, &["n9"]);
}

/// A client that may read and write everything, and its commands.
fn app(cluster: &Cluster) -> impl Fn(&[&str]) -> Ran {
    cluster.ok(&["ca", "issue", "client", "app"]);
    let config = ["--config", "mesh/clients/app/client.toml"];
    move |words| cluster.run(&[&config[..], words].concat())
}

#[test]
fn only_an_admin_changes_the_ring() {
    let cluster = Cluster::start(3);
    let as_app = app(&cluster);
    as_app(&["publish", "t", "v"]).succeeded();
    as_app(&["status"]).succeeded();
    as_app(&["node", "drain", "n1"]).refused(6, &["app"]);
    as_app(&["ca", "revoke", "admin"]).refused(6, &[]);
    assert_eq!(cluster.states()["n1"], "alive");
}

#[test]
fn a_revoked_client_is_refused_by_every_node() {
    let cluster = Cluster::start(3);
    let as_app = app(&cluster);
    as_app(&["put", "k", "v"]).succeeded();
    cluster.ok(&["ca", "revoke", "app"]);
    for name in ["n1", "n2", "n3"] {
        let words = ["get", "k", "--node", cluster.address(name)];
        // Each node has the new map within a moment.
        let refused = until(|| as_app(&words).code == Some(6));
        assert!(refused, "{name}: {:?}", as_app(&words));
    }
    assert_eq!(cluster.ok(&["get", "k"]), b"v");
    cluster
        .run(&["ca", "revoke", "nobody"])
        .refused(3, &["nobody"]);
}

#[test]
fn a_certificate_is_renewed_while_the_node_runs() {
    let cluster = Cluster::start(3);
    cluster.ok(&["ca", "issue", "node", "n2"]);
    cluster.ok(&["ca", "revoke", "n2", "--superseded"]);
    cluster.publish_soon("t", "v");
    // The node looks at its files every two seconds; until then it may be refused by the others.
    assert!(until(|| cluster.json(&["status"])["under_replicated"] == 0));
    std::thread::sleep(Duration::from_secs(3));
    cluster.is_whole();
    cluster.is_identical("t", 3);
}
