//! Watches of several nodes that die, come and go.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_net::client::{Client, ClusterChange, Watch, WatchKind, WriteOptions};

use crate::cluster::Cluster;
use crate::support::{Dice, within};
use crate::{is, key, next, prefix, put, put_somehow, text, told};

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_watched_in_all_partitions_whoever_dies() {
    const SEED: u64 = 0x5eed_0041;
    const KEYS: u64 = 40;
    println!("seed {SEED:#x}");
    let mut dice = Dice::new(SEED);
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    let mut watch = client.watch(prefix("p/"));
    let name = |number: u64| format!("p/{number}");
    let mut expected: BTreeMap<String, Option<String>> = BTreeMap::new();
    for number in 0..KEYS {
        put(&client, &name(number), "0").await;
        expected.insert(name(number), Some("0".to_owned()));
    }
    let mut shown = BTreeMap::new();
    catch_up(&mut watch, &mut shown, &expected).await;
    let mut round = 0;
    for victim in [0, 1, 2] {
        cluster.kill(victim).await;
        // While it is not known to be dead: what may have been written by an attempt that failed is the same.
        for number in 0..20 {
            let key = format!("p/once-{victim}-{number}");
            put_somehow(&client, &key, "7").await;
            expected.insert(key, Some("7".to_owned()));
        }
        for _ in 0..30 {
            round += 1;
            let key = name(dice.below(KEYS));
            let value = (dice.below(4) > 0).then(|| round.to_string());
            supersede(&client, &key, value.as_deref()).await;
            expected.insert(key, value);
        }
        catch_up(&mut watch, &mut shown, &expected).await;
        cluster.restart(victim).await;
        cluster.all_caught_up().await;
    }
    client.close().await;
}

/// Writes or deletes on top of what a majority has: the node that does it may have been away.
async fn supersede(client: &Client, key: &str, value: Option<&str>) {
    let got = within(client.get(key.as_bytes(), None)).await.unwrap();
    let options = WriteOptions {
        context: got.map(|got| got.context),
        ..WriteOptions::default()
    };
    let key = key.as_bytes();
    match value {
        Some(value) => {
            within(client.put(key, Bytes::copy_from_slice(value.as_bytes()), options)).await
        }
        None => within(client.delete(key, options)).await,
    }
    .unwrap();
}

/// A key's value and how many there are beside each other, as the watch has told.
type Shown = BTreeMap<String, (Option<String>, u32)>;

/// Takes events in until all that is shown is as expected. What is shown never goes back: values of a key count up.
async fn catch_up(
    watch: &mut Watch,
    shown: &mut Shown,
    expected: &BTreeMap<String, Option<String>>,
) {
    let differs = |shown: &Shown| {
        let mut expected = expected.iter();
        expected.any(|(key, value)| shown.get(key).and_then(|shown| shown.0.clone()) != *value)
    };
    while differs(shown) {
        let event = next(watch).await;
        let key = text(&event.key);
        let now = (event.value.as_deref().map(text), event.siblings);
        let before = shown.get(&key).cloned().unwrap_or_default();
        match event.kind {
            WatchKind::New => assert_eq!(before.0, None, "{key} is new"),
            WatchKind::Changed => assert!(before.0.is_some(), "{key} has changed"),
            WatchKind::Deleted => assert!(before.0.is_some(), "{key} is gone"),
            WatchKind::Moved => panic!("nothing moves: {event:?}"),
        }
        let number = |value: &Option<String>| value.as_ref().map(|v| v.parse::<u64>().unwrap());
        if let (Some(was), Some(is)) = (number(&before.0), number(&now.0)) {
            let has_more = is == was && now.1 != before.1;
            assert!(
                is > was || has_more,
                "{key} went from {before:?} to {now:?}"
            );
        }
        shown.insert(key, now);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_followed_to_another_node_when_its_own_dies() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, "k", "one").await;
    let mut watch = client.watch(key("k"));
    assert_eq!(told(&mut watch).await, is(WatchKind::New, "k", "one"));
    for value in ["two", "three"] {
        let listed = within(client.listeners()).await.unwrap();
        let node = &listed.listeners[0].node;
        let node = (0..3).find(|number| cluster.name(*number) == node).unwrap();
        cluster.kill(node).await;
        put_somehow(&client, "k", value).await;
        assert_eq!(told(&mut watch).await, is(WatchKind::Changed, "k", value));
        cluster.restart(node).await;
        cluster.all_caught_up().await;
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_are_told_and_the_watch_goes_along() {
    const KEYS: usize = 30;
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    let name = |number: usize| format!("m/{number}");
    for number in 0..KEYS {
        put(&client, &name(number), "before").await;
    }
    let mut watch = client.watch(prefix("m/"));
    for _ in 0..KEYS {
        assert_eq!(told(&mut watch).await.0, WatchKind::New);
    }
    let joining = cluster.admit("").await;
    cluster.restart(joining).await;
    cluster
        .eventually("the new node holds partitions", async || {
            let view = cluster.view(joining).await;
            let mut partitions = view.partitions.iter();
            partitions.any(|partition| partition.replicas.contains(&cluster.id(joining)))
        })
        .await;
    cluster.all_placed().await;
    cluster.change(ClusterChange::Drain(cluster.id(0))).await;
    cluster
        .eventually("the drained node holds nothing", async || {
            let view = cluster.view(1).await;
            let mut partitions = view.partitions.iter();
            partitions
                .all(|partition| partition.active && !partition.replicas.contains(&cluster.id(0)))
        })
        .await;
    // Every key has another home now, and its watch has been told by the time that its next value comes.
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0..KEYS {
        put_somehow(&client, &name(number), "after").await;
    }
    let mut changed = 0;
    let is_settled = |homes: &BTreeMap<String, Vec<String>>| {
        homes.len() == KEYS
            && homes
                .values()
                .all(|names| !names.contains(&"n1".to_owned()))
    };
    while changed < KEYS || !is_settled(&homes) {
        let event = next(&mut watch).await;
        match event.kind {
            WatchKind::Moved => {
                assert_eq!(event.node.as_ref(), event.replicas.first());
                assert_eq!(event.value, None);
                assert_eq!(event.replicas.len(), 3, "{:?}", event.replicas);
                homes.insert(text(&event.key), event.replicas);
            }
            kind => {
                assert_eq!(kind, WatchKind::Changed, "{:?}", event.key);
                assert_eq!(event.value, Some("after".into()));
                changed += 1;
            }
        }
    }
    assert_eq!(changed, KEYS, "nothing twice");
    cluster.change(ClusterChange::Remove(cluster.id(0))).await;
    cluster.end_of(0).await;
    cluster.kill(0).await;
    put_somehow(&client, &name(3), "without n1").await;
    assert_eq!(
        told(&mut watch).await,
        is(WatchKind::Changed, &name(3), "without n1")
    );
    client.close().await;
}
