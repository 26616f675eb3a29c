//! `meshctl tail`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::mesh::{Mesh, signal, wait};

/// A topic `t` with the records 0 to 9, each its own batch.
fn mesh_with_ten() -> Mesh {
    let mesh = Mesh::start();
    for number in 0..10 {
        mesh.ok(&["publish", "t", &format!("r{number}")]);
    }
    mesh
}

fn tail(mesh: &Mesh, flags: &[&str]) -> String {
    mesh.text(&[&["tail", "t"], flags].concat())
        .replace('\n', " ")
}

#[test]
fn it_begins_and_ends_where_it_is_told() {
    let mesh = mesh_with_ten();
    assert_eq!(tail(&mesh, &[]), "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9");
    assert_eq!(tail(&mesh, &["--from-offset", "7"]), "r7 r8 r9");
    assert_eq!(tail(&mesh, &["--from-offset", "10"]), "");
    assert_eq!(tail(&mesh, &["--last", "2"]), "r8 r9");
    assert_eq!(
        tail(&mesh, &["--last", "99"]),
        "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9"
    );
    assert_eq!(tail(&mesh, &["--last", "0"]), "");
    assert_eq!(tail(&mesh, &["--until-offset", "3"]), "r0 r1 r2");
    assert_eq!(
        tail(&mesh, &["--from-offset", "4", "--until-offset", "6"]),
        "r4 r5"
    );
    assert_eq!(tail(&mesh, &["--limit", "3"]), "r0 r1 r2");
    assert_eq!(
        tail(&mesh, &["--from-offset", "8", "--limit", "99"]),
        "r8 r9"
    );
    assert_eq!(tail(&mesh, &["--limit", "0"]), "");
}

#[test]
fn it_begins_inside_a_batch() {
    let mesh = Mesh::start();
    mesh.ok(&["publish", "t", "a", "b", "c", "d"]);
    assert_eq!(tail(&mesh, &["--from-offset", "2"]), "c d");
    assert_eq!(tail(&mesh, &["--until-offset", "1"]), "a");
    assert_eq!(tail(&mesh, &["--last", "3"]), "b c d");
}

#[test]
fn it_begins_at_a_time() {
    let mesh = mesh_with_ten();
    let times: Vec<String> = mesh
        .json(&["tail", "t"])
        .iter()
        .map(|record| record["time"].as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    // Records of the same millisecond begin with the first of them.
    let first = times.iter().position(|time| *time == times[6]).unwrap();
    let from = tail(&mesh, &["--from-time", &times[6]]);
    assert_eq!(
        from,
        (first..10)
            .map(|n| format!("r{n}"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    assert_eq!(
        tail(&mesh, &["--from-time", "1h"]),
        "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9"
    );
    assert_eq!(
        tail(&mesh, &["--from-time", "0"]),
        "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9"
    );
    assert_eq!(tail(&mesh, &["--from-time", "2100-01-01T00:00:00Z"]), "");
}

#[test]
fn it_follows_until_it_is_interrupted() {
    let mesh = mesh_with_ten();
    let mut follow = mesh
        .command(&["tail", "t", "--from-offset", "9", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "r9");
    mesh.ok(&["publish", "t", "later"]);
    assert_eq!(next(), "later");
    mesh.ok(&["publish", "t", "much later"]);
    assert_eq!(next(), "much later");
    signal(&follow, Signal::INT);
    assert_eq!(wait(&mut follow).unwrap().code(), Some(0));
}

#[test]
fn following_ends_at_a_limit_or_an_offset() {
    let mesh = mesh_with_ten();
    assert_eq!(
        tail(&mesh, &["--follow", "--limit", "10"]),
        "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9"
    );
    assert_eq!(
        tail(
            &mesh,
            &["--follow", "--from-offset", "7", "--until-offset", "9"]
        ),
        "r7 r8"
    );
}

#[test]
fn a_cursor_resumes_after_the_last_record_printed() {
    let mut mesh = mesh_with_ten();
    assert_eq!(tail(&mesh, &["--cursor", "c", "--limit", "3"]), "r0 r1 r2");
    assert_eq!(
        tail(&mesh, &["--cursor", "c", "--until-offset", "5"]),
        "r3 r4"
    );
    mesh.kill();
    mesh.serve();
    assert_eq!(tail(&mesh, &["--cursor", "c", "--limit", "1"]), "r5");
    assert_eq!(tail(&mesh, &["--cursor", "other", "--limit", "1"]), "r0");
    assert_eq!(tail(&mesh, &["--cursor", "c"]), "r6 r7 r8 r9");
    assert_eq!(tail(&mesh, &["--cursor", "c"]), "");
    mesh.ok(&["publish", "t", "r10"]);
    assert_eq!(tail(&mesh, &["--cursor", "c"]), "r10");
    assert_eq!(
        tail(
            &mesh,
            &["--cursor", "c", "--from-offset", "8", "--limit", "1"]
        ),
        "r8"
    );
    assert_eq!(
        tail(&mesh, &["--cursor", "c"]),
        "r9 r10",
        "an explicit start moves the cursor"
    );
}

#[test]
fn a_cursor_of_a_follower_is_kept_while_it_waits() {
    let mesh = mesh_with_ten();
    let mut follow = mesh
        .command(&["tail", "t", "--follow", "--cursor", "c"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(lines.take(10).last().unwrap().unwrap(), "r9");
    // Killed while it waits for more: what it printed is remembered within a moment.
    assert!(crate::mesh::until(
        || tail(&mesh, &["--cursor", "c"]).is_empty()
    ));
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(tail(&mesh, &["--cursor", "c"]), "");
}

#[test]
fn json_tells_everything_about_a_record() {
    let mesh = Mesh::start();
    mesh.ok(&["publish", "t", "plain"]);
    mesh.ok(&[
        "publish", "t", "v", "--key", "k", "--header", "a=1", "--header", "b=2", "--header", "a=3",
    ]);
    mesh.run_with(&["publish", "t"], b"\xff\x00\n").succeeded();
    let records = mesh.json(&["tail", "t"]);
    assert_eq!(records[0]["topic"], "t");
    assert_eq!(records[0]["offset"], 0);
    assert_eq!(records[0]["key"], json!(null));
    assert_eq!(records[0]["value"], "plain");
    assert_eq!(records[0]["headers"], json!({}));
    let time = records[0]["time"].as_str().unwrap();
    assert!(
        time.ends_with('Z') && time.len() == "2026-01-31T12:00:00.000Z".len(),
        "{time}"
    );
    assert_eq!(records[1]["key"], "k");
    assert_eq!(records[1]["headers"], json!({"a": ["1", "3"], "b": "2"}));
    assert_eq!(records[2]["value_base64"], "/wA=");
    assert_eq!(records[2].get("value"), None);
}
