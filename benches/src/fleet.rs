//! Very many nodes in one process: each with its own store, endpoint and connections, and caches that are small.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_engine::{Founding, FoundingMember, Identity};
use mesh_net::client::ClientConfig;
use mesh_net::identity::{Authority, CredentialFiles, Grants, Validity};
use mesh_net::node::{
    DEAD_AFTER_DEFAULT, GossipTuning, Node, NodeConfig, REPAIR_EVERY_DEFAULT,
    TOMBSTONE_AGE_DEFAULT, TRANSFER_BYTES_PER_SECOND_DEFAULT, WallClock,
};
use mesh_net::quic::Tuning;
use mesh_ring::ids::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::Result;
use crate::children::Child;

/// How often a node probes another one. By default it is 13 times as often, which many nodes on two cores are too busy
/// for: they would take each other for dead.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
const SUSPECT_AFTER: Duration = Duration::from_secs(5);

/// Memory of each store.
const CACHE_BYTES: usize = 1 << 20;
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Contacts of each node. Any one that answers is enough.
const CONTACTS: usize = 5;

const CLUSTER: ClusterId = ClusterId([9; 16]);

/// Nodes that are served by another process. Dropping it kills them.
pub struct Fleet {
    child: Child,
    met: Met,
}

/// What a client needs to reach them.
#[derive(Debug, Serialize, Deserialize)]
struct Met {
    addresses: Vec<String>,
    identity: PathBuf,
}

impl Fleet {
    /// Makes `nodes` nodes with `partitions` partitions in `dir`, and starts them.
    ///
    /// # Errors
    /// They do not all come up; the process has said why.
    pub fn start(dir: &Path, nodes: usize, partitions: u16) -> Result<Fleet> {
        let dir = dir.to_str().ok_or("the folder's name is not UTF-8")?;
        let numbers = [nodes.to_string(), partitions.to_string()];
        let mut child = Child::start("fleet", &[dir, &numbers[0], &numbers[1]])?;
        let met = serde_json::from_str(&child.line()?)?;
        Ok(Fleet { child, met })
    }

    /// A client's configuration for each node, with that node as its only contact.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientConfig> {
        let identity = CredentialFiles::in_dir(&self.met.identity);
        let nodes = self.met.addresses.iter();
        nodes
            .map(|address| ClientConfig::new(vec![address.clone()], identity.clone()))
            .collect()
    }

    /// Stops the node of this number, counted from 0, as SIGTERM does, and starts it again; returns when it was started.
    ///
    /// # Errors
    /// It does not start again; the process has said why.
    pub fn restart(&mut self, number: usize) -> Result<Instant> {
        self.child.say(&format!("restart {number}"))?;
        let stopped = self.child.line()?;
        let began = Instant::now();
        let started = self.child.line()?;
        if (&*stopped, &*started) == ("stopped", "started") {
            Ok(began)
        } else {
            Err(format!("the fleet said {stopped:?} and {started:?}").into())
        }
    }

    /// The process of all nodes.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

/// The work of that process: serves the nodes until there is no next line. `tell` is told how to reach them. A line
/// `restart NUMBER` restarts one of them.
///
/// # Errors
/// A node does not start; a line is not understood.
pub fn serve(
    dir: &Path,
    nodes: usize,
    partitions: u16,
    tell: impl Fn(&str) -> Result<()>,
    mut next_line: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let (configs, met) = prepare(dir, nodes, partitions)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut served = runtime.block_on(start_all(&configs))?;
    tell(&serde_json::to_string(&met)?)?;
    while let Some(line) = next_line()? {
        let number = line.strip_prefix("restart ").map(str::parse::<usize>);
        let number = number.ok_or_else(|| format!("{line:?} is not understood"))??;
        let config = configs.get(number).ok_or("there is no such node")?;
        let node = served.remove(&number).ok_or("there is no such node")?;
        runtime.block_on(node.shutdown())?;
        tell("stopped")?;
        served.insert(number, runtime.block_on(Node::start(config.clone()))?);
        tell("started")?;
    }
    // Nobody needs what they hold: they go down like a machine without power.
    drop(served);
    std::process::exit(0);
}

/// All nodes by their numbers.
async fn start_all(configs: &[NodeConfig]) -> Result<BTreeMap<usize, Node>> {
    let mut starting = JoinSet::new();
    for (number, config) in configs.iter().cloned().enumerate() {
        starting.spawn(async move { (number, Node::start(config).await) });
    }
    let mut served = BTreeMap::new();
    while let Some(started) = starting.join_next().await {
        let (number, node) = started?;
        served.insert(number, node?);
    }
    Ok(served)
}

/// Folders, identities and the founding of all nodes; what `meshctl init` does.
fn prepare(dir: &Path, nodes: usize, partitions: u16) -> Result<(Vec<NodeConfig>, Met)> {
    let authority = Authority::create(&dir.join("ca"))?;
    let client = dir.join("client");
    authority.issue_client(&client, "admin", &Grants::all(), Validity::days(1))?;
    let addresses = free_addresses(nodes)?;
    let id = |number: usize| {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&(number as u64 + 1).to_be_bytes());
        NodeId(id)
    };
    let members = addresses
        .iter()
        .enumerate()
        .map(|(number, address)| FoundingMember {
            node: id(number),
            name: format!("n{}", number + 1),
            address: address.clone(),
            zone: String::new(),
        });
    let founding = Founding {
        members: members.collect(),
        replicas: 3,
    };
    let mut configs = Vec::new();
    for (number, member) in founding.members.iter().enumerate() {
        let folder = dir.join(&member.name);
        let identity = folder.join("identity");
        authority.issue_node(&identity, &member.name, &[], Validity::days(1))?;
        let data = folder.join("data");
        let of = Identity {
            cluster: CLUSTER,
            node: member.node,
            name: member.name.clone(),
            partitions,
        };
        mesh_engine::prepare_with(&data, &of, &founding)?;
        let contacts = (1..=CONTACTS.min(nodes - 1)).map(|step| (number + step) % nodes);
        configs.push(NodeConfig {
            listen: member.address.clone(),
            advertise: None,
            zone: String::new(),
            contacts: contacts.map(|other| addresses[other].clone()).collect(),
            data,
            identity: CredentialFiles::in_dir(&identity),
            cluster: Some(CLUSTER),
            node: Some(member.node),
            reserve_bytes: mesh_engine::RESERVE_BYTES_MIN,
            cache_bytes: CACHE_BYTES,
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            scrub_bytes_per_second: 0,
            transfer_bytes_per_second: TRANSFER_BYTES_PER_SECOND_DEFAULT,
            repair_every: Some(REPAIR_EVERY_DEFAULT),
            tombstone_age: TOMBSTONE_AGE_DEFAULT,
            dead_after: DEAD_AFTER_DEFAULT,
            gossip: GossipTuning {
                probe_interval: PROBE_INTERVAL,
                probe_timeout: PROBE_TIMEOUT,
                suspect_after: SUSPECT_AFTER,
            },
            clock: WallClock::default(),
            tuning: Tuning::default(),
        });
    }
    let met = Met {
        addresses,
        identity: client,
    };
    Ok((configs, met))
}

/// Addresses that were free a moment ago, on loopback.
fn free_addresses(count: usize) -> Result<Vec<String>> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let addresses = sockets
        .iter()
        .map(|socket| Ok(socket.local_addr()?.to_string()));
    addresses.collect()
}
