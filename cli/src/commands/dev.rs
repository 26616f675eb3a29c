//! `meshctl dev`: a cluster for development in one terminal.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{init, serve};
use crate::error::Failure;
use crate::layout::Layout;
use crate::process::{Log, NodeProcess, Starting, spawn};
use crate::session::Session;
use crate::signals::Interrupt;

/// Events of nodes that have not been told yet.
const EVENTS_MAX: usize = 16;

/// Run every node of a mesh directory, made first if absent
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl dev
  meshctl dev mesh --nodes 1 --port 7500

Each node is a process of its own; its lines are prefixed with its name. One that dies is reported and the others go
on; `meshctl serve` in another terminal brings it back. Ctrl-C stops them together. --nodes and what follows count
only when the directory is made.")]
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
    let names = layout.nodes()?;
    if names.is_empty() {
        return Err(Failure::failed(format!(
            "no node's folder in {}: `meshctl node new` makes one",
            layout.root().display()
        )));
    }
    let mut fleet = Fleet::start(&layout, names, session)?;
    let interrupted = fleet.supervise(&mut interrupt, session).await;
    let stopped = tokio::select! {
        stopped = fleet.stop() => stopped,
        signal = interrupt.received() => Err(Failure::failed(format!(
            "killed the nodes after a second signal, {signal}: nothing acknowledged is lost"
        ))),
    };
    interrupted.and(stopped)
}

/// What a node has to tell.
enum Event {
    Ready { name: Arc<str>, address: String },
    Ended { name: Arc<str>, cause: String },
}

/// All nodes, each with a task that looks after its process.
struct Fleet {
    root: PathBuf,
    keepers: JoinSet<Result<(), Failure>>,
    events: mpsc::Receiver<Event>,
    stopping: watch::Sender<bool>,
}

impl Fleet {
    fn start(layout: &Layout, names: Vec<String>, session: &Session) -> Result<Self, Failure> {
        let log = session.common.log.as_deref().unwrap_or(serve::LOG_DEFAULT);
        let (stopping, stop) = watch::channel(false);
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let mut keepers = JoinSet::new();
        for name in names {
            let (starting, lines) = spawn(&layout.node(&name), log)?;
            let keeper = Keeper {
                name: name.into(),
                stop: stop.clone(),
                tell: tell.clone(),
            };
            keepers.spawn(keeper.keep(starting, lines));
        }
        Ok(Self {
            root: layout.root().to_owned(),
            keepers,
            events,
            stopping,
        })
    }

    /// Tells what happens until a person ends it, which is `Ok`, or every node has ended by itself.
    async fn supervise(
        &mut self,
        interrupt: &mut Interrupt,
        session: &mut Session,
    ) -> Result<(), Failure> {
        loop {
            let event = tokio::select! {
                _ = interrupt.received() => return Ok(()),
                event = self.events.recv() => event,
            };
            match event {
                Some(Event::Ready { name, address }) => {
                    session.out.line(format!("{name} | ready {address}"))?;
                    session.out.flush()?;
                }
                Some(Event::Ended { name, cause }) => say(&name, &self.advice(&name, &cause)),
                None => {
                    return Err(Failure::failed(
                        "every node has ended by itself: their last lines say why",
                    ));
                }
            }
        }
    }

    fn advice(&self, name: &str, cause: &str) -> String {
        let folder = self.root.join(name);
        let folder = folder.display();
        format!("{cause}; the other nodes go on. Bring it back with: meshctl serve {folder}")
    }

    /// Stops all nodes at once, and waits for them.
    async fn stop(&mut self) -> Result<(), Failure> {
        self.stopping.send_replace(true);
        self.events.close();
        let mut stopped = Ok(());
        while let Some(keeper) = self.keepers.join_next().await {
            let ended = keeper.unwrap_or_else(|e| Err(Failure::failed(e.to_string())));
            stopped = stopped.and(ended);
        }
        stopped
    }
}

/// Looks after one node's process.
struct Keeper {
    name: Arc<str>,
    stop: watch::Receiver<bool>,
    tell: mpsc::Sender<Event>,
}

impl Keeper {
    /// Ends when the node has. An error is a node that was asked to stop and did not do so cleanly.
    async fn keep(mut self, starting: Starting, lines: Log) -> Result<(), Failure> {
        let follower = tokio::spawn(follow(self.name.clone(), lines));
        let kept = self.run(starting).await;
        // The log ends with the process; its last lines say why it did.
        let _ = follower.await;
        match kept {
            Ok(Kept::Stopped(ended)) => ended,
            Ok(Kept::EndedByItself(cause)) => {
                let name = self.name.clone();
                // Nobody listens any more where all are being stopped.
                let _ = self.tell.send(Event::Ended { name, cause }).await;
                Ok(())
            }
            Err(failure) => Err(failure.at(&self.name)),
        }
    }

    async fn run(&mut self, starting: Starting) -> Result<Kept, Failure> {
        let mut node = tokio::select! {
            ready = starting.ready() => match ready {
                Ok(node) => node,
                Err(failure) => return Ok(Kept::EndedByItself(failure.to_string())),
            },
            // It has accepted nothing yet: being killed is as good as being stopped.
            _ = self.stop.wait_for(|stop| *stop) => return Ok(Kept::Stopped(Ok(()))),
        };
        let ready = Event::Ready {
            name: self.name.clone(),
            address: node.address.clone(),
        };
        let _ = self.tell.send(ready).await;
        tokio::select! {
            status = node.ended() => {
                return Ok(Kept::EndedByItself(format!("it ended by itself ({})", status?)));
            }
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
        Ok(Kept::Stopped(stop(&self.name, node).await))
    }
}

enum Kept {
    Stopped(Result<(), Failure>),
    EndedByItself(String),
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
async fn follow(name: Arc<str>, mut lines: Log) {
    while let Ok(Some(line)) = lines.next_line().await {
        say(&name, &line);
    }
}

/// A line of a node on stderr. One that is gone must not stop the node.
fn say(name: &str, line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{name} | {line}");
}
