//! Damage that is met by whoever reads or writes: a tail, a leader that decides, a verification.

use std::time::{Duration, Instant};

use mesh_engine::BLOCK_OFFSETS;
use mesh_net::client::{ClientError, ProducerOptions};
use mesh_ring::ids::PartitionId;

use crate::{
    FULL_BLOCKS, NEVER, PER_BATCH, RECORDS,
    cluster::{Cluster, PARTITIONS, partition_id},
    counted, filled, healed, is_whole, publish, rot, sum,
    support::{from_start, record, texts, within},
    values,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_meets_rot_goes_on_elsewhere_and_has_it_healed() {
    let (mut cluster, topic) = filled("", 0).await;
    let data = cluster.data(0);
    let batch = rot::batch_at(&data, &topic, 2_100);
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    // What gossip gave cause for is over: nobody looks at this block again for a while but the tail.
    cluster
        .eventually("copies were compared on the return", async || {
            counted(&cluster, 0).await.blocks >= 2 * FULL_BLOCKS
        })
        .await;
    let client = cluster.client(&[0]).await;
    let mut tail = client.tail(&topic, from_start(true));
    rot::flip(&data, &batch);
    let mut read = Vec::new();
    while read.len() < RECORDS as usize {
        let batch = within(tail.next()).await.unwrap().unwrap();
        assert_eq!(batch.records[0].offset, read.len() as u64);
        read.extend(texts(&batch.records));
    }
    assert!(read == values(RECORDS));
    healed(&cluster, 0, 1).await;
    // It follows all the same.
    publish(&client, &topic, RECORDS, RECORDS + PER_BATCH).await;
    let batch = within(tail.next()).await.unwrap().unwrap();
    assert_eq!(batch.records[0].offset, RECORDS);
    client.close().await;
    is_whole(&cluster, &topic, RECORDS + PER_BATCH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_log_that_cannot_be_read_is_healed_and_never_shortens_it() {
    let (mut cluster, topic) = filled("", 1).await;
    let data = cluster.data(1);
    rot::flip(&data, &rot::batch_at(&data, &topic, RECORDS - 1));
    // It led, and may lead again.
    cluster.restart(1).await;
    healed(&cluster, 1, 1).await;
    let client = cluster.any_client().await;
    publish(&client, &topic, RECORDS, RECORDS + 2 * PER_BATCH).await;
    client.close().await;
    is_whole(&cluster, &topic, RECORDS + 2 * PER_BATCH).await;
    assert_eq!(cluster.status(1).await.warnings, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_read_its_end_takes_nothing_until_that_is_healed() {
    for (more, heals) in [(NEVER, false), ("", true)] {
        let mut cluster = Cluster::start_with(3, more).await;
        let topic = cluster.topic_led_by(1).await;
        let client = cluster.any_client().await;
        publish(&client, &topic, 0, 2 * PER_BATCH).await;
        client.close().await;
        cluster.all_caught_up().await;
        // So that nobody takes over meanwhile.
        for node in [0, 2, 1] {
            cluster.kill(node).await;
        }
        let data = cluster.data(1);
        rot::flip(&data, &rot::batch_at(&data, &topic, 2 * PER_BATCH - 1));
        for node in 0..3 {
            cluster.restart(node).await;
        }
        cluster.all_lead().await;
        if !heals {
            assert_eq!(cluster.leader_of(&topic).await, 1);
            let hasty = cluster.hasty_client(&[0, 2]).await;
            let producer = hasty.producer(ProducerOptions::default());
            let refused = within(producer.publish(&topic, record("lost"))).await;
            assert!(
                matches!(&refused, Err(ClientError::Unavailable(cause)) if cause.contains("damaged")),
                "{refused:?}"
            );
            hasty.close().await;
            assert_eq!(counted(&cluster, 1).await.blocks_unreadable, 1);
            assert_eq!(sum(&cluster.repair().await, |node| node.blocks_healed), 1);
        }
        let client = cluster.any_client().await;
        publish(&client, &topic, 2 * PER_BATCH, 3 * PER_BATCH).await;
        client.close().await;
        healed(&cluster, 1, 1).await;
        is_whole(&cluster, &topic, 3 * PER_BATCH).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_finds_damage_has_it_healed() {
    let (mut cluster, topic) = filled("", 0).await;
    let data = cluster.data(0);
    let batch = rot::batch_at(&data, &topic, 50);
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    cluster
        .eventually("copies were compared on the return", async || {
            counted(&cluster, 0).await.blocks >= 2 * FULL_BLOCKS
        })
        .await;
    rot::flip(&data, &batch);
    let client = cluster.any_client().await;
    let described = within(client.describe_topic(&topic)).await.unwrap();
    client.close().await;
    let client = cluster.client(&[0]).await;
    let hash = within(client.hash_topic(&described, 0, RECORDS)).await;
    assert_eq!(hash.unwrap().damaged, 1);
    client.close().await;
    healed(&cluster, 0, 1).await;
    is_whole(&cluster, &topic, RECORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_counts_an_end_that_cannot_be_read() {
    let (mut cluster, topic) = filled(NEVER, 0).await;
    let data = cluster.data(0);
    rot::flip(&data, &rot::batch_at(&data, &topic, RECORDS - 1));
    cluster.restart(0).await;
    cluster.all_lead().await;
    let client = cluster.client(&[1]).await;
    let described = within(client.describe_topic(&topic)).await.unwrap();
    client.close().await;
    for (node, damaged) in [(0, 1), (1, 0)] {
        let client = cluster.client(&[node]).await;
        let hash = within(client.hash_topic(&described, 0, RECORDS)).await;
        let hash = hash.unwrap();
        let records = RECORDS - damaged * PER_BATCH;
        assert_eq!((hash.damaged, hash.records), (damaged, records));
        client.close().await;
    }
    // Its search has found which block that is.
    cluster
        .eventually("it is known", async || {
            counted(&cluster, 0).await.blocks_unreadable == 1
        })
        .await;
    assert_eq!(sum(&cluster.repair().await, |node| node.blocks_healed), 1);
    is_whole(&cluster, &topic, RECORDS).await;
}

/// Healing is slow, and whoever asks for it is not patient.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_many_damaged_blocks_goes_on_for_as_long_as_it_takes() {
    const BLOCKS: u64 = 40;
    let slow = format!("{NEVER}transfer_bytes_per_second = 262144\n");
    let mut cluster = Cluster::start_with(3, &slow).await;
    let topic = cluster.topic_led_by(1).await;
    let client = cluster.any_client().await;
    let count = (BLOCKS * BLOCK_OFFSETS).next_multiple_of(PER_BATCH);
    publish(&client, &topic, 0, count).await;
    client.close().await;
    cluster.all_caught_up().await;
    cluster.stop(0).await;
    let data = cluster.data(0);
    rot::flip_all(
        &data,
        &topic,
        (0..BLOCKS).map(|block| block * BLOCK_OFFSETS + 500),
    );
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    let patience = Duration::from_secs(3);
    let client = cluster
        .client_with(&[0, 1, 2], |config| config.timeout = patience)
        .await;
    let id = partition_id(&topic);
    // Of another partition there is nothing to heal.
    let other = PartitionId((id.0 + 1) % PARTITIONS);
    cluster
        .eventually("everybody is known to be there", async || {
            let report = within(client.repair(Some(other))).await.unwrap();
            report.silent.is_empty() && report.missed.is_empty()
        })
        .await;
    let (mut told, began) = (Vec::new(), Instant::now());
    let report = client
        .repair_telling(Some(id), |progress| told.push(progress))
        .await
        .unwrap();
    assert_eq!((report.silent.len(), &report.missed), (0, &Vec::new()));
    assert_eq!(sum(&report, |node| node.blocks_healed), BLOCKS);
    assert_eq!(sum(&report, |node| node.blocks_unreadable), 0);
    assert!(
        began.elapsed() > patience,
        "it was too quick to show anything"
    );
    // What was healed is told of while there is more to heal.
    let some = told
        .iter()
        .filter(|now| (1..BLOCKS).contains(&now.blocks_healed));
    assert!(some.count() > 0, "{told:?}");
    let last = told.last().unwrap();
    assert_eq!((last.partitions, last.blocks_healed), ((1, 1), BLOCKS));
    client.close().await;
    is_whole(&cluster, &topic, count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_tells_what_it_could_not_heal() {
    let (mut cluster, topic) = filled(NEVER, 0).await;
    let data = cluster.data(0);
    rot::flip(&data, &rot::batch_at(&data, &topic, 1_550));
    // Only the leader is whole, and stays away.
    cluster.stop(2).await;
    let data = cluster.data(2);
    rot::flip(&data, &rot::batch_at(&data, &topic, 1_550));
    cluster.kill(1).await;
    cluster.restart(0).await;
    cluster.restart(2).await;
    cluster.all_lead().await;
    let client = cluster.any_client().await;
    cluster
        .eventually("both tell of it", async || {
            let report = within(client.repair(None)).await.unwrap();
            assert_eq!(sum(&report, |node| node.blocks_healed), 0);
            sum(&report, |node| node.blocks_unreadable) == 2
        })
        .await;
    client.close().await;
    cluster.restart(1).await;
    cluster.all_caught_up().await;
    let report = cluster.repair().await;
    assert_eq!(sum(&report, |node| node.blocks_healed), 2);
    is_whole(&cluster, &topic, RECORDS).await;
}
