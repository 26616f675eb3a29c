//! What the visitor sees: headings, commands as they are typed, and claims with their verdict.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::commands::serve;
use crate::error::Failure;
use crate::process::{Log, NodeProcess, own_path, spawn};
use crate::session::Session;

/// Longest time one command may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Lines of a node's log that are shown when it does not start.
const LOG_LINES: usize = 10;

pub(super) struct Tour<'a> {
    session: &'a mut Session,
    dir: PathBuf,
    held: u32,
    broken: u32,
    /// The last lines that each node has logged, by its folder.
    logs: BTreeMap<String, LastLines>,
}

type LastLines = Arc<Mutex<VecDeque<String>>>;

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl<'a> Tour<'a> {
    pub(super) fn new(dir: PathBuf, session: &'a mut Session) -> Self {
        Self {
            session,
            dir,
            held: 0,
            broken: 0,
            logs: BTreeMap::new(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Claims that held, and claims that did not.
    pub(super) fn score(&self) -> (u32, u32) {
        (self.held, self.broken)
    }

    pub(super) fn heading(&mut self, text: &str) -> Result<(), Failure> {
        self.session.out.confirm(format!("\n{text}"))?;
        self.session.out.flush()
    }

    /// Prints a claim and whether it holds.
    pub(super) fn claim(&mut self, held: bool, text: &str) -> Result<(), Failure> {
        if held {
            self.held += 1;
        } else {
            self.broken += 1;
        }
        let out = &mut self.session.out;
        if out.is_json() {
            out.json(&json!({"claim": text, "held": held}))?;
        } else if !held || !out.is_quiet() {
            out.line(format!("  {} {text}", if held { '✓' } else { '✗' }))?;
        }
        out.flush()
    }

    /// Runs `meshctl` with these words in the tour's directory, as a visitor would type them.
    pub(super) async fn meshctl(&mut self, words: &[&str]) -> Result<Ran, Failure> {
        self.show(&format!("meshctl {}", typed(words)))?;
        self.meshctl_unseen(words).await
    }

    /// The same without showing it: for checks, and for what is done again and again.
    pub(super) async fn meshctl_unseen(&self, words: &[&str]) -> Result<Ran, Failure> {
        let mut command = Command::new(own_path()?);
        command
            .args(words)
            .current_dir(&self.dir)
            .env_remove("MESHCTL_CONFIG")
            .env_remove("MESHCTL_LOG")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ran = timeout(COMMAND_MAX, command.output())
            .await
            .map_err(|_| {
                Failure::failed(format!(
                    "`meshctl {}` took longer than {COMMAND_MAX:?}",
                    typed(words)
                ))
            })?
            .map_err(|e| Failure::failed(format!("cannot run meshctl: {e}")))?;
        Ok(Ran {
            code: ran.status.code(),
            stdout: ran.stdout,
            stderr: String::from_utf8_lossy(&ran.stderr).into_owned(),
        })
    }

    /// Starts the node of this folder and waits until it serves.
    pub(super) async fn serve(&mut self, folder: &str) -> Result<NodeProcess, Failure> {
        self.show(&format!("meshctl serve {folder} &"))?;
        let (starting, log) = spawn(&self.dir.join(folder), serve::LOG_DEFAULT)?;
        let last_lines = LastLines::default();
        tokio::spawn(remember(log, last_lines.clone()));
        self.logs.insert(folder.to_owned(), last_lines);
        let ready = starting.ready_in_time().await;
        ready.map_err(|failure| self.with_log(failure, folder))
    }

    /// The failure of this folder's node, and what the node logged last.
    pub(super) fn with_log(&self, failure: Failure, folder: &str) -> Failure {
        let lines = self.logs.get(folder).cloned().unwrap_or_default();
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        failure.at(format!("{folder} [{}]", lines.join(" | ")))
    }

    /// A fact for the visitor that is no claim.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.session.out.confirm(format!("    {text}"))?;
        self.session.out.flush()
    }

    pub(super) fn show(&mut self, command: &str) -> Result<(), Failure> {
        self.session.out.confirm(format!("  $ {command}"))?;
        self.session.out.flush()
    }
}

/// Reads a log to its end, keeping the last lines.
async fn remember(mut log: Log, last_lines: LastLines) {
    while let Ok(Some(line)) = log.next_line().await {
        let mut lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// The words as a shell wants them.
fn typed(words: &[&str]) -> String {
    let quoted = |word: &&str| {
        if word.contains([' ', '*', '"', '$']) {
            format!("'{word}'")
        } else {
            (*word).to_owned()
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

impl Ran {
    pub(super) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Shows what it printed.
    pub(super) fn shown(&self, tour: &mut Tour<'_>) -> Result<(), Failure> {
        self.text().lines().try_for_each(|line| tour.say(line))
    }

    /// Its stdout without the line end.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// An error where the tour cannot go on without this command.
    pub(super) fn required(self, what: &str) -> Result<Self, Failure> {
        if self.ok() {
            return Ok(self);
        }
        let code = self
            .code
            .map_or("a signal".to_owned(), |code| format!("code {code}"));
        Err(Failure::failed(format!(
            "{what} ended with {code}: {}",
            self.stderr.trim()
        )))
    }
}
