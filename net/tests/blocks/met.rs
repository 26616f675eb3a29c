//! Damage that is met by whoever reads or writes: a tail, a leader that decides, a verification.

use mesh_net::client::{ClientError, ProducerOptions};

use crate::{
    FULL_BLOCKS, NEVER, PER_BATCH, RECORDS,
    cluster::Cluster,
    counted, filled, healed, is_whole, publish, repair, rot, sum,
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
            assert_eq!(sum(&repair(&cluster).await, |node| node.blocks_healed), 1);
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
