//! Replication messages arrive, in order, or are dropped, and never more than a bound is kept of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_net::{
    node::peers::{Arrived, NotSent, PeerEvent, Peers, REPLICA_INTAKE_BYTES_MAX},
    wire::{
        FRAME_HEADER_BYTES_MAX,
        frame::{Chunks, FrameWriter},
        proto::{ErrorCode, Replicate, Reply, Request, reply, request::Kind},
    },
};
use mesh_ring::{
    limits::BATCH_BYTES_MAX,
    replica::{Lane, Message},
};

use crate::{
    messages::{PARTITION, acked, append, batch, carried, entries},
    station::{Cluster, Station, deadline, id},
    support::{noise, within},
};

/// Two stations that know each other.
fn pair(cluster: &Cluster) -> (Station, Station) {
    let (a, b) = (Station::start(cluster, 1), Station::start(cluster, 2));
    a.peers.set_members([a.contact(), b.contact()]);
    b.peers.set_members([a.contact(), b.contact()]);
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_lane_arrive_whole_and_in_order() {
    let cluster = Cluster::new();
    let (a, mut b) = pair(&cluster);
    let sizes = [0, 1, 100, 20_000, 70_000, BATCH_BYTES_MAX, 3];
    let batches: Vec<Bytes> = sizes.iter().map(|size| batch(*size)).collect();
    for lane in [Lane::Live, Lane::CatchUp] {
        for number in 0..200 {
            let batch = &batches[number % batches.len()..][..1];
            let message = append(1 + number as u64, batch);
            // Beyond what may wait, it is for the sender to try again.
            while let Err(error) = a.peers.send(id(2), PARTITION, message.clone(), lane) {
                assert_eq!(error, NotSent::Full);
                let arrived = b.next().await;
                check(arrived, &batches);
            }
            while let Ok(arrived) = b.arrived.try_recv() {
                check(arrived, &batches);
            }
        }
        loop {
            let arrived = b.next().await;
            if check(arrived, &batches) == 200 {
                break;
            }
        }
    }
}

/// Checks a message against what was sent; returns its index.
fn check(arrived: Arrived, batches: &[Bytes]) -> u64 {
    assert_eq!((arrived.from, arrived.partition), (id(1), PARTITION));
    let entry = &carried(arrived.message)[0];
    let number = entry.index.0 as usize - 1;
    let batch = &batches[number % batches.len()];
    assert_eq!(arrived.admitted.bytes(), batch.len());
    assert_eq!(
        *entry,
        entries(entry.index.0, std::slice::from_ref(batch))[0]
    );
    entry.index.0
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_within_each_lane() {
    let cluster = Cluster::new();
    let (a, mut b) = pair(&cluster);
    let batch = [batch(500)];
    let mut next = [1; 2];
    let mut seen = [0_u64; 2];
    while seen != [1000; 2] {
        for (lane, next) in [Lane::Live, Lane::CatchUp].into_iter().zip(&mut next) {
            // What belongs to catch-up has indices of its own, far away.
            let base = if lane == Lane::Live { 0 } else { 1_000_000 };
            let message = append(base + *next, &batch);
            if *next <= 1000 && a.peers.send(id(2), PARTITION, message, lane).is_ok() {
                *next += 1;
            }
        }
        while let Ok(arrived) = b.arrived.try_recv() {
            let index = carried(arrived.message)[0].index.0;
            let lane = usize::from(index > 1_000_000);
            assert_eq!(index % 1_000_000, seen[lane] + 1, "lane {lane}");
            seen[lane] += 1;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_frame_holds_comes_in_several() {
    let cluster = Cluster::new();
    let (a, mut b) = pair(&cluster);
    let small = vec![batch(0); FRAME_HEADER_BYTES_MAX / 20];
    let large = vec![batch(BATCH_BYTES_MAX / 2); 5];
    for batches in [small, large] {
        a.peers
            .send(id(2), PARTITION, append(1, &batches), Lane::Live)
            .unwrap();
        let (mut got, mut frames) = (Vec::new(), 0);
        while got.len() < batches.len() {
            let message = b.next().await.message;
            let Message::Append { prev, commit, .. } = &message else {
                panic!("{message:?}")
            };
            assert_eq!(
                prev.index.0,
                got.len() as u64,
                "each follows the one before"
            );
            assert_eq!(commit.0, 0);
            got.extend(carried(message));
            frames += 1;
        }
        assert!(frames > 1);
        assert_eq!(got, entries(1, &batches));
    }
}

/// Sends batches until no more are taken for a while that is long for loopback; returns how many were.
async fn fill(a: &Station, batch: &Bytes) -> usize {
    let (mut sent, mut full_since) = (0, None);
    loop {
        match a.peers.send(
            id(2),
            PARTITION,
            append(1, std::slice::from_ref(batch)),
            Lane::Live,
        ) {
            Ok(()) => (sent, full_since) = (sent + 1, None),
            Err(NotSent::Full) => {
                let since = *full_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_secs(1) {
                    return sent;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_costs_bounded_memory_and_holds_up_no_answers() {
    let cluster = Cluster::new();
    let (a, mut b) = pair(&cluster);
    let batch = batch(1 << 20);
    let sent = within(fill(&a, &batch)).await;
    // What waits, what is under way, and the few that have arrived.
    assert!(sent < 100, "{sent}");
    a.peers
        .send(id(2), PARTITION, acked(5), Lane::Live)
        .unwrap();
    let mut appends = 0;
    loop {
        match b.next().await.message {
            Message::Append { .. } => appends += 1,
            Message::Acked { index, .. } => {
                assert_eq!(index.0, 5);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        appends < sent / 2,
        "{appends} of {sent} came before the answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_written_yet_is_bounded() {
    let cluster = Cluster::new();
    let (a, mut b) = pair(&cluster);
    let batch = batch(1 << 20);
    let mut held = Vec::new();
    let holding = async {
        loop {
            held.push(b.next().await);
        }
    };
    let sent = tokio::select! {
        sent = within(fill(&a, &batch)) => sent,
        () = holding => unreachable!(),
    };
    let bytes: usize = held.iter().map(|arrived| arrived.admitted.bytes()).sum();
    assert!(bytes <= REPLICA_INTAKE_BYTES_MAX, "{bytes}");
    assert!(bytes + batch.len() > REPLICA_INTAKE_BYTES_MAX, "{bytes}");
    // Once it is written, the rest comes.
    let first = held.len();
    held.clear();
    for _ in first..sent {
        b.next().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_restarted_is_found_again() {
    let cluster = Cluster::new();
    let (mut a, mut b) = pair(&cluster);
    a.peers
        .send(id(2), PARTITION, append(1, &[batch(0)]), Lane::Live)
        .unwrap();
    b.next().await;
    // Control and bulk.
    for _ in 0..2 {
        assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
    }
    let addr = b.addr;
    for _ in 0..3 {
        b.stop().await;
        for _ in 0..2 {
            assert_eq!(a.event().await, PeerEvent::Disconnected(id(2)));
        }
        assert_eq!(
            a.peers.send(id(2), PARTITION, acked(1), Lane::Live),
            Err(NotSent::Disconnected)
        );
        b = Station::start_again(&cluster, 2, addr).await;
        for _ in 0..2 {
            assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
        }
        a.peers
            .send(id(2), PARTITION, append(2, &[batch(0)]), Lane::Live)
            .unwrap();
        assert_eq!(carried(b.next().await.message)[0].index.0, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_never_there_is_said_to_be_missing_once() {
    let cluster = Cluster::new();
    let (mut a, b) = pair(&cluster);
    let addr = b.addr;
    b.stop().await;
    assert!(a.peers.is_connected(id(2)), "nobody has tried");
    // Taken, as long as nobody knows better.
    a.peers
        .send(id(2), PARTITION, acked(1), Lane::Live)
        .unwrap();
    for _ in 0..2 {
        assert_eq!(a.event().await, PeerEvent::Disconnected(id(2)));
    }
    assert!(!a.peers.is_connected(id(2)));
    let again = a.peers.send(id(2), PARTITION, acked(2), Lane::Live);
    assert_eq!(again, Err(NotSent::Disconnected));
    let mut b = Station::start_again(&cluster, 2, addr).await;
    for _ in 0..2 {
        assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
    }
    assert!(a.peers.is_connected(id(2)));
    a.peers
        .send(id(2), PARTITION, acked(3), Lane::Live)
        .unwrap();
    match b.next().await.message {
        Message::Acked { index, .. } => assert_eq!(index.0, 3),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_moves_or_leaves_is_followed_or_forgotten() {
    let cluster = Cluster::new();
    let (mut a, b) = pair(&cluster);
    let ask = |peers: Peers| async move {
        let request = Request::new(Kind::Info(Default::default()));
        peers.ask(id(2), &request, Bytes::new(), deadline()).await
    };
    ask(a.peers.clone()).await.unwrap();
    assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
    b.stop().await;
    assert_eq!(a.event().await, PeerEvent::Disconnected(id(2)));
    let b = Station::start(&cluster, 2);
    a.peers.set_members([a.contact(), b.contact()]);
    assert_eq!(a.event().await, PeerEvent::Connected(id(2)));
    ask(a.peers.clone()).await.unwrap();
    a.peers.set_members([a.contact()]);
    assert_eq!(a.event().await, PeerEvent::Disconnected(id(2)));
    assert!(ask(a.peers.clone()).await.is_err());
    assert_eq!(
        a.peers.send(id(2), PARTITION, acked(1), Lane::Live),
        Err(NotSent::Unknown)
    );
    // One that is not in the map may be talked to all the same, where it is known.
    a.peers.meet(b.contact());
    ask(a.peers.clone()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_among_replica_frames_ends_its_stream_alone() {
    let cluster = Cluster::new();
    let (a, mut b) = pair(&cluster);
    for seed in 1..100_u64 {
        let (mut writer, mut reader) = a
            .peers
            .open(
                id(2),
                &Request::new(Kind::Replicate(Replicate {})),
                deadline(),
            )
            .await
            .unwrap();
        // A frame whose lengths are right and whose contents are not.
        write_noise(&mut writer, &noise(seed, seed as usize)).await;
        writer.finish();
        match within(reader.frame::<Reply>()).await {
            Ok(Some((
                Reply {
                    kind: Some(reply::Kind::Error(error)),
                },
                _,
            ))) => {
                assert_eq!(error.code(), ErrorCode::Malformed, "seed {seed}");
            }
            // Noise may be a message by chance, as `Acked` of nothing is.
            Ok(None) | Err(_) => {}
            other => panic!("seed {seed}: {other:?}"),
        }
        while b.arrived.try_recv().is_ok() {}
    }
    a.peers
        .send(id(2), PARTITION, append(1, &[batch(0)]), Lane::Live)
        .unwrap();
    let message = tokio::time::timeout(Duration::from_secs(10), b.next())
        .await
        .unwrap();
    assert_eq!(carried(message.message)[0].index.0, 1);
}

/// Sends `noise` where a header should be.
async fn write_noise(writer: &mut FrameWriter, noise: &[u8]) {
    let mut bytes = (noise.len() as u32).to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(noise);
    let mut chunks = Chunks::default();
    chunks.push(&bytes.into());
    writer.chunks(&mut chunks).await.unwrap();
}
