//! Only the node that was meant is talked to, and only nodes talk.

use std::net::SocketAddr;

use bytes::Bytes;
use mesh_net::{
    identity::CredentialFiles,
    identity::{Credentials, Grants, NODE_SERVER_NAME, Peer, Validity},
    node::peers::{AskError, Contact, PeerEvent},
    quic::{Tuning, client_endpoint},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{
            ControlCall, ErrorCode, NodeHello, Replicate, Reply, Request, reply, request::Kind,
        },
    },
};
use mesh_ring::ids::ClusterId;
use quinn::Connection;

use crate::{
    station::{Cluster, Station, deadline, id},
    support::within,
};

fn info() -> Request {
    Request::new(Kind::Info(Default::default()))
}

async fn ask(a: &Station) -> String {
    match a.peers.ask(id(2), &info(), Bytes::new(), deadline()).await {
        Err(AskError::NotConnected(cause)) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_at_the_address_is_refused() {
    let cluster = Cluster::new();
    // The right name with another id, and another name with the right id.
    for (number, node, words) in [(2, id(9), "has the id"), (3, id(2), "it is n3, not n2")] {
        let a = Station::start(&cluster, 1);
        let b = Station::start_as(&cluster, number, node);
        a.peers.set_members([Contact {
            node: id(2),
            name: "n2".into(),
            address: b.addr.to_string(),
        }]);
        let cause = ask(&a).await;
        assert!(cause.contains(words), "{cause}");
        assert!(cause.contains("not the node that was meant"), "{cause}");
        assert!(!a.peers.is_connected(id(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_the_id_of_another_is_refused() {
    let cluster = Cluster::new();
    let a = Station::start(&cluster, 1);
    let b = Station::start(&cluster, 2);
    b.peers.set_members([a.contact(), b.contact()]);
    // n3 with the id of n1, whom n2 knows; and with n2's own.
    for stolen in [id(1), id(2)] {
        let impostor = Station::start_as(&cluster, 3, stolen);
        let answer = impostor
            .peers
            .ask_at(&b.addr.to_string(), &info(), Bytes::new(), deadline())
            .await;
        let Err(AskError::NotConnected(cause)) = answer else {
            panic!("{answer:?}")
        };
        assert!(
            cause.contains("its own data directory") || cause.contains("own id"),
            "{cause}"
        );
    }
}

/// What a bare connection is answered.
async fn answer(connection: &Connection, kind: Kind) -> reply::Kind {
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    writer.header(&Request::new(kind)).await.unwrap();
    let (reply, _) = within(FrameReader::new(receive).frame::<Reply>())
        .await
        .unwrap()
        .unwrap();
    reply.kind.unwrap()
}

async fn dial(to: SocketAddr, files: &CredentialFiles) -> Connection {
    let credentials = Credentials::load(files).unwrap();
    let endpoint = client_endpoint(to, &credentials, &Tuning::default()).unwrap();
    within(endpoint.connect(to, NODE_SERVER_NAME).unwrap())
        .await
        .unwrap()
}

fn hello(name: &str) -> NodeHello {
    NodeHello {
        name: name.into(),
        node: Bytes::copy_from_slice(&id(3).0),
        cluster: Bytes::copy_from_slice(&[7; 16]),
        channel: 0,
        boot: 1,
        token: Bytes::new(),
    }
}

fn code(answer: reply::Kind) -> ErrorCode {
    match answer {
        reply::Kind::Error(error) => error.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_not_do_what_nodes_do() {
    let cluster = Cluster::new();
    let b = Station::start(&cluster, 2);
    let dir = cluster.path("client");
    cluster
        .authority
        .issue_client(&dir, "c1", &Grants::all(), Validity::days(1))
        .unwrap();
    let client = dial(b.addr, &CredentialFiles::in_dir(&dir)).await;
    let denied = answer(&client, Kind::NodeHello(hello("c1"))).await;
    assert_eq!(code(denied), ErrorCode::Denied);
    for kind in [
        Kind::Replicate(Replicate {}),
        Kind::ControlCall(ControlCall {}),
    ] {
        assert_eq!(code(answer(&client, kind).await), ErrorCode::Denied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_who_it_is_before_anything_else() {
    let cluster = Cluster::new();
    let b = Station::start(&cluster, 2);
    let node = dial(b.addr, &cluster.node("n3")).await;
    let early = answer(&node, Kind::Replicate(Replicate {})).await;
    assert_eq!(code(early), ErrorCode::Denied);
    let other = NodeHello {
        cluster: Bytes::copy_from_slice(&ClusterId([8; 16]).0),
        ..hello("n3")
    };
    let refused = answer(&node, Kind::NodeHello(other)).await;
    assert_eq!(code(refused), ErrorCode::WrongNode);
    let renamed = answer(&node, Kind::NodeHello(hello("n4"))).await;
    assert_eq!(code(renamed), ErrorCode::WrongNode);
    let short = NodeHello {
        node: Bytes::from_static(b"short"),
        ..hello("n3")
    };
    let refused = answer(&node, Kind::NodeHello(short)).await;
    assert_eq!(code(refused), ErrorCode::Malformed);
    let greeted = answer(&node, Kind::NodeHello(hello("n3"))).await;
    assert!(matches!(greeted, reply::Kind::NodeIs(_)), "{greeted:?}");
    let called = answer(&node, Kind::ControlCall(ControlCall {})).await;
    assert!(
        matches!(called, reply::Kind::ControlAnswer(_)),
        "{called:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_let_go_and_not_dialled_again() {
    let cluster = Cluster::new();
    let mut a = Station::start(&cluster, 1);
    let b = Station::start(&cluster, 2);
    a.peers.set_members([b.contact()]);
    let answer = a.peers.ask(id(2), &info(), Bytes::new(), deadline()).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
    let credentials = b.identity.credentials();
    let certificate = credentials.certificate().unwrap();
    let fingerprint = Peer::from_certificate(certificate).unwrap().fingerprint;
    a.identity.revoked().set_cluster([fingerprint]);
    assert_eq!(a.event().await, PeerEvent::Disconnected(id(2)));
    let cause = ask(&a).await;
    assert!(cause.contains("revoked"), "{cause}");
    a.identity.revoked().set_cluster([]);
    assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
}
