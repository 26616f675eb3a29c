//! Programs of peers: found where `make versus-tools` or the system has put them, and bounded in time.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench_drive::{Done, Job};

use crate::Result;

/// How long a load may take; it stops its servers by then, and says so.
const LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to do that. After this it is killed, and its servers with it.
const GRACE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A peer's server, and the program that starts it and loads it.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The server.
    pub server: PathBuf,
    load: PathBuf,
}

/// Where a program may be.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// An environment variable that names it.
    pub variable: &'static str,
    /// Where it is installed, in `~/.cache`.
    pub cached: &'static str,
    /// What it is called in `PATH`, where one from there will do.
    pub in_path: Option<&'static str>,
}

impl Named {
    /// The first that is there: the one that the variable names, or else the installed one, or else that of the system.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(named) = std::env::var_os(self.variable) {
            return Some(PathBuf::from(named)).filter(|program| program.exists());
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let cached = home.map(|home| home.join(".cache").join(self.cached));
        cached
            .filter(|program| program.exists())
            .or_else(|| in_path(self.in_path?, std::env::var_os("PATH")?))
    }
}

fn in_path(name: &str, path: OsString) -> Option<PathBuf> {
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

impl Tool {
    /// Both, where both are there.
    #[must_use]
    pub fn find(server: &Named, load: &Named) -> Option<Tool> {
        Some(Tool {
            server: server.find()?,
            load: load.find()?,
        })
    }

    /// The load, for a server of this machine with its data in `dir`, which is made.
    ///
    /// # Errors
    /// The file system's.
    pub fn command(&self, dir: &Path) -> Result<Command> {
        std::fs::create_dir_all(dir)?;
        let mut command = Command::new(self.load.canonicalize()?);
        // Its name in its folder is kept: a server may be a link to a program that does what it is called.
        command.arg(std::path::absolute(&self.server)?);
        command.current_dir(dir);
        Ok(command)
    }

    /// Does a job.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn run(&self, mut command: Command, job: &Job) -> Result<Done> {
        command.arg(serde_json::to_string(job)?);
        command.arg(LIMIT.as_secs().to_string());
        let hint = "where the load is of another version, `make versus-tools` builds it anew";
        let done = output(command).and_then(|said| Ok(serde_json::from_slice(&said)?));
        done.map_err(|error| format!("{error} ({hint})").into())
    }
}

/// What a program prints that ends in time.
///
/// # Errors
/// It fails, and says why; it was killed, because it did not end.
pub fn output(command: Command) -> Result<Vec<u8>> {
    output_within(command, LIMIT + GRACE)
}

fn output_within(mut command: Command, limit: Duration) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    // What is printed is less than a pipe holds.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Err(format!("{name} was killed: it had not ended after {limit:?}").into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let (mut out, mut failure) = (Vec::new(), String::new());
    child
        .stdout
        .take()
        .ok_or("no stdout")?
        .read_to_end(&mut out)?;
    child
        .stderr
        .take()
        .ok_or("no stderr")?
        .read_to_string(&mut failure)?;
    if child.wait()?.success() {
        return Ok(out);
    }
    Err(format!("{name}: {}", failure.trim_end()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let began = Instant::now();
        let error = output_within(sleep, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_a_program_says_and_why_it_fails_are_told() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            output_within(command, Duration::from_secs(30))
        };
        assert_eq!(shell("echo yes").unwrap(), b"yes\n");
        let error = shell("echo why >&2; exit 3").unwrap_err();
        assert_eq!(error.to_string(), "sh: why");
    }

    #[test]
    fn a_program_is_found_in_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("peer");
        std::fs::write(&program, "").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), dir.path()]).unwrap();
        assert_eq!(in_path("peer", path.clone()), Some(program));
        assert_eq!(in_path("other", path), None);
    }
}
