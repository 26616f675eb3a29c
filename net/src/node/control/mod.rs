//! The control plane of a node: its member of the one replicated group that changes the cluster map (openraft over the
//! engine's rows and the nodes' own connections).
//!
//! - `raft`: what is replicated, and the clock; `log`, `machine`, `rows`: its storage; `rpc`, `network`: its messages;
//! - `propose`: commands, from any node; `members`: who votes and who only follows; `duties`: what the leader decides by
//!   gossip and by the clock;
//! - `leadership`: who leads and who votes, as every task reads it;
//! - `suspicion`: a log that may have lost its end; `assembly`: how voters go on when too many have such; `standby`:
//!   members that know more than they; `learning`: maps that other members have been told of already.
//!
//! Every node has the map, because every node is a member: one, three or five vote, the others follow. Without a majority
//! of the voters the map stays as it is, and so does everything that needs no change of it.

mod assembly;
mod duties;
mod leadership;
mod learning;
mod log;
mod machine;
mod members;
mod network;
mod propose;
mod raft;
mod rows;
mod rpc;
mod standby;
#[cfg(test)]
mod suite;
mod suspicion;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_engine::{Engine, ROW_BYTES_MAX, ReadRows};
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;
use openraft::EmptyNode;
use openraft::raft::AppendEntriesResponse;
use tokio::sync::watch;

pub use self::duties::{Gossip, Life};
pub use self::network::{Call, Carrier, CarrierError};
pub use self::propose::ProposeError;
pub use self::raft::ControlClock;
pub use self::rows::RowError;
pub use self::rpc::RPC_BYTES_MAX;

use self::assembly::Assembly;
use self::learning::Turns;
use self::log::Log;
use self::machine::Machine;
use self::network::Links;
use self::raft::{Raft, RaftId};
use self::rpc::Request;
use crate::tasks::{TaskSet, blocking};

/// Silence after which the group counts as without a majority.
const QUORUM_SILENCE: Duration = Duration::from_secs(2);

/// Largest snapshot that is taken, in bytes: several times that of the largest cluster.
const SNAPSHOT_BYTES_MAX: u64 = ROW_BYTES_MAX as u64;

/// What the map is before this node has applied one.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// This node founds the cluster, together with all others that have this map.
    Founding(ClusterMap),
    /// It was admitted to a cluster, whose map this was; the group will find it.
    Joining(ClusterMap),
}

impl Beginning {
    fn map(&self) -> &ClusterMap {
        match self {
            Beginning::Founding(map) | Beginning::Joining(map) => map,
        }
    }
}

/// What a control plane starts with.
pub struct ControlConfig {
    /// Where it keeps what must last.
    pub engine: Arc<Engine>,
    /// This node.
    pub me: NodeId,
    /// The map to begin with. One that is stored and newer is used instead.
    pub beginning: Beginning,
    /// The ways to the other nodes.
    pub carrier: Arc<dyn Carrier>,
    /// Who is alive. Only the leader acts on it.
    pub gossip: watch::Receiver<Gossip>,
    /// How patient the group is.
    pub clock: ControlClock,
    /// How long a node may be down before others take its partitions.
    pub dead_after: Duration,
    /// The store did not come back whole: this node gives no votes until a leader has brought it up to date.
    pub suspect: bool,
}

impl fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

/// The control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlStartError {
    /// What it stored cannot be used.
    #[error(transparent)]
    Rows(#[from] RowError),
    /// Its clock makes no sense.
    #[error("the control plane's clock: {0}")]
    Clock(String),
    /// Its group does not start.
    #[error("the control plane did not start: {0}")]
    Group(String),
    /// The runtime is going down.
    #[error("the process is ending")]
    Interrupted,
}

/// A node's control plane. Clones are the same one. It ends with [`Control::shutdown`].
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    tasks: TaskSet,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("me", &self.shared.me)
            .finish_non_exhaustive()
    }
}

