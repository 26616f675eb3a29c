//! How a node comes to be: address, store, peers, control plane, gossip, and then, once its start is registered in the
//! map, its partitions.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_engine::{Engine, Founding, Identity, OnDamage, OpenError, Options, Remains};
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::{ClusterMap, MapError, Member};
use quinn::Endpoint;
use tokio::sync::{Notify, Semaphore, watch};

use super::append::Producers;
use super::bindings::{self, Bindings};
use super::clocks::Clocks;
use super::commits::Commits;
use super::control::{
    Beginning, Call, Carrier, CarrierError, Control, ControlClock, ControlConfig,
    ControlStartError, RowError,
};
use super::gate::Gate;
use super::gossip::{Gossip, GossipConfig};
use super::listeners::Listeners;
use super::partitions::{self, Partitions};
use super::peers::{Peers, PeersConfig};
use super::repair::{self, Repairs};
use super::reports::{self, Reports};
use super::running::Running;
use super::tombstones::{self, Waiting};
use super::topics::TopicNames;
use super::transfer::Transfers;
use super::watches::Watches;
use super::{
    CLIENT_BYTES_MAX, Node, NodeConfig, Shared, connection, keeping_up, registration, seen,
    shortage, upkeep,
};
use crate::identity::{Credentials, IdentityError, LiveIdentity, Peer, PeerError, Role};
use crate::quic::{EndpointError, server_endpoint};
use crate::tasks::blocking;

