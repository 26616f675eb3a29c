//! Work that needs a process of its own: to be killed, or to have its memory and its writes counted.
//!
//! The report starts itself as `report child WORK ARGUMENTS…`. A child says on stdout when it is ready, and ends when its
//! stdin closes, so that none outlives the report.

mod growing;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::markdown::figure;
use crate::payload::Payload;
use crate::process::disk_bytes_written;
use crate::stores::{Kind, Meshlog, Store as _};
use crate::work::{Appending, RECORD_BYTES, append_one, in_flight_rate};
use crate::{Result, bulk, fleet};

/// A process that works for this one.
pub struct Child {
    process: Process,
    lifeline: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program again, to do `work`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(work: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("child").arg(work).args(arguments);
        Child::spawn(command)
    }

    /// Starts another program.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(mut command: Command) -> Result<Child> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lifeline = process.stdin.take();
        let lines = BufReader::new(process.stdout.take().ok_or("the process has no stdout")?);
        Ok(Child {
            process,
            lifeline,
            lines,
        })
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// It ended instead; it has said why on stderr.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(format!("a process ended early: {}", self.process.wait()?).into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Says a line on its stdin.
    ///
    /// # Errors
    /// It has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.lifeline.as_mut().ok_or("the process has no stdin")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// The same, but it is killed where it says nothing for so long.
    ///
    /// # Errors
    /// It ended instead, or was killed.
    pub fn line_within(&mut self, limit: Duration) -> Result<String> {
        let process = Pid::from_child(&self.process);
        let (said, waiting) = mpsc::sync_channel::<()>(0);
        std::thread::scope(|scope| {
            let watching = scope.spawn(move || {
                let is_late = waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
                // It is not waited for meanwhile, so that the id is still its own.
                is_late && kill_process(process, Signal::KILL).is_ok()
            });
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            drop(said);
            match (read?, watching.join()) {
                (0, Ok(true)) => Err(format!("a process said nothing for {limit:?}").into()),
                (0, _) => Err(format!("a process ended early: {}", self.process.wait()?).into()),
                _ => Ok(line.trim_end().to_owned()),
            }
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end. Its stdin stays open until then: closing it asks for the end a second time.
    ///
    /// # Errors
    /// It failed.
    pub fn terminate(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        ended(self.process.wait()?)
    }

    /// Lets it end by itself and waits for that.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> Result<()> {
        drop(self.lifeline.take());
        ended(self.process.wait()?)
    }
}

fn ended(status: std::process::ExitStatus) -> Result<()> {
    if status.success() {
        Ok(())
    } else {
        Err(format!("a process failed: {status}").into())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After `kill` and `finish` it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a store was filled with and what that cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Filled {
    /// Bytes of the records' values.
    pub payload_bytes: u64,
    /// Bytes written to the disk until the store was closed.
    pub disk_bytes: u64,
    /// Seconds until the last record was durable.
    pub seconds: f64,
}

/// Does a child's work; `arguments` begin with its name.
///
/// # Errors
/// The arguments are not understood; the work's own.
pub fn work(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["grow", dir, bytes, topics] => {
            growing::grow(dir.as_ref(), bytes.parse()?, topics.parse()?)
        }
        ["exercise", dir, records, topics] => {
            growing::exercise(dir.as_ref(), records.parse()?, topics.parse()?)
        }
        ["fill", kind, dir, bytes, batch, topics] => {
            let work = Appending {
                batch: batch.parse()?,
                topics: topics.parse()?,
            };
            let filled = fill(kind, dir.as_ref(), bytes.parse()?, work)?;
            tell(&serde_json::to_string(&filled)?)
        }
        ["flight", dir, seconds, batch, topics] => {
            let work = Appending {
                batch: batch.parse()?,
                topics: topics.parse()?,
            };
            flight(
                dir.as_ref(),
                Duration::from_secs_f64(seconds.parse()?),
                work,
            )
        }
        ["make-topics", dir, topics] => make_topics(dir.as_ref(), topics.parse()?),
        ["idle", dir] => idle(dir.as_ref()),
        ["send-bulk", identity, path, bytes, receivers] => {
            let (path, receivers) = (bulk::Path::named(path)?, receivers.parse()?);
            bulk::send(
                identity.as_ref(),
                path,
                bytes.parse()?,
                receivers,
                |address| tell(&address.to_string()),
            )
        }
        ["fleet", dir, nodes, partitions] => fleet::serve(
            dir.as_ref(),
            nodes.parse()?,
            partitions.parse()?,
            tell,
            next_line_of_stdin,
        ),
        _ => Err("this is no work for a child".into()),
    }
}

fn fill(kind: &str, dir: &Path, bytes: u64, work: Appending) -> Result<Filled> {
    let kind = kind_named(kind)?;
    let payload = Payload::new(RECORD_BYTES);
    let batches = bytes / (work.batch * RECORD_BYTES) as u64;
    let before = disk_bytes_written()?;
    let mut store = kind.create(dir, work.topics)?;
    let began = Instant::now();
    for number in 0..batches {
        append_one(store.as_mut(), &payload, work, number)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    store.close()?;
    let disk_bytes = disk_bytes_written()? - before;
    Ok(Filled {
        payload_bytes: batches * (work.batch * RECORD_BYTES) as u64,
        disk_bytes,
        seconds,
    })
}

/// Appends with 256 batches in flight, for a profiler to look at: `perf record report child flight DIR 5 1 1000`.
fn flight(dir: &Path, time: Duration, work: Appending) -> Result<()> {
    let (store, payload) = (
        Meshlog::create(dir, work.topics)?,
        Payload::new(RECORD_BYTES),
    );
    tell(&figure(in_flight_rate(&store, &payload, work, 256, time)?))
}

/// Makes topics with a record each, says so, and stays until its stdin closes.
fn make_topics(dir: &Path, topics: usize) -> Result<()> {
    let (store, payload) = (Meshlog::create(dir, topics)?, Payload::new(RECORD_BYTES));
    let mut flight = store.in_flight(256);
    for topic in 0..topics {
        flight.append(topic, &payload.values(topic as u64, 1))?;
    }
    flight.finish()?;
    tell("ready")?;
    wait_for_end_of_stdin()?;
    Box::new(store).close()
}

fn idle(dir: &Path) -> Result<()> {
    let store = Meshlog::open(dir, 0)?;
    tell("ready")?;
    wait_for_end_of_stdin()?;
    Box::new(store).close()
}

fn kind_named(name: &str) -> Result<Kind> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| format!("{name} is no store").into())
}

/// What a child has filled, by its own account.
///
/// # Errors
/// The child's.
pub fn filled(kind: Kind, dir: &Path, bytes: u64, work: Appending) -> Result<Filled> {
    let numbers = [bytes, work.batch as u64, work.topics as u64].map(|number| number.to_string());
    let dir = dir.to_str().ok_or("the folder's name is not UTF-8")?;
    let mut child = Child::start(
        "fill",
        &[kind.name(), dir, &numbers[0], &numbers[1], &numbers[2]],
    )?;
    let filled = serde_json::from_str(&child.line()?)?;
    child.finish()?;
    Ok(filled)
}

fn tell(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// `None` once stdin is closed.
fn next_line_of_stdin() -> Result<Option<String>> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

fn wait_for_end_of_stdin() -> Result<()> {
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn die_with_parent() -> Result<()> {
    std::thread::Builder::new().spawn(|| {
        let _ = wait_for_end_of_stdin();
        std::process::exit(0);
    })?;
    Ok(())
}

/// A number from the environment, or `otherwise`.
///
/// # Errors
/// The variable is set to something else.
pub fn setting<T: FromStr>(name: &str, otherwise: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name}={text} is not a number").into()),
        Err(_) => Ok(otherwise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Child::spawn(command).unwrap()
    }

    #[test]
    fn a_process_that_says_nothing_is_killed() {
        let limit = Duration::from_millis(50);
        let began = Instant::now();
        let error = shell("exec sleep 60").line_within(limit).unwrap_err();
        assert_eq!(error.to_string(), "a process said nothing for 50ms");
        assert!(began.elapsed() < Duration::from_secs(30));
        let minute = Duration::from_secs(60);
        assert_eq!(shell("echo ready").line_within(minute).unwrap(), "ready");
        let error = shell("exit 3").line_within(minute).unwrap_err();
        assert!(error.to_string().contains("ended early"), "{error}");
    }
}
