//! The node: an engine behind a QUIC endpoint.
//!
//! - `config`: what `node.toml` says;
//! - `gate`: how many may connect; `connection`: who, and what a stream asks for;
//! - `unary`: requests of one question and one answer; `append` and `tail`: the streams that stay;
//! - `commits`, `topics`: what the streams share; `reply`: the engine's errors in the words of the wire;
//! - `upkeep`: retention, expiry and scrub by the clock; `running`: the tasks, and how they stop.

mod append;
mod commits;
mod config;
mod connection;
mod gate;
mod reply;
mod running;
mod tail;
mod topics;
mod unary;
mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_engine::{Engine, OpenError, Options, QUEUE_BYTES_MAX, Stopped};
use mesh_ring::ids::PartitionId;
use mesh_ring::map::{ClusterMap, PartitionCountError};
use quinn::{Endpoint, VarInt};
use tokio::sync::{Semaphore, watch};

pub use self::config::{NODE_FILE, NodeConfig, NodeConfigError};

use self::append::Producers;
use self::commits::Commits;
use self::gate::Gate;
use self::running::Running;
use self::topics::TopicNames;
use crate::identity::{Credentials, IdentityError, Peer, PeerError, Role};
use crate::quic::{EndpointError, server_endpoint};
use crate::tasks::blocking;

/// How long a stopping node waits for what it has accepted.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// QUIC application close codes of this protocol.
pub(crate) mod close {
    use quinn::VarInt;

    /// The node stops; another attempt may succeed.
    pub(crate) const STOPPING: VarInt = VarInt::from_u32(1);
    /// The certificate says nothing that this protocol knows.
    pub(crate) const NOT_A_PEER: VarInt = VarInt::from_u32(2);
    /// What was sent is not of this protocol.
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(3);
}

/// A node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its certificate is not a node's.
    #[error("{file} is not a node's certificate ({detail}): `meshctl init` makes one")]
    NotANode {
        /// The certificate.
        file: PathBuf,
        /// What it is.
        detail: String,
    },
    /// Its address does not resolve.
    #[error("cannot resolve {listen}: {detail}: `listen` in node.toml takes HOST:PORT")]
    Resolve {
        /// What `node.toml` says.
        listen: String,
        /// Why.
        detail: String,
    },
    /// Its address cannot be listened on.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Its store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store's identity fits no cluster map.
    #[error(transparent)]
    Map(#[from] PartitionCountError),
    /// The runtime is going down.
    #[error("the process is ending")]
    Interrupted,
}

/// A running node. Dropping it without [`Node::shutdown`] ends it as a crash would: nothing acknowledged is lost.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    addr: SocketAddr,
    stopped: watch::Receiver<Option<String>>,
}

/// What every task of the node works with.
pub(crate) struct Shared {
    engine: Arc<Engine>,
    /// Who holds and leads each partition: this node, all of them.
    map: ClusterMap,
    commits: Arc<Commits>,
    names: TopicNames,
    producers: Producers,
    tasks: Running,
    /// Bytes of appends and writes that the engine may hold: what keeps its queue from ever blocking a task.
    queue_bytes: Arc<Semaphore>,
    addr: SocketAddr,
    started: Instant,
    gate: Gate,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the store and serves. When this returns, clients can connect.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
        let credentials = Credentials::load(&config.identity)?;
        check_is_node(&config, &credentials)?;
        let listen = resolve(&config.listen).await?;
        // The address before the store: a node whose port is taken should not touch its data.
        let endpoint = server_endpoint(listen, &credentials, &config.tuning)?;
        let addr = endpoint
            .local_addr()
            .map_err(|source| EndpointError::Listen {
                addr: listen,
                source,
            })?;

