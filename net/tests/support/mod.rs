//! A node in this process, its authority, and clients of every kind.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use mesh_engine::{Founding, FoundingMember, Identity};
use mesh_net::{
    client::{Client, ClientConfig, Record, Start, TailOptions, TailRecord},
    identity::{Authority, CredentialFiles, Credentials, Grants, NODE_SERVER_NAME, Validity},
    node::{NODE_FILE, Node, NodeConfig, StartError},
    quic::{Tuning, client_endpoint},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{Reply, Request, reply, request},
    },
};
use mesh_ring::ids::{ClusterId, NodeId};
use quinn::Connection;
use tempfile::TempDir;

/// The longest that a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Fails instead of hanging.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it took too long")
}

/// Partitions of the mesh.
const PARTITIONS: u16 = 8;

pub(crate) struct Mesh {
    dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) addr: SocketAddr,
    node: Option<Node>,
    identities: AtomicU32,
}

impl Mesh {
    /// A node that serves on a free port of loopback.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let folder = dir.path().join("n1");
        authority
            .issue_node(&folder.join("identity"), "n1", &[], Validity::days(1))
            .unwrap();
        let identity = Identity {
            cluster: ClusterId([7; 16]),
            node: NodeId([1; 16]),
            name: "n1".into(),
            partitions: PARTITIONS,
        };
        let founding = Founding {
            members: vec![FoundingMember {
                node: identity.node,
                name: identity.name.clone(),
                address: String::new(),
                zone: String::new(),
            }],
            replicas: 3,
        };
        mesh_engine::prepare_with(&folder.join("data"), &identity, &founding).unwrap();
        write_node_file(&folder, "127.0.0.1:0");
        let node = Node::start(config(&folder)).await.unwrap();
        let addr = node.addr();
        write_node_file(&folder, &addr.to_string());
        let mesh = Self {
            dir,
            authority,
            addr,
            node: Some(node),
            identities: AtomicU32::new(0),
        };
        within(mesh.leads()).await;
        mesh
    }

    /// Waits until the node leads every partition, for those who ask only once.
    async fn leads(&self) {
        let client = self.client().await;
        loop {
            let status = client.node_status().await.unwrap();
            let leads = status.partitions.iter().filter(|copy| copy.leads);
            if leads.count() == usize::from(PARTITIONS) {
                return client.close().await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("n1")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stops the node in order.
    pub(crate) async fn stop(&mut self) {
        within(self.node.take().unwrap().shutdown()).await.unwrap();
    }

    pub(crate) fn take_node(&mut self) -> Node {
        self.node.take().unwrap()
    }

    /// Serves again, on the same port, what is on the disk.
    pub(crate) async fn start_again(&mut self) {
        let starting = async {
            loop {
                match Node::start(config(&self.folder())).await {
                    // The socket of the node before is closed when the runtime has dropped it.
                    Err(StartError::Endpoint(_)) => tokio::task::yield_now().await,
                    started => return started.unwrap(),
                }
            }
        };
        self.node = Some(within(starting).await);
    }

    /// An identity of this mesh's authority.
    pub(crate) fn identity(&self, grants: &Grants, validity: Validity) -> CredentialFiles {
        let number = self.identities.fetch_add(1, Ordering::Relaxed);
        let dir = self.path(&format!("client-{number}"));
        self.authority
            .issue_client(&dir, &format!("c{number}"), grants, validity)
            .unwrap();
        CredentialFiles::in_dir(&dir)
    }

    pub(crate) fn config(&self, files: CredentialFiles) -> ClientConfig {
        ClientConfig::new(vec![self.addr.to_string()], files)
    }

    /// A client that may do everything.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(|_| {}).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = self.config(self.identity(&Grants::all(), Validity::days(1)));
        change(&mut config);
        Client::connect(config).await.unwrap()
    }

    /// A client that may do what the texts say.
    pub(crate) async fn client_of(&self, grants: &[&str]) -> Client {
        let grants = grants.iter().map(|grant| grant.parse().unwrap()).collect();
        Client::connect(self.config(self.identity(&grants, Validity::days(1))))
            .await
            .unwrap()
    }

    /// A bare connection that may do everything, for what no client would send.
    pub(crate) async fn connection(&self) -> Connection {
        self.connection_of(&self.identity(&Grants::all(), Validity::days(1)))
            .await
    }

    pub(crate) async fn connection_of(&self, files: &CredentialFiles) -> Connection {
        let credentials = Credentials::load(files).unwrap();
        let endpoint = client_endpoint(self.addr, &credentials, &Tuning::default()).unwrap();
        within(endpoint.connect(self.addr, NODE_SERVER_NAME).unwrap())
            .await
            .unwrap()
    }

    /// Whether the node still does its work.
    pub(crate) async fn assert_serves(&self) {
        let client = self.client().await;
        client
            .put(b"alive", Bytes::from_static(b"yes"), Default::default())
            .await
            .unwrap();
        let got = client.get(b"alive", None).await.unwrap().unwrap();
        assert_eq!(&got.values[0].value[..], b"yes");
        client.close().await;
    }
}

fn write_node_file(folder: &Path, listen: &str) {
    let cluster = ClusterId([7; 16]);
    let text = format!(
        "listen = {listen:?}\ncluster = \"{cluster}\"\nreserve_bytes = 16777216\nwrite_buffer_bytes = 4194304\n"
    );
    std::fs::write(folder.join(NODE_FILE), text).unwrap();
}

fn config(folder: &Path) -> NodeConfig {
    NodeConfig::load(folder).unwrap()
}

pub(crate) fn record(value: impl Into<Bytes>) -> Record {
    Record {
        value: value.into(),
        ..Record::default()
    }
}

pub(crate) fn from_start(follow: bool) -> TailOptions {
    TailOptions {
        start: Start::First,
        follow,
        until: None,
    }
}

/// Everything that a topic holds now.
pub(crate) async fn read_all(client: &Client, topic: &str) -> Vec<TailRecord> {
    let mut tail = client.tail(topic, from_start(false));
    let mut all = Vec::new();
    while let Some(batch) = within(tail.next()).await.unwrap() {
        all.extend(batch.records);
    }
    for (offset, record) in all.iter().enumerate() {
        assert_eq!(
            record.offset,
            all[0].offset + offset as u64,
            "offsets are dense"
        );
    }
    all
}

pub(crate) fn texts(records: &[TailRecord]) -> Vec<String> {
    records
        .iter()
        .map(|r| String::from_utf8_lossy(&r.record.value).into_owned())
        .collect()
}

/// Sends one request as it is and returns the first reply.
pub(crate) async fn ask(connection: &Connection, kind: request::Kind) -> reply::Kind {
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    writer.header(&Request::new(kind)).await.unwrap();
    writer.finish();
    let (reply, _) = within(FrameReader::new(receive).frame::<Reply>())
        .await
        .unwrap()
        .unwrap();
    reply.kind.unwrap()
}

/// The pseudo-random bytes of a seed, which a failing test prints.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
