//! Nodes over real stores in one process, which can be killed, whose disks can be exchanged, and that join and leave.
//!
//! A test binary has this at its root beside `support`, and says there how long a cluster may take to come to rest
//! (`AT_REST_WITHIN`).
#![allow(
    dead_code,
    unused_imports,
    clippy::print_stderr,
    reason = "each test binary uses its part; whoever reads why a test failed is told more"
)]

mod clients;
mod contents;
mod disks;
mod members;
mod repairs;
mod rest;
mod server;

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use mesh_net::identity::{Authority, CredentialFiles, Grants, Validity};
use mesh_ring::ids::NodeId;
use server::Server;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use contents::{assert_reads, partition, partition_id, publish, publish_one};
pub(crate) use disks::copy_dir;
pub(crate) use repairs::{NEVER, sum};
pub(crate) use rest::LOOK_AGAIN;

use crate::support::node_folder::founding;

/// Partitions of each cluster here: more than nodes, so that each leads some.
pub(crate) const PARTITIONS: u16 = 6;

/// Most clusters do not run side by side, so that time means the same to each: so many at a time.
static TURNS: Semaphore = Semaphore::const_new(2);

pub(crate) struct Cluster {
    servers: Vec<Server>,
    authority: Authority,
    admin: CredentialFiles,
    _turn: SemaphorePermit<'static>,
    dir: TempDir,
}

impl Cluster {
    /// A cluster of `count` nodes in which every partition has a leader.
    pub(crate) async fn start(count: usize) -> Cluster {
        Cluster::start_with(count, "").await
    }

    /// The same, with more lines in each node.toml.
    pub(crate) async fn start_with(count: usize, more: &str) -> Cluster {
        Cluster::start_by_clocks(&vec![Duration::ZERO; count], more).await
    }

    /// The same, of as many nodes as there are clocks, each ahead by so much.
    pub(crate) async fn start_by_clocks(ahead: &[Duration], more: &str) -> Cluster {
        let count = ahead.len();
        let turn = TURNS.acquire().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let admin = dir.path().join("admin");
        authority
            .issue_client(&admin, "admin", &Grants::all(), Validity::days(1))
            .unwrap();
        let mut cluster = Cluster {
            servers: Vec::new(),
            authority,
            admin: CredentialFiles::in_dir(&admin),
            _turn: turn,
            dir,
        };
        for (addr, ahead) in server::free_addresses(count).into_iter().zip(ahead) {
            let node = cluster.add(addr);
            cluster.set_ahead(node, *ahead);
        }
        let members = cluster.servers.iter();
        let founding = founding(members.map(|server| (&server.identity, server.addr.to_string())));
        for node in 0..count {
            cluster.prepare(node, Some(&founding), more);
        }
        for node in 0..count {
            cluster.restart(node).await;
        }
        cluster.all_lead().await;
        cluster
    }

    fn add(&mut self, addr: SocketAddr) -> usize {
        let node = self.servers.len();
        self.servers.push(Server::new(node, self.dir.path(), addr));
        node
    }

    fn prepare(&self, node: usize, founding: Option<&mesh_engine::Founding>, more: &str) {
        let server = &self.servers[node];
        let others = self
            .servers
            .iter()
            .filter(|other| other.addr != server.addr);
        let contacts: Vec<String> = others.map(|other| other.addr.to_string()).collect();
        server.prepare(&self.authority, founding, &contacts, more);
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.servers[node].identity.name
    }

    pub(crate) fn id(&self, node: usize) -> NodeId {
        self.servers[node].identity.node
    }

    pub(crate) fn number(&self, id: NodeId) -> usize {
        let mut servers = self.servers.iter();
        servers
            .position(|server| server.identity.node == id)
            .unwrap()
    }

    /// The nodes that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = usize> + use<'_> {
        let servers = self.servers.iter().enumerate();
        servers.filter_map(|(node, server)| server.runs().then_some(node))
    }

    /// Starts a node that does not run, on what is on its disk.
    pub(crate) async fn restart(&mut self, node: usize) {
        self.servers[node].start().await;
    }

    /// Starts a node that is going to be refused; returns what it says when it ends.
    pub(crate) async fn ends(&mut self, node: usize) -> String {
        self.servers[node].start_in_vain().await
    }

    /// Resolves when a node ends by itself, with what it says.
    pub(crate) async fn end_of(&self, node: usize) -> String {
        self.servers[node].end().await
    }

    /// Ends a node without a word.
    pub(crate) async fn kill(&mut self, node: usize) {
        self.servers[node].kill().await;
    }

    /// Stops a node in order; returns how long that took.
    pub(crate) async fn stop(&mut self, node: usize) -> Duration {
        self.servers[node].stop().await
    }

    /// From now on the clock of the node's machine is ahead by so much.
    pub(crate) fn set_ahead(&self, node: usize, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap();
        let ahead_ms = &self.servers[node].ahead_ms;
        ahead_ms.store(by_ms, Ordering::Relaxed);
    }

    /// Stands a node's every thread still for so long, as a paused process would; its store's thread goes on.
    pub(crate) fn pause(&self, node: usize, time: Duration) {
        self.servers[node].pause(time);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running: Vec<_> = self.running().map(|node| self.name(node)).collect();
        if std::thread::panicking() {
            eprintln!("nodes that ran at the end: {running:?}");
        }
        let servers = std::mem::take(&mut self.servers);
        // Elsewhere, as a runtime may not be ended on a thread of another one.
        let killed = std::thread::spawn(move || servers.into_iter().for_each(Server::give_up));
        // A node that could not be ended has said why.
        let _ = killed.join();
    }
}
