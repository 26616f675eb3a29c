//! Nodes that must not start, and what they meet while they serve.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::mesh::{Mesh, free_port};

#[test]
fn init_never_overwrites() {
    let mesh = Mesh::stopped();
    let before = fs::read(mesh.path("mesh/ca/ca.pem")).unwrap();
    mesh.bare(&["init", "mesh", "--nodes", "1"])
        .refused(1, &["mesh", "not overwritten"]);
    assert_eq!(fs::read(mesh.path("mesh/ca/ca.pem")).unwrap(), before);
    mesh.write("file", "x");
    mesh.bare(&["init", "file", "--nodes", "1"])
        .refused(1, &["file"]);
    fs::create_dir(mesh.path("empty")).unwrap();
    mesh.bare(&["init", "empty", "--nodes", "1"]).succeeded();
}

#[test]
fn init_tells_what_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = crate::mesh::meshctl(dir.path());
    command.args([
        "init",
        "m",
        "--nodes",
        "1",
        "--hosts",
        "127.0.0.1:7999",
        "--partitions",
        "8",
        "--output",
        "json",
    ]);
    let made: serde_json::Value =
        serde_json::from_slice(&crate::mesh::run(command, b"").succeeded()).unwrap();
    assert_eq!(made["nodes"][0]["name"], "n1");
    assert_eq!(made["nodes"][0]["address"], "127.0.0.1:7999");
    assert_eq!(made["partitions"], 8);
    assert_eq!(made["cluster"].as_str().unwrap().len(), 32);
    assert!(
        fs::read_to_string(dir.path().join("m/n1/node.toml"))
            .unwrap()
            .contains("127.0.0.1:7999")
    );
}

#[test]
fn a_folder_in_use_is_refused() {
    let mut mesh = Mesh::start();
    // With a log of its own: the node that serves goes on writing to its one.
    mesh.bare(&["serve", "mesh/n1"]).refused(1, &["in use"]);
    mesh.bare(&["migrate", "mesh/n1", "--dry-run"])
        .refused(1, &["in use"]);
    mesh.bare(&["salvage", "mesh/n1"]).refused(1, &["in use"]);
    assert!(mesh.is_up());
    mesh.ok(&["put", "k", "v"]);
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mesh = Mesh::with(&["--port", &address.port().to_string()]);
    mesh.serve_refused().refused(1, &[&address.to_string()]);
}

#[test]
fn a_missing_or_broken_identity_is_named() {
    let mesh = Mesh::stopped();
    let certificate = mesh.path("mesh/n1/identity/cert.pem");
    let kept = fs::read(&certificate).unwrap();
    fs::remove_file(&certificate).unwrap();
    mesh.serve_refused().refused(1, &["cert.pem"]);
    fs::write(&certificate, "no certificate").unwrap();
    mesh.serve_refused().refused(1, &["cert.pem"]);
    fs::write(&certificate, kept).unwrap();
    fs::remove_file(mesh.path("mesh/n1/identity/key.pem")).unwrap();
    mesh.serve_refused().refused(1, &["key.pem"]);
}

#[test]
fn a_folder_that_is_no_node_is_named() {
    let mesh = Mesh::stopped();
    mesh.bare(&["serve", "nowhere"]).refused(1, &["nowhere"]);
    mesh.write("mesh/n1/node.toml", "listen = 5");
    mesh.serve_refused().refused(1, &["node.toml"]);
}

#[test]
fn an_empty_data_directory_never_bootstraps() {
    let mut mesh = Mesh::start();
    mesh.ok(&["put", "k", "v"]);
    assert!(mesh.stop().success());
    fs::rename(mesh.path("mesh/n1/data"), mesh.path("aside")).unwrap();
    fs::create_dir(mesh.path("mesh/n1/data")).unwrap();
    mesh.serve_refused().refused(1, &["no store"]);
    fs::remove_dir_all(mesh.path("mesh/n1/data")).unwrap();
    fs::write(mesh.path("mesh/n1/data"), "a file").unwrap();
    mesh.serve_refused().refused(1, &["data"]);
    fs::remove_file(mesh.path("mesh/n1/data")).unwrap();
    fs::rename(mesh.path("aside"), mesh.path("mesh/n1/data")).unwrap();
    mesh.serve();
    assert_eq!(mesh.ok(&["get", "k"]), b"v");
}

