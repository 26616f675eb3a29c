//! Two of three nodes are gone: what is committed is read, nothing is acknowledged, and one that returns is enough.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::scene::others;
use crate::cluster::Cluster;
use crate::mesh::{PATIENCE, meshctl, until};

/// Lines of a tail that wait for the test.
const LINES_MAX: usize = 16;

const SENTENCE: &str = "not enough replicas (need 2, have 1)";

#[track_caller]
fn takes_nothing(cluster: &Cluster, topic: &str) {
    cluster
        .run(&["publish", topic, "lost?", "--timeout", "6s"])
        .refused(4, &[SENTENCE]);
}

#[test]
fn one_of_three_tells_how_many_it_needs_and_one_more_is_enough() {
    let mut cluster = Cluster::start(3);
    cluster.ok(&["publish", "t", "a", "b"]);
    cluster.is_identical("t", 3);
    let survivor = others(&cluster, &[&cluster.leader("t")]).remove(0);
    // It began on the survivor, and goes on there.
    let mut tail = meshctl(&cluster.path(""));
    tail.args([
        "tail",
        "t",
        "--follow",
        "--node",
        cluster.address(&survivor),
    ]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let (sender, seen) = sync_channel(LINES_MAX);
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let next = |what: &str| {
        let line = seen.recv_timeout(PATIENCE);
        assert_eq!(line.as_deref(), Ok(what));
    };
    next("a");
    next("b");

    let dead = others(&cluster, &[&survivor]);
    dead.iter().for_each(|name| cluster.kill(name));
    takes_nothing(&cluster, "t");
    takes_nothing(&cluster, "other");
    for words in [
        &["put", "k", "v"][..],
        &["delete", "k"],
        &["get", "k"],
        &["get", "k", "--read", "2"],
    ] {
        cluster.run(words).refused(4, &[SENTENCE]);
    }
    cluster
        .run(&["put", "k", "v", "--write", "3"])
        .refused(4, &["not enough replicas (need 3, have 1)"]);
    cluster.ok(&["put", "k", "alone", "--write", "1"]);
    assert_eq!(cluster.ok(&["get", "k", "--read", "1"]), b"alone");
    let read = cluster.run(&["tail", "t", "--limit", "2"]);
    assert_eq!(
        (read.code, &read.stdout[..]),
        (Some(0), &b"a\nb\n"[..]),
        "{read:?}"
    );
    assert_eq!(tail.try_wait().unwrap(), None, "the tail goes on");

    cluster.serve(&dead[0]);
    cluster.publish_soon("t", "c");
    // Nobody was told that the ones before were written, and they may have been all the same.
    let line = seen.recv_timeout(PATIENCE).unwrap();
    if line != "c" {
        assert_eq!(line, "lost?");
        next("c");
    }
    assert_eq!(cluster.states()[&dead[1]], "down");
    cluster.serve(&dead[1]);
    cluster.is_whole();
    cluster.is_identical("t", 3);
    // What one alone took has reached the others.
    for name in others(&cluster, &[&survivor]) {
        let words = ["get", "k", "--read", "1", "--node", cluster.address(&name)];
        assert!(until(|| cluster.run(&words).stdout == b"alone"));
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn one_of_three_tells_the_same_while_the_others_only_sleep() {
    let cluster = Cluster::start(3);
    cluster.ok(&["publish", "t", "a"]);
    let survivor = cluster.leader("t");
    let asleep = others(&cluster, &[&survivor]);
    asleep.iter().for_each(|name| cluster.pause(name));
    // Until their silence counts, a write waits for them, and nobody can tell what became of it.
    let told = until(|| {
        let ran = cluster.run(&["publish", "t", "lost?", "--timeout", "2s"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        ran.stderr.contains(SENTENCE)
    });
    assert!(told, "nobody says what is wrong");
    asleep.iter().for_each(|name| cluster.go_on(name));
    cluster.publish_soon("t", "b");
    cluster.is_whole();
    cluster.is_identical("t", 3);
    let values = cluster.text(&["tail", "t"]);
    let values: Vec<&str> = values.lines().filter(|value| *value != "lost?").collect();
    assert_eq!(values, ["a", "b"]);
}
