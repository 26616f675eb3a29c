//! Requests of one node to another.

use std::time::Duration;

use bytes::Bytes;
use mesh_net::{
    node::peers::AskError,
    wire::proto::{ErrorCode, Request, reply, request::Kind},
};
use tokio::time::Instant;

use crate::{
    station::{Cluster, Station, deadline, id},
    support::within,
};

fn info() -> Request {
    Request::new(Kind::Info(Default::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_back_whole() {
    let cluster = Cluster::new();
    let (a, b) = (Station::start(&cluster, 1), Station::start(&cluster, 2));
    a.peers.set_members([b.contact()]);
    let body = Bytes::from(vec![5; 3 << 20]);
    let answer = a
        .peers
        .ask(id(2), &info(), body.clone(), deadline())
        .await
        .unwrap();
    match &answer[..] {
        [(reply::Kind::Info(info), echo)] => {
            assert_eq!(info.name, "n1", "whom the certificate names");
            assert_eq!(*echo, body);
        }
        other => panic!("{other:?}"),
    }
    let topics = Request::new(Kind::ListTopics(Default::default()));
    let answer = a
        .peers
        .ask(id(2), &topics, "x".into(), deadline())
        .await
        .unwrap();
    assert_eq!(answer.len(), 3, "an answer of several frames");
    let mut replies = a.peers.pull(id(2), &topics, deadline()).await.unwrap();
    for _ in 0..3 {
        assert!(within(replies.next()).await.unwrap().is_some());
    }
    assert!(within(replies.next()).await.unwrap().is_none());
    let call = Bytes::from_static(b"vote");
    let answer = a.peers.control_call(id(2), call, deadline()).await.unwrap();
    assert_eq!(&answer[..], b"votevote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_a_missing_answer_are_told_apart() {
    let cluster = Cluster::new();
    let (a, b) = (Station::start(&cluster, 1), Station::start(&cluster, 2));
    a.peers.set_members([b.contact()]);
    let put = Request::new(Kind::Put(Default::default()));
    match a.peers.ask(id(2), &put, Bytes::new(), deadline()).await {
        Err(AskError::Refused(error)) => {
            assert_eq!(error.code(), ErrorCode::NotLeader);
            assert_eq!(error.leader.as_deref(), Some("elsewhere:1"));
        }
        other => panic!("{other:?}"),
    }
    let endless = Request::new(Kind::Storage(Default::default()));
    let soon = Instant::now() + Duration::from_millis(50);
    let answer = a.peers.ask(id(2), &endless, Bytes::new(), soon).await;
    assert!(matches!(answer, Err(AskError::Late)), "{answer:?}");
    let waiting = a.peers.ask(id(2), &endless, Bytes::new(), deadline());
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        b.stop().await;
    };
    let (answer, ()) = within(async { tokio::join!(waiting, stopping) }).await;
    assert!(matches!(answer, Err(AskError::Lost(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_is_known_to_be_so() {
    let cluster = Cluster::new();
    let (a, b) = (Station::start(&cluster, 1), Station::start(&cluster, 2));
    a.peers.set_members([b.contact()]);
    b.stop().await;
    let answer = a.peers.ask(id(2), &info(), Bytes::new(), deadline()).await;
    assert!(
        matches!(answer, Err(AskError::NotConnected(_))),
        "{answer:?}"
    );
    // The attempt has failed: whoever asks now need not wait for the next.
    let began = Instant::now();
    let answer = a.peers.ask(id(2), &info(), Bytes::new(), deadline()).await;
    assert!(
        matches!(answer, Err(AskError::NotConnected(_))),
        "{answer:?}"
    );
    assert!(began.elapsed() < Duration::from_millis(500));
    let answer = a.peers.ask(id(9), &info(), Bytes::new(), deadline()).await;
    assert!(
        matches!(answer, Err(AskError::NotConnected(_))),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_at_an_address_can_be_asked() {
    let cluster = Cluster::new();
    let (a, b) = (Station::start(&cluster, 1), Station::start(&cluster, 2));
    let address = format!("localhost:{}", b.addr.port());
    let (is, answer) = a
        .peers
        .ask_at(&address, &info(), Bytes::new(), deadline())
        .await
        .unwrap();
    assert_eq!((is.node.as_ref(), is.name.as_str()), (&id(2).0[..], "n2"));
    assert_eq!(is.address, b.addr.to_string());
    assert_eq!(answer.len(), 1);
    let own = a
        .peers
        .ask_at(&a.addr.to_string(), &info(), Bytes::new(), deadline())
        .await;
    let Err(AskError::NotConnected(cause)) = own else {
        panic!("{own:?}")
    };
    assert!(cause.contains("own id"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_the_size_that_gossip_needs_go_through() {
    let cluster = Cluster::new();
    let (a, mut b) = (Station::start(&cluster, 1), Station::start(&cluster, 2));
    a.peers.set_members([b.contact()]);
    let datagram = Bytes::from(vec![3; 1150]);
    let sending = async {
        loop {
            // Dropped until the connection is there.
            let _ = a.peers.send_datagram(id(2), datagram.clone());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let got = tokio::select! {
        got = within(b.datagrams.recv()) => got.unwrap(),
        () = sending => unreachable!(),
    };
    assert_eq!(got, (id(1), datagram));
}
