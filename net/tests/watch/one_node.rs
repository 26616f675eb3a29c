//! Watches of one node.

use std::time::Duration;

use bytes::Bytes;
use mesh_net::client::{ClientError, Listening, ProducerOptions, WatchKind, WriteOptions};

use crate::cluster::LOOK_AGAIN;
use crate::support::{Mesh, from_start, record, within};
use crate::{delete, is, is_gone, key, next, prefix, put, put_somehow, told};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_followed_through_its_life() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let mut watch = client.watch(key("k"));
    // Others do not matter.
    put(&client, "kk", "other").await;
    put(&client, "k", "one").await;
    let event = next(&mut watch).await;
    assert_eq!(
        (event.kind, event.value, event.siblings),
        (WatchKind::New, Some("one".into()), 1)
    );
    assert_eq!(event.node.as_deref(), Some("n1"));
    let got = within(client.get(b"k", None)).await.unwrap().unwrap();
    assert_eq!(event.time_ms, Some(got.values[0].time_ms));
    put(&client, "k", "two").await;
    assert_eq!(told(&mut watch).await, is(WatchKind::Changed, "k", "two"));
    // Whoever comes later begins with what there is.
    let mut late = client.watch(key("k"));
    assert_eq!(told(&mut late).await, is(WatchKind::New, "k", "two"));
    delete(&client, "k").await;
    assert_eq!(told(&mut watch).await, is_gone("k"));
    assert_eq!(told(&mut late).await, is_gone("k"));

    let short = WriteOptions {
        ttl: Some(Duration::from_millis(200)),
        ..WriteOptions::default()
    };
    within(client.put(b"k", "short".into(), short))
        .await
        .unwrap();
    assert_eq!(told(&mut watch).await, is(WatchKind::New, "k", "short"));
    let got = next(&mut watch).await;
    assert_eq!((got.kind, got.value), (WatchKind::Deleted, None));
    put(&client, "k", "back").await;
    assert_eq!(told(&mut watch).await, is(WatchKind::New, "k", "back"));

    // Concurrent ones are beside each other.
    let old = WriteOptions {
        context: Some(Bytes::from(
            mesh_ring::version::VersionVector::new().encode(),
        )),
        ..WriteOptions::default()
    };
    within(client.put(b"k", "beside".into(), old))
        .await
        .unwrap();
    let event = next(&mut watch).await;
    assert_eq!((event.kind, event.siblings), (WatchKind::Changed, 2));
    assert_eq!(event.value, Some("beside".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_tells_nothing_twice() {
    let mut mesh = Mesh::start().await;
    let client = mesh.client().await;
    put(&client, "a/1", "one").await;
    put(&client, "a/2", "two").await;
    let mut watch = client.watch(prefix("a/"));
    let mut first = [told(&mut watch).await, told(&mut watch).await];
    first.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        first,
        [
            is(WatchKind::New, "a/1", "one"),
            is(WatchKind::New, "a/2", "two")
        ]
    );
    mesh.stop().await;
    mesh.start_again().await;
    let other = mesh.client().await;
    put_somehow(&other, "a/2", "three").await;
    assert_eq!(
        told(&mut watch).await,
        is(WatchKind::Changed, "a/2", "three")
    );
    delete(&other, "a/1").await;
    assert_eq!(told(&mut watch).await, is_gone("a/1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_may_not_watch_nor_see_who_does() {
    let mesh = Mesh::start().await;
    let (all, some) = (
        mesh.client().await,
        mesh.client_of(&["read/key/mine/", "read/topic/mine"]).await,
    );
    put(&all, "mine/k", "v").await;
    for target in [key("other"), prefix(""), prefix("min"), key("mine")] {
        let mut watch = some.watch(target.clone());
        let refused = within(watch.next()).await.unwrap_err();
        assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
        assert_eq!(within(watch.next()).await.unwrap_err(), refused);
    }
    let mut mine = some.watch(prefix("mine/"));
    assert_eq!(told(&mut mine).await, is(WatchKind::New, "mine/k", "v"));
    let mut everything = all.watch(prefix(""));
    told(&mut everything).await;
    assert_eq!(within(all.listeners()).await.unwrap().listeners.len(), 2);
    let seen = within(some.listeners()).await.unwrap().listeners;
    assert_eq!(seen.len(), 1);
    let what = Listening::Watch {
        target: prefix("mine/"),
        partitions: 8,
    };
    assert_eq!(seen[0].what, what);

    let mut invalid = all.watch(key(""));
    let refused = within(invalid.next()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Invalid(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_listed_while_they_listen() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    within(producer.publish("t", record("one"))).await.unwrap();
    put(&client, "k", "v").await;
    let (mut watch, mut tail) = (client.watch(key("k")), client.tail("t", from_start(true)));
    told(&mut watch).await;
    within(tail.next()).await.unwrap().unwrap();
    let listed = within(client.listeners()).await.unwrap();
    assert_eq!((listed.silent.len(), listed.truncated.len()), (0, 0));
    let whats: Vec<Listening> = listed
        .listeners
        .iter()
        .map(|one| one.what.clone())
        .collect();
    let watching = Listening::Watch {
        target: key("k"),
        partitions: 1,
    };
    let tailing = Listening::Tail {
        topic: "t".into(),
        next: 1,
        follow: true,
    };
    assert_eq!(whats, [watching, tailing]);
    for listener in &listed.listeners {
        assert_eq!((&*listener.node, &listener.client[..1]), ("n1", "c"));
        assert!(listener.since_ms > 1_600_000_000_000);
    }
    drop((watch, tail));
    let gone = async {
        while !client.listeners().await.unwrap().listeners.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within(gone).await;
}
