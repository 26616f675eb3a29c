//! `meshctl watch` and `meshctl listeners` on real nodes, one of which is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::mesh::{Mesh, PATIENCE, meshctl, signal, until, wait};

/// Lines that are kept until the test asks for them.
const LINES_MAX: usize = 4096;

/// A command that prints a line now and then.
struct Printing {
    child: Child,
    lines: Receiver<String>,
}

impl Printing {
    fn start(dir: &Path, words: &[&str]) -> Self {
        let mut command = meshctl(dir);
        command.args(words).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(LINES_MAX);
        thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            let _ = lines.map(|line| sender.send(line)).all(|sent| sent.is_ok());
        });
        Self { child, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("it prints a line")
    }

    #[track_caller]
    fn event(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Ctrl-C; it must end with 0 and have printed nothing more.
    #[track_caller]
    fn end(mut self) {
        signal(&self.child, Signal::INT);
        let status = wait(&mut self.child).expect("it ends at Ctrl-C");
        assert!(status.success(), "{status}");
        assert_eq!(self.lines.iter().collect::<Vec<_>>(), Vec::<String>::new());
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an event says of event, key and value.
#[track_caller]
fn is(event: &Value, kind: &str, key: &str, value: Value) {
    assert_eq!(
        (&event["event"], &event["key"], &event["value"]),
        (&json!(kind), &json!(key), &value),
        "{event}"
    );
    for field in ["node", "time"] {
        assert!(event[field].is_string(), "{event}");
    }
}

#[test]
fn a_watch_goes_on_when_its_node_is_killed_and_listeners_say_where() {
    let mut cluster = Cluster::start(3);
    cluster.ok(&["put", "user:1", "alice"]);
    let dir = cluster.path("");
    let prefix = Printing::start(&dir, &["watch", "user:*", "--output", "json"]);
    is(&prefix.event(), "new", "user:1", json!("alice"));
    let one = Printing::start(&dir, &["watch", "user:2"]);
    cluster.ok(&["put", "user:2", "bob"]);
    is(&prefix.event(), "new", "user:2", json!("bob"));
    let line = one.line();
    let fields: Vec<&str> = line.split('\t').collect();
    assert_eq!(fields[..3], ["new", "user:2", "bob"], "{line}");
    assert!(
        fields[3].starts_with('n') && fields[4].ends_with('Z'),
        "{line}"
    );
    cluster.ok(&["publish", "logs", "a"]);
    let tail = Printing::start(&dir, &["tail", "logs", "--follow"]);
    assert_eq!(tail.line(), "a");

    let listed = || -> Vec<Value> {
        let text = cluster.text(&["listeners", "--output", "json"]);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let all = listed();
    let find = |what: &dyn Fn(&Value) -> bool| all.iter().find(|one| what(one)).unwrap().clone();
    let of_prefix = find(&|one| one["prefix"] == "user:");
    let of_key = find(&|one| one["key"] == "user:2");
    let of_tail = find(&|one| one["kind"] == "tail");
    assert_eq!(
        (&of_prefix["kind"], &of_key["kind"]),
        (&json!("watch"), &json!("watch"))
    );
    assert_eq!(
        (&of_tail["topic"], &of_tail["next"]),
        (&json!("logs"), &json!(1))
    );
    for listener in &all {
        assert!(
            listener["client"].is_string() && listener["since"].is_string(),
            "{listener}"
        );
    }
    let table = cluster.text(&["listeners"]);
    assert!(
        table.starts_with("node") && table.contains("user:*"),
        "{table}"
    );

    let node = of_prefix["node"].as_str().unwrap().to_owned();
    cluster.kill(&node);
    assert!(until(
        || cluster.run(&["put", "user:3", "carol"]).code == Some(0)
    ));
    let mut event = prefix.event();
    is(&event, "new", "user:3", json!("carol"));
    cluster.ok(&["delete", "user:1"]);
    while event["event"] != "deleted" {
        // An attempt that failed may have been done, too.
        assert_eq!(event["key"], "user:3", "{event}");
        event = prefix.event();
    }
    is(&event, "deleted", "user:1", Value::Null);
    let text = cluster.run(&["listeners"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    prefix.end();
    one.end();
    tail.end();
}

#[test]
fn bytes_that_are_no_text_are_base64_and_a_limit_ends_the_watch() {
    let mesh = Mesh::start();
    mesh.run_with(&["put", "raw", "-"], b"\xff\n").succeeded();
    let events = mesh.json(&["watch", "r*", "--limit", "1"]);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["value_base64"], "/wo=");
    assert_eq!(events[0].get("value"), None);
    assert_eq!(
        mesh.ok(&["listeners"]),
        b"nobody watches or tails anything\n"
    );
    mesh.run(&["watch", ""]).refused(2, &["key"]);
}