/// What the tasks work with.
struct Shared {
    me: NodeId,
    raft: Raft,
    engine: Arc<Engine>,
    log: Log,
    machine: Machine,
    carrier: Arc<dyn Carrier>,
    beginning: Beginning,
    map: watch::Receiver<Arc<ClusterMap>>,
    /// When a leader was last heard of.
    heard: Mutex<Option<Instant>>,
    /// Held by whoever says that the group was salvaged.
    salvaging: tokio::sync::Mutex<()>,
    suspect: AtomicBool,
    assembly: Mutex<Assembly>,
    learning: Turns,
    started: Instant,
    /// Why this node must not go on.
    refuted: watch::Sender<Option<String>>,
    clock: ControlClock,
}

impl Control {
    /// Goes on where it was stopped, or begins. When this returns, [`Control::handle`] can be called.
    ///
    /// # Errors
    /// [`ControlStartError`]; nothing runs then.
    pub async fn start(config: ControlConfig) -> Result<Control, ControlStartError> {
        let clock = Arc::new(config.clock.config().map_err(ControlStartError::Clock)?);
        let (published, map) = watch::channel(Arc::new(config.beginning.map().clone()));
        let suspect = suspicion::mark(&config).await?;
        let engine = Arc::clone(&config.engine);
        let (log, machine) = blocking(move || load(engine, published))
            .await
            .ok_or(ControlStartError::Interrupted)??;
        let raft = Raft::new(
            RaftId(config.me),
            clock,
            Links(Arc::clone(&config.carrier)),
            log.clone(),
            machine.clone(),
        )
        .await
        .map_err(|error| ControlStartError::Group(error.to_string()))?;
        raft.runtime_config().elect(!suspect);
        let shared = Arc::new(Shared {
            me: config.me,
            raft,
            engine: config.engine,
            log,
            machine,
            carrier: config.carrier,
            beginning: config.beginning,
            map,
            heard: Mutex::new(None),
            salvaging: tokio::sync::Mutex::default(),
            suspect: AtomicBool::new(suspect),
            assembly: Mutex::default(),
            learning: Turns::default(),
            started: Instant::now(),
            refuted: watch::Sender::default(),
            clock: config.clock,
        });
        shared.found().await?;
        let tasks = TaskSet::default();
        tasks.spawn("control-members", members::keep(Arc::clone(&shared)));
        let duties = duties::keep(Arc::clone(&shared), config.gossip, config.dead_after);
        tasks.spawn("control-duties", duties);
        tasks.spawn("control-assembly", assembly::keep(Arc::clone(&shared)));
        Ok(Control { shared, tasks })
    }

    /// The map as a node that does not run last knew it; `None`: it was never told one, and has to join. Waits for the
    /// disk.
    ///
    /// # Errors
    /// What is stored cannot be used.
    pub fn stored_map(rows: &impl ReadRows) -> Result<Option<ClusterMap>, RowError> {
        machine::read_map(rows)
    }

    /// Resolves, with the reason, when this node must not go on: those who vote have lost what it knows. Its next start
    /// may.
    pub async fn refuted(&self) -> String {
        let mut refuted = self.shared.refuted.subscribe();
        let cause = refuted.wait_for(Option::is_some).await;
        // The sender is as old as this control plane.
        cause
            .map(|cause| cause.clone().unwrap_or_default())
            .unwrap_or_default()
    }

    /// The cluster map. Its version never goes back.
    #[must_use]
    pub fn map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.shared.map.clone()
    }

    /// The cluster map as it is now.
    #[must_use]
    pub fn newest_map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.shared.map.borrow())
    }

    /// The node that leads the group, as far as this one knows: it may just have died.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leader()
    }

    /// Whether this node leads the group, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.shared.is_leader()
    }

    /// Whether the map can be changed, as far as this node knows: a leader was heard of lately, or is this node and hears
    /// of a majority.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        if !self.is_leader() {
            let silence = self.shared.silence();
            return silence.is_some_and(|silence| silence < QUORUM_SILENCE);
        }
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let silence = metrics.millis_since_quorum_ack.map(Duration::from_millis);
        alone || silence.is_some_and(|silence| silence < QUORUM_SILENCE)
    }

    /// Takes a message that another node's [`Carrier`] was given for this one, and returns what goes back. Never fails:
    /// what cannot be done is said in the answer.
    pub async fn handle(&self, rpc: Bytes) -> Bytes {
        match Request::decode(&rpc) {
            Ok(request) => self.shared.answer(request).await,
            Err(error) => rpc::failure(&error.to_string()),
        }
    }

    /// Ends it. Afterwards nothing is applied, answered or written.
    pub async fn shutdown(&self) {
        self.tasks.abort();
        self.tasks.join().await;
        // It only fails if a task of the group panicked, which is logged there.
        let _ = self.shared.raft.shutdown().await;
    }
}