        let commits = Arc::new(Commits::default());
        let (report, stopped) = watch::channel(None);
        let options = engine_options(&config, Arc::clone(&commits), report);
        let data = config.data.clone();
        let engine = blocking(move || Engine::open(data, options))
            .await
            .ok_or(StartError::Interrupted)??;
        let identity = engine.identity();
        let map = ClusterMap::single(
            identity.cluster,
            identity.node,
            &identity.name,
            identity.partitions,
            engine.epoch(),
        )?;
        let shared = Arc::new(Shared {
            engine: Arc::new(engine),
            map,
            commits,
            names: TopicNames::default(),
            producers: Producers::default(),
            tasks: Running::default(),
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            addr,
            started: Instant::now(),
            gate: Gate::default(),
        });
        upkeep::start(&shared, config.scrub_bytes_per_second);
        let accepting = connection::accept(Arc::clone(&shared), endpoint.clone());
        shared.tasks.spawn("accept", accepting);
        Ok(Node {
            shared,
            endpoint,
            addr,
            stopped,
        })
    }

    /// Where it serves.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.engine.identity().name
    }

    /// Resolves, with the reason, when the store has stopped for good; the process should end then.
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

    /// Refuses new work, finishes what was accepted (for [`SHUTDOWN_TIMEOUT`] at most), and closes the store.
    ///
    /// # Errors
    /// The store had stopped, or could not be closed. What was acknowledged is safe all the same.
    pub async fn shutdown(self) -> Result<(), Stopped> {
        self.shared.tasks.stop();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shared.tasks.ended())
            .await
            .is_err()
        {
            tracing::warn!(tasks = ?self.shared.tasks.abort(), "some requests did not finish in time");
        }
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
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl Shared {
    /// The names of the replicas of `partition`, in preference order.
    fn replicas(&self, partition: PartitionId) -> Vec<String> {
        let replicas = self
            .map
            .assignment(partition)
            .map_or(&[][..], |assignment| &assignment.replicas);
        replicas
            .iter()
            .filter_map(|id| self.map.node(*id))
            .map(|node| node.name.clone())
            .collect()
    }

    /// The name of the node that orders `partition`.
    fn leader(&self, partition: PartitionId) -> Option<&str> {
        let leader = self.map.assignment(partition)?.leader;
        Some(&self.map.node(leader)?.name)
    }

    fn connection_count(&self) -> u32 {
        u32::try_from(self.gate.established()).unwrap_or(u32::MAX)
    }

    /// Waits until the engine's queue has room for `bytes`.
    async fn room(&self, bytes: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(QUEUE_BYTES_MAX)).unwrap_or(u32::MAX);
        Arc::clone(&self.queue_bytes)
            .acquire_many_owned(bytes)
            .await
            .ok()
    }
}

fn engine_options(
    config: &NodeConfig,
    commits: Arc<Commits>,
    report: watch::Sender<Option<String>>,
) -> Options {
    Options {
        expect_cluster: config.cluster,
        reserve_bytes: config.reserve_bytes,
        cache_bytes: config.cache_bytes,
        write_buffer_bytes: config.write_buffer_bytes,
        on_committed: Some(Arc::new(move |topics: &[_]| commits.committed(topics))),
        on_stopped: Some(Arc::new(move |cause: &str| {
            report.send_replace(Some(cause.to_owned()));
        })),
        ..Options::default()
    }
}

fn check_is_node(config: &NodeConfig, credentials: &Credentials) -> Result<(), StartError> {
    let refuse = |detail: String| StartError::NotANode {
        file: config.identity.certificate.clone(),
        detail,
    };
    let certificate = credentials
        .certificate()
        .ok_or_else(|| refuse(PeerError::Missing.to_string()))?;
    match Peer::from_certificate(certificate) {
        Ok(peer) if peer.role == Role::Node => Ok(()),
        Ok(peer) => Err(refuse(format!("it is client {}'s", peer.name))),
        Err(error) => Err(refuse(error.to_string())),
    }
}

async fn resolve(listen: &str) -> Result<SocketAddr, StartError> {
    let fail = |detail: String| StartError::Resolve {
        listen: listen.to_owned(),
        detail,
    };
    let mut addresses = tokio::net::lookup_host(listen)
        .await
        .map_err(|error| fail(error.to_string()))?;
    addresses
        .next()
        .ok_or_else(|| fail("it has no address".into()))
}
