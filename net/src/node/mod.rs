//! The node: an engine behind a QUIC endpoint, one of equal peers.
//!
//! - `config`: what `node.toml` says; `start`: how a node comes to be, in order; `registration`: before it takes part; `seen`: what it has seen others acknowledge;
//! - `gate`: how many may connect; `connection`: who, and what a stream asks for;
//! - `peers`: the other nodes; `gossip`: who is alive; `control`: the group that changes the cluster map;
//! - `partition`: the actor of one partition; `partitions`: which run here, by the map; `doors`, `reports`, `keeping_up`: what an
//!   actor makes the node do; `payload`: what its journal carries; `transfer`: partitions that move here or away;
//!   `repair`: copies of bindings and of topics' blocks that are compared, and healed; `tombstones`: when deletions are
//!   forgotten;
//! - `coordinator`: any node takes any request; `shortage`: unless too few replicas live; `requests`: those of one question and one answer; `append`, `tail` and `watches`:
//!   the streams that stay; `pipeline`: small requests that share one; `commits`, `topics`: what the streams share; `listeners`: who they are; `reply`: errors in the words of the wire;
//! - `upkeep`: retention, expiry and scrub by the clock, `clocks`: by whose, `wall_clock`: this node's; `running`: the tasks, and how they stop.

mod append;
mod bindings;
mod clocks;
mod commits;
mod config;
mod connection;
pub mod control;
mod coordinator;
mod doors;
mod gate;
pub mod gossip;
mod keeping_up;
mod listeners;
mod partition;
mod partitions;
mod payload;
pub mod peers;
mod pipeline;
mod registration;
mod repair;
mod reply;
mod reports;
mod requests;
mod running;
mod seen;
mod shortage;
mod start;
mod tail;
mod tombstones;
mod topics;
mod transfer;
mod upkeep;
mod wall_clock;
mod watches;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_engine::{Engine, QUEUE_BYTES_MAX, Stopped};
use mesh_ring::control::{ControlCommand, Outcome};
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use quinn::{Endpoint, VarInt};
use tokio::sync::{Semaphore, watch};

pub use self::config::{
    CONTACTS_MAX, DEAD_AFTER_DEFAULT, GossipTuning, NODE_FILE, NodeConfig, NodeConfigError,
    REPAIR_EVERY_DEFAULT, TOMBSTONE_AGE_DEFAULT, TRANSFER_BYTES_PER_SECOND_DEFAULT, ZONE_BYTES_MAX,
};
pub use self::payload::Payload;
pub use self::start::StartError;
pub use self::wall_clock::WallClock;

use self::append::Producers;
use self::clocks::Clocks;
use self::commits::Commits;
use self::control::{Control, ProposeError};
use self::gate::Gate;
use self::gossip::{Gossip, Life, Lives};
use self::listeners::Listeners;
use self::partitions::Partitions;
use self::peers::Peers;
use self::repair::Repairs;
use self::reports::Reports;
use self::running::Running;
use self::tombstones::{Fences, Waiting};
use self::topics::TopicNames;
use self::transfer::Transfers;
use self::watches::Watches;
use crate::identity::LiveIdentity;
use crate::tasks::blocking;

/// How long a node that is asked to stop waits for requests under way.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a node that is asked to stop waits for what it has accepted to be committed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after its start a node takes others for alive of which it has not heard.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node that is asked to stop waits for others to lead what it leads.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of clients' requests that wait for the disk. With what comes from other replicas it stays below what the
/// engine's queue takes, so that no task ever blocks in it.
const CLIENT_BYTES_MAX: usize = QUEUE_BYTES_MAX / 2;

/// Why a connection is closed.
pub(crate) mod close {
    use quinn::VarInt;

    pub(crate) const STOPPING: VarInt = VarInt::from_u32(1);
    pub(crate) const NOT_A_PEER: VarInt = VarInt::from_u32(2);
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(3);
}

/// A node that serves. Dropping it stops it at once; [`Node::shutdown`] stops it cleanly.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    addr: SocketAddr,
    stopped: watch::Receiver<Option<String>>,
}