impl Shared {
    /// For how long no leader was heard of; since ever: `None`.
    fn silence(&self) -> Option<Duration> {
        self.heard().map(|at| at.elapsed())
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first start of a founding voter: all of them begin with the same members, and the log decides the rest.
    async fn found(&self) -> Result<(), ControlStartError> {
        let failed = |detail: String| ControlStartError::Group(detail);
        let Beginning::Founding(map) = &self.beginning else {
            return Ok(());
        };
        // It may have lost that it had begun, and founding is a campaign.
        if self.is_suspect() {
            return Ok(());
        }
        let begun = self.raft.is_initialized().await;
        if begun.map_err(|error| failed(error.to_string()))? || !map.voters().contains(&self.me) {
            return Ok(());
        }
        let voters: BTreeMap<_, _> = raft::raft_ids(map.voters().iter().copied())
            .into_iter()
            .map(|id| (id, EmptyNode {}))
            .collect();
        match self.raft.initialize(voters).await {
            // Another founder was quicker: its log is the same.
            Ok(()) | Err(openraft::error::RaftError::APIError(_)) => Ok(()),
            Err(openraft::error::RaftError::Fatal(fatal)) => Err(failed(fatal.to_string())),
        }
    }

    async fn answer(&self, request: Request) -> Bytes {
        let kind = request.kind();
        if let Some(candidate) = request.candidate()
            && self.map.borrow().is_removed(candidate)
        {
            return rpc::failure("the candidate was removed from the cluster");
        }
        match request {
            Request::Vote(vote) if !self.may_vote(&vote) => {
                rpc::failure("this node's log may have lost its end: it gives no votes yet")
            }
            Request::Append(append) if !self.may_follow(append.vote.leader_id().term) => {
                rpc::failure("this node's log may have lost its end: it follows nobody yet")
            }
            Request::Append(append) if self.is_contradicted(&append) => {
                self.end_refuted(&append).await;
                rpc::failure("this node knows otherwise what was committed, and ends")
            }
            Request::Append(append) => {
                let (term, commit) = (append.vote.leader_id().term, append.leader_commit);
                let answer = self.raft.append_entries(append).await;
                if let Ok(AppendEntriesResponse::Success) = answer {
                    *self.heard() = Some(Instant::now());
                    // With an entry of its own, all that was committed before it is.
                    let knows = commit.is_some_and(|commit| commit.leader_id.term == term);
                    if self.is_suspect() && knows && self.log.last() >= commit {
                        self.trust_again().await;
                    }
                }
                rpc::answer(kind, &answer)
            }
            Request::Standing => rpc::answer(kind, &self.standing()),
            Request::State => rpc::answer(kind, &self.machine.all_known()),
            Request::Vote(vote) => rpc::answer(kind, &self.raft.vote(vote).await),
            Request::Snapshot(piece) if !self.may_follow(piece.vote.leader_id().term) => {
                rpc::failure("this node's log may have lost its end: it follows nobody yet")
            }
            Request::Snapshot(piece)
                if piece.offset.saturating_add(piece.data.len() as u64) > SNAPSHOT_BYTES_MAX =>
            {
                rpc::failure("the snapshot is larger than any map")
            }
            Request::Snapshot(piece) => rpc::answer(kind, &self.raft.install_snapshot(piece).await),
            Request::Propose(command) => rpc::answer(kind, &self.propose_here(command).await),
        }
    }
}

fn load(
    engine: Arc<Engine>,
    published: watch::Sender<Arc<ClusterMap>>,
) -> Result<(Log, Machine), RowError> {
    let log = Log::load(Arc::clone(&engine))?;
    Ok((log, Machine::load(engine, published)?))
}
