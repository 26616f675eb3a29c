//! Nodes over real stores in one process, whose disks can be copied, put back and damaged, and that join and leave.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mesh_engine::{Founding, FoundingMember, Identity, OpenError};
use mesh_net::{
    client::{
        Client, ClientConfig, ClientError, ClusterChange, ClusterView, NodeState, NodeStatus,
        PartitionView, Producer, ProducerOptions,
    },
    identity::{Authority, CredentialFiles, Grants, Validity},
    node::{NODE_FILE, Node, NodeConfig, StartError},
};
use mesh_ring::{
    hash::partition_of,
    ids::{ClusterId, NodeId, PartitionId},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::sleep};

use crate::support::{PATIENCE, read_all, record, texts, within};

/// Partitions of each cluster here: more than nodes, so that each leads some.
pub(crate) const PARTITIONS: u16 = 6;

/// How soon what has no event is looked at again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) struct Cluster {
    // First, so that the nodes are gone before their folders are.
    servers: Vec<Server>,
    authority: Authority,
    admin: CredentialFiles,
    /// Most clusters do not run side by side, so that time means the same to each.
    _turn: tokio::sync::SemaphorePermit<'static>,
    dir: TempDir,
}

struct Server {
    id: NodeId,
    name: String,
    addr: SocketAddr,
    /// Lines of its node.toml beside what every node has.
    more: String,
    running: Option<Running>,
}

struct Running {
    node: Node,
    runtime: Runtime,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Starts what lies in the folder, once whoever ran it before is gone.
async fn start(folder: PathBuf) -> Result<Node, StartError> {
    loop {
        match Node::start(NodeConfig::load(&folder).unwrap()).await {
            // The socket and the lock of the node before are free when the system and its last thread have noticed.
            Err(StartError::Endpoint(_) | StartError::Open(OpenError::Locked(_))) => {
                sleep(LOOK_AGAIN).await;
            }
            started => return started,
        }
    }
}

impl Running {
    /// Ends it as a crash would, as far as that can be done to a part of a process.
    fn kill(self) {
        // First the tasks, so that nothing can be said any more when the node is dropped. A thread that reads for a
        // transfer ends when it notices that.
        self.runtime.shutdown_timeout(Duration::from_millis(300));
        drop(self.node);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running: Vec<_> = self.running().collect();
        let servers = std::mem::take(&mut self.servers);
        let killed = std::thread::spawn(move || {
            for server in servers {
                if let Some(running) = server.running {
                    running.kill();
                }
            }
        });
        let _ = killed.join();
        if std::thread::panicking() {
            eprintln!("nodes that ran at the end: {running:?}");
        }
    }
}

/// Clusters that run at a time.
static TURNS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

impl Cluster {
    /// A cluster of `count` nodes in which every partition has a leader.
    pub(crate) async fn start(count: usize) -> Cluster {
        Cluster::start_with(count, "").await
    }

    /// The same, with more lines in each node.toml.
    pub(crate) async fn start_with(count: usize, more: &str) -> Cluster {
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
        for addr in free_addresses(count) {
            cluster.add(addr, more);
        }
        let members = cluster.servers.iter().map(|server| FoundingMember {
            node: server.id,
            name: server.name.clone(),
            address: server.addr.to_string(),
            zone: String::new(),
        });
        let founding = Founding {
            members: members.collect(),
            replicas: 3,
        };
        for node in 0..count {
            cluster.prepare(node, Some(&founding));
        }
        for node in 0..count {
            cluster.restart(node).await;
        }
        cluster.all_lead().await;
        cluster
    }

    fn add(&mut self, addr: SocketAddr, more: &str) -> usize {
        let number = u8::try_from(self.servers.len() + 1).unwrap();
        self.servers.push(Server {
            id: NodeId([number; 16]),
            name: format!("n{number}"),
            addr,
            more: more.to_owned(),
            running: None,
        });
        usize::from(number) - 1
    }

    /// What `meshctl init`, or `node new`, would make for a node.
    fn prepare(&self, node: usize, founding: Option<&Founding>) {
        let (server, folder) = (&self.servers[node], self.folder(node));
        self.authority
            .issue_node(
                &folder.join("identity"),
                &server.name,
                &[],
                Validity::days(1),
            )
            .unwrap();
        let identity = Identity {
            cluster: CLUSTER,
            node: server.id,
            name: server.name.clone(),
            partitions: PARTITIONS,
        };
        match founding {
            Some(founding) => mesh_engine::prepare_with(&self.data(node), &identity, founding),
            None => mesh_engine::prepare(&self.data(node), &identity),
        }
        .unwrap();
        let others = self.servers.iter().filter(|other| other.id != server.id);
        let contacts: Vec<String> = others.map(|other| format!("\"{}\"", other.addr)).collect();
        let text = format!(
            "listen = \"{}\"\ncluster = \"{CLUSTER}\"\nnode = \"{}\"\ncontacts = [{}]\nreserve_bytes = 16777216\nwrite_buffer_bytes = 4194304\n{}",
            server.addr,
            server.id,
            contacts.join(", "),
            server.more,
        );
        fs::write(folder.join(NODE_FILE), text).unwrap();
    }

