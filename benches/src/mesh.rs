//! A mesh of several real nodes on this machine: `meshctl init`, and a `meshctl serve` for each.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_net::client::ClientConfig;
use mesh_net::node::NODE_FILE;
use serde_json::Value;

use crate::children::Child;
use crate::node::{Measured, output, program};
use crate::{Result, say};

/// How long the cluster may take to be whole again.
const PATIENCE: Duration = Duration::from_secs(120);

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Lines of a log that are shown when something went wrong.
const LAST_LINES: usize = 12;

/// The nodes' folders, and the nodes that run. Dropping it kills them.
pub struct Mesh {
    program: PathBuf,
    dir: PathBuf,
    running: BTreeMap<String, Child>,
}

impl Mesh {
    /// Makes a cluster of so many nodes, n1, n2 …, in `dir`, which does not exist yet; none of them runs.
    ///
    /// # Errors
    /// There is no `meshctl`, or it says why it cannot.
    pub fn init(dir: &Path, nodes: usize) -> Result<Mesh> {
        let mesh = Mesh {
            program: program()?,
            dir: dir.to_owned(),
            running: BTreeMap::new(),
        };
        let mut init = Command::new(&mesh.program);
        init.arg("init").arg(dir).arg("--quiet");
        // With port 0 a lone node takes another port at each start, which client.toml does not know.
        let port = match nodes {
            1 => UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port(),
            _ => 0,
        };
        init.args(["--nodes", &nodes.to_string(), "--port", &port.to_string()]);
        output(init)?;
        Ok(mesh)
    }

    /// The same, served, and whole.
    ///
    /// # Errors
    /// A node does not come up.
    pub fn start(dir: &Path, nodes: usize) -> Result<Mesh> {
        let mut mesh = Mesh::init(dir, nodes)?;
        mesh.serve_all()?;
        Ok(mesh)
    }

    /// As [`Mesh::start`], but copies of bindings are compared only when somebody asks for it.
    ///
    /// # Errors
    /// A node does not come up.
    pub fn start_without_rounds(dir: &Path, nodes: usize) -> Result<Mesh> {
        let mut mesh = Mesh::init(dir, nodes)?;
        for folder in mesh.folders() {
            let mut file = OpenOptions::new()
                .append(true)
                .open(folder.join(NODE_FILE))?;
            file.write_all(b"\nrepair_every_seconds = 0\n")?;
        }
        mesh.serve_all()?;
        Ok(mesh)
    }

    /// Starts every node, and waits until the cluster is whole.
    ///
    /// # Errors
    /// A node does not come up.
    pub fn serve_all(&mut self) -> Result<()> {
        for name in self.names() {
            self.serve(&name)?;
        }
        self.wait_until_whole()?;
        Ok(())
    }

    /// Stops every node in order.
    ///
    /// # Errors
    /// One did not end in order.
    pub fn stop_all(&mut self) -> Result<()> {
        for (name, _) in self.processes() {
            if !self.terminate(&name)?.1 {
                return Err(format!("{name} did not end in order").into());
            }
        }
        Ok(())
    }

    /// The nodes' folders, those of n1, n2 ….
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        self.names().iter().map(|name| self.folder(name)).collect()
    }

    fn names(&self) -> Vec<String> {
        let names = (1..).map(|number| format!("n{number}"));
        names
            .take_while(|name| self.folder(name).exists())
            .collect()
    }

    /// A node's folder.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a node and waits until it serves. What it logs is added to a file beside its folder.
    ///
    /// # Errors
    /// It ended instead; the end of its log says why.
    pub fn serve(&mut self, name: &str) -> Result<()> {
        let stderr = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(name))?;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg(self.folder(name)).args([
            "--until-stdin-closes",
            "--log",
            "warn,openraft=error",
        ]);
        command.stderr(stderr);
        let mut child = Child::spawn(command)?;
        let ready = child
            .line_within(PATIENCE)
            .map_err(|error| format!("{name}: {error}: {}", self.log_end(name)))?;
        if !ready.starts_with("ready ") {
            return Err(
                format!("{name} says something else than that it is ready: {ready}").into(),
            );
        }
        self.running.insert(name.to_owned(), child);
        Ok(())
    }

    /// The process ids of the nodes that run.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        let processes = self.running.iter();
        processes
            .map(|(name, child)| (name.clone(), child.id()))
            .collect()
    }

    fn take(&mut self, name: &str) -> Result<Child> {
        let child = self.running.remove(name);
        child.ok_or_else(|| format!("{name} does not run").into())
    }

    /// `kill -9`; returns when it was sent.
    ///
    /// # Errors
    /// There is no such node; the system's.
    pub fn kill(&mut self, name: &str) -> Result<Instant> {
        let child = self.take(name)?;
        let now = Instant::now();
        child.kill()?;
        Ok(now)
    }

    /// SIGTERM, and waits for the end; returns when it was sent, and whether the node ended in order.
    ///
    /// # Errors
    /// There is no such node; the system's.
    pub fn terminate(&mut self, name: &str) -> Result<(Instant, bool)> {
        let child = self.take(name)?;
        let now = Instant::now();
        let ended = child.terminate();
        if let Err(error) = &ended {
            say(&format!("  {name}: {error}: {}", self.log_end(name)));
        }
        Ok((now, ended.is_ok()))
    }

    /// What a command prints, given by the operator.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn run(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.client_file()).args(words);
        output(command)
    }

    /// The one object that a command prints.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let words = [words, &["--output", "json", "--quiet"]].concat();
        Ok(serde_json::from_slice(&self.run(&words)?)?)
    }

    /// Runs `meshctl bench` with these arguments.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn bench(&self, arguments: &[&str]) -> Result<Measured> {
        let words = [&["bench"], arguments].concat();
        Ok(serde_json::from_value(self.json(&words)?)?)
    }

    /// The `client.toml` of a client that may do everything.
    #[must_use]
    pub fn client_file(&self) -> PathBuf {
        self.dir.join("client/client.toml")
    }

    /// The same, as the client takes it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn client_config(&self) -> Result<ClientConfig> {
        Ok(ClientConfig::load(&self.client_file())?)
    }

    /// Waits until every node that runs is alive and every partition has all its copies and a leader; returns what
    /// `status` says then.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_whole(&self) -> Result<Value> {
        let began = Instant::now();
        let mut last = Value::Null;
        while began.elapsed() < PATIENCE {
            last = match self.json(&["status"]) {
                Ok(status) if self.is_whole(&status) => return Ok(status),
                Ok(status) => status,
                Err(error) => Value::String(error.to_string()),
            };
            std::thread::sleep(LOOK_EVERY);
        }
        Err(format!(
            "the cluster is not whole after {PATIENCE:?}: {last}\n{}",
            self.last_words()
        )
        .into())
    }

    /// What each node logged last: a warning or worse.
    fn last_words(&self) -> String {
        let names = self.names();
        let ends = names
            .iter()
            .map(|name| format!("{name}: {}", self.log_end(name)));
        ends.collect::<Vec<_>>().join("\n")
    }

    fn log_end(&self, name: &str) -> String {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    fn is_whole(&self, status: &Value) -> bool {
        let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let alive = nodes.iter().filter(|node| node["state"] == "alive").count();
        alive >= self.running.len()
            && status["under_replicated"] == 0
            && status["unavailable"] == 0
            && status["control_leader"].is_string()
    }
}
