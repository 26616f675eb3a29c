//! Stdout and stderr: what goes where, and what happens when nobody reads.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::json;

use crate::mesh::{Mesh, wait};

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mesh = Mesh::start();
    mesh.run_with(&["publish", "t"], "0123456789\n".repeat(100_000).as_bytes())
        .succeeded();
    for words in [
        &["tail", "t"][..],
        &["tail", "t", "--output", "json"],
        &["tail", "t", "--follow"],
    ] {
        let mut tail = mesh
            .command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let first = BufReader::with_capacity(16, tail.stdout.take().unwrap())
            .lines()
            .next();
        assert!(first.unwrap().unwrap().contains("0123456789"));
        let status = wait(&mut tail).unwrap();
        assert_eq!(status.code(), Some(0), "{words:?}");
        assert_eq!(
            std::io::read_to_string(tail.stderr.take().unwrap()).unwrap(),
            ""
        );
    }
}

#[test]
fn quiet_prints_facts_and_errors_only() {
    let mesh = Mesh::start();
    for words in [
        &["put", "k", "v", "--quiet"][..],
        &["topic", "create", "t", "--quiet"],
        &["delete", "k", "--quiet"],
    ] {
        let ran = mesh.run(words);
        assert_eq!(
            (ran.code, &ran.stdout[..], &*ran.stderr),
            (Some(0), &b""[..], ""),
            "{words:?}"
        );
    }
    assert_eq!(mesh.text(&["publish", "t", "v", "--quiet"]), "0");
    mesh.run(&["get", "k", "--quiet"]).refused(3, &["k"]);
}

#[test]
fn a_single_node_is_described() {
    let mesh = Mesh::start();
    mesh.ok(&["publish", "t", "v"]);
    mesh.ok(&["put", "k", "v"]);
    let status = mesh.json(&["status"]).remove(0);
    let node = &status["nodes"][0];
    assert_eq!(
        (&node["name"], &node["state"], &node["address"]),
        (&json!("n1"), &json!("alive"), &json!(mesh.address()))
    );
    assert_eq!(
        (&node["partitions"], &node["leads"]),
        (&json!(64), &json!(64))
    );
    assert_eq!(status["cluster"].as_str().unwrap().len(), 32);
    assert_eq!(
        (
            &status["under_replicated"],
            &status["pending_hints"],
            &status["transfers"]
        ),
        (&json!(0), &json!(0), &json!([]))
    );
    assert!(mesh.text(&["status"]).contains("n1"));

    let info = mesh.json(&["info"]).remove(0);
    assert_eq!(
        (&info["name"], &info["cluster"], &info["id"]),
        (&node["name"], &status["cluster"], &node["id"])
    );
    assert_eq!(mesh.json(&["info", "n1"])[0]["id"], info["id"]);
    assert_eq!(mesh.json(&["info", mesh.address()])[0]["id"], info["id"]);
    mesh.run(&["info", "n9"]).refused(3, &["n9"]);

    let families = mesh.json(&["storage"]);
    assert!(
        families.iter().any(|family| family["family"] == "log"),
        "{families:?}"
    );
    assert!(mesh.text(&["storage"]).contains("bindings"));
}

#[test]
fn routes_tell_where_a_key_lives() {
    let mesh = Mesh::start();
    mesh.ok(&["publish", "t", "v"]);
    let route = mesh.json(&["routes", "--topic", "t"]).remove(0);
    let described = mesh.json(&["topic", "describe", "t"]).remove(0);
    for field in ["partition", "leader", "epoch", "replicas"] {
        assert_eq!(route[field], described[field], "{field}");
    }
    assert_eq!(
        (&route["topic"], route["hash"].as_str().unwrap().len()),
        (&json!("t"), 16)
    );
    let route = mesh.json(&["routes", "user:123"]).remove(0);
    assert_eq!(route["key"], "user:123");
    assert!(route["partition"].as_u64().unwrap() < 64);
    let ring = mesh.json(&["ring"]);
    assert_eq!(ring.len(), 64);
    assert_eq!(
        (&ring[63]["partition"], &ring[63]["leader"]),
        (&json!(63), &json!("n1"))
    );
}
