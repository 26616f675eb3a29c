//! `meshctl serve`: run a node.

use std::io::Read;
use std::path::PathBuf;

use mesh_net::node::{Node, NodeConfig};
use tokio::sync::oneshot;

use crate::error::Failure;
use crate::session::Session;
use crate::signals::Interrupt;

/// What a node logs where nobody says otherwise. The consensus library tells of every message at `info`, and of
/// a peer that is gone five times a second.
pub(crate) const LOG_DEFAULT: &str = "info,openraft=error,openraft::replication=off";

/// Run a node until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl serve mesh/n1
  meshctl serve mesh/n1 --log info,mesh_net=debug

Prints `ready HOST:PORT` on stdout once it serves; logs go to stderr. At SIGTERM or SIGINT it finishes what it has
accepted, refuses new work and closes; a second signal ends it at once. It exits with 1 and the reason when its store stops, as after a failed write.")]
pub(crate) struct Args {
    /// The node's folder, made by `meshctl init`
    folder: PathBuf,
    /// Stop as well when stdin closes: for a parent process that must not leave a node behind
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let mut orphaned = if args.until_stdin_closes {
        Some(stdin_closed()?)
    } else {
        None
    };
    let failed =
        |e: &dyn std::fmt::Display| Failure::failed(format!("{}: {e}", args.folder.display()));
    let config = NodeConfig::load(&args.folder).map_err(|e| failed(&e))?;
    let node = Node::start(config).await.map_err(|e| failed(&e))?;
    tracing::info!(name = node.name(), address = %node.addr(), "serving");
    session.out.line(format!("ready {}", node.addr()))?;
    session.out.flush()?;

    let cause = tokio::select! {
        signal = interrupt.received() => signal,
        () = closed(orphaned.as_mut()) => "the end of stdin",
        cause = node.stopped() => return Err(failed(&cause)),
    };
    tracing::info!("stopping after {cause}");
    tokio::select! {
        closed = node.shutdown() => closed.map_err(|e| failed(&e)),
        signal = interrupt.received() => Err(Failure::failed(format!(
            "stopped at once by a second signal, {signal}: nothing acknowledged is lost"
        ))),
    }
}

/// Waits for the end of stdin on a thread that the process does not wait for.
fn stdin_closed() -> Result<oneshot::Receiver<()>, Failure> {
    let (closed, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut scrap = [0; 256];
            while matches!(std::io::stdin().lock().read(&mut scrap), Ok(1..)) {}
            // Nobody waits any more where the node stopped for another reason.
            let _ = closed.send(());
        })
        .map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
    Ok(receiver)
}

async fn closed(orphaned: Option<&mut oneshot::Receiver<()>>) {
    match orphaned {
        Some(closed) => _ = closed.await,
        None => std::future::pending().await,
    }
}