    /// Lets a new node in; it is not running yet.
    pub(crate) async fn admit(&mut self, more: &str) -> usize {
        let addr = free_addresses(1)[0];
        let node = self.add(addr, more);
        self.prepare(node, None);
        let server = &self.servers[node];
        self.change(ClusterChange::Admit {
            node: server.id,
            name: server.name.clone(),
            address: server.addr.to_string(),
            zone: String::new(),
        })
        .await;
        node
    }

    /// Changes the ring, through whichever node answers.
    pub(crate) async fn change(&self, change: ClusterChange) {
        let client = self.any_client().await;
        // Without an answer it may have been done; every change may be asked for again.
        let changing = async {
            loop {
                match client.change_cluster(change.clone()).await {
                    Err(ClientError::Unavailable(_)) => {}
                    changed => return changed,
                }
            }
        };
        within(changing).await.unwrap();
        client.close().await;
    }

    fn folder(&self, node: usize) -> PathBuf {
        self.dir.path().join(&self.servers[node].name)
    }

    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.folder(node).join("data")
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
        let runtime = runtime();
        let starting = runtime.spawn(start(self.folder(node)));
        let node_runs = within(starting).await.unwrap().unwrap();
        self.servers[node].running = Some(Running {
            node: node_runs,
            runtime,
        });
    }

    /// Starts a node that is going to be refused; returns what it says when it ends.
    pub(crate) async fn ends(&mut self, node: usize) -> String {
        let (runtime, folder) = (runtime(), self.folder(node));
        let ending = runtime.spawn(async move {
            match start(folder).await {
                Ok(node) => {
                    let cause = node.stopped().await.cause;
                    // Whether it stops in order is not the point here.
                    let _ = node.shutdown().await;
                    cause
                }
                Err(error) => error.to_string(),
            }
        });
        let cause = within(ending).await.unwrap();
        runtime.shutdown_background();
        cause
    }

    /// Resolves when a node ends by itself, with what it says.
    pub(crate) async fn end_of(&self, node: usize) -> String {
        let running = self.servers[node].running.as_ref().unwrap();
        within(running.node.stopped()).await.cause
    }

    /// Ends a node without a word.
    pub(crate) async fn kill(&mut self, node: usize) {
        let running = self.servers[node].running.take().unwrap();
        within(tokio::task::spawn_blocking(|| running.kill()))
            .await
            .unwrap();
    }

    /// Copies a node's disk as it is at this moment.
    pub(crate) fn copy_disk(&self, node: usize, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy_dir(&self.data(node), &to);
        to
    }

    /// Puts a copy in place of a node's disk; the disk is kept beside.
    pub(crate) fn put_disk(&self, node: usize, copy: &Path) -> PathBuf {
        let beside = self.dir.path().join(format!(
            "beside-{}",
            copy.file_name().unwrap().to_string_lossy()
        ));
        fs::rename(self.data(node), &beside).unwrap();
        copy_dir(copy, &self.data(node));
        beside
    }

    fn config(&self, nodes: &[usize]) -> ClientConfig {
        let addresses = nodes
            .iter()
            .map(|node| self.servers[*node].addr.to_string());
        ClientConfig::new(addresses.collect(), self.admin.clone())
    }

    /// A client that is told of these nodes only; it learns of the others by itself.
    pub(crate) async fn client(&self, nodes: &[usize]) -> Client {
        within(Client::connect(self.config(nodes))).await.unwrap()
    }

