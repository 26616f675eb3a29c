//! Publishing: batches, order, limits, refusals, and retries that append nothing twice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use mesh_net::client::{ClientError, Compression, ProducerOptions, Record, TopicConfig};
use mesh_ring::limits::RECORD_BYTES_MAX;
use support::{Mesh, PATIENCE, read_all, record, texts, within};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_as_they_were() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let producer = client.producer(ProducerOptions {
            compression,
            create: true,
        });
        let topic = format!("t/{compression:?}");
        let sent = Record {
            key: Some(Bytes::from_static(b"")),
            value: Bytes::from(vec![b'v'; 10_000]),
            headers: vec![
                ("h".into(), Bytes::from_static(b"\xff")),
                ("h".into(), Bytes::new()),
            ],
            timestamp_ms: -5,
        };
        let published = within(producer.publish(&topic, sent.clone()))
            .await
            .unwrap();
        assert_eq!(
            (published.first, published.last, &*published.synced),
            (0, 0, &["n1".to_owned()][..])
        );
        assert_eq!(read_all(&client, &topic).await[0].record, sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_records_share_batches_and_each_learns_its_offset() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    let mut calls = JoinSet::new();
    for number in 0..2_000_u32 {
        let producer = producer.clone();
        calls.spawn(async move {
            (
                number,
                producer
                    .publish("t", record(number.to_string()))
                    .await
                    .unwrap(),
            )
        });
    }
    let mut offsets = HashSet::new();
    let mut placed = vec![String::new(); 2_000];
    while let Some(done) = within(calls.join_next()).await {
        let (number, published) = done.unwrap();
        assert!(offsets.insert(published.first), "an offset was given twice");
        placed[published.first as usize] = number.to_string();
    }
    assert_eq!(texts(&read_all(&client, "t").await), placed);
    let stored = client.describe_topic("t").await.unwrap().bytes;
    assert!(
        stored < 2_000 * 60,
        "2,000 records did not share batches: {stored} bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_keeps_its_order_over_many_topics() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    let mut callers = JoinSet::new();
    for topic in 0..40 {
        let producer = producer.clone();
        callers.spawn(async move {
            for number in 0..20 {
                let published = producer
                    .publish(&format!("t{topic}"), record(number.to_string()))
                    .await
                    .unwrap();
                assert_eq!(published.first, number);
            }
        });
    }
    within(callers.join_all()).await;
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for topic in 0..40 {
        assert_eq!(
            texts(&read_all(&client, &format!("t{topic}")).await),
            expected
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_whole_and_conditional() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    let batch = |from: u32| {
        (from..from + 3)
            .map(|n| record(n.to_string()))
            .collect::<Vec<_>>()
    };
    let first = producer
        .publish_batch("t", batch(0), Some(0))
        .await
        .unwrap();
    assert_eq!((first.first, first.last), (0, 2));
    // Many at once, of which one is refused: the others are there, in order.
    let wrong = producer.publish_batch("t", batch(100), Some(99));
    let right = [
        producer.publish_batch("t", batch(3), None),
        producer.publish_batch("t", batch(6), None),
    ];
    let [one, two] = right;
    let (wrong, one, two) = within(async { tokio::join!(wrong, one, two) }).await;
    match wrong {
        Err(ClientError::Conflict { next, .. }) => assert_eq!(next, Some(3)),
        other => panic!("{other:?}"),
    }
    assert_eq!((one.unwrap().first, two.unwrap().first), (3, 6));
    let expected: Vec<_> = (0..9).map(|n| n.to_string()).collect();
    assert_eq!(texts(&read_all(&client, "t").await), expected);
    assert_eq!(producer.publish("t", record("9")).await.unwrap().first, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_the_limits_is_refused_and_nothing_written() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    let long = "x".repeat(256);
    for name in ["", "..", "a//b", "a b", &long] {
        assert!(
            matches!(
                producer.publish(name, record("v")).await,
                Err(ClientError::Invalid(_))
            ),
            "{name:?}"
        );
    }
    let large = record(vec![0; RECORD_BYTES_MAX + 1]);
    match producer.publish("t", large).await {
        Err(ClientError::Invalid(message)) => {
            assert!(message.contains(&RECORD_BYTES_MAX.to_string()), "{message}")
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        producer.publish_batch("t", Vec::new(), None).await,
        Err(ClientError::Invalid(_))
    ));
    let too_many = vec![record(vec![0; 1 << 20]); 5];
    assert!(matches!(
        producer.publish_batch("t", too_many, None).await,
        Err(ClientError::Invalid(_))
    ));
    let no_create = client.producer(ProducerOptions {
        create: false,
        ..Default::default()
    });
    assert!(matches!(
        no_create.publish("t", record("v")).await,
        Err(ClientError::NotFound(_))
    ));
    assert_eq!(client.list_topics("", None, 10).await.unwrap(), [""; 0]);
    // The largest record goes through.
    assert_eq!(
        within(producer.publish("t", record(vec![0; RECORD_BYTES_MAX])))
            .await
            .unwrap()
            .first,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_is_another_one() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    for _ in 0..3 {
        producer.publish("t", record("old")).await.unwrap();
    }
    client.delete_topic("t").await.unwrap();
    client
        .create_topic("t", TopicConfig::default(), false)
        .await
        .unwrap();
    let told = within(producer.publish("t", record("lost"))).await;
    assert!(
        matches!(told, Err(ClientError::TopicDeleted(_))),
        "{told:?}"
    );
    assert_eq!(
        within(producer.publish("t", record("new")))
            .await
            .unwrap()
            .first,
        0
    );
    assert_eq!(texts(&read_all(&client, "t").await), ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_bound_on_bytes_holds_nothing_up_for_ever() {
    let mesh = Mesh::start().await;
    let client = mesh
        .client_with(|config| config.inflight_bytes_max = 4_096)
        .await;
    let producer = client.producer(ProducerOptions::default());
    let mut calls = JoinSet::new();
    for number in 0..300_u32 {
        let producer = producer.clone();
        calls.spawn(async move {
            producer
                .publish("t", record(vec![number as u8; 500]))
                .await
                .map(|p| p.first)
        });
    }
    // One above the bound takes all of it, and goes through too.
    calls.spawn({
        let producer = producer.clone();
        async move {
            producer
                .publish("t", record(vec![1; 100_000]))
                .await
                .map(|p| p.first)
        }
    });
    let offsets: HashSet<_> = within(calls.join_all())
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(offsets.len(), 301);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_calls_leave_the_others_alone() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..200_u32 {
        let dropped = producer.publish("t", record("dropped"));
        // Polled once, so that it may have left its record behind.
        let _ = tokio::time::timeout(Duration::ZERO, dropped).await;
        if number % 10 == 0 {
            within(producer.publish("t", record("kept"))).await.unwrap();
        }
    }
    let all = texts(&read_all(&client, "t").await);
    assert_eq!(all.iter().filter(|value| *value == "kept").count(), 20);
    assert!(all.iter().filter(|value| *value == "dropped").count() <= 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_and_repeats_nothing() {
    let mut mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let producer = producer.clone();
        callers.spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0..150 {
                let value = format!("{caller}-{number}");
                let published = producer
                    .publish(&format!("t{}", caller % 2), record(value.clone()))
                    .await
                    .unwrap();
                acknowledged.push((caller % 2, published.first, value));
            }
            acknowledged
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        mesh.stop().await;
        mesh.start_again().await;
    }
    let acknowledged: Vec<_> = within(callers.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();
    for topic in 0..2 {
        let all = texts(&read_all(&client, &format!("t{topic}")).await);
        let mine: Vec<_> = acknowledged
            .iter()
            .filter(|(of, _, _)| *of == topic)
            .collect();
        assert_eq!(all.len(), mine.len(), "each record is there once");
        for (_, offset, value) in mine {
            assert_eq!(&all[*offset as usize], value);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_publishing_ends_at_the_timeout() {
    let mut mesh = Mesh::start().await;
    let client = mesh
        .client_with(|config| config.timeout = Duration::from_millis(600))
        .await;
    let producer = client.producer(ProducerOptions::default());
    producer.publish("t", record("1")).await.unwrap();
    mesh.stop().await;
    let told = within(producer.publish("t", record("2"))).await;
    assert!(matches!(told, Err(ClientError::Unavailable(_))), "{told:?}");
    assert_eq!(told.unwrap_err().exit_code(), 4);
    mesh.start_again().await;
    within(producer.publish("t", record("3"))).await.unwrap();
    let all = texts(&read_all(&client, "t").await);
    assert!(all == ["1", "3"] || all == ["1", "2", "3"], "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_client_tells_its_publishers() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    producer.publish("t", record("1")).await.unwrap();
    within(client.close()).await;
    assert!(matches!(
        within(producer.publish("t", record("2"))).await,
        Err(ClientError::Unavailable(_))
    ));
    mesh.assert_serves().await;
}

/// More answers ready at once than fit into one frame's header: thousands of batches of one record, one a topic.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_topics_at_once_are_all_answered() {
    let mesh = Mesh::start().await;
    // That all are answered is what counts, on a busy machine too.
    let client = mesh.client_with(|config| config.timeout = PATIENCE).await;
    let producer = client.producer(ProducerOptions::default());
    for round in 0..2 {
        let mut calls = JoinSet::new();
        for topic in 0..3_000 {
            let producer = producer.clone();
            calls.spawn(async move {
                producer
                    .publish(&format!("t{topic}"), record("v"))
                    .await
                    .map(|p| p.first)
            });
        }
        for offset in within(calls.join_all()).await {
            assert_eq!(offset, Ok(round));
        }
    }
}

/// Refusals carry words, so that far fewer of them than there are answers under way fill a frame's header.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refusals_at_once_all_arrive() {
    let mesh = Mesh::start().await;
    let client = mesh.client_of(&["write/topic/own-"]).await;
    let producer = client.producer(ProducerOptions::default());
    let mut calls = JoinSet::new();
    for topic in 0..3_000 {
        let producer = producer.clone();
        calls.spawn(async move {
            producer
                .publish(&format!("other-{topic}"), record("v"))
                .await
        });
    }
    for refused in within(calls.join_all()).await {
        assert!(
            matches!(refused, Err(ClientError::Refused(_))),
            "{refused:?}"
        );
    }
    assert_eq!(
        within(producer.publish("own-log", record("v")))
            .await
            .unwrap()
            .first,
        0
    );
}
