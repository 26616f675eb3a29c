//! Tails: where they begin and end, what they say, and that they go on by themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use mesh_net::client::{
    Client, ClientError, ProducerOptions, Start, Tail, TailOptions, TopicConfig,
};
use support::{Mesh, from_start, read_all, record, texts, within};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout_at},
};

async fn publish(client: &Client, topic: &str, values: std::ops::Range<u32>) {
    let producer = client.producer(ProducerOptions::default());
    for value in values {
        producer
            .publish(topic, record(value.to_string()))
            .await
            .unwrap();
    }
}

async fn values(tail: &mut Tail, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        match within(tail.next()).await.unwrap() {
            Some(batch) => all.extend(texts(&batch.records)),
            None => break,
        }
    }
    all
}

fn text(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_and_ends_where_it_is_told() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    publish(&client, "t", 0..10).await;
    client.commit_cursor("t", "c", 7).await.unwrap();
    let cases = [
        (Start::First, None, 0..10),
        (Start::Offset(4), None, 4..10),
        (Start::Offset(10), None, 10..10),
        (Start::Last(3), None, 7..10),
        (Start::Last(99), None, 0..10),
        (Start::Time(0), None, 0..10),
        (Start::Time(u64::MAX), None, 10..10),
        (Start::Cursor("c".into()), None, 7..10),
        (Start::Cursor("never".into()), None, 0..10),
        (Start::First, Some(3), 0..3),
        (Start::Offset(2), Some(3), 2..3),
        (Start::Offset(5), Some(3), 5..5),
        (Start::First, Some(99), 0..10),
    ];
    for (start, until, expected) in cases {
        let case = format!("{start:?} until {until:?}");
        let mut tail = client.tail(
            "t",
            TailOptions {
                start,
                follow: false,
                until,
            },
        );
        assert_eq!(
            values(&mut tail, usize::MAX).await,
            text(expected),
            "{case}"
        );
        assert!(
            within(tail.next()).await.unwrap().is_none(),
            "{case}: the end stays the end"
        );
    }
    // Within one batch too.
    let batch = (0..10).map(|n| record(n.to_string())).collect();
    client
        .producer(ProducerOptions::default())
        .publish_batch("b", batch, None)
        .await
        .unwrap();
    let mut tail = client.tail(
        "b",
        TailOptions {
            start: Start::Offset(3),
            follow: true,
            until: Some(6),
        },
    );
    assert_eq!(values(&mut tail, usize::MAX).await, text(3..6));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    publish(&client, "t", 0..10).await;
    assert_eq!(client.trim_topic("t", 4).await.unwrap(), 4);
    let at = |offset| TailOptions {
        start: Start::Offset(offset),
        ..TailOptions::default()
    };
    match within(client.tail("t", at(3)).next()).await {
        Err(ClientError::Trimmed { first, .. }) => assert_eq!(first, 4),
        other => panic!("{other:?}"),
    }
    match within(client.tail("t", at(11)).next()).await {
        Err(ClientError::OffsetBeyondEnd { next, .. }) => assert_eq!(next, 10),
        other => panic!("{other:?}"),
    }
    let missing = within(client.tail("missing", at(0)).next()).await;
    assert!(
        matches!(missing, Err(ClientError::NotFound(_))),
        "{missing:?}"
    );
    let ill_formed = within(client.tail("..", at(0)).next()).await;
    assert!(
        matches!(ill_formed, Err(ClientError::Invalid(_))),
        "{ill_formed:?}"
    );
    assert_eq!(texts(&read_all(&client, "t").await), text(4..10));
    match client.trim_topic("t", 11).await {
        Err(ClientError::OffsetBeyondEnd { next, .. }) => assert_eq!(next, 10),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_what_comes_and_survives_restarts() {
    let mut mesh = Mesh::start().await;
    let client = mesh.client().await;
    publish(&client, "t", 0..3).await;
    let mut tail = client.tail("t", from_start(true));
    assert_eq!(values(&mut tail, 3).await, text(0..3));
    for round in 0..3 {
        let from = 3 + round * 5;
        mesh.stop().await;
        mesh.start_again().await;
        let (seen, ()) = tokio::join!(values(&mut tail, 5), publish(&client, "t", from..from + 5));
        assert_eq!(seen, text(from..from + 5));
    }
    assert_eq!(tail.next_offset(), Some(18));
}

/// Listens where a node was, says nothing, and counts the connections that are tried meanwhile.
async fn dials(addr: SocketAddr, time: Duration) -> usize {
    let binding = async {
        loop {
            // The socket of the node before is closed when the runtime has dropped it.
            match UdpSocket::bind(addr).await {
                Ok(socket) => return socket,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let socket = within(binding).await;
    let end = Instant::now() + time;
    let (mut packet, mut ids) = ([0; 2048], HashSet::new());
    while let Ok(length) = timeout_at(end, socket.recv(&mut packet)).await {
        // A long header of QUIC: flags, version, and the id that the dialler drew for this connection.
        let packet = &packet[..length.unwrap()];
        if packet.len() > 6 && packet[0] & 0x80 != 0 {
            let id = packet[6..].iter().take(packet[5].into());
            ids.insert(id.copied().collect::<Vec<u8>>());
        }
    }
    ids.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_quiet_resumes_and_does_not_hammer() {
    let mut mesh = Mesh::start().await;
    let addr = mesh.addr;
    let client = mesh.client().await;
    publish(&client, "t", 0..1).await;
    let follower = mesh
        .client_with(|config| config.timeout = Duration::from_millis(300))
        .await;
    let mut tail = follower.tail("t", from_start(true));
    assert_eq!(values(&mut tail, 1).await, text(0..1));
    let restarting = async {
        // Nothing comes for longer than the follower's timeout.
        sleep(Duration::from_millis(1_200)).await;
        mesh.stop().await;
        let dials = dials(addr, Duration::from_secs(1)).await;
        mesh.start_again().await;
        publish(&client, "t", 1..2).await;
        dials
    };
    let (seen, dials) = tokio::join!(values(&mut tail, 1), restarting);
    assert_eq!(seen, text(1..2));
    // Both clients dial; each attempt lasts as long as the timeout allows, with a pause behind it.
    assert!((1..=20).contains(&dials), "{dials} dials within a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_wait_loses_nothing() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    publish(&client, "t", 0..1).await;
    let mut tail = client.tail("t", from_start(true));
    let mut seen = Vec::new();
    let producer = client.producer(ProducerOptions::default());
    for number in 1..60_u32 {
        // Given up at whatever point it has reached.
        if let Ok(batch) =
            tokio::time::timeout(Duration::from_micros(u64::from(number) * 40), tail.next()).await
        {
            seen.extend(texts(&batch.unwrap().unwrap().records));
        }
        producer
            .publish("t", record(number.to_string()))
            .await
            .unwrap();
    }
    let rest = 60 - seen.len();
    seen.extend(values(&mut tail, rest).await);
    assert_eq!(seen, text(0..60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_pauses_and_gets_everything() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions::default());
    // More than all windows and buffers between node and reader hold.
    let (batches, each) = (64_u64, 1 << 20);
    for _ in 0..batches {
        producer
            .publish("t", record(vec![7; each - 1024]))
            .await
            .unwrap();
    }
    let slow = mesh.client().await;
    let mut tail = slow.tail("t", from_start(false));
    within(tail.next()).await.unwrap().unwrap();
    // While it pauses, others are served.
    assert_eq!(read_all(&client, "t").await.len() as u64, batches);
    producer.publish("t", record("more")).await.unwrap();
    let mut next = tail.next_offset().unwrap();
    while let Some(batch) = within(tail.next()).await.unwrap() {
        for record in batch.records {
            assert_eq!(record.offset, next);
            next += 1;
        }
    }
    assert_eq!(next, batches, "to the end that there was when it began");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_learns_that_its_topic_was_deleted() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    publish(&client, "t", 0..1).await;
    let mut tail = client.tail("t", from_start(true));
    assert_eq!(values(&mut tail, 1).await, text(0..1));
    let waiting = tail.next();
    let deleting = async {
        client.delete_topic("t").await.unwrap();
        client
            .create_topic("t", TopicConfig::default(), false)
            .await
            .unwrap();
    };
    let (told, ()) = within(async { tokio::join!(waiting, deleting) }).await;
    assert!(
        matches!(told, Err(ClientError::TopicDeleted(_))),
        "{told:?}"
    );
}
