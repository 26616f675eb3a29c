//! Several nodes in a mesh directory of their own, and the commands of their users.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::mesh::{
    PATIENCE, Ran, Running, free_port, meshctl, print_end_of_log, run, serve, signal, until, wait,
};

/// Few enough that a debug build on two cores has time for everything else.
const PARTITIONS: &str = "8";

pub(crate) struct Cluster {
    dir: TempDir,
    nodes: BTreeMap<String, Running>,
}

impl Cluster {
    /// So many nodes that have never run. Their ports are free now, and theirs for good.
    pub(crate) fn stopped(nodes: usize, flags: &[&str]) -> Self {
        let cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
        };
        let count = nodes.to_string();
        // One node alone would serve at another port each time.
        let port = if nodes == 1 { free_port() } else { 0 };
        let init = [
            &["init", "mesh", "--nodes", &count][..],
            &["--port", &port.to_string()],
            &["--partitions", PARTITIONS],
            flags,
        ];
        cluster.ok(&init.concat());
        cluster
    }

    /// So many nodes that serve, and have a leader for every partition.
    pub(crate) fn start(nodes: usize) -> Self {
        let mut cluster = Self::stopped(nodes, &[]);
        cluster.serve_all(nodes);
        cluster.is_whole();
        cluster
    }

    pub(crate) fn serve_all(&mut self, nodes: usize) {
        for number in 1..=nodes {
            self.serve(&format!("n{number}"));
        }
    }

    /// The folder in which commands run; the mesh is in `mesh` there.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn client_file(&self) -> PathBuf {
        self.path("mesh/client/client.toml")
    }

    pub(crate) fn serve(&mut self, name: &str) {
        let node = serve(self.dir.path(), name).unwrap_or_else(|ran| panic!("no {name}: {ran:?}"));
        assert!(self.nodes.insert(name.to_owned(), node).is_none());
    }

    /// Serves a node that must not take part: how it ended, after its `ready` line or before it.
    pub(crate) fn serve_in_vain(&self, name: &str) -> Ran {
        match serve(self.dir.path(), name) {
            Err(ran) => ran,
            Ok(mut node) => {
                let code = wait(&mut node.child).and_then(|status| status.code());
                let _ = node.child.kill();
                let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap();
                Ran {
                    code,
                    stdout: Vec::new(),
                    stderr: log.lines().last().unwrap_or_default().to_owned(),
                }
            }
        }
    }

    pub(crate) fn address(&self, name: &str) -> &str {
        &self.node(name).address
    }

    fn node(&self, name: &str) -> &Running {
        self.nodes
            .get(name)
            .unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// The nodes that run.
    pub(crate) fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Running {
        let node = self.nodes.remove(name);
        node.unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, name: &str) {
        self.take(name).kill();
    }

    /// `kill -9` to all, and only then wait for any.
    pub(crate) fn kill_all(&mut self) {
        let mut nodes: Vec<Running> = std::mem::take(&mut self.nodes).into_values().collect();
        nodes.iter_mut().for_each(|node| node.child.kill().unwrap());
        for node in &mut nodes {
            node.child.wait().unwrap();
        }
    }

    /// SIGTERM, and how the node ended.
    pub(crate) fn stop(&mut self, name: &str) -> ExitStatus {
        let node = self.take(name);
        signal(&node.child, Signal::TERM);
        node.stopped()
    }

    /// SIGTERM to all at once; every one must end with 0.
    pub(crate) fn stop_all(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        nodes
            .values()
            .for_each(|node| signal(&node.child, Signal::TERM));
        for (name, node) in nodes {
            let status = node.stopped();
            assert!(status.success(), "{name}: {status}");
        }
    }

    /// Stops a node where it stands, until it goes on.
    pub(crate) fn pause(&self, name: &str) {
        signal(&self.node(name).child, Signal::STOP);
    }

    pub(crate) fn go_on(&self, name: &str) {
        signal(&self.node(name).child, Signal::CONT);
    }

    /// Sets a value in a node's `node.toml`, for its next start.
    pub(crate) fn configure(&self, name: &str, key: &str, value: u64) {
        let file = self.path(&format!("mesh/{name}/node.toml"));
        let before = fs::read_to_string(&file).unwrap();
        let mut lines: Vec<&str> = before.lines().collect();
        lines.retain(|line| !line.starts_with(key));
        fs::write(&file, format!("{}\n{key} = {value}\n", lines.join("\n"))).unwrap();
    }

    /// Runs a command as the operator, who knows all founders.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let mut command = meshctl(self.dir.path());
        command.args(words);
        run(command, b"")
    }

    /// Runs a command that must succeed, and gives its stdout.
    pub(crate) fn ok(&self, words: &[&str]) -> Vec<u8> {
        self.run(words).succeeded()
    }

    /// The same, as text without the line end.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        self.run(words).text()
    }

    /// Runs a command that must succeed and prints one JSON object.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let text = self.text(&[words, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    pub(crate) fn leader(&self, topic: &str) -> String {
        let described = self.json(&["topic", "describe", topic]);
        described["leader"].as_str().unwrap().to_owned()
    }

    /// What `status` says of each node.
    pub(crate) fn states(&self) -> BTreeMap<String, String> {
        let status = self.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        nodes
            .map(|node| (text(&node["name"]), text(&node["state"])))
            .collect()
    }

    /// What `status` counts of a node under this name; nothing of one that it does not know.
    pub(crate) fn count(&self, name: &str, what: &str) -> u64 {
        let status = self.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == name);
        node.map_or(0, |node| node[what].as_u64().unwrap())
    }

    /// Waits until all nodes that run are alive, and every partition has all its copies and a leader.
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        let mut last = Value::Null;
        let whole = until(|| {
            let ran = self.run(&["status", "--output", "json"]);
            last = serde_json::from_slice(&ran.stdout).unwrap_or_default();
            let alive = |node: &Value| node["state"] == "alive";
            let nodes = last["nodes"].as_array().cloned().unwrap_or_default();
            nodes.iter().filter(|node| alive(node)).count() >= self.nodes.len()
                && last["under_replicated"] == 0
                && last["unavailable"] == 0
        });
        assert!(whole, "not whole after {PATIENCE:?}: {last}");
    }

    /// Waits until `verify` says that so many replicas hold the same.
    #[track_caller]
    pub(crate) fn is_identical(&self, topic: &str, replicas: usize) {
        let mut last = Value::Null;
        let identical = until(|| {
            let ran = self.run(&["verify", topic, "--output", "json"]);
            last = serde_json::from_slice(&ran.stdout).unwrap_or_default();
            let count = last["replicas"].as_array().map_or(0, Vec::len);
            ran.code == Some(0) && last["identical"] == true && count == replicas
        });
        assert!(identical, "{topic} after {PATIENCE:?}: {last}");
    }

    /// Publishes one record until it is acknowledged; how long that took.
    pub(crate) fn publish_soon(&self, topic: &str, value: &str) -> Duration {
        let began = Instant::now();
        let published = until(|| self.run(&["publish", topic, value]).code == Some(0));
        assert!(published, "{topic} takes nothing for {PATIENCE:?}");
        began.elapsed()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.values_mut().for_each(Running::end);
        if thread::panicking() {
            for name in ["n1", "n2", "n3", "n4"] {
                print_end_of_log(self.dir.path(), name);
            }
        }
    }
}
