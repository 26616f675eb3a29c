//! Who speaks here: a node's end that accepts, one that dials, and the authorities that they trust.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mesh_net::{
    identity::{
        Authority, CredentialFiles, Fingerprint, Grants, LiveIdentity, NODE_SERVER_NAME, Peer,
        REVOKED_REASON, Validity,
    },
    quic::{
        CLOSE_REFUSED, Tuning, client_config, client_endpoint, follow_identity, server_endpoint,
    },
};
use quinn::{Connection, ConnectionError, Endpoint};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::within;

/// A node's end: accepts whoever has a right to it, and echoes.
pub(crate) struct Server {
    addr: SocketAddr,
    pub(crate) identity: LiveIdentity,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) fn start(dir: &Path) -> Self {
        let identity = LiveIdentity::load(&CredentialFiles::in_dir(dir)).unwrap();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint =
            server_endpoint(loopback, &identity.credentials(), &Tuning::default()).unwrap();
        let addr = endpoint.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_identity(
            endpoint.clone(),
            identity.clone(),
            Tuning::default(),
        ));
        tasks.spawn(serve(endpoint, identity.clone()));
        Self {
            addr,
            identity,
            _tasks: tasks,
        }
    }
}

async fn serve(endpoint: Endpoint, identity: LiveIdentity) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let revoked = identity.revoked().clone();
        connections.spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            let peer = Peer::of_connection(&connection).unwrap();
            let echo = async {
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let said = receive.read_to_end(100).await.unwrap_or_default();
                    let _ = send.write_all(&said).await;
                    let _ = send.finish();
                }
            };
            tokio::select! {
                biased;
                () = revoked.until_revoked(peer.fingerprint) => connection.close(CLOSE_REFUSED, REVOKED_REASON),
                () = echo => {}
            }
        });
    }
}

/// The end that dials.
pub(crate) struct Dialler {
    endpoint: Endpoint,
    pub(crate) identity: LiveIdentity,
}

impl Dialler {
    pub(crate) fn new(dir: &Path, server: &Server) -> Self {
        let identity = LiveIdentity::load(&CredentialFiles::in_dir(dir)).unwrap();
        let endpoint =
            client_endpoint(server.addr, &identity.credentials(), &Tuning::default()).unwrap();
        Self { endpoint, identity }
    }

    /// Connects and has something echoed, as a handshake alone does not tell a client that it is refused.
    pub(crate) async fn dial(&self, server: &Server) -> Result<Connection, ConnectionError> {
        let config = client_config(&self.identity.credentials(), &Tuning::default()).unwrap();
        let connecting = self
            .endpoint
            .connect_with(config, server.addr, NODE_SERVER_NAME)
            .unwrap();
        let connection = within(connecting).await?;
        echo(&connection).await?;
        Ok(connection)
    }

    /// The fingerprint of who answers.
    pub(crate) async fn who(&self, server: &Server) -> Fingerprint {
        let connection = self.dial(server).await.unwrap();
        Peer::of_connection(&connection).unwrap().fingerprint
    }
}

pub(crate) async fn echo(connection: &Connection) -> Result<(), ConnectionError> {
    let (mut send, mut receive) = connection.open_bi().await?;
    let said = async {
        send.write_all(b"hello").await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(100).await.ok()
    };
    match within(said).await.as_deref() {
        Some(b"hello") => Ok(()),
        _ => Err(within(connection.closed()).await),
    }
}

pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn authority(&self, name: &str) -> Authority {
        Authority::create(&self.path(name)).unwrap()
    }

    pub(crate) fn node(&self, authority: &Authority, folder: &str) -> PathBuf {
        let dir = self.path(folder);
        authority
            .issue_node(&dir, "n1", &[], Validity::days(1))
            .unwrap();
        dir
    }

    pub(crate) fn client(&self, authority: &Authority, folder: &str) -> PathBuf {
        let dir = self.path(folder);
        authority
            .issue_client(&dir, "c", &Grants::all(), Validity::days(1))
            .unwrap();
        dir
    }
}

/// Moves a certificate and its key from one folder to another, as an administrator would.
pub(crate) fn renew(from: &Path, to: &Path) {
    for file in ["key.pem", "cert.pem"] {
        fs::rename(from.join(file), to.join(file)).unwrap();
    }
}

pub(crate) fn fingerprint(dir: &Path) -> Fingerprint {
    Fingerprint::of_file(&dir.join("cert.pem")).unwrap()
}
