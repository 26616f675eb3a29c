//! How a node starts, refuses to start, and stops.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::Duration;

use mesh_net::{
    client::{Client, ClientError, ProducerOptions},
    identity::{Grants, Validity},
    node::{Node, NodeConfig},
};
use support::{Mesh, from_start, read_all, record, within};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_finished() {
    let mut mesh = Mesh::start().await;
    let client = mesh
        .client_with(|config| config.timeout = Duration::from_secs(2))
        .await;
    let producer = client.producer(ProducerOptions::default());
    producer.publish("t", record("first")).await.unwrap();
    let mut calls = JoinSet::new();
    for number in 0..500 {
        let producer = producer.clone();
        calls.spawn(async move {
            let value = number.to_string();
            producer
                .publish("t", record(value.clone()))
                .await
                .map(|p| (p.first, value))
        });
    }
    let (node, idle) = (mesh.take_node(), mesh.client().await);
    let mut tail = idle.tail("t", from_start(true));
    within(tail.next()).await.unwrap().unwrap();
    within(node.shutdown()).await.unwrap();
    let answers = within(calls.join_all()).await;
    mesh.start_again().await;
    let reader = mesh.client().await;
    let all = read_all(&reader, "t").await;
    for answer in answers {
        match answer {
            Ok((offset, value)) => {
                assert_eq!(&all[offset as usize].record.value[..], value.as_bytes())
            }
            Err(error) => assert!(matches!(error, ClientError::Unavailable(_)), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_is_unavailable() {
    let mut mesh = Mesh::start().await;
    let client = mesh
        .client_with(|config| config.timeout = Duration::from_millis(500))
        .await;
    mesh.stop().await;
    assert!(matches!(
        within(client.get(b"k", None)).await,
        Err(ClientError::Unavailable(_))
    ));
    let mut config = mesh.config(mesh.identity(&Grants::all(), Validity::days(1)));
    config.timeout = Duration::from_millis(500);
    let refused = within(Client::connect(config)).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().exit_code(), 4);
    mesh.start_again().await;
    assert_eq!(within(client.get(b"k", None)).await.unwrap(), None);
}

/// A node that dies says nothing; the next one tells its clients that their connections are gone.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_that_died_find_the_next_one_soon() {
    let mut mesh = Mesh::start().await;
    let client = mesh.client().await;
    client
        .put(b"k", "v".into(), Default::default())
        .await
        .unwrap();
    let mut config = NodeConfig::load(&mesh.folder()).unwrap();
    mesh.stop().await;
    config.listen = mesh.addr.to_string();
    mesh.start_again().await;
    let began = std::time::Instant::now();
    assert!(within(client.get(b"k", None)).await.unwrap().is_some());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_run_says_why() {
    let mesh = Mesh::start().await;
    let config = NodeConfig::load(&mesh.folder()).unwrap();
    let start = |config: NodeConfig| async {
        within(Node::start(config))
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };

    let taken = start(config.clone()).await;
    assert!(taken.contains(&mesh.addr.to_string()), "{taken}");
    let free = NodeConfig {
        listen: "127.0.0.1:0".into(),
        ..config
    };
    let locked = start(free.clone()).await;
    assert!(locked.contains("in use"), "{locked}");
    let empty = start(NodeConfig {
        data: mesh.path("empty"),
        ..free.clone()
    })
    .await;
    assert!(empty.contains("no store"), "{empty}");
    let mut identity = free.identity.clone();
    identity.certificate = mesh.path("gone.pem");
    let missing = start(NodeConfig {
        identity,
        ..free.clone()
    })
    .await;
    assert!(missing.contains("gone.pem"), "{missing}");
    let client = mesh.identity(&Grants::all(), Validity::days(1));
    let not_a_node = start(NodeConfig {
        identity: client,
        ..free.clone()
    })
    .await;
    assert!(not_a_node.contains("not a node's"), "{not_a_node}");
    let nowhere = start(NodeConfig {
        listen: "nowhere".into(),
        ..free
    })
    .await;
    assert!(nowhere.contains("nowhere"), "{nowhere}");
    mesh.assert_serves().await;
}
