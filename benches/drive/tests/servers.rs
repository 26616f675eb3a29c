//! Servers end with the program that started them, however that ends. The test starts itself as such a program.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench_drive::tool::{self, Asked};
use bench_drive::{Done, Job, Publish, Result};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Names the file that the program writes the server's process id to.
const TOLD: &str = "SERVERS_TEST_TOLD";
/// Set where the work is to fail.
const FAILS: &str = "SERVERS_TEST_FAILS";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "as-server") || std::env::var_os(TOLD).is_some()
    {
        return tool::run(work);
    }
    if cfg!(target_os = "linux") {
        servers_end_with_a_program_that_is_killed()?;
    }
    servers_end_with_a_program_that_is_told_to_end()?;
    servers_end_when_the_time_is_over()?;
    servers_end_when_the_work_fails()
}

/// Starts a server that would go on for long, and goes on for long.
async fn work(asked: Asked) -> Result<Done> {
    let log = asked.dir.join("log");
    let server = tool::server(&asked.server, &log)?.arg("600").spawn()?;
    let id = server.id().ok_or("the server has ended")?;
    let told = std::env::var(TOLD)?;
    std::fs::write(format!("{told}.part"), id.to_string())?;
    std::fs::rename(format!("{told}.part"), told)?;
    if std::env::var_os(FAILS).is_some() {
        return Err("the work fails".into());
    }
    tokio::time::sleep(2 * PATIENCE).await;
    Err("nobody has ended it".into())
}

/// The program, and its server.
fn start(dir: &Path, seconds: &str, fails: bool) -> Result<(Child, Pid)> {
    let told = dir.join("told");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("/bin/sleep")
        .arg(serde_json::to_string(&Job::Publish(Publish::default()))?)
        .arg(seconds)
        .env(TOLD, &told)
        .current_dir(dir)
        .stderr(Stdio::piped());
    if fails {
        command.env(FAILS, "1");
    }
    let program = command.spawn()?;
    wait("the program has started its server", || told.exists())?;
    let id = std::fs::read_to_string(&told)?.parse()?;
    Ok((program, Pid::from_raw(id).ok_or("no process id")?))
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > PATIENCE {
            return Err(format!("not after {PATIENCE:?}: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_gone(server: Pid) -> bool {
    // One that nobody has waited for yet is dead all the same.
    let stat = std::fs::read_to_string(format!("/proc/{server}/stat"));
    stat.map_or(test_kill_process(server).is_err(), |stat| {
        stat.contains(") Z ")
    })
}

fn ends(mut program: Child, server: Pid, says: &str) -> Result<()> {
    wait("the program has ended", || {
        !matches!(program.try_wait(), Ok(None))
    })?;
    let output = program.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() || !said.contains(says) {
        return Err(format!("{}: {said:?}, not {says:?}", output.status).into());
    }
    wait("the server is gone", || is_gone(server))
}

fn servers_end_with_a_program_that_is_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut program, server) = start(dir.path(), "60", false)?;
    assert!(!is_gone(server));
    program.kill()?;
    ends(program, server, "")
}

fn servers_end_with_a_program_that_is_told_to_end() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (program, server) = start(dir.path(), "60", false)?;
    assert!(!is_gone(server));
    kill_process(Pid::from_child(&program), Signal::TERM)?;
    ends(program, server, "terminated")
}

fn servers_end_when_the_time_is_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (program, server) = start(dir.path(), "1", false)?;
    ends(program, server, "not done after 1s")
}

fn servers_end_when_the_work_fails() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (program, server) = start(dir.path(), "60", true)?;
    ends(program, server, "the work fails")
}
