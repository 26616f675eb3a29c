//! A mesh directory of its own, a node on it, and the commands of its users.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest time that a node may take to serve or to stop, and a command to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Mesh {
    dir: TempDir,
    node: Option<Running>,
}

/// A node process. It stops at the latest when this does: its stdin closes then.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: String,
    _lifeline: ChildStdin,
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Mesh {
    /// A node that serves, on a port that the system chose.
    pub(crate) fn start() -> Self {
        let mut mesh = Self::stopped();
        mesh.serve();
        mesh
    }

    /// A node that has never run.
    pub(crate) fn stopped() -> Self {
        Self::with(&["--port", "0"])
    }

    /// A node that has never run, with these flags for `init`.
    pub(crate) fn with(flags: &[&str]) -> Self {
        let mesh = Self {
            dir: tempfile::tempdir().unwrap(),
            node: None,
        };
        let init = [&["init", "mesh", "--nodes", "1"], flags].concat();
        mesh.bare(&init).succeeded();
        mesh
    }

    /// The folder in which commands run; the mesh is in `mesh` there.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn address(&self) -> &str {
        &self.node.as_ref().expect("the node runs").address
    }

    /// Starts the node and waits for its `ready` line.
    pub(crate) fn serve(&mut self) {
        assert!(self.node.is_none(), "the node runs already");
        self.node = Some(
            self.try_serve()
                .unwrap_or_else(|ran| panic!("no node: {ran:?}")),
        );
    }

    /// Starts the node; it must refuse, and how it ended is returned.
    pub(crate) fn serve_refused(&self) -> Ran {
        match self.try_serve() {
            Ok(mut node) => {
                node.child.kill().unwrap();
                panic!("the node serves");
            }
            Err(ran) => ran,
        }
    }

    fn try_serve(&self) -> Result<Running, Ran> {
        serve(self.dir.path(), "n1")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.node.take().expect("the node runs").kill();
    }

    /// SIGTERM, and how the node ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let node = self.node.take().expect("the node runs");
        signal(&node.child, Signal::TERM);
        node.stopped()
    }

    /// SIGTERM twice: the node ends, cleanly or at once.
    pub(crate) fn stop_twice(&mut self) {
        let node = self.node.take().expect("the node runs");
        signal(&node.child, Signal::TERM);
        signal(&node.child, Signal::TERM);
        node.stopped();
    }

    /// Whether the node still runs.
    pub(crate) fn is_up(&mut self) -> bool {
        self.node
            .as_mut()
            .is_some_and(|node| node.child.try_wait().unwrap().is_none())
    }

    /// The command of a user of this mesh.
    pub(crate) fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = meshctl(self.dir.path());
        command.args(words);
        if let Some(node) = &self.node {
            command.args(["--node", &node.address]);
        }
        command
    }

    /// Runs a command as a user of this mesh.
    pub(crate) fn run(&self, words: &[impl AsRef<OsStr>]) -> Ran {
        run(self.command(words), b"")
    }

    /// Runs a command with this input.
    pub(crate) fn run_with(&self, words: &[impl AsRef<OsStr>], input: &[u8]) -> Ran {
        run(self.command(words), input)
    }

    /// Runs a command that must succeed, and gives its stdout.
    pub(crate) fn ok(&self, words: &[impl AsRef<OsStr>]) -> Vec<u8> {
        self.run(words).succeeded()
    }

    /// The same, as text without the line end.
    pub(crate) fn text(&self, words: &[impl AsRef<OsStr>]) -> String {
        self.run(words).text()
    }

    /// Runs a command that must succeed, with `--output json`; each line of its stdout is a value.
    pub(crate) fn json(&self, words: &[&str]) -> Vec<serde_json::Value> {
        let output = self.text(&[words, &["--output", "json"]].concat());
        output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs a command in the mesh's folder without naming its node.
    pub(crate) fn bare(&self, words: &[impl AsRef<OsStr>]) -> Ran {
        let mut command = meshctl(self.dir.path());
        command.args(words);
        run(command, b"")
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            node.end();
        }
        if thread::panicking() {
            print_end_of_log(self.dir.path(), "n1");
        }
    }
}

