//! The program of a peer: `SERVER JOB [SECONDS]` starts servers in a folder of its own below the current one, does the job on
//! them, prints what it came to as JSON, and has ended them by then.
//!
//! They end also where it is killed, its time is over or whoever started it is gone: each server is asked of the system to
//! die with its parent.

use std::fs::File;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::{Done, Job, Result};

/// The word that makes the program become a server.
const AS_SERVER: &str = "as-server";
/// How long everything may take, where nothing else is said.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a server may take to end in order.
const GRACE: Duration = Duration::from_secs(20);

/// What it was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The peer's server.
    pub server: PathBuf,
    /// What to do.
    pub job: Job,
    /// A folder for the servers' data; gone in the end.
    pub dir: PathBuf,
}

/// Does what the program's arguments say; `work` starts servers, does the job and stops them.
///
/// # Errors
/// The arguments are not understood, its time is over, or it was told to end; those of `work`.
#[expect(clippy::print_stdout, reason = "a program whose result is a line")]
pub fn run<F>(work: impl FnOnce(Asked) -> F) -> Result<()>
where
    F: Future<Output = Result<Done>>,
{
    become_server()?;
    let usage = r#"give a SERVER, a JOB such as {"publish":{"in_flight":1}}, and SECONDS that all may take"#;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (server, job, limit) = match &arguments[..] {
        [server, job] => (server, job, LIMIT),
        [server, job, seconds] => (server, job, Duration::from_secs(seconds.parse()?)),
        _ => return Err(usage.into()),
    };
    let dir = tempfile::tempdir_in(".")?;
    let asked = Asked {
        server: server.into(),
        job: serde_json::from_str(job)?,
        dir: dir.path().canonicalize()?,
    };
    let runtime = crate::runtime(&asked.job)?;
    // Not in a task: servers die with the thread that has started them.
    let done = runtime.block_on(bounded(limit, work(asked)))?;
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

/// Becomes a server, where the program was started for that. Otherwise sees to it that it ends with whoever started it.
///
/// # Errors
/// There is no such server.
pub fn become_server() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match &arguments[..] {
        [word, parent, program, rest @ ..] if word == AS_SERVER => {
            die_with_parent(Signal::KILL)?;
            let parent = parent.to_str().and_then(|parent| parent.parse().ok());
            // It may have gone before the system was told.
            if rustix::process::getppid() != parent.and_then(Pid::from_raw) {
                return Err("the program that starts this server is gone".into());
            }
            let error = std::process::Command::new(program).args(rest).exec();
            Err(format!("{}: {error}", Path::new(program).display()).into())
        }
        _ => die_with_parent(Signal::TERM),
    }
}

/// What `work` comes to, unless its time is over or the program is told to end.
///
/// # Errors
/// These, and those of `work`.
pub async fn bounded<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut terminated, mut interrupted) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        done = timeout(limit, work) => done.map_err(|_| format!("not done after {limit:?}"))?,
        _ = terminated.recv() => Err("terminated".into()),
        _ = interrupted.recv() => Err("interrupted".into()),
    }
}

/// A server with these arguments, not started yet. It is killed when its handle is dropped, and when this program ends in
/// whatever way. What it says goes to `log`. Start it in the main task.
///
/// # Errors
/// The system's.
pub fn server(program: &Path, log: &Path) -> Result<Command> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(AS_SERVER)
        .arg(std::process::id().to_string())
        .arg(program)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    Ok(command)
}

/// Asks a server to end and waits for that; kills it where it takes too long.
///
/// # Errors
/// The system's.
pub async fn stop(mut server: Child) -> Result<()> {
    let id = server.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(id) = id {
        kill_process(id, Signal::TERM)?;
    }
    if timeout(GRACE, server.wait()).await.is_err() {
        server.kill().await?;
    }
    Ok(())
}

/// Waits until everything written to the disk of `dir` is there: what was put in without an fsync does not burden who is measured.
///
/// # Errors
/// The file system's.
pub fn settle(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// Ports that were free a moment ago.
///
/// # Errors
/// The system's.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}

#[cfg(target_os = "linux")]
fn die_with_parent(signal: Signal) -> Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        signal,
    ))?)
}

/// Elsewhere the handles see to it, unless this program is killed.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: Signal) -> Result<()> {
    Ok(())
}
