//! A node in this process, its authority, and clients of every kind.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use mesh_net::{
    client::{Client, ClientConfig},
    identity::{Authority, CredentialFiles, Grants, Validity},
    node::Node,
};
use quinn::Connection;
use tempfile::TempDir;

use super::{
    node_folder::{founding, make_node, node_identity, start_node, write_node_file},
    wire::connect,
    within,
};

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
        let identity = node_identity(1, PARTITIONS);
        let founding = founding([(&identity, String::new())]);
        make_node(&folder, &authority, &identity, Some(&founding));
        write_node_file(&folder, "127.0.0.1:0", "");
        let node = within(start_node(&folder)).await.unwrap();
        let addr = node.addr();
        write_node_file(&folder, &addr.to_string(), "");
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
        let folder = self.folder();
        self.node = Some(within(start_node(&folder)).await.unwrap());
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
        connect(self.addr, files).await
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