impl Running {
    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ended, after a signal that asked it to.
    pub(crate) fn stopped(mut self) -> ExitStatus {
        wait(&mut self.child).expect("the node stops at SIGTERM")
    }

    /// Ends it whatever has become of it: it may have ended by itself, or stand still.
    pub(crate) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For whoever reads why a test failed.
pub(crate) fn print_end_of_log(dir: &Path, name: &str) {
    let log = fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(30)..];
    let _ = writeln!(
        std::io::stderr(),
        "the log of {name} ends with:\n{}",
        last.join("\n")
    );
}

/// Serves `mesh/NAME` in this folder until its `ready` line, or its end. Its log goes to the end of `NAME.log`.
pub(crate) fn serve(dir: &Path, name: &str) -> Result<Running, Ran> {
    let log = dir.join(format!("{name}.log"));
    let file = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .unwrap();
    let before = file.metadata().unwrap().len();
    let mut child = meshctl(dir)
        .args(["serve", &format!("mesh/{name}"), "--until-stdin-closes"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .unwrap();
    let lifeline = child.stdin.take().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        sender.send(read.map(|_| line)).unwrap();
    });
    let line = receiver
        .recv_timeout(PATIENCE)
        .map(Result::unwrap)
        .unwrap_or_default();
    if let Some(address) = line.strip_prefix("ready ") {
        return Ok(Running {
            address: address.trim_end().to_owned(),
            child,
            _lifeline: lifeline,
        });
    }
    let _ = child.kill();
    Err(Ran {
        code: child.wait().unwrap().code(),
        stdout: line.into_bytes(),
        stderr: fs::read_to_string(&log).unwrap()[before as usize..].to_owned(),
    })
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.stdout[..self.stdout.len().min(4_000)];
        f.debug_struct("Ran")
            .field("code", &self.code)
            .field("stdout", &String::from_utf8_lossy(start))
            .field("stderr", &self.stderr)
            .finish()
    }
}

impl Ran {
    /// Its stdout; it must have ended with 0.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The same, as text without the line end.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        let text = String::from_utf8(self.succeeded()).unwrap();
        text.trim_end().to_owned()
    }

    /// It must have ended with this code, nothing on stdout, and one line of error that contains each of `words`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(String::from_utf8_lossy(&self.stdout), "", "{self:?}");
        self.told(words);
    }

    /// Its stderr is one line of error that contains each of `words`.
    #[track_caller]
    pub(crate) fn told(&self, words: &[&str]) {
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        let [error] = errors[..] else {
            panic!("not one error: {self:?}")
        };
        assert_eq!(self.stderr.lines().last(), Some(error), "{self:?}");
        for word in words {
            assert!(error.contains(word), "no `{word}` in {self:?}");
        }
    }
}

/// The binary, in this folder, with nothing of the environment that could lead it elsewhere.
pub(crate) fn meshctl(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command
        .current_dir(dir)
        .env_remove("MESHCTL_CONFIG")
        .env_remove("MESHCTL_LOG")
        .env("HOME", dir)
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end. One that takes longer than [`PATIENCE`] is killed, and has no exit code.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    thread::scope(|scope| {
        // A command that ends before it has read everything closes the pipe.
        scope.spawn(move || drop(stdin.write_all(input)));
        let out = scope.spawn(move || read_all(&mut stdout));
        let err = scope.spawn(move || read_all(&mut stderr));
        let status = wait(&mut child);
        if status.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        Ran {
            code: status.and_then(|status| status.code()),
            stdout: out.join().unwrap(),
            stderr: String::from_utf8_lossy(&err.join().unwrap()).into_owned(),
        }
    })
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

/// Waits for the end of a process for [`PATIENCE`].
pub(crate) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let mut status = None;
    until(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .then_some(())?;
    status
}

/// Asks again and again until it is so, for [`PATIENCE`].
pub(crate) fn until(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A port that nothing uses now, for nodes that must come back where they were.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