/// A node does not start. Nothing was changed, except what opening the store does.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is not a node's.
    #[error("{file} is not a node's certificate ({detail}): `meshctl init` makes one")]
    NotANode {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// The store is another node's.
    #[error(
        "{data} is the store of node {found}, and node.toml says that it is node {expected}'s: a node keeps its own directory; bring that back"
    )]
    OtherNode {
        /// The store.
        data: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The address to listen on does not resolve.
    #[error("cannot resolve {listen}: {detail}: `listen` in node.toml takes HOST:PORT")]
    Resolve {
        /// What node.toml says.
        listen: String,
        /// Why.
        detail: String,
    },
    /// The address cannot be listened on.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The members that the store was founded with make no cluster.
    #[error("the members that this node was founded with make no cluster: {0}")]
    Founding(#[from] MapError),
    /// The control plane's own data cannot be used.
    #[error(transparent)]
    Rows(#[from] RowError),
    /// The control plane does not start.
    #[error(transparent)]
    Control(#[from] ControlStartError),
    /// The node is new to a cluster that does not know it yet.
    #[error(
        "no contact in node.toml has admitted this node: run `meshctl node join` for its folder ({detail})"
    )]
    NotAdmitted {
        /// What the contacts said.
        detail: String,
    },
    /// The process is ending.
    #[error("the process is ending")]
    Interrupted,
}

/// How long a new node asks its contacts whether it has been admitted.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(30);

impl Node {
    /// Opens the store, listens, and takes part in the cluster as soon as the control plane has a majority.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
        let identity = LiveIdentity::load(&config.identity)?;
        check_is_node(&config, &identity.credentials())?;
        let listen = resolve(&config.listen).await?;
        // The address before the store: a node whose port is taken should not touch its data.
        let endpoint = server_endpoint(listen, &identity.credentials(), &config.tuning)?;
        let addr = endpoint
            .local_addr()
            .map_err(|source| EndpointError::Listen {
                addr: listen,
                source,
            })?;
        let address = config
            .advertise
            .clone()
            .unwrap_or_else(|| advertised(&config.listen, addr));

        let commits = Arc::new(Commits::default());
        let watches = Arc::new(Watches::default());
        let (report, stopped) = watch::channel(None);
        let options = engine_options(
            &config,
            Arc::clone(&commits),
            Arc::clone(&watches),
            report.clone(),
        );
        let data = config.data.clone();
        let engine = blocking(move || open_engine(&data, options))
            .await
            .ok_or(StartError::Interrupted)??;
        let engine = Arc::new(engine);
        if let Some(expected) = config.node
            && expected != engine.identity().node
        {
            return Err(StartError::OtherNode {
                data: config.data,
                found: engine.identity().node,
                expected,
            });
        }

        let fences = {
            let engine = Arc::clone(&engine);
            blocking(move || tombstones::load(&engine))
                .await
                .ok_or(StartError::Interrupted)?
                .map_err(RowError::from)?
        };
        let tasks = Running::default();
        let (peers, peer_events) = Peers::start(PeersConfig {
            me: engine.identity().node,
            name: engine.identity().name.clone(),
            cluster: engine.identity().cluster,
            boot: engine.boot(),
            token: engine.boot_token().token,
            address: address.clone(),
            identity: identity.clone(),
            tuning: config.tuning.clone(),
        });
        let beginning = beginning(&engine, &peers, &config).await?;
        let gossip = Gossip::start(
            peers.clone(),
            GossipConfig {
                address: address.clone(),
                boot: engine.boot(),
                contacts: config.contacts.clone(),
                tuning: config.gossip,
            },
        );
        let lives = gossip.lives();
        let control = Control::start(ControlConfig {
            engine: Arc::clone(&engine),
            me: engine.identity().node,
            beginning,
            carrier: Arc::new(Calls(peers.clone())),
            gossip: lives.clone(),
            clock: ControlClock::default(),
            dead_after: config.dead_after,
            suspect: engine.found_damage().is_some(),
        })
        .await?;
        if engine.found_damage().is_some() {
            let data = config.data.clone();
            blocking(move || mesh_engine::damage_is_noted(&data))
                .await
                .ok_or(StartError::Interrupted)??;
        }
        let shared = Arc::new(Shared {
            engine,
            identity,
            peers,
            control,
            gossip,
            lives,
            partitions: Partitions::default(),
            reports: Reports::default(),
            again: Notify::new(),
            transfers: Transfers::new(config.transfer_bytes_per_second),
            repairs: Repairs::new(config.repair_every),
            fences: Arc::new(fences),
            waiting: Waiting::default(),
            clocks: Clocks::new(config.clock.clone()),
            commits,
            bindings: Bindings::default(),
            watches,
            listeners: Arc::new(Listeners::default()),
            names: TopicNames::default(),
            producers: Producers::default(),
            tasks,
            client_bytes: Arc::new(Semaphore::new(CLIENT_BYTES_MAX)),
            address,
            zone: config.zone.clone(),
            started: Instant::now(),
            gate: Gate::default(),
            report,
        });
        // Whoever was removed or comes back on an old disk is refused from the first connection on.
        shared.take_map(&shared.map());
        run(&shared, &endpoint, peer_events, &config);
        Ok(Node {
            shared,
            endpoint,
            addr,
            stopped,
        })
    }
}

