//! The README's quick start, as typed.

use std::fs;

use crate::input::{commits, count, from_line};
use crate::mesh::{Mesh, free_port};

#[test]
fn the_quick_start_works_and_survives_kill_nine() {
    let input = commits();
    let count = count(&input);
    let mut mesh = Mesh::with(&["--port", &free_port().to_string()]);
    mesh.serve();
    mesh.write("commits.ndjson", &input);

    mesh.ok(&["put", "user:123", "alice"]);
    assert_eq!(mesh.ok(&["get", "user:123"]), b"alice");
    let published = mesh.text(&["publish", "commits", "--file", "commits.ndjson"]);
    assert_eq!(published, format!("0..{}", count - 1));
    assert!(
        mesh.ok(&["tail", "commits"]) == input,
        "not byte for byte what was published"
    );

    let tail = [
        "tail",
        "commits",
        "--from-offset",
        "24000",
        "--output",
        "json",
    ];
    let before = mesh.ok(&tail);
    assert_eq!(
        before.iter().filter(|byte| **byte == b'\n').count(),
        count - 24_000
    );
    mesh.kill();
    mesh.serve();
    assert!(
        mesh.ok(&tail) == before,
        "the same tail gives other bytes after kill -9"
    );
    assert_eq!(mesh.ok(&["get", "user:123"]), b"alice");
    let last = mesh.ok(&["tail", "commits", "--from-offset", "24000"]);
    assert!(last == from_line(&input, 24_000));
}

#[test]
fn commands_find_the_mesh_of_their_folder_and_of_their_home() {
    let port = free_port().to_string();
    let mut mesh = Mesh::with(&["--port", &port]);
    mesh.serve();
    mesh.bare(&["put", "here", "yes"]).succeeded();

    // In another folder the configuration of the home is taken, whose paths are relative to itself.
    fs::create_dir_all(mesh.path(".config")).unwrap();
    fs::rename(mesh.path("mesh/client"), mesh.path(".config/meshctl")).unwrap();
    assert_eq!(mesh.bare(&["get", "here"]).succeeded(), b"yes");

    fs::rename(mesh.path(".config/meshctl"), mesh.path("elsewhere")).unwrap();
    mesh.bare(&["get", "here"]).refused(
        2,
        &["no client configuration", "--config", "MESHCTL_CONFIG"],
    );
    assert_eq!(
        mesh.bare(&["get", "here", "--config", "elsewhere/client.toml"])
            .succeeded(),
        b"yes"
    );
    let mut command = crate::mesh::meshctl(&mesh.path(""));
    command
        .args(["get", "here"])
        .env("MESHCTL_CONFIG", "elsewhere/client.toml");
    assert_eq!(crate::mesh::run(command, b"").succeeded(), b"yes");
}

#[test]
fn a_node_stops_cleanly_and_its_data_is_there_again() {
    let mut mesh = Mesh::start();
    mesh.ok(&["put", "k", "v"]);
    assert_eq!(mesh.text(&["publish", "t", "one", "two"]), "0..1");
    assert!(mesh.stop().success());
    mesh.serve();
    assert_eq!(mesh.ok(&["get", "k"]), b"v");
    assert_eq!(mesh.ok(&["tail", "t"]), b"one\ntwo\n");
    assert_eq!(mesh.text(&["publish", "t", "three"]), "2");
}
