//! Certificates change, overlap and are revoked while everything runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mesh_net::{
    identity::{
        Authority, CredentialFiles, Fingerprint, Grants, IdentityError, LiveIdentity,
        NODE_SERVER_NAME, Peer, REVOKED_REASON, Role, Validity, distrust, revoke_in, trust,
    },
    quic::{
        CLOSE_REFUSED, Tuning, client_config, client_endpoint, follow_identity, server_endpoint,
    },
};
use quinn::{Connection, ConnectionError, Endpoint};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};

const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it took too long")
}

/// A node's end: accepts whoever has a right to it, and echoes.
struct Server {
    addr: SocketAddr,
    identity: LiveIdentity,
    _tasks: JoinSet<()>,
}

impl Server {
    fn start(dir: &Path) -> Self {
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
struct Dialler {
    endpoint: Endpoint,
    identity: LiveIdentity,
}

impl Dialler {
    fn new(dir: &Path, server: &Server) -> Self {
        let identity = LiveIdentity::load(&CredentialFiles::in_dir(dir)).unwrap();
        let endpoint =
            client_endpoint(server.addr, &identity.credentials(), &Tuning::default()).unwrap();
        Self { endpoint, identity }
    }

    /// Connects and has something echoed, as a handshake alone does not tell a client that it is refused.
    async fn dial(&self, server: &Server) -> Result<Connection, ConnectionError> {
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
    async fn who(&self, server: &Server) -> Fingerprint {
        let connection = self.dial(server).await.unwrap();
        Peer::of_connection(&connection).unwrap().fingerprint
    }
}

async fn echo(connection: &Connection) -> Result<(), ConnectionError> {
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

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn authority(&self, name: &str) -> Authority {
        Authority::create(&self.path(name)).unwrap()
    }

    fn node(&self, authority: &Authority, folder: &str) -> PathBuf {
        let dir = self.path(folder);
        authority
            .issue_node(&dir, "n1", &[], Validity::days(1))
            .unwrap();
        dir
    }

    fn client(&self, authority: &Authority, folder: &str) -> PathBuf {
        let dir = self.path(folder);
        authority
            .issue_client(&dir, "c", &Grants::all(), Validity::days(1))
            .unwrap();
        dir
    }
}

/// Moves a certificate and its key from one folder to another, as an administrator would.
fn renew(from: &Path, to: &Path) {
    for file in ["key.pem", "cert.pem"] {
        fs::rename(from.join(file), to.join(file)).unwrap();
    }
}

fn fingerprint(dir: &Path) -> Fingerprint {
    Fingerprint::of_file(&dir.join("cert.pem")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_over_while_the_node_runs() {
    let place = Place::new();
    let ca = place.authority("ca");
    let server = Server::start(&place.node(&ca, "node"));
    let dialler = Dialler::new(&place.client(&ca, "client"), &server);
    let established = dialler.dial(&server).await.unwrap();
    let old = fingerprint(&place.path("node"));
    assert_eq!(dialler.who(&server).await, old);

    renew(&place.node(&ca, "renewed"), &place.path("node"));
    let new = fingerprint(&place.path("node"));
    assert_ne!(new, old);
    // Nobody tells the node: it sees it by itself.
    within(async {
        while dialler.who(&server).await != new {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    echo(&established).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_and_the_old_stays() {
    let place = Place::new();
    let ca = place.authority("ca");
    let node = place.node(&ca, "node");
    let server = Server::start(&node);
    let dialler = Dialler::new(&place.client(&ca, "client"), &server);
    let old = fingerprint(&node);
    let renewed = place.node(&ca, "renewed");
    let reload = || server.identity.reload();
    let is_unusable = |result: Result<bool, IdentityError>, because: &str| {
        let message = result.expect_err(because).to_string();
        assert!(message.contains(because), "{message}");
    };
    assert!(!reload().unwrap(), "nothing has changed");

    // The certificate without its key.
    fs::copy(renewed.join("cert.pem"), node.join("cert.pem")).unwrap();
    is_unusable(reload(), "cannot be used");
    // Half a certificate.
    let whole = fs::read(renewed.join("cert.pem")).unwrap();
    fs::write(node.join("cert.pem"), &whole[..whole.len() / 2]).unwrap();
    is_unusable(reload(), "certificate in PEM");
    // None at all.
    fs::remove_file(node.join("cert.pem")).unwrap();
    is_unusable(reload(), "cannot read");
    assert_eq!(dialler.who(&server).await, old);
    // One that has expired.
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    let past = Validity {
        from: now - hour * 2,
        until: now - hour,
    };
    ca.issue_node(&place.path("expired"), "n1", &[], past)
        .unwrap();
    renew(&place.path("expired"), &node);
    is_unusable(reload(), "and not now");
    // Another node's, and a client's.
    ca.issue_node(&place.path("n2"), "n2", &[], Validity::days(1))
        .unwrap();
    renew(&place.path("n2"), &node);
    is_unusable(reload(), "node n2's, and was node n1's");
    renew(&place.client(&ca, "other"), &node);
    is_unusable(reload(), "client c's");
    assert_eq!(dialler.who(&server).await, old);

    // Once the set is whole it is used.
    renew(&renewed, &node);
    within(async {
        while dialler.who(&server).await != fingerprint(&node) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_without_downtime() {
    let place = Place::new();
    let (old, new) = (place.authority("old"), place.authority("new"));
    let (node, client) = (place.node(&old, "node"), place.client(&old, "client"));
    let server = Server::start(&node);
    let dialler = Dialler::new(&client, &server);
    let relic = Dialler::new(&place.client(&old, "relic"), &server);
    let authority = |name: &str| place.path(name).join("ca.pem");
    let bundles = [node.join("ca.pem"), client.join("ca.pem")];

    // One end after the other, in either order: at every moment both must understand each other.
    let both_work = async |after: &str| {
        if let Err(error) = dialler.dial(&server).await {
            panic!("after {after}: {error}");
        }
    };
    // What follow_identity does by itself, without waiting for the next look.
    let reload_both = async |after: &str| {
        assert!(dialler.identity.reload().unwrap(), "{after}");
        both_work(after).await;
        server.identity.reload().unwrap();
        both_work(after).await;
    };
    both_work("the start").await;
    for bundle in &bundles {
        assert!(trust(bundle, &authority("new")).unwrap());
        assert!(!trust(bundle, &authority("new")).unwrap(), "it is there");
    }
    reload_both("trusting both").await;
    // The identities of the new authority come with its ca.pem alone; these stay as they are.
    renew(&place.client(&new, "client-2"), &client);
    assert!(dialler.identity.reload().unwrap());
    both_work("the client's change").await;
    let renewed = place.node(&new, "node-2");
    renew(&renewed, &node);
    server.identity.reload().unwrap();
    within(async {
        while dialler.who(&server).await != fingerprint(&node) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    relic.dial(&server).await.unwrap_err();
    for bundle in &bundles {
        assert!(distrust(bundle, &authority("old")).unwrap());
        assert!(!distrust(bundle, &authority("old")).unwrap(), "it is gone");
        distrust(bundle, &authority("new")).unwrap_err();
    }
    reload_both("trusting the new one").await;
    // A client of the old authority that trusts both is refused by the node from now on.
    trust(&place.path("relic").join("ca.pem"), &authority("new")).unwrap();
    assert!(relic.identity.reload().unwrap());
    within(async {
        while relic.dial(&server).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    both_work("the change").await;
}

fn assert_revoked(error: ConnectionError) {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(
                (close.error_code, &close.reason[..]),
                (CLOSE_REFUSED, REVOKED_REASON)
            );
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_and_its_connections_end() {
    let place = Place::new();
    let ca = place.authority("ca");
    let node = place.node(&ca, "node");
    let server = Server::start(&node);
    let clients = ["a", "b", "c"].map(|folder| place.client(&ca, folder));
    let [a, b, c] = clients.each_ref().map(|dir| Dialler::new(dir, &server));
    let (live_a, live_b, live_c) = (
        a.dial(&server).await.unwrap(),
        b.dial(&server).await.unwrap(),
        c.dial(&server).await.unwrap(),
    );

    // By the file beside the authorities, which the node sees by itself.
    revoke_in(&node, fingerprint(&clients[0]), "client c, a lost laptop").unwrap();
    assert_revoked(within(live_a.closed()).await);
    assert_revoked(a.dial(&server).await.unwrap_err());
    // By the cluster map.
    server
        .identity
        .revoked()
        .set_cluster([fingerprint(&clients[1])]);
    assert_revoked(within(live_b.closed()).await);
    assert_revoked(b.dial(&server).await.unwrap_err());
    // Everyone else goes on.
    echo(&live_c).await.unwrap();
    c.dial(&server).await.unwrap();

    // A list that cannot be read is a warning and takes nothing back.
    fs::write(node.join("revoked"), "no fingerprint\n").unwrap();
    assert!(server.identity.reload().is_err());
    assert_revoked(a.dial(&server).await.unwrap_err());
    // A revocation counts although the identity's files are unusable.
    fs::write(
        node.join("revoked"),
        format!("{}\n", fingerprint(&clients[2])),
    )
    .unwrap();
    fs::remove_file(node.join("key.pem")).unwrap();
    assert!(server.identity.reload().is_err());
    assert_revoked(within(live_c.closed()).await);
    // What is taken off the list is welcome again.
    a.dial(&server).await.unwrap();
}

#[test]
fn an_authority_knows_what_it_issued() {
    let place = Place::new();
    let ca = place.authority("ca");
    let (node, client) = (place.node(&ca, "node"), place.client(&ca, "client"));
    let again = place.client(&ca, "again");
    ca.issue_client(
        &place.path("c-2"),
        "c-2",
        &Grants::none(),
        Validity::days(1),
    )
    .unwrap();
    let issued = |name: &str| {
        let mut found: Vec<_> = Authority::issued(&place.path("ca"), name)
            .unwrap()
            .into_iter()
            .map(|peer| (peer.role, peer.fingerprint))
            .collect();
        found.sort_by_key(|(_, fingerprint)| *fingerprint);
        found
    };
    assert_eq!(issued("n1"), [(Role::Node, fingerprint(&node))]);
    let mut both = [
        (Role::Client, fingerprint(&client)),
        (Role::Client, fingerprint(&again)),
    ];
    both.sort_by_key(|(_, fingerprint)| *fingerprint);
    assert_eq!(issued("c"), both);
    assert_eq!(issued("nobody"), []);
    // What is refused leaves no trace.
    assert!(
        ca.issue_client(&client, "c", &Grants::none(), Validity::days(1))
            .is_err()
    );
    assert_eq!(issued("c"), both);
}
