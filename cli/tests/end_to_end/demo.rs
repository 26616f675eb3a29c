//! `meshctl demo` and `meshctl dev`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal};

use crate::mesh::{Ran, meshctl, run, serve, signal, wait};

#[test]
fn every_claim_of_the_tour_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = meshctl(dir.path());
    command.args(["demo"]).env("TMPDIR", dir.path());
    let tour = String::from_utf8(run(command, b"").succeeded()).unwrap();
    assert!(tour.contains("✓") && !tour.contains("✗"), "{tour}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the tour leaves nothing behind"
    );
}

/// `dev` on ports of its own, and the lines that tell where its nodes serve.
struct Dev {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    ready: BTreeMap<String, String>,
    /// Reads what the nodes log, so that no pipe is ever full.
    log: Option<JoinHandle<String>>,
}

impl Dev {
    fn start(dir: &Path, flags: &[&str], nodes: usize) -> Self {
        let made = dir.join("mesh").exists();
        let mut process = meshctl(dir)
            .args(["dev", "mesh", "--port", "0"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        if !made {
            assert_eq!(lines.next().unwrap().unwrap(), "made mesh");
        }
        let mut stderr = process.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        let mut dev = Self {
            process,
            lines,
            ready: BTreeMap::new(),
            log: Some(log),
        };
        while dev.ready.len() < nodes {
            let line = dev.lines.next().unwrap().unwrap();
            let (name, address) = line.split_once(" | ready ").unwrap();
            dev.ready.insert(name.to_owned(), address.to_owned());
        }
        dev
    }

    /// Ends it with this signal, and gives what it logged.
    fn stop(mut self, with: Signal) -> String {
        signal(&self.process, with);
        assert_eq!(wait(&mut self.process).unwrap().code(), Some(0));
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its nodes end by themselves when it has; one that has been stopped is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn user(dir: &Path, words: &[&str]) -> Ran {
    let mut command = meshctl(dir);
    command.args(words);
    run(command, b"")
}

#[test]
fn dev_makes_runs_and_stops_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let dev = Dev::start(dir, &["--nodes", "1"], 1);
    user(dir, &["put", "k", "v", "--node", &dev.ready["n1"]]).succeeded();
    let log = dev.stop(Signal::INT);
    assert!(log.lines().all(|line| line.starts_with("n1 | ")), "{log}");

    let dev = Dev::start(dir, &[], 1);
    let address = dev.ready["n1"].clone();
    assert_eq!(
        user(dir, &["get", "k", "--node", &address]).succeeded(),
        b"v"
    );
    dev.stop(Signal::TERM);
    user(dir, &["get", "k", "--node", &address, "--timeout", "500ms"]).refused(4, &[]);
}

#[test]
fn dev_runs_three_nodes_and_goes_on_when_one_dies() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let dev = Dev::start(dir, &["--partitions", "8"], 3);
    assert_eq!(dev.ready.len(), 3);
    assert_eq!(user(dir, &["publish", "t", "a"]).succeeded(), b"0\n");
    let described = user(dir, &["topic", "describe", "t", "--output", "json"]).succeeded();
    let described: serde_json::Value = serde_json::from_slice(&described).unwrap();
    let leader = described["leader"].as_str().unwrap();
    // The one child of ours that serves this folder.
    let folder = format!("mesh/{leader}");
    let pid = child_serving(dev.process.id(), &folder);
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    user(dir, &["publish", "t", "b"]).succeeded();
    let tailed = user(dir, &["tail", "t", "--from-offset", "0"]).succeeded();
    assert_eq!(tailed, b"a\nb\n");
    // As `dev` advises: in another terminal.
    let mut again = serve(dir, leader).unwrap();
    assert_eq!(again.address, dev.ready[leader]);
    let verified = user(dir, &["verify", "t", "--output", "json"]).succeeded();
    let verified: serde_json::Value = serde_json::from_slice(&verified).unwrap();
    assert_eq!(verified["identical"], true, "{verified}");
    assert_eq!(verified["replicas"].as_array().unwrap().len(), 3);
    again.child.kill().unwrap();
    again.child.wait().unwrap();
    let log = dev.stop(Signal::TERM);
    let told = log.lines().find(|line| line.contains("ended by itself"));
    assert!(
        told.is_some_and(|line| line.starts_with(leader) && line.contains("meshctl serve")),
        "{log}"
    );
}

fn child_serving(parent: u32, folder: &str) -> Pid {
    // Children belong to the thread that started them.
    let mut found = String::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task")).unwrap() {
        let file = task.unwrap().path().join("children");
        found.push_str(&std::fs::read_to_string(file).unwrap_or_default());
    }
    let pids = found
        .split_whitespace()
        .map(|pid| pid.parse::<i32>().unwrap());
    let serves = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder)
    };
    let mut pids = pids.filter(serves);
    Pid::from_raw(pids.next().unwrap()).unwrap()
}
