//! Who gets in, and what each may do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_net::{
    client::{Client, ClientError, ProducerOptions, TopicConfig},
    identity::{
        Authority, CredentialFiles, Credentials, Grants, IdentityError, NODE_SERVER_NAME, Validity,
    },
    quic::{Tuning, client_endpoint, server_endpoint},
    wire::{
        ALPN,
        proto::{self, ErrorCode, reply, request},
    },
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use support::{Mesh, ask, from_start, record, within};

fn refused(result: Result<impl Sized, ClientError>) -> String {
    match result {
        Err(ClientError::Refused(message)) => message,
        Err(other) => panic!("not refused, but {other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Connects and asks something, as a handshake alone does not tell a client that it is refused.
async fn try_to_use(mesh: &Mesh, files: CredentialFiles) -> Result<(), ClientError> {
    let client = Client::connect(mesh.config(files)).await?;
    client.info().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_gets_in() {
    let mesh = Mesh::start().await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(mesh.path("ca/ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint
        .connect_with(
            quinn::ClientConfig::new(Arc::new(tls)),
            mesh.addr,
            NODE_SERVER_NAME,
        )
        .unwrap();
    let reason = match within(connecting).await {
        Ok(connection) => within(connection.closed()).await,
        Err(reason) => reason,
    };
    assert!(
        reason.to_string().contains("certificate required") || reason.to_string().contains("116"),
        "{reason}"
    );
    mesh.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_refused_by_both_sides() {
    let mesh = Mesh::start().await;
    let other = Authority::create(&mesh.path("other-ca")).unwrap();
    other
        .issue_client(&mesh.path("other"), "c", &Grants::all(), Validity::days(1))
        .unwrap();
    // The client does not know the node's authority.
    let strange = CredentialFiles::in_dir(&mesh.path("other"));
    refused(try_to_use(&mesh, strange.clone()).await);
    // The client knows the node's, but the node does not know the client's.
    let files = CredentialFiles {
        ca: mesh.path("ca/ca.pem"),
        ..strange
    };
    assert!(refused(try_to_use(&mesh, files).await).contains("authority"));
    mesh.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused() {
    let mesh = Mesh::start().await;
    let day = Duration::from_secs(86_400);
    let past = Validity {
        from: SystemTime::now() - day * 2,
        until: SystemTime::now() - day,
    };
    let message = refused(try_to_use(&mesh, mesh.identity(&Grants::all(), past)).await);
    assert!(message.contains("expired"), "{message}");
    let future = Validity {
        from: SystemTime::now() + day,
        until: SystemTime::now() + day * 2,
    };
    refused(try_to_use(&mesh, mesh.identity(&Grants::all(), future)).await);
    mesh.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_not_taken_for_a_node() {
    let mesh = Mesh::start().await;
    let files = mesh.identity(&Grants::all(), Validity::days(1));
    let credentials = Credentials::load(&files).unwrap();
    // A server with a client's certificate of the right authority.
    let impostor = server_endpoint(
        "127.0.0.1:0".parse().unwrap(),
        &credentials,
        &Tuning::default(),
    )
    .unwrap();
    let addr = impostor.local_addr().unwrap();
    let accepting = async {
        if let Some(incoming) = impostor.accept().await {
            let _ = incoming.await;
        }
    };
    let dialling = async {
        let endpoint = client_endpoint(addr, &credentials, &Tuning::default()).unwrap();
        endpoint
            .connect(addr, NODE_SERVER_NAME)
            .unwrap()
            .await
            .map(|_| ())
    };
    let (_, dialled) = within(async { tokio::join!(accepting, dialling) }).await;
    assert!(dialled.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_make_requests_between_nodes() {
    let mesh = Mesh::start().await;
    let hello = || {
        request::Kind::NodeHello(proto::NodeHello {
            name: "n2".into(),
            ..Default::default()
        })
    };
    let client = mesh.connection().await;
    match ask(&client, hello()).await {
        reply::Kind::Error(error) => assert_eq!(error.code(), ErrorCode::Denied),
        other => panic!("{other:?}"),
    }
    mesh.authority
        .issue_node(
            &mesh.path("n2"),
            "n2",
            &["127.0.0.1".into()],
            Validity::days(1),
        )
        .unwrap();
    let node = mesh
        .connection_of(&CredentialFiles::in_dir(&mesh.path("n2")))
        .await;
    match ask(&node, hello()).await {
        reply::Kind::NodeIs(is) => assert_eq!((&is.node[..], is.boot), (&[1; 16][..], 1)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_say_what_a_client_may_do() {
    let mesh = Mesh::start().await;
    let admin = mesh.client().await;
    admin
        .create_topic("orders-eu", TopicConfig::default(), false)
        .await
        .unwrap();
    admin
        .create_topic("secret", TopicConfig::default(), false)
        .await
        .unwrap();
    let writer = admin.producer(ProducerOptions::default());
    writer.publish("orders-eu", record("1")).await.unwrap();

    let client = mesh
        .client_of(&[
            "read/topic/orders-",
            "write/topic/own-",
            "read/key/user:",
            "write/key/user:7",
        ])
        .await;
    let producer = client.producer(ProducerOptions::default());

    within(client.tail("orders-eu", from_start(false)).next())
        .await
        .unwrap()
        .unwrap();
    client.describe_topic("orders-eu").await.unwrap();
    client.list_topics("orders-", None, 10).await.unwrap();
    client.commit_cursor("orders-eu", "me", 1).await.unwrap();
    producer.publish("own-log", record("1")).await.unwrap();
    client
        .put(b"user:7", "x".into(), Default::default())
        .await
        .unwrap();
    client.get(b"user:8", None).await.unwrap();
    client.list(b"user:", None, 10).await.unwrap();

    refused(within(client.tail("secret", from_start(false)).next()).await);
    refused(client.describe_topic("secret").await);
    refused(client.list_topics("", None, 10).await);
    refused(client.commit_cursor("secret", "me", 0).await);
    refused(
        client
            .create_topic("secret2", TopicConfig::default(), false)
            .await,
    );
    refused(client.delete_topic("orders-eu").await);
    refused(client.trim_topic("orders-eu", 1).await);
    refused(producer.publish("orders-eu", record("2")).await);
    refused(within(client.tail("own-log", from_start(false)).next()).await);
    refused(client.put(b"user:8", "x".into(), Default::default()).await);
    refused(client.delete(b"other", Default::default()).await);
    refused(client.get(b"other", None).await);
    refused(client.list(b"", None, 10).await);
    // A refused record does not hold up the ones that are allowed.
    producer.publish("own-log", record("2")).await.unwrap();

    // Nothing refused was done.
    assert_eq!(
        admin.list_topics("", None, 10).await.unwrap(),
        ["orders-eu", "own-log", "secret"]
    );
    assert_eq!(admin.describe_topic("orders-eu").await.unwrap().next, 1);
    assert_eq!(admin.list(b"", None, 10).await.unwrap(), ["user:7"]);

    let nothing = mesh.client_of(&[]).await;
    refused(nothing.get(b"user:7", None).await);
    refused(nothing.list_topics("", None, 10).await);
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca")).unwrap();
    assert!(matches!(
        Authority::create(&dir.path().join("ca")),
        Err(IdentityError::Exists { .. })
    ));
    let issue = |name: &str| {
        authority.issue_client(
            &dir.path().join("c"),
            name,
            &Grants::none(),
            Validity::days(1),
        )
    };
    assert!(matches!(issue("a/b"), Err(IdentityError::Name { .. })));
    issue("c").unwrap();
    assert!(matches!(issue("c"), Err(IdentityError::Exists { .. })));

    let files = CredentialFiles::in_dir(&dir.path().join("c"));
    let missing = CredentialFiles {
        key: dir.path().join("gone.pem"),
        ..files.clone()
    };
    let message = Credentials::load(&missing).unwrap_err().to_string();
    assert!(
        message.contains("gone.pem") && message.contains("issue the identity"),
        "{message}"
    );
    let wrong = CredentialFiles {
        certificate: files.key.clone(),
        ..files.clone()
    };
    let message = Credentials::load(&wrong).unwrap_err().to_string();
    assert!(
        message.contains("key.pem") && message.contains("certificate"),
        "{message}"
    );
}

#[test]
fn keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca")).unwrap();
    authority
        .issue_node(
            &dir.path().join("n"),
            "n",
            &["host.example".into()],
            Validity::ten_years(),
        )
        .unwrap();
    for key in ["ca/ca-key.pem", "n/key.pem"] {
        let mode = std::fs::metadata(dir.path().join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    // An authority that was loaded again issues what the first one's holders trust.
    let again = Authority::load(&dir.path().join("ca")).unwrap();
    again
        .issue_client(
            &dir.path().join("c"),
            "c",
            &Grants::all(),
            Validity::days(1),
        )
        .unwrap();
    Credentials::load(&CredentialFiles::in_dir(&dir.path().join("c"))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_authorities_may_overlap() {
    let mut mesh = Mesh::start().await;
    mesh.stop().await;
    // The node trusts an old and a new authority; a client of the new one gets in.
    let new = Authority::create(&mesh.path("new-ca")).unwrap();
    new.issue_client(&mesh.path("new"), "c", &Grants::all(), Validity::days(1))
        .unwrap();
    let trusted = mesh.folder().join("identity/ca.pem");
    let both = [&trusted, &mesh.path("new-ca/ca.pem")]
        .map(|path| std::fs::read_to_string(path).unwrap())
        .concat();
    std::fs::write(&trusted, both).unwrap();
    mesh.start_again().await;
    let files = CredentialFiles {
        ca: mesh.path("ca/ca.pem"),
        ..CredentialFiles::in_dir(&mesh.path("new"))
    };
    try_to_use(&mesh, files).await.unwrap();
    mesh.assert_serves().await;
}
