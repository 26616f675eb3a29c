//! `meshctl put`, `get`, `delete` and `list`.

use serde_json::json;

use crate::mesh::{Mesh, until};

#[test]
fn a_value_comes_back_byte_for_byte() {
    let mut mesh = Mesh::start();
    mesh.ok(&["put", "text", "alice"]);
    mesh.ok(&["put", "number", "-5"]);
    mesh.run_with(&["put", "stdin", "-"], b"\x00\xff\n")
        .succeeded();
    mesh.write("file", b"from a file\n");
    mesh.ok(&["put", "file", "@file"]);
    mesh.ok(&["put", "empty", ""]);
    mesh.kill();
    mesh.serve();
    assert_eq!(mesh.ok(&["get", "text"]), b"alice");
    assert_eq!(mesh.ok(&["get", "number"]), b"-5");
    assert_eq!(mesh.ok(&["get", "stdin"]), b"\x00\xff\n");
    assert_eq!(mesh.ok(&["get", "file"]), b"from a file\n");
    assert_eq!(mesh.ok(&["get", "empty"]), b"");
    mesh.run(&["get", "absent"]).refused(3, &["absent"]);
}

#[test]
fn a_deleted_key_is_gone() {
    let mesh = Mesh::start();
    mesh.ok(&["put", "k", "v"]);
    mesh.ok(&["delete", "k"]);
    mesh.run(&["get", "k"]).refused(3, &["k"]);
    mesh.ok(&["delete", "k"]);
    mesh.ok(&["delete", "never there"]);
    mesh.ok(&["put", "k", "again"]);
    assert_eq!(mesh.ok(&["get", "k"]), b"again");
}

#[test]
fn keys_are_listed_in_order() {
    let mesh = Mesh::start();
    for key in ["user:2", "user:10", "admin", "zone"] {
        mesh.ok(&["put", key, "x"]);
    }
    mesh.ok(&["delete", "zone"]);
    assert_eq!(mesh.text(&["list"]), "admin\nuser:10\nuser:2");
    assert_eq!(mesh.text(&["list", "user:"]), "user:10\nuser:2");
    assert_eq!(mesh.text(&["list", "--limit", "2"]), "admin\nuser:10");
    assert_eq!(mesh.text(&["list", "none"]), "");
    assert_eq!(mesh.json(&["list", "a"]), [json!({"key": "admin"})]);
}

#[test]
fn a_value_expires() {
    let mesh = Mesh::start();
    mesh.ok(&["put", "k", "v", "--ttl", "1h"]);
    let expires = mesh.json(&["get", "k"])[0]["expires"].clone();
    assert!(expires.as_str().unwrap().ends_with('Z'), "{expires}");
    mesh.ok(&["put", "k", "v", "--ttl", "300ms"]);
    assert!(until(|| mesh.run(&["get", "k"]).code == Some(3)));
    assert_eq!(mesh.text(&["list"]), "");
    mesh.ok(&["put", "k", "for ever"]);
    assert_eq!(mesh.json(&["get", "k"])[0]["expires"], json!(null));
}

#[test]
fn json_tells_who_acknowledged_and_gives_a_context() {
    let mesh = Mesh::start();
    let put = mesh.json(&["put", "k", "v"]).remove(0);
    let version = put["version"].as_str().unwrap();
    assert!(
        version.ends_with(".1.1"),
        "the first write of the first start: {version}"
    );
    assert_eq!(
        (&put["key"], &put["acknowledged"], &put["hinted"]),
        (&json!("k"), &json!(["n1"]), &json!([]))
    );
    let got = mesh.json(&["get", "k"]).remove(0);
    assert_eq!(
        (&got["key"], &got["value"], &got["siblings"]),
        (&json!("k"), &json!("v"), &json!(1))
    );
    assert_eq!(got["context"], put["context"]);
    let deleted = mesh.json(&["delete", "k"]).remove(0);
    assert_eq!(
        (&deleted["key"], &deleted["acknowledged"]),
        (&json!("k"), &json!(["n1"]))
    );
}

#[test]
fn concurrent_writes_are_kept_until_a_context_settles_them() {
    let mesh = Mesh::start();
    let first = mesh.json(&["put", "k", "one"]).remove(0);
    let context = first["context"].as_str().unwrap();
    // Both have seen `one`, and neither the other: both stay.
    mesh.ok(&["put", "k", "two", "--context", context]);
    mesh.ok(&["put", "k", "three", "--context", context]);
    let ran = mesh.run(&["get", "k"]);
    assert_eq!(ran.stdout, b"three");
    assert!(ran.stderr.contains("2 concurrent values"), "{ran:?}");
    assert_eq!(mesh.text(&["get", "k", "--siblings"]), "three\ntwo");
    let all = mesh.json(&["get", "k", "--siblings"]).remove(0);
    assert_eq!(
        (&all["siblings"][0]["value"], &all["siblings"][1]["value"]),
        (&json!("three"), &json!("two"))
    );
    assert_eq!(mesh.json(&["get", "k"])[0]["siblings"], 2);

    mesh.ok(&[
        "put",
        "k",
        "settled",
        "--context",
        all["context"].as_str().unwrap(),
    ]);
    assert_eq!(mesh.json(&["get", "k"])[0]["siblings"], 1);
    assert_eq!(mesh.ok(&["get", "k"]), b"settled");
}

#[test]
fn a_write_that_needs_more_replicas_than_there_are_is_refused() {
    let mesh = Mesh::start();
    mesh.run(&["put", "k", "v", "--write", "2"])
        .refused(4, &["2", "1"]);
    mesh.run(&["get", "k", "--read", "2"])
        .refused(4, &["2", "1"]);
    mesh.ok(&["put", "k", "v", "--write", "1"]);
    assert_eq!(mesh.ok(&["get", "k", "--read", "1"]), b"v");
}
