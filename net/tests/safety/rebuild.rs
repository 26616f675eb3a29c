//! A replica that was away for longer than the journal reaches back takes a new copy, and goes on.

use mesh_engine::JOURNAL_ENTRIES_KEPT;
use mesh_net::client::{Client, ProducerOptions};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, partition_id};
use crate::support::{noise, record, within};

/// Calls under way at a time; each is an entry of the journal.
const AT_ONCE: u64 = 512;

async fn append_entries(client: &Client, topic: &str, from: u64, count: u64) {
    let producer = client.producer(ProducerOptions::default());
    let mut under_way = JoinSet::new();
    for number in from..from + count {
        if number >= from + AT_ONCE {
            within(under_way.join_next()).await.unwrap().unwrap();
        }
        let (producer, topic) = (producer.clone(), topic.to_owned());
        under_way.spawn(async move {
            let records = vec![record(number.to_string())];
            producer.publish_batch(&topic, records, None).await.unwrap();
        });
    }
    while let Some(done) = within(under_way.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lagged_more_than_the_journal_keeps_is_rebuilt() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(1).await;
    let client = cluster.client(&[1, 2]).await;
    append_entries(&client, &topic, 0, 10).await;
    client
        .put(b"before", "x".into(), Default::default())
        .await
        .unwrap();
    cluster.all_caught_up().await;
    cluster.kill(0).await;
    cluster.all_lead().await;
    let entries = 2 * JOURNAL_ENTRIES_KEPT + 6_000;
    append_entries(&client, &topic, 10, entries).await;
    let count = 10 + entries;

    cluster.restart(0).await;
    cluster.all_caught_up().await;
    cluster.assert_replicas_alike(&topic, count).await;
    // It counts again: with another one away, it is what a majority needs.
    cluster.kill(2).await;
    cluster.all_lead().await;
    append_entries(&client, &topic, count, 10).await;
    let status = cluster.status(0).await;
    let id = partition_id(&topic);
    let copy = status
        .partitions
        .iter()
        .find(|copy| copy.partition == id)
        .unwrap();
    assert!(!copy.suspect && copy.last > entries, "{copy:?}");
    assert!(client.get(b"before", Some(2)).await.unwrap().is_some());
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_longer_than_the_journal_reaches_back_goes_on_until_it_is_close() {
    const RATE: &str = "transfer_bytes_per_second = 2000000\n";
    let mut cluster = Cluster::start_with(2, RATE).await;
    let client = cluster.client(&[0, 1]).await;
    let topic = cluster.topic_led_by(1).await;
    let producer = client.producer(ProducerOptions::default());
    let large = 300;
    for seed in 0..large {
        let value = noise(seed * 2 + 1, 100_000);
        within(producer.publish(&topic, record(value)))
            .await
            .unwrap();
    }
    // It holds every partition as soon as it has it.
    let joining = cluster.admit(RATE).await;
    cluster.restart(joining).await;
    let id = partition_id(&topic);
    let entries = 2 * JOURNAL_ENTRIES_KEPT + 6_000;
    let appends = {
        let (client, topic) = (client.clone(), topic.clone());
        tokio::spawn(async move { append_entries(&client, &topic, large, entries).await })
    };
    let mut furthest = 0;
    cluster
        .eventually("the new node has the partition", async || {
            let status = cluster.status(joining).await;
            let mut copying = status.transfers.iter();
            let of_it = copying.find(|transfer| transfer.partition == id);
            if let Some(transfer) = of_it.filter(|transfer| transfer.bytes_done > 0) {
                let done = transfer.bytes_done;
                assert!(
                    done >= furthest,
                    "{done} bytes after {furthest}: begun anew"
                );
                furthest = done;
            }
            let view = cluster.view(joining).await;
            let mut partitions = view.partitions.iter();
            partitions.any(|partition| {
                partition.id == id && partition.replicas.contains(&cluster.id(joining))
            })
        })
        .await;
    assert!(furthest > large * 90_000, "{furthest} bytes were seen");
    appends.await.unwrap();
    cluster.all_caught_up().await;
    cluster.assert_replicas_alike(&topic, large + entries).await;
    client.close().await;
}
