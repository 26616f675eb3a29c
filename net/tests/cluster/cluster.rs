//! Nodes over real stores in one process. Each has a runtime of its own, so that one can be killed: its tasks end where
//! they stand, its sockets close without a word, and what it had not written is gone.

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mesh_engine::{Founding, FoundingMember, Identity};
use mesh_net::{
    client::{Client, ClientConfig, ClusterView, NodeStatus, PartitionView},
    identity::{Authority, CredentialFiles, Credentials, Grants, NODE_SERVER_NAME, Validity},
    node::{NODE_FILE, Node, NodeConfig, StartError},
    quic::{Tuning, client_endpoint},
};
use mesh_ring::{
    hash::partition_of,
    ids::{ClusterId, NodeId},
};
use quinn::Connection;
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::sleep};

use crate::support::{PATIENCE, within};

/// Partitions of each cluster here: more than nodes, so that each leads some.
pub(crate) const PARTITIONS: u16 = 6;

/// How soon what has no event is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) struct Cluster {
    // First, so that the nodes are gone before their folders are.
    servers: Vec<Server>,
    admin: CredentialFiles,
    /// Most clusters do not run side by side, so that time means the same to each.
    _turn: tokio::sync::SemaphorePermit<'static>,
    dir: TempDir,
}

struct Server {
    id: NodeId,
    name: String,
    addr: SocketAddr,
    running: Option<Running>,
}

struct Running {
    node: Node,
    runtime: Runtime,
}

impl Running {
    async fn start(folder: &Path) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let folder = folder.to_owned();
        let starting = runtime.spawn(async move {
            loop {
                match Node::start(NodeConfig::load(&folder).unwrap()).await {
                    // The socket of the node before is closed when the system has noticed.
                    Err(StartError::Endpoint(_)) => sleep(LOOK_AGAIN).await,
                    started => return started.unwrap(),
                }
            }
        });
        let node = within(starting).await.unwrap();
        Running { node, runtime }
    }

    /// Ends it as a crash would, as far as that can be done to a part of a process.
    fn kill(self) {
        // First the tasks, so that nothing can be said any more when the node is dropped.
        self.runtime.shutdown_timeout(PATIENCE);
        drop(self.node);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let servers = std::mem::take(&mut self.servers);
        let killed = std::thread::spawn(move || {
            for server in servers {
                if let Some(running) = server.running {
                    running.kill();
                }
            }
        });
        // A node that could not be ended has said why.
        let _ = killed.join();
    }
}

/// Clusters that run at a time.
static TURNS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

impl Cluster {
    /// A cluster of `count` nodes in which every partition has a leader.
    pub(crate) async fn start(count: usize) -> Cluster {
        let turn = TURNS.acquire().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let admin = dir.path().join("admin");
        authority
            .issue_client(&admin, "admin", &Grants::all(), Validity::days(1))
            .unwrap();
        let servers: Vec<Server> = free_addresses(count)
            .into_iter()
            .zip(1_u8..)
            .map(|(addr, number)| Server {
                id: NodeId([number; 16]),
                name: format!("n{number}"),
                addr,
                running: None,
            })
            .collect();
        let members = servers.iter().map(|server| FoundingMember {
            node: server.id,
            name: server.name.clone(),
            address: server.addr.to_string(),
            zone: String::new(),
        });
        let founding = Founding {
            members: members.collect(),
            replicas: 3,
        };
        for server in &servers {
            prepare(dir.path(), &authority, server, &founding);
        }
        let mut cluster = Cluster {
            servers,
            admin: CredentialFiles::in_dir(&admin),
            _turn: turn,
            dir,
        };
        for node in 0..count {
            cluster.restart(node).await;
        }
        cluster.all_lead().await;
        cluster
    }

    fn folder(&self, node: usize) -> PathBuf {
        self.dir.path().join(&self.servers[node].name)
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.servers[node].name
    }

    pub(crate) fn id(&self, node: usize) -> NodeId {
        self.servers[node].id
    }

    pub(crate) fn number(&self, id: NodeId) -> usize {
        let mut servers = self.servers.iter();
        servers.position(|server| server.id == id).unwrap()
    }