#[test]
fn a_client_without_a_node_is_told_so_in_time() {
    let mesh = Mesh::with(&["--port", &free_port().to_string()]);
    for words in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["publish", "t", "v"],
        &["tail", "t"],
        &["topic", "list"],
        &["info"],
    ] {
        let began = Instant::now();
        mesh.bare(&[words, &["--timeout", "500ms"]].concat())
            .refused(4, &["127.0.0.1"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{words:?}");
    }
}

#[test]
fn garbage_on_the_port_changes_nothing() {
    let mut mesh = Mesh::start();
    mesh.ok(&["put", "k", "v"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15);
    for round in 0..2_000_usize {
        let garbage: Vec<u8> = (0..round % 1_400).map(|_| dice.next() as u8).collect();
        socket.send_to(&garbage, mesh.address()).unwrap();
    }
    assert_eq!(mesh.ok(&["get", "k"]), b"v");
    assert!(mesh.is_up());
}

#[test]
fn a_current_folder_needs_no_migration_and_no_salvage() {
    let mut mesh = Mesh::start();
    mesh.ok(&["publish", "t", "v"]);
    mesh.kill();
    let plan = mesh.bare(&["migrate", "mesh/n1", "--dry-run"]).succeeded();
    assert!(String::from_utf8_lossy(&plan).contains("nothing to do"));
    mesh.bare(&["migrate", "mesh/n1"]).succeeded();
    let salvage = mesh.bare(&["salvage", "mesh/n1"]).succeeded();
    assert!(String::from_utf8_lossy(&salvage).contains("nothing to salvage"));
    mesh.bare(&["migrate", "nowhere"]).refused(1, &["nowhere"]);
    mesh.serve();
    assert_eq!(mesh.ok(&["tail", "t"]), b"v\n");
}

#[test]
fn damage_in_the_middle_of_the_log_stops_the_start_until_the_loss_is_accepted() {
    let mut mesh = Mesh::start();
    for number in 0..50 {
        mesh.ok(&["put", &format!("k{number:02}"), "value"]);
    }
    mesh.kill();
    let log = newest_log(&mesh.path("mesh/n1/data/db"));
    let mut bytes = fs::read(&log).unwrap();
    // In the middle of what was acknowledged; the node's own records lie before and between.
    let place = bytes.windows(3).position(|three| three == b"k25");
    bytes[place.unwrap()] ^= 0x40;
    fs::write(&log, bytes).unwrap();

    mesh.serve_refused()
        .refused(1, &["damaged", "salvage", "--accept-loss"]);
    let report = mesh.bare(&["salvage", "mesh/n1"]);
    assert_eq!(report.code, Some(1), "{report:?}");
    report.told(&["damaged", "--accept-loss"]);
    mesh.serve_refused().refused(1, &["damaged"]);
    mesh.bare(&["salvage", "mesh/n1", "--accept-loss"])
        .succeeded();
    mesh.serve();
    let keys = mesh.text(&["list"]);
    let kept = keys.lines().count();
    assert!((1..50).contains(&kept), "{kept}");
    // What is left is a prefix: nothing behind the damage was taken, nothing before it lost.
    assert_eq!(keys.lines().last().unwrap(), format!("k{:02}", kept - 1));
}

/// The write-ahead log that was written last.
fn newest_log(db: &std::path::Path) -> std::path::PathBuf {
    let logs = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.filter(|path| fs::metadata(path).unwrap().len() > 0)
        .max()
        .unwrap()
}

#[test]
fn the_data_of_another_cluster_is_refused() {
    let mesh = Mesh::stopped();
    let mut other = Mesh::start();
    other.ok(&["put", "k", "v"]);
    assert!(other.stop().success());
    fs::rename(mesh.path("mesh/n1/data"), mesh.path("aside")).unwrap();
    fs::rename(other.path("mesh/n1/data"), mesh.path("mesh/n1/data")).unwrap();
    mesh.serve_refused().refused(1, &["another node's data"]);
}

#[test]
fn a_second_signal_ends_a_stopping_node_and_nothing_is_lost() {
    let mut mesh = Mesh::start();
    mesh.ok(&["publish", "t", "v"]);
    mesh.stop_twice();
    mesh.serve();
    assert_eq!(mesh.ok(&["tail", "t"]), b"v\n");
}
