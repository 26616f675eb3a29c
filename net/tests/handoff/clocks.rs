//! One node whose clock is an hour ahead of the others', or behind.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_net::client::{Client, ProducerOptions, TopicConfig, WriteOptions};
use tokio::time::sleep;

use crate::cluster::{Cluster, LOOK_AGAIN, partition, publish_one};
use crate::support::{read_all, within};
use crate::{all_delivered, restart, value, write};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A time to live that an hour is longer than.
const TTL: Duration = Duration::from_secs(20 * 60);

/// Longer than it takes a node to look twice for what has grown old.
const TWO_PASSES: Duration = Duration::from_secs(12);

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// All that is there of a key, with the newest first, and when it was written.
async fn values(client: &Client, key: &str, read: u32) -> Vec<(String, u64)> {
    let got = within(client.get(key.as_bytes(), Some(read))).await;
    let values = got.unwrap().map(|got| got.values).unwrap_or_default();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let values = values.iter().map(|of| (text(&of.value), of.time_ms));
    values.collect()
}

/// Writes as soon as enough nodes know of each other.
async fn put_soon(cluster: &Cluster, client: &Client, key: &str, value: &str, how: WriteOptions) {
    cluster
        .eventually("enough nodes take a write", async || {
            let put = client.put(key.as_bytes(), value.to_owned().into(), how.clone());
            within(put).await.is_ok()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_writes_elsewhere_win_by_their_context() {
    let mut cluster = Cluster::start(3).await;
    let fast = 2;
    for node in [0, 1] {
        cluster.kill(node).await;
    }
    // Nobody is there who could tell it what time it is.
    cluster.set_ahead(fast, HOUR);
    let client = cluster.client(&[fast]).await;
    put_soon(&cluster, &client, "probe", "x", write(1)).await;
    let mut contexts = Vec::new();
    for n in 0..8 {
        let key = format!("key-{n}");
        let put = client.put(key.as_bytes(), "early".into(), write(1));
        contexts.push(within(put).await.unwrap().context);
        let written_ms = values(&client, &key, 1).await[0].1;
        assert!(written_ms > now_ms() + 3_500_000, "{key}: {written_ms}");
    }
    client.close().await;
    cluster.kill(fast).await;

    restart(&mut cluster, &[0, 1]).await;
    let client = cluster.client(&[0, 1]).await;
    put_soon(&cluster, &client, "probe", "y", write(2)).await;
    for (n, context) in contexts.iter().enumerate() {
        let key = format!("key-{n}");
        // Every other one knows nothing of what was written before.
        let context = Some(context.clone()).filter(|_| n % 2 == 0);
        let later = WriteOptions {
            context,
            ..write(2)
        };
        let put = client.put(key.as_bytes(), "later".into(), later);
        within(put).await.unwrap();
        let written_ms = values(&client, &key, 2).await[0].1;
        assert!(written_ms < now_ms() + 60_000, "{key}: {written_ms}");
    }
    client.close().await;

    restart(&mut cluster, &[fast]).await;
    cluster.all_lead().await;
    all_delivered(&cluster).await;
    for node in 0..3 {
        let client = cluster.client(&[node]).await;
        for n in 0..8 {
            let key = format!("key-{n}");
            let expected: &[&str] = match n % 2 {
                0 => &["later"],
                _ => &["early", "later"],
            };
            let values = values(&client, &key, 3).await;
            let values: Vec<&str> = values.iter().map(|(text, _)| text.as_str()).collect();
            assert_eq!(values, expected, "{key} at {node}");
        }
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_without_context_through_different_nodes_leave_one_value() {
    let mut cluster = Cluster::start(3).await;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(cluster.client(&[node]).await);
    }
    let mut minted_ahead = false;
    for round in 1..=6 {
        // Ahead by another hour each time, so that what the node has found out about its clock is wrong again.
        let fast = usize::try_from(round % 3).unwrap();
        cluster.set_ahead(fast, HOUR * round);
        for n in 0..12 {
            let key = format!("key-{n}");
            for (node, client) in clients.iter().enumerate() {
                let text = format!("{round}-{node}");
                let put = client.put(key.as_bytes(), text.clone().into(), write(2));
                within(put).await.unwrap();
                let there = values(client, &key, 3).await;
                minted_ahead |= there[0].1 > now_ms() + 3_500_000;
                let there: Vec<&str> = there.iter().map(|(text, _)| text.as_str()).collect();
                assert_eq!(there, [text], "{key}");
            }
        }
    }
    assert!(minted_ahead, "no clock was ever ahead");
    // Neither does one that is set right again lose what comes next.
    for node in 0..3 {
        cluster.set_ahead(node, Duration::ZERO);
    }
    for client in &clients {
        let put = client.put(b"key-0", "last".into(), write(2));
        within(put).await.unwrap();
    }
    cluster.kill(1).await;
    cluster.restart(1).await;
    cluster.all_lead().await;
    all_delivered(&cluster).await;
    for client in clients {
        assert_eq!(value(&client, "key-0", 3).await.unwrap(), "last");
        assert_eq!(value(&client, "key-7", 3).await.unwrap(), "6-2");
        client.close().await;
    }
}

/// Waits until a node knows that its clock is wrong.
async fn has_noticed(cluster: &Cluster, node: usize) {
    cluster
        .eventually("it knows that its clock is ahead", async || {
            let status = cluster.status(node).await;
            let mut warnings = status.warnings.iter();
            warnings.any(|warning| warning.contains("s ahead of those of a majority"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_expires_early_and_all_of_it_in_the_end() {
    let more = "tombstone_age_seconds = 0\nrepair_every_seconds = 1\n";
    let cluster = Cluster::start_by_clocks(&[Duration::ZERO, Duration::ZERO, HOUR], more).await;
    let fast = 2;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(cluster.client(&[node]).await);
    }
    let lives = |ttl| WriteOptions {
        ttl: Some(ttl),
        ..write(3)
    };
    for n in 0..12 {
        put_soon(&cluster, &clients[0], &format!("long-{n}"), "v", lives(TTL)).await;
    }
    has_noticed(&cluster, fast).await;
    let since = Instant::now();
    while since.elapsed() < TWO_PASSES {
        for (node, client) in clients.iter().enumerate() {
            for n in 0..12 {
                let key = format!("long-{n}");
                let there = value(client, &key, 1 + n % 3).await;
                assert_eq!(there.as_deref(), Some("v"), "{key} at {node}");
            }
        }
        sleep(LOOK_AGAIN).await;
    }
    let second = Duration::from_secs(1);
    let view = cluster.view(0).await;
    let mut by_fast = 0;
    for n in 0..12 {
        let key = format!("short-{n}");
        put_soon(&cluster, &clients[1], &key, "v", lives(second)).await;
        by_fast += u32::from(partition(&view, &key).replicas[0] == cluster.id(fast));
    }
    assert!(by_fast > 0, "it has written none of them");
    for client in &clients {
        cluster
            .eventually("what lives for a second is gone", async || {
                let mut is_gone = true;
                for n in 0..12 {
                    is_gone &= value(client, &format!("short-{n}"), 1).await.is_none();
                }
                is_gone
            })
            .await;
    }
    for client in clients {
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_clock_is_not_put_wrong_where_two_of_three_are_known_and_differ() {
    let more = "tombstone_age_seconds = 0\nrepair_every_seconds = 1\n";
    let mut cluster = Cluster::start_by_clocks(&[HOUR, Duration::ZERO, HOUR], more).await;
    let (right, away) = (0, 2);
    let view = cluster.view(right).await;
    let by_right = |key: &String| partition(&view, key).replicas[0] == cluster.id(right);
    let keys: Vec<String> = (0..200).map(|n| format!("key-{n}")).collect();
    let keys: Vec<String> = keys.into_iter().filter(by_right).take(6).collect();
    assert!(!keys.is_empty());
    // After this it knows nothing of the third.
    cluster.kill(right).await;
    cluster.kill(away).await;
    cluster.restart(right).await;
    let warns = async |of: &str| {
        let status = cluster.status(right).await;
        status.warnings.iter().any(|warning| warning.contains(of))
    };
    cluster
        .eventually("it knows that two clocks differ", async || {
            warns("the clocks ").await || warns("this node's clock").await
        })
        .await;
    assert!(
        !warns("this node's clock is ").await,
        "it goes by the wrong one"
    );
    let client = cluster.client(&[right]).await;
    let lives = WriteOptions {
        ttl: Some(TTL),
        ..write(2)
    };
    for key in &keys {
        put_soon(&cluster, &client, key, "v", lives.clone()).await;
    }
    client.close().await;

    cluster.restart(away).await;
    cluster.all_lead().await;
    cluster
        .eventually("two clocks of three agree", async || {
            let status = cluster.status(right).await;
            let mut warnings = status.warnings.iter();
            !warnings.any(|warning| warning.contains("no majority of the"))
        })
        .await;
    let client = cluster.client(&[right, away]).await;
    let since = Instant::now();
    while since.elapsed() < TWO_PASSES {
        for key in &keys {
            let there = value(&client, key, 2).await;
            assert_eq!(there.as_deref(), Some("v"), "{key}");
        }
        sleep(LOOK_AGAIN).await;
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_keeps_offsets_times_and_records() {
    let cluster = Cluster::start(3).await;
    let fast = 2;
    let topic = cluster.topic_led_by(fast).await;
    let client = cluster.client(&[0, 1, 2]).await;
    let config = TopicConfig {
        retention_age_ms: Some(u64::try_from(TTL.as_millis()).unwrap()),
        ..TopicConfig::default()
    };
    within(client.create_topic(&topic, config, false))
        .await
        .unwrap();
    let producer = client.producer(ProducerOptions::default());
    let mut number = 0;
    for ahead in [Duration::ZERO, HOUR, Duration::ZERO, 3 * HOUR] {
        cluster.set_ahead(fast, ahead);
        for _ in 0..10 {
            publish_one(&producer, &topic, number).await;
            number += 1;
        }
    }
    has_noticed(&cluster, fast).await;
    let since = Instant::now();
    while since.elapsed() < TWO_PASSES {
        let described = within(client.describe_topic(&topic)).await.unwrap();
        assert_eq!((described.first, described.next), (0, number));
        sleep(LOOK_AGAIN).await;
    }
    let records = read_all(&client, &topic).await;
    assert_eq!(records.len() as u64, number);
    let times: Vec<u64> = records.iter().map(|record| record.append_time_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
    client.close().await;
}