/// Starts everything that goes on by itself.
fn run(
    shared: &Arc<Shared>,
    endpoint: &Endpoint,
    peer_events: tokio::sync::mpsc::Receiver<super::peers::PeerEvent>,
    config: &NodeConfig,
) {
    let spawn = |name, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        shared.tasks.spawn(name, task);
    };
    spawn(
        "accept",
        Box::pin(connection::accept(Arc::clone(shared), endpoint.clone())),
    );
    spawn(
        "peer events",
        Box::pin(partitions::follow_peers(Arc::clone(shared), peer_events)),
    );
    spawn("seen", Box::pin(seen::remember(Arc::clone(shared))));
    let refused = Arc::clone(shared);
    spawn(
        "refusal",
        Box::pin(async move {
            tokio::select! {
                cause = refused.peers.refused() => refused.end(cause),
                cause = refused.control.refuted() => refused.end(cause),
                () = refused.tasks.stopping() => {}
            }
        }),
    );
    spawn("map", Box::pin(partitions::follow_map(Arc::clone(shared))));
    spawn("handoff", Box::pin(bindings::deliver(Arc::clone(shared))));
    spawn("reports", Box::pin(reports::propose(Arc::clone(shared))));
    spawn(
        "keeping up",
        Box::pin(keeping_up::report(Arc::clone(shared))),
    );
    spawn("shortage", Box::pin(shortage::tell(Arc::clone(shared))));
    let registering = Arc::clone(shared);
    spawn(
        "registration",
        Box::pin(async move {
            if let Err(cause) = registration::register(&registering).await {
                registering.end(cause);
            }
        }),
    );
    let (following, endpoint, tuning) =
        (Arc::clone(shared), endpoint.clone(), config.tuning.clone());
    spawn(
        "identity",
        Box::pin(async move {
            tokio::select! {
                () = crate::quic::follow_identity(endpoint, following.identity.clone(), tuning) => {}
                () = following.tasks.stopping() => {}
            }
        }),
    );
    repair::start(shared);
    tombstones::start(shared, config.tombstone_age);
    upkeep::start(shared, config.scrub_bytes_per_second);
}

/// What the map is before this node has heard of one.
async fn beginning(
    engine: &Arc<Engine>,
    peers: &Peers,
    config: &NodeConfig,
) -> Result<Beginning, StartError> {
    let stored = {
        let engine = Arc::clone(engine);
        blocking(move || Control::stored_map(&engine))
            .await
            .ok_or(StartError::Interrupted)??
    };
    if let Some(map) = stored {
        return Ok(Beginning::Joining(map));
    }
    match engine.founding() {
        Some(founding) => {
            let map = founding_map(engine.identity(), founding)?;
            Ok(Beginning::Founding(map))
        }
        None => admitted(engine, peers, config).await,
    }
}

fn founding_map(identity: &Identity, founding: &Founding) -> Result<ClusterMap, MapError> {
    let members: Vec<Member> = founding
        .members
        .iter()
        .map(|member| Member::new(member.node, &member.name, &member.address, &member.zone))
        .collect();
    let replication = u8::try_from(founding.replicas).unwrap_or(u8::MAX);
    ClusterMap::founding(identity.cluster, &members, identity.partitions, replication)
}