    pub(crate) async fn any_client(&self) -> Client {
        let running: Vec<_> = self.running().collect();
        self.client(&running).await
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
                let view = self.view(*node).await;
                let status = self.status(*node).await;
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

    /// Waits until nothing moves any more, and every replica of every partition counts.
    pub(crate) async fn all_placed(&self) {
        self.all_count("every replica counts", false).await;
    }

    /// The same, and every replica has everything that its leader has; nothing may be appended meanwhile.
    pub(crate) async fn all_caught_up(&self) {
        self.all_count("every replica has everything", true).await;
    }

    async fn all_count(&self, what: &str, whole: bool) {
        self.all_lead().await;
        self.eventually(what, async || {
            let running: Vec<_> = self.running().collect();
            let view = self.view(running[0]).await;
            let mut copies = Vec::new();
            for node in running {
                let status = self.status(node).await;
                copies.extend(
                    status
                        .partitions
                        .into_iter()
                        .map(|copy| (self.id(node), copy)),
                );
            }
            view.partitions.iter().all(|partition| {
                let of = |node: NodeId| {
                    let mut copies = copies.iter();
                    copies.find(move |(of, copy)| *of == node && copy.partition == partition.id)
                };
                let Some((_, leader)) = partition.leader.and_then(of) else {
                    return false;
                };
                let counts = |node: &NodeId| {
                    of(*node).is_some_and(|(_, copy)| {
                        !copy.suspect && (!whole || copy.committed == leader.last)
                    })
                };
                partition.learners.is_empty()
                    && partition.target.is_none()
                    && partition.replicas.iter().all(counts)
            })
        })
        .await;
    }

    /// Waits until what is looked at is so.
    pub(crate) async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + 2 * PATIENCE;
        while !is_so().await {
            if Instant::now() > deadline {
                self.print().await;
                panic!("it took too long until {what}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// What the running nodes say, for whoever reads why a test has failed.
    async fn print(&self) {
        for node in self.running() {
            let running = self.servers[node].running.as_ref().unwrap();
            let ended = tokio::time::timeout(LOOK_AGAIN, running.node.stopped()).await;
            let (view, status) = (self.view(node).await, self.status(node).await);
            eprintln!(
                "n{}: ended {:?}, map {}, control leader {:?}, quorum {}, {:?}, transfers {:?}",
                node + 1,
                ended.ok(),
                view.version,
                status.control_leader,
                status.control_quorum,
                status.warnings,
                status.transfers,
            );
            for member in &view.nodes {
                eprintln!(
                    "  {} {:?} votes {}",
                    member.name, member.state, member.votes
                );
            }
            for partition in &view.partitions {
                let named =
                    |nodes: &[NodeId]| nodes.iter().map(|node| node.0[0]).collect::<Vec<_>>();
                let mut copies = status.partitions.iter();
                let copy = copies.find(|copy| copy.partition == partition.id);
                eprintln!(
                    "  {} epoch {} active {} leader {:?} replicas {:?} learners {:?} target {:?}: {copy:?}",
                    partition.id,
                    partition.epoch,
                    partition.active,
                    partition.leader.map(|node| node.0[0]),
                    named(&partition.replicas),
                    named(&partition.learners),
                    partition.target.as_deref().map(named),
                );
            }
        }
    }

    /// Every replica of a topic holds the same records, as each of them hashes what is on its disk.
    pub(crate) async fn assert_replicas_alike(&self, topic: &str, records: u64) {
        let some = self.running().next().unwrap();
        let view = self.view(some).await;
        let mut roots = Vec::new();
        for node in self.running() {
            if !partition(&view, topic).replicas.contains(&self.id(node)) {
                continue;
            }
            let client = self.client(&[node]).await;
            let described = within(client.describe_topic(topic)).await.unwrap();
            let hash = within(client.hash_topic(&described, 0, records))
                .await
                .unwrap();
            client.close().await;
            assert_eq!(
                (hash.records, hash.damaged),
                (records, 0),
                "of n{}",
                node + 1
            );
            roots.push(hash.root);
        }
        assert!(
            roots.windows(2).all(|pair| pair[0] == pair[1]),
            "{topic} differs"
        );
        assert_eq!(
            roots.len(),
            3.min(self.running().count()),
            "replicas of {topic}"
        );
    }

    pub(crate) fn state_in(&self, view: &ClusterView, node: usize) -> Option<NodeState> {
        view.node(self.id(node)).map(|node| node.state)
    }
}

/// Where a topic lies.
pub(crate) fn partition<'a>(view: &'a ClusterView, topic: &str) -> &'a PartitionView {
    &view.partitions[usize::from(partition_id(topic).0)]
}

pub(crate) fn partition_id(topic: &str) -> PartitionId {
    partition_of(topic.as_bytes(), PARTITIONS)
}

/// Publishes `from..to` as texts, each acknowledged before the next.
pub(crate) async fn publish(client: &Client, topic: &str, numbers: std::ops::Range<u64>) {
    let producer = client.producer(ProducerOptions::default());
    for number in numbers {
        publish_one(&producer, topic, number).await;
    }
}

pub(crate) async fn publish_one(producer: &Producer, topic: &str, number: u64) {
    let published = within(producer.publish(topic, record(number.to_string()))).await;
    assert_eq!(published.unwrap().first, number);
}

/// Reads a whole topic, of which `0..count` was acknowledged.
pub(crate) async fn assert_reads(client: &Client, topic: &str, count: u64) {
    let read = texts(&read_all(client, topic).await);
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(read.len(), expected.len(), "records of {topic}");
    assert!(
        read == expected,
        "{topic} reads otherwise than it was written"
    );
}

/// Addresses of loopback that the system had free. All are held until all are known, so that they differ.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap());
    addresses.collect()
}

/// Copies a directory of which RocksDB may be removing obsolete files: begins anew when one is gone.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for _ in 0..100 {
        match try_copy_dir(from, to) {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_dir_all(to).unwrap(),
            Err(error) => panic!("{}: {error}", from.display()),
        }
    }
    panic!("{} does not come to rest", from.display());
}

fn try_copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
