//! Runs a hot path under callgrind and reads how many instructions it took.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// How callgrind knows [`super::measured`].
pub const MEASURED: &str = "mesh_benches::counts::measured";

/// No path takes longer, even on a busy machine: what takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a path took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Instructions of all threads.
    pub instructions: u64,
    /// Operations that they were for.
    pub operations: u64,
}

impl Counted {
    /// Instructions of one operation.
    #[must_use]
    pub fn each(&self) -> f64 {
        self.instructions as f64 / self.operations.max(1) as f64
    }
}

/// The version of the valgrind that is installed.
///
/// # Errors
/// There is none: the message says how to install it.
pub fn version() -> Result<String> {
    let missing = "valgrind is missing, which counts the instructions of the hot paths. Install it with: apt-get install valgrind \
                   (Debian, Ubuntu), dnf install valgrind (Fedora), pacman -S valgrind (Arch)";
    let output = Command::new("valgrind").arg("--version").output();
    let output = output.map_err(|error| format!("{missing} ({error})"))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !version.is_empty() {
        Ok(version)
    } else {
        Err(missing.into())
    }
}

/// Counts one path: starts this program as `counts work NAME` under callgrind, which leaves its profile in `dir`.
///
/// # Errors
/// The path failed or took too long, or callgrind did not see [`super::measured`].
pub fn count(name: &str, dir: &Path) -> Result<Counted> {
    fs::create_dir_all(dir)?;
    let out = dir.join(format!("{name}.out"));
    remove_earlier(dir, name)?;
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(format!("--dump-before={MEASURED}"))
        .arg(format!("--dump-after={MEASURED}"))
        .args(["--quiet", "--fair-sched=yes"])
        .arg(std::env::current_exe()?)
        .args(["work", name])
        // What a shell of somebody else's holds must not lie on the stack of what is counted.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "MESHLOG_BENCH_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(said_in(dir, name))?);
    let said = finish(command, name).map_err(|error| {
        let stderr = fs::read_to_string(said_in(dir, name)).unwrap_or_default();
        format!("{error}\n{}", stderr.trim_end())
    })?;
    let operations = said.trim().parse().map_err(|_| {
        format!("the path {name} said {said:?} in place of its number of operations")
    })?;
    Ok(Counted {
        instructions: instructions(dir, name)?,
        operations,
    })
}

/// Callgrind has much to say of system calls that it does not know; it is shown where a path fails.
fn said_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.stderr"))
}

fn finish(mut command: Command, name: &str) -> Result<String> {
    let mut process = command.spawn()?;
    let began = Instant::now();
    while process.try_wait()?.is_none() {
        if began.elapsed() > PATIENCE {
            process.kill()?;
            process.wait()?;
            return Err(format!(
                "the path {name} was not done after {PATIENCE:?} and was stopped: it hangs, or the machine is very busy"
            )
            .into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let output = process.wait_with_output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("the path {name} failed under callgrind: {}", output.status).into())
    }
}

/// The profile of what lay between the two ends of [`super::measured`].
///
/// # Errors
/// There is none.
pub fn profile(dir: &Path, name: &str) -> Result<PathBuf> {
    for part in parts(dir, name)? {
        if is_measured(&fs::read_to_string(&part)?) {
            return Ok(part);
        }
    }
    Err(format!(
        "callgrind did not see the function {MEASURED} in path {name}: was it renamed, or compiled into its caller?"
    )
    .into())
}

fn instructions(dir: &Path, name: &str) -> Result<u64> {
    let measured = fs::read_to_string(profile(dir, name)?)?;
    let total = total(&measured);
    Ok(total.ok_or_else(|| format!("the profile of path {name} has no total"))?)
}

/// Every file that callgrind has left of a path: one for each time that it wrote down what it had counted.
fn parts(dir: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let start = format!("{name}.out");
    let mut parts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&start) {
            parts.push(entry.path());
        }
    }
    parts.sort();
    Ok(parts)
}

fn remove_earlier(dir: &Path, name: &str) -> Result<()> {
    for part in parts(dir, name)? {
        fs::remove_file(part)?;
    }
    Ok(())
}

fn is_measured(profile: &str) -> bool {
    let mut lines = profile.lines().take_while(|line| !line.starts_with("fn="));
    lines.any(|line| line.starts_with("desc: Trigger: --dump-after="))
}

fn total(profile: &str) -> Option<u64> {
    let value = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name));
    let value = value("totals:").or_else(|| value("summary:"))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "# callgrind format\nversion: 1\npart: 2\n\ndesc: Trigger: --dump-after=a::measured\n\n\
                           events: Ir\nsummary: 12 \n\nfn=(1) a\n0 12\n\ntotals: 34\n";

    #[test]
    fn the_part_between_the_two_ends_is_read() {
        assert!(is_measured(PROFILE));
        assert!(!is_measured(&PROFILE.replace("after", "before")));
        assert_eq!(total(PROFILE), Some(34));
        assert_eq!(total("events: Ir\n"), None);
        let place = crate::place::Place::new().unwrap();
        fs::write(
            place.path().join("a.out.1"),
            PROFILE.replace("after", "before"),
        )
        .unwrap();
        let missed = instructions(place.path(), "a").unwrap_err().to_string();
        assert!(
            missed.contains(MEASURED) && missed.contains("path a"),
            "{missed}"
        );
        fs::write(place.path().join("a.out.2"), PROFILE).unwrap();
        assert_eq!(instructions(place.path(), "a").unwrap(), 34);
        remove_earlier(place.path(), "a").unwrap();
        assert!(parts(place.path(), "a").unwrap().is_empty());
    }

    #[test]
    fn the_name_that_callgrind_watches_is_that_of_the_function() {
        assert!(std::any::type_name_of_val(&super::super::measured).ends_with(MEASURED));
    }
}
