//! A node as a child process, for `dev` and `demo`.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use crate::error::Failure;

/// Longest time a node may take until it serves.
const READY_MAX: Duration = Duration::from_secs(30);
/// Longest time a node may take to stop cleanly before it is killed.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A `meshctl serve` process. It ends with this value, and by itself should this process die first: its stdin is a
/// pipe from here, and `--until-stdin-closes` makes it stop when that closes.
pub(crate) struct NodeProcess {
    child: Child,
    // Held, never written to.
    _lifeline: Option<tokio::process::ChildStdin>,
    // Held, so that nothing it might still print fails.
    _stdout: Lines<BufReader<ChildStdout>>,
    /// Where it serves.
    pub(crate) address: String,
}

/// A node that does not serve yet.
pub(crate) struct Starting {
    child: Child,
}

/// The log lines of a node. Someone must read them, or the node stops at a full pipe.
pub(crate) type Log = Lines<BufReader<ChildStderr>>;

/// Starts `meshctl serve FOLDER` with the given log filter. It does not serve yet: see [`Starting::ready`].
pub(crate) fn spawn(folder: &Path, log: &str) -> Result<(Starting, Log), Failure> {
    let program = own_path()?;
    let mut child = Command::new(program)
        .arg("serve")
        .arg(folder)
        .args(["--until-stdin-closes", "--log", log])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: Ctrl-C reaches us, and we stop it in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::failed(format!("cannot start a node process: {e}")))?;
    let stderr = child.stderr.take().ok_or_else(lost_pipe)?;
    Ok((Starting { child }, BufReader::new(stderr).lines()))
}

impl Starting {
    /// Waits for the `ready` line for [`READY_MAX`] at most. A node that exits first is an error.
    pub(crate) async fn ready_in_time(self) -> Result<NodeProcess, Failure> {
        timeout(READY_MAX, self.ready())
            .await
            .map_err(|_| Failure::failed(format!("the node did not serve within {READY_MAX:?}")))?
    }

    /// Waits for the `ready` line. A node that exits first is an error; one that is no longer waited for is killed.
    pub(crate) async fn ready(mut self) -> Result<NodeProcess, Failure> {
        let stdout = self.child.stdout.take().ok_or_else(lost_pipe)?;
        let mut lines = BufReader::new(stdout).lines();
        let first = lines
            .next_line()
            .await
            .map_err(|e| Failure::failed(format!("cannot read from the node process: {e}")))?;
        let Some(address) = first
            .as_deref()
            .and_then(|line| line.strip_prefix("ready "))
        else {
            let status = timeout(STOP_MAX, self.child.wait()).await;
            let status = status
                .ok()
                .and_then(Result::ok)
                .map_or("no exit status".to_owned(), |s| s.to_string());
            return Err(Failure::failed(format!(
                "the node stopped before it served ({status})"
            )));
        };
        Ok(NodeProcess {
            address: address.to_owned(),
            _lifeline: self.child.stdin.take(),
            _stdout: lines,
            child: self.child,
        })
    }
}

impl NodeProcess {
    /// `kill -9`: the process gets no chance to finish anything.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        self.child
            .kill()
            .await
            .map_err(|e| Failure::failed(format!("cannot kill the node process: {e}")))
    }

    /// SIGTERM, then its exit status. A node that does not stop in time is killed, and that is an error.
    pub(crate) async fn stop(mut self) -> Result<ExitStatus, Failure> {
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // An error means that it is gone already; `wait` tells how.
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(STOP_MAX, self.child.wait()).await {
            Ok(status) => status
                .map_err(|e| Failure::failed(format!("cannot wait for the node process: {e}"))),
            Err(_) => {
                self.kill().await?;
                Err(Failure::failed(format!(
                    "the node did not stop within {STOP_MAX:?} and was killed"
                )))
            }
        }
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus, Failure> {
        self.child
            .wait()
            .await
            .map_err(|e| Failure::failed(format!("cannot wait for the node process: {e}")))
    }
}

/// The binary that is running now.
pub(crate) fn own_path() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|e| Failure::failed(format!("cannot tell where meshctl itself lies: {e}")))
}

fn lost_pipe() -> Failure {
    Failure::failed("the node process has no pipe to read from")
}
