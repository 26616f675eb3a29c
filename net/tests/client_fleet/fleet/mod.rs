//! Nodes that speak the protocol and have one shared log, so that leaders move, lag and lie as a test wants it.

mod appends;
mod doors;
mod tails;
mod world;

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mesh_net::{
    client::{Client, ClientConfig},
    identity::{Authority, CredentialFiles, Credentials, Grants, Validity},
    quic::{Tuning, server_endpoint},
};
use quinn::Endpoint;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};

pub(crate) use world::PARTITIONS;
use world::World;

use crate::relay::Relay;

/// The world, and a count of its changes for those who wait for one.
type Shared = Arc<(Mutex<World>, watch::Sender<u64>)>;

pub(crate) struct Fleet {
    dir: TempDir,
    authority: Authority,
    shared: Shared,
    pub(crate) relays: Vec<Relay>,
    _endpoints: Vec<Endpoint>,
    _tasks: JoinSet<()>,
}

impl Fleet {
    pub(crate) async fn start(nodes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let shared: Shared = Arc::new((Mutex::new(World::new(nodes)), watch::Sender::new(0)));
        let (mut relays, mut endpoints, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
        for node in 0..nodes {
            let files = dir.path().join(format!("n{node}"));
            authority
                .issue_node(&files, &format!("n{node}"), &[], Validity::days(1))
                .unwrap();
            let credentials = Credentials::load(&CredentialFiles::in_dir(&files)).unwrap();
            let endpoint = server_endpoint(
                (Ipv4Addr::LOCALHOST, 0).into(),
                &credentials,
                &Tuning::default(),
            )
            .unwrap();
            let relay = Relay::to(endpoint.local_addr().unwrap()).await;
            shared
                .0
                .lock()
                .unwrap()
                .addresses
                .push(relay.addr.to_string());
            tasks.spawn(doors::accept(endpoint.clone(), node, shared.clone()));
            relays.push(relay);
            endpoints.push(endpoint);
        }
        Self {
            dir,
            authority,
            shared,
            relays,
            _endpoints: endpoints,
            _tasks: tasks,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().unwrap()
    }

    /// A client whose first contacts are these nodes.
    pub(crate) async fn client(&self, contacts: &[usize], timeout: Duration) -> Client {
        let dir = self.path("client");
        if !dir.exists() {
            self.issue_client("client");
        }
        let nodes = contacts
            .iter()
            .map(|&node| self.relays[node].addr.to_string())
            .collect();
        let mut config = ClientConfig::new(nodes, CredentialFiles::in_dir(&dir));
        config.timeout = timeout;
        Client::connect(config).await.unwrap()
    }

    /// Makes an identity of the clients' name.
    pub(crate) fn issue_client(&self, folder: &str) {
        self.authority
            .issue_client(&self.path(folder), "c", &Grants::all(), Validity::days(1))
            .unwrap();
    }

    /// Another node leads the topic's partition from now on, and the map says so.
    pub(crate) fn lead(&self, partition: u16, leader: Option<usize>) {
        let mut world = self.world();
        world.leaders[usize::from(partition)] = leader;
        world.deposed.remove(&partition);
        world.version += 1;
    }

    pub(crate) fn leader(&self, topic: &str) -> Option<usize> {
        self.world().leader(topic)
    }

    /// Ends all connections of a node, whatever is under way on them.
    pub(crate) fn hang_up(&self, node: usize) {
        for connection in self.world().connections[node].drain(..) {
            connection.close(1_u32.into(), b"");
        }
    }

    /// All values of a topic, in their order.
    pub(crate) fn values(&self, topic: &str) -> Vec<String> {
        let world = self.world();
        let mut values = Vec::new();
        for batch in &world.topics[topic].batches {
            for record in mesh_engine::batch::records(batch).unwrap() {
                let value = record.unwrap().1.value;
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
        values
    }

    /// Tells the tails that there may be more.
    pub(crate) fn tell(&self) {
        self.shared.1.send_modify(|changes| *changes += 1);
    }
}
