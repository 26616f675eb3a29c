//! `meshctl publish`.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::mesh::{Mesh, signal, wait};

#[test]
fn values_are_one_record_each() {
    let mesh = Mesh::start();
    assert_eq!(mesh.text(&["publish", "t", "one"]), "0");
    assert_eq!(mesh.text(&["publish", "t", "two", "three", "four"]), "1..3");
    assert_eq!(mesh.text(&["publish", "t", "-5"]), "4");
    assert_eq!(mesh.ok(&["tail", "t"]), b"one\ntwo\nthree\nfour\n-5\n");
}

#[test]
fn lines_of_stdin_are_one_record_each() {
    let mesh = Mesh::start();
    let ran = mesh.run_with(&["publish", "t"], b"a\n\nb\r\n\xff\xfe\nno end");
    assert_eq!(ran.succeeded(), b"0..4\n");
    assert_eq!(mesh.ok(&["tail", "t"]), b"a\n\nb\r\n\xff\xfe\nno end\n");
    let ran = mesh.run_with(&["publish", "t", "--file", "-"], b"more\n");
    assert_eq!(ran.succeeded(), b"5\n");
    assert_eq!(
        mesh.run_with(&["publish", "t"], b"").succeeded(),
        b"",
        "no input is no record"
    );
}

#[test]
fn a_line_is_durable_before_the_next_is_typed() {
    let mesh = Mesh::start();
    let mut publish = mesh
        .command(&["publish", "t", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = publish.stdin.take().unwrap();
    let mut acks = BufReader::new(publish.stdout.take().unwrap()).lines();
    for offset in 0..3 {
        writeln!(stdin, "line {offset}").unwrap();
        let ack: serde_json::Value = serde_json::from_str(&acks.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (&ack["first_offset"], &ack["last_offset"]),
            (&json!(offset), &json!(offset))
        );
        assert_eq!(
            mesh.ok(&["tail", "t", "--last", "1"]),
            format!("line {offset}\n").into_bytes()
        );
    }
    drop(stdin);
    assert!(wait(&mut publish).unwrap().success());
}

#[test]
fn an_interrupted_publish_tells_what_is_durable() {
    let mesh = Mesh::start();
    let mut publish = mesh
        .command(&["publish", "t"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = publish.stdin.take().unwrap();
    stdin.write_all(b"a\nb\n").unwrap();
    assert!(crate::mesh::until(
        || mesh.run(&["tail", "t"]).stdout == b"a\nb\n"
    ));
    signal(&publish, Signal::INT);
    let ended = publish.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0..1\n");
    assert!(
        String::from_utf8_lossy(&ended.stderr).starts_with("error: stopped by SIGINT"),
        "{ended:?}"
    );
    drop(stdin);
}

#[test]
fn json_tells_of_each_batch() {
    let mesh = Mesh::start();
    let acks = mesh.json(&["publish", "t", "a", "b"]);
    let [ack] = &acks[..] else { panic!("{acks:?}") };
    assert_eq!(ack["topic"], "t");
    assert_eq!(
        (&ack["first_offset"], &ack["last_offset"]),
        (&json!(0), &json!(1))
    );
    assert!(ack["epoch"].is_u64());
    assert_eq!(ack["synced"], json!(["n1"]));

    let input = "0123456789\n".repeat(100_000);
    mesh.write("many", &input);
    let acks = mesh.json(&["publish", "t", "--file", "many"]);
    assert!(acks.len() > 1);
    let mut next = 2;
    for ack in acks {
        assert_eq!(ack["first_offset"], json!(next));
        next = ack["last_offset"].as_u64().unwrap() + 1;
    }
    assert_eq!(next, 100_002);
    assert!(mesh.ok(&["tail", "t", "--from-offset", "2"]) == input.as_bytes());
}

#[test]
fn keys_headers_and_compression_come_back() {
    let mesh = Mesh::start();
    let value = "x".repeat(10_000);
    let codecs = ["none", "lz4", "zstd"];
    for codec in codecs {
        let header = format!("codec={codec}");
        mesh.ok(&[
            "publish",
            "t",
            &value,
            "--compress",
            codec,
            "--key",
            "k",
            "--header",
            &header,
            "--header",
            "empty=",
        ]);
    }
    for (offset, record) in mesh.json(&["tail", "t"]).iter().enumerate() {
        assert_eq!(record["offset"], offset);
        assert_eq!(record["key"], "k");
        assert_eq!(record["value"], value);
        let codec = codecs[offset];
        assert_eq!(record["headers"], json!({"codec": codec, "empty": ""}));
    }
    let bytes: Vec<u64> = mesh
        .json(&["topic", "describe", "t"])
        .iter()
        .map(|topic| topic["bytes"].as_u64().unwrap())
        .collect();
    assert!(
        bytes[0] < 15_000,
        "two of the three are compressed: {bytes:?}"
    );
}

#[test]
fn an_expected_offset_makes_it_conditional() {
    let mesh = Mesh::start();
    assert_eq!(
        mesh.text(&["publish", "t", "a", "b", "--expect-offset", "0"]),
        "0..1"
    );
    mesh.run(&["publish", "t", "x", "--expect-offset", "0"])
        .refused(5, &["2"]);
    mesh.run(&["publish", "t", "x", "--expect-offset", "3"])
        .refused(5, &["2"]);
    let many = "line\n".repeat(20_000);
    let ran = mesh.run_with(&["publish", "t", "--expect-offset", "2"], many.as_bytes());
    assert_eq!(
        ran.succeeded(),
        b"2..20001\n",
        "every batch expects the offset behind the one before"
    );
    assert_eq!(
        mesh.text(&["publish", "t", "c", "--expect-offset", "20002"]),
        "20002"
    );
}

#[test]
fn a_missing_topic_is_made_unless_that_is_not_wanted() {
    let mesh = Mesh::start();
    mesh.run(&["publish", "t", "x", "--no-create"])
        .refused(3, &["t"]);
    assert_eq!(mesh.text(&["topic", "list"]), "");
    mesh.ok(&["publish", "t", "x"]);
    assert_eq!(mesh.text(&["publish", "t", "x", "--no-create"]), "1");
}

#[test]
fn a_record_over_the_limit_is_named_and_nothing_from_it_on_is_written() {
    let mesh = Mesh::start();
    let long = "x".repeat((1 << 20) + 1);
    let input = format!("one\ntwo\n{long}\nfour\n");
    let ran = mesh.run_with(&["publish", "t"], input.as_bytes());
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    ran.told(&["line 3", "1048576 bytes"]);
    assert_eq!(ran.stdout, b"0..1\n");
    assert_eq!(mesh.ok(&["tail", "t"]), b"one\ntwo\n");

    // The limit counts key and headers, too, and a record of exactly the limit passes.
    let fits = &long[..(1 << 20) - 5];
    mesh.write("fits", fits);
    let words = ["publish", "t", "--file", "fits", "--key", "k", "--header"];
    assert_eq!(mesh.text(&[&words[..], &["h=hdr"]].concat()), "2");
    mesh.run(&[&words[..], &["h=hdrs"]].concat())
        .refused(2, &["line 1", "limit"]);
}