/// What all tasks of a node share.
pub(crate) struct Shared {
    engine: Arc<Engine>,
    identity: LiveIdentity,
    peers: Peers,
    control: Control,
    gossip: Gossip,
    lives: watch::Receiver<Lives>,
    partitions: Partitions,
    reports: Reports,
    /// Rung when the partitions of this node are to be looked at although the map has not changed.
    again: tokio::sync::Notify,
    transfers: Transfers,
    repairs: Repairs,
    /// By which states of bindings are admitted and stamped.
    fences: Arc<Fences>,
    /// Tombstones that wait to be forgotten.
    waiting: Waiting,
    clocks: Clocks,
    commits: Arc<Commits>,
    bindings: bindings::Bindings,
    watches: Arc<Watches>,
    listeners: Arc<Listeners>,
    names: TopicNames,
    producers: Producers,
    tasks: Running,
    client_bytes: Arc<Semaphore>,
    /// Where others reach this node.
    address: String,
    zone: String,
    started: Instant,
    gate: Gate,
    /// Tells the owner of the node why it must end.
    report: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// The address that it serves, with the port that the system chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.shared.engine.identity().name
    }

    /// Resolves when the node cannot go on, with the reason: its store has stopped, or the cluster refuses it. What it has
    /// acknowledged is safe; whoever waits for the rest has been told.
    pub async fn stopped(&self) -> Stopped {
        let mut stopped = self.stopped.clone();
        match stopped
            .wait_for(Option::is_some)
            .await
            .map(|cause| cause.clone())
        {
            Ok(Some(cause)) => Stopped { cause },
            // The engine was closed in an orderly way, which is no reason to end.
            _ => std::future::pending().await,
        }
    }

    /// Stops: hands leadership to others, finishes what was accepted, answers it, and closes the store.
    ///
    /// # Errors
    /// The store had stopped before, or could not be closed cleanly. What was acknowledged is safe all the same.
    pub async fn shutdown(self) -> Result<(), Stopped> {
        self.shared.hand_over().await;
        self.shared.tasks.stop();
        let ended = tokio::time::timeout(COMMIT_TIMEOUT, self.shared.tasks.ended()).await;
        // What is not committed by now waits for nodes that are away: whoever asked for it learns that the outcome is open.
        self.shared.partitions.stop().await;
        if ended.is_err()
            && tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shared.tasks.ended())
                .await
                .is_err()
        {
            tracing::warn!(tasks = ?self.shared.tasks.abort(), "some requests did not finish in time");
        }
        self.shared.control.shutdown().await;
        self.shared.gossip.stop().await;
        self.shared.peers.stop().await;
        self.endpoint
            .close(close::STOPPING, b"the node is stopping");
        // Peers that have gone already need no goodbye.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
        let engine = Arc::clone(&self.shared.engine);
        blocking(move || engine.close()).await.unwrap_or_else(|| {
            Err(Stopped {
                cause: "the process is ending".into(),
            })
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.tasks.stop();
        self.shared.partitions.give_up();
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl Shared {
    fn me(&self) -> NodeId {
        self.engine.identity().node
    }

    /// The newest map that this node has.
    fn map(&self) -> Arc<ClusterMap> {
        self.control.newest_map()
    }

    /// Whether gossip takes the node for alive. One that was not heard of yet is given the benefit of the doubt, for a while.
    fn is_alive(&self, node: NodeId) -> bool {
        match self.lives.borrow().get(&node) {
            _ if node == self.me() => true,
            Some(life) => *life == Life::Alive,
            None => self.started.elapsed() < FIRST_WORD_TIMEOUT,
        }
    }

    /// Names for people, in the same order.
    fn names_of(&self, nodes: &[NodeId]) -> Vec<String> {
        let map = self.map();
        let named = nodes.iter().filter_map(|id| map.node(*id));
        named.map(|node| node.name.clone()).collect()
    }

    fn connection_count(&self) -> u32 {
        u32::try_from(self.gate.established()).unwrap_or(u32::MAX)
    }

    /// Waits for room for a request of `bytes`. `None`: the node is ending.
    async fn room(&self, bytes: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(CLIENT_BYTES_MAX)).unwrap_or(u32::MAX);
        // Nobody is passed by: where somebody waits, nothing is free.
        if let Ok(room) = Arc::clone(&self.client_bytes).try_acquire_many_owned(bytes) {
            return Some(room);
        }
        Arc::clone(&self.client_bytes)
            .acquire_many_owned(bytes)
            .await
            .ok()
    }

    /// About how many bytes a copy of the partition has.
    async fn size_of(&self, id: PartitionId) -> u64 {
        let engine = Arc::clone(&self.engine);
        blocking(move || engine.partition_sizes())
            .await
            .and_then(|sizes| sizes.get(&id).copied())
            .unwrap_or(0)
    }

    /// Proposes a change of the map, for as long as the node does not stop.
    async fn propose(&self, command: ControlCommand) -> Result<Outcome, ProposeError> {
        tokio::select! {
            proposed = self.control.propose(command) => proposed,
            () = self.tasks.stopping() => Err(ProposeError::Unavailable {
                detail: "the node is stopping".into(),
            }),
        }
    }

    /// Ends the node, with the reason.
    fn end(&self, cause: String) {
        tracing::error!(cause, "the node cannot go on");
        self.report.send_replace(Some(cause));
    }

    /// Sentences for people about what is not as it should be.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        warnings.extend(self.engine.found_damage().map(|damage| {
            format!("the disk did not come back whole: {damage}; votes count again partition by partition as leaders catch it up")
        }));
        warnings.extend(self.clocks.warnings());
        warnings.extend(self.repairs.warnings(&self.engine));
        for partition in self.partitions.running() {
            warnings.extend(
                partition
                    .status()
                    .failed
                    .map(|cause| format!("partition {} cannot go on here: {cause}", partition.id)),
            );
        }
        warnings
    }

    /// Leaves the ring for as long as this node is down: others lead what it led before it stops answering.
    async fn hand_over(&self) {
        let leads = |map: &ClusterMap| {
            let mut partitions = map.partitions().iter();
            partitions.any(|assignment| assignment.leader == self.me())
        };
        let map = self.map();
        let others = map
            .nodes()
            .iter()
            .any(|node| node.id != self.me() && node.is_live() && self.is_alive(node.id));
        if !others || !leads(&map) {
            return self.gossip.leave().await;
        }
        let mut changes = self.control.map();
        let handing = async {
            self.gossip.leave().await;
            let command = ControlCommand::NodeDown { node: self.me() };
            if let Err(error) = self.control.propose(command).await {
                tracing::warn!(%error, "could not hand leadership over before stopping");
                return;
            }
            let gone = |map: &ClusterMap| {
                let mut partitions = map.partitions().iter();
                !leads(map) && partitions.all(|assignment| assignment.is_activated())
            };
            let _ = changes.wait_for(|map| gone(map)).await;
        };
        if tokio::time::timeout(HAND_OVER_TIMEOUT, handing)
            .await
            .is_err()
        {
            tracing::warn!("others did not take over in time; they will when this node is gone");
        }
    }
}