    /// The nodes that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = usize> + use<'_> {
        let servers = self.servers.iter().enumerate();
        servers.filter_map(|(node, server)| server.running.as_ref().map(|_| node))
    }

    /// Starts a node that does not run, on what is on its disk.
    pub(crate) async fn restart(&mut self, node: usize) {
        assert!(self.servers[node].running.is_none(), "it runs");
        let running = Running::start(&self.folder(node)).await;
        self.servers[node].running = Some(running);
    }

    /// Ends a node without a word.
    pub(crate) async fn kill(&mut self, node: usize) {
        let running = self.servers[node].running.take().unwrap();
        within(tokio::task::spawn_blocking(|| running.kill()))
            .await
            .unwrap();
    }

    /// Stops a node in order; returns how long that took.
    pub(crate) async fn stop(&mut self, node: usize) -> Duration {
        let Running { node, runtime } = self.servers[node].running.take().unwrap();
        let began = Instant::now();
        let stopping =
            runtime.spawn(async move { node.shutdown().await.map(|()| began.elapsed()) });
        let took = within(stopping).await.unwrap().unwrap();
        within(tokio::task::spawn_blocking(|| {
            runtime.shutdown_timeout(PATIENCE);
        }))
        .await
        .unwrap();
        took
    }

    /// Stands a node's every thread still for so long, as a paused process would; its store's thread goes on.
    pub(crate) fn pause(&self, node: usize, time: Duration) {
        let running = self.servers[node].running.as_ref().unwrap();
        for _ in 0..2 {
            running
                .runtime
                .spawn(async move { std::thread::sleep(time) });
        }
    }

    pub(crate) fn config(&self, nodes: &[usize]) -> ClientConfig {
        let addresses = nodes
            .iter()
            .map(|node| self.servers[*node].addr.to_string());
        ClientConfig::new(addresses.collect(), self.admin.clone())
    }

    /// A client that is told of these nodes only; it learns of the others by itself.
    pub(crate) async fn client(&self, nodes: &[usize]) -> Client {
        self.client_with(nodes, |_| {}).await
    }

    pub(crate) async fn client_with(
        &self,
        nodes: &[usize],
        change: impl FnOnce(&mut ClientConfig),
    ) -> Client {
        let mut config = self.config(nodes);
        change(&mut config);
        within(Client::connect(config)).await.unwrap()
    }

    /// A client that gives up soon.
    pub(crate) async fn hasty_client(&self, nodes: &[usize]) -> Client {
        let soon = Duration::from_millis(1_500);
        self.client_with(nodes, |config| config.timeout = soon)
            .await
    }

    /// A bare connection, for what is asked of this very node.
    pub(crate) async fn connection(&self, node: usize) -> Connection {
        let credentials = Credentials::load(&self.admin).unwrap();
        let addr = self.servers[node].addr;
        let endpoint = client_endpoint(addr, &credentials, &Tuning::default()).unwrap();
        within(endpoint.connect(addr, NODE_SERVER_NAME).unwrap())
            .await
            .unwrap()
    }

    /// The map as a node has it.
    pub(crate) async fn view(&self, node: usize) -> ClusterView {
        let client = self.client(&[node]).await;
        let view = within(client.cluster()).await.unwrap();
        client.close().await;
        view
    }

    pub(crate) async fn status(&self, node: usize) -> NodeStatus {
        let client = self.client(&[node]).await;
        let status = within(client.node_status()).await.unwrap();
        client.close().await;
        status
    }

    /// The node that leads a topic's partition, as the map of some running node has it.
    pub(crate) async fn leader_of(&self, topic: &str) -> usize {
        let some = self.running().next().unwrap();
        let view = self.view(some).await;
        self.number(partition(&view, topic).leader.unwrap())
    }

    /// A topic that `node` leads.
    pub(crate) async fn topic_led_by(&self, node: usize) -> String {
        let view = self.view(node).await;
        let led = |topic: &String| partition(&view, topic).leader == Some(self.id(node));
        let topics = (0..1_000).map(|number| format!("topic-{number}"));
        topics.into_iter().find(led).unwrap()
    }

    /// Waits until the running nodes agree that every partition has a leader among them that serves.
    pub(crate) async fn all_lead(&self) {
        self.eventually("every partition has a leader", async || {
            let running: Vec<_> = self.running().collect();
            let mut leading = 0;
            for node in &running {
                let client = self.client(&[*node]).await;
                let view = within(client.cluster()).await.unwrap();
                let status = within(client.node_status()).await.unwrap();
                client.close().await;
                let settled = view.partitions.iter().all(|partition| {
                    let led_by_one = |node: &usize| partition.leader == Some(self.id(*node));
                    partition.active && running.iter().any(led_by_one)
                });
                if !settled {
                    return false;
                }
                leading += status.partitions.iter().filter(|copy| copy.leads).count();
            }
            leading == usize::from(PARTITIONS)
        })
        .await;
    }

    /// Waits until what is looked at is so.
    pub(crate) async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so().await {
            assert!(Instant::now() < deadline, "it took too long until {what}");
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Where a topic lies.
pub(crate) fn partition<'a>(view: &'a ClusterView, topic: &str) -> &'a PartitionView {
    let id = partition_of(topic.as_bytes(), PARTITIONS);
    &view.partitions[usize::from(id.0)]
}

/// What `meshctl init` would make for a node.
fn prepare(dir: &Path, authority: &Authority, server: &Server, founding: &Founding) {
    let folder = dir.join(&server.name);
    let credentials = folder.join("identity");
    authority
        .issue_node(&credentials, &server.name, &[], Validity::days(1))
        .unwrap();
    let identity = Identity {
        cluster: CLUSTER,
        node: server.id,
        name: server.name.clone(),
        partitions: PARTITIONS,
    };
    mesh_engine::prepare_with(&folder.join("data"), &identity, founding).unwrap();
    let others = founding
        .members
        .iter()
        .filter(|other| other.node != server.id);
    let contacts: Vec<String> = others.map(|other| format!("{:?}", other.address)).collect();
    let text = format!(
        "listen = \"{}\"\ncluster = \"{CLUSTER}\"\ncontacts = [{}]\nreserve_bytes = 16777216\nwrite_buffer_bytes = 4194304\n",
        server.addr,
        contacts.join(", ")
    );
    std::fs::write(folder.join(NODE_FILE), text).unwrap();
}

/// Addresses of loopback that the system had free. All are held until all are known, so that they differ.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap());
    addresses.collect()
}