/// Asks the contacts for a map that has this node in it.
async fn admitted(
    engine: &Engine,
    peers: &Peers,
    config: &NodeConfig,
) -> Result<Beginning, StartError> {
    let deadline = tokio::time::Instant::now() + ADMISSION_TIMEOUT;
    let mut detail = String::from("node.toml names no contacts");
    loop {
        for contact in &config.contacts {
            match registration::map_of(peers, contact).await {
                Ok(map) if map.node(engine.identity().node).is_some() => {
                    return Ok(Beginning::Joining(map));
                }
                Ok(_) => detail = format!("{contact} does not know it"),
                Err(error) => detail = format!("{contact}: {error}"),
            }
        }
        if tokio::time::Instant::now() >= deadline || config.contacts.is_empty() {
            return Err(StartError::NotAdmitted { detail });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The control plane's calls, over the peers' control connections.
struct Calls(Peers);

impl Carrier for Calls {
    fn call(&self, to: NodeId, rpc: Bytes) -> Call<'_> {
        Box::pin(async move {
            // The control plane gives up by itself; this only bounds what nobody waits for any more.
            let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
            self.0
                .control_call(to, rpc, deadline)
                .await
                .map_err(|error| CarrierError(error.to_string()))
        })
    }
}

fn engine_options(
    config: &NodeConfig,
    commits: Arc<Commits>,
    watches: Arc<Watches>,
    report: watch::Sender<Option<String>>,
) -> Options {
    Options {
        expect_cluster: config.cluster,
        reserve_bytes: config.reserve_bytes,
        cache_bytes: config.cache_bytes,
        write_buffer_bytes: config.write_buffer_bytes,
        clock: config.clock.corrected(),
        on_committed: Some(Arc::new(move |topics: &[_]| commits.committed(topics))),
        on_bound: Some(Arc::new(
            move |changed: &mut dyn Iterator<Item = (PartitionId, &[u8])>| watches.bound(changed),
        )),
        on_stopped: Some(Arc::new(move |cause: &str| {
            report.send_replace(Some(cause.to_owned()));
        })),
        ..Options::default()
    }
}

/// Opens the store. One whose log is damaged is opened without what is lost where others are there to be asked for it; where
/// not, somebody has to accept the loss first. Blocks.
fn open_engine(data: &Path, options: Options) -> Result<Engine, OpenError> {
    match Engine::open(data, options.clone()) {
        Err(damage @ OpenError::WalDamaged { .. }) => {
            let others_know = others_know(data).unwrap_or_else(|detail| {
                tracing::warn!(
                    detail,
                    "it cannot be told whether other nodes have what is lost"
                );
                false
            });
            if !others_know {
                return Err(damage);
            }
            let on_damage = OnDamage::Suspect;
            Engine::open(
                data,
                Options {
                    on_damage,
                    ..options
                },
            )
        }
        opened => opened,
    }
}

/// Whether other nodes have all that this one holds, by the map that its damaged store still knows.
fn others_know(data: &Path) -> Result<bool, String> {
    let remains = Remains::open(data).map_err(|error| error.to_string())?;
    let identity = remains.identity().map_err(|error| error.to_string())?;
    let stored = Control::stored_map(&remains).map_err(|error| error.to_string())?;
    if let Some(map) = stored {
        return Ok(others_hold(&map, identity.node));
    }
    let founding = remains.founding().map_err(|error| error.to_string())?;
    let founding = founding.ok_or("no map and no founders are left in it")?;
    let map = founding_map(&identity, &founding).map_err(|error| error.to_string())?;
    Ok(others_hold(&map, identity.node))
}

/// Whether every vote that `node` has in this map is one of several: of the control plane, and of each partition.
fn others_hold(map: &ClusterMap, node: NodeId) -> bool {
    let others = |set: &[NodeId]| !set.contains(&node) || set.len() > 1;
    let partitions = map.partitions().iter();
    let mut sets = partitions.flat_map(|of| [&of.replicas[..], &of.activated.replicas]);
    others(map.voters()) && sets.all(others)
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

/// Where others find a node that listens as node.toml says: its host, and the port that it got.
fn advertised(listen: &str, addr: SocketAddr) -> String {
    match listen.rsplit_once(':') {
        Some((host, _)) if !addr.ip().is_unspecified() => format!("{host}:{}", addr.port()),
        _ => addr.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::control::{ControlCommand, apply};
    use mesh_ring::ids::ClusterId;

    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn map(nodes: u8, replicas: u8) -> ClusterMap {
        let members: Vec<_> = (1..=nodes)
            .map(|n| Member::new(id(n), &format!("n{n}"), "h:1", ""))
            .collect();
        ClusterMap::founding(ClusterId([9; 16]), &members, 8, replicas).unwrap()
    }

    #[test]
    fn only_who_is_one_of_several_everywhere_can_ask_the_others() {
        assert!(!others_hold(&map(1, 3), id(1)));
        for n in 1..=2 {
            assert!(
                !others_hold(&map(2, 3), id(n)),
                "each leads alone, one stands by"
            );
        }
        for n in 1..=4 {
            assert!(others_hold(&map(4, 3), id(n)));
            assert!(
                !others_hold(&map(4, 1), id(n)),
                "one copy of each partition"
            );
        }
        let mut alone = map(3, 3);
        let voters = vec![id(2)];
        apply(&mut alone, &ControlCommand::SetVoters { voters }).unwrap();
        assert!(!others_hold(&alone, id(2)), "the only voter");
        assert!(others_hold(&alone, id(1)));
    }
}
