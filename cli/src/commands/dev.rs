//! `meshctl dev`: a cluster for development in one terminal.

use std::io::Write;
use std::path::PathBuf;

use super::init;
use crate::error::Failure;
use crate::layout::Layout;
use crate::process::{Log, NodeProcess, spawn};
use crate::session::Session;
use crate::signals::Interrupt;

/// Run every node of a mesh directory, made first if absent
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl dev
  meshctl dev mesh --port 7500

Each node is a process of its own; its lines are prefixed with its name. Ctrl-C stops them together.")]
pub(crate) struct Args {
    /// The mesh directory
    #[arg(default_value = "mesh")]
    dir: PathBuf,
    #[command(flatten)]
    shape: init::Shape,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let layout = Layout::new(&args.dir);
    if !layout.authority().exists() {
        init::create(&layout, &args.shape)?;
        session
            .out
            .confirm(format!("made {}", layout.root().display()))?;
        session.out.flush()?;
    }
    let name = "n1";
    let log = session.common.log.as_deref().unwrap_or("info");
    let (starting, lines) = spawn(&layout.node(name), log)?;
    let follower = tokio::spawn(follow(name, lines));
    let mut node = tokio::select! {
        node = starting.ready() => node?,
        _ = interrupt.received() => return Ok(()),
    };
    session
        .out
        .line(format!("{name} | ready {}", node.address))?;
    session.out.flush()?;
    let outcome = supervise(name, &mut node, &mut interrupt).await;
    let stopped = match outcome {
        Ended::Asked => tokio::select! {
            stopped = stop(name, node) => stopped,
            signal = interrupt.received() => Err(Failure::failed(format!(
                "killed the nodes after a second signal, {signal}: nothing acknowledged is lost"
            ))),
        },
        Ended::ByItself(failure) => Err(failure),
    };
    // The log ends with the process; its last lines say why.
    let _ = follower.await;
    stopped
}

enum Ended {
    Asked,
    ByItself(Failure),
}

async fn supervise(name: &str, node: &mut NodeProcess, interrupt: &mut Interrupt) -> Ended {
    tokio::select! {
        _ = interrupt.received() => Ended::Asked,
        status = node.ended() => Ended::ByItself(match status {
            Ok(status) => Failure::failed(format!("{name} ended by itself ({status}): its last lines say why")),
            Err(failure) => failure,
        }),
    }
}

async fn stop(name: &str, node: NodeProcess) -> Result<(), Failure> {
    let status = node.stop().await?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{name} did not stop cleanly ({status})"
    )))
}

/// Copies a node's log to ours, each line behind its name.
async fn follow(name: &'static str, mut lines: Log) {
    while let Ok(Some(line)) = lines.next_line().await {
        // A stderr that is gone must not stop the node.
        let _ = writeln!(std::io::stderr().lock(), "{name} | {line}");
    }
}
