//! Blocks of topics that one replica cannot read: never served by it, healed from the others, and counted. Two valid
//! histories are told of, and left alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

mod bindings;
#[path = "../support/cluster/mod.rs"]
mod cluster;
mod met;
mod rot;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use bytes::{Buf, Bytes};
use mesh_engine::{
    BLOCK_OFFSETS,
    batch::{BatchHeader, records, verify_stored},
};
use mesh_net::{
    client::{Client, NodeRepair, ProducerOptions, RepairStatus},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, ErrorCode, Request, TailFrame, reply, request, tail_frame},
    },
};

use crate::{
    cluster::{Cluster, NEVER, PARTITIONS, sum},
    support::{ask, noise, read_all, record, texts, within},
};

/// How long a cluster may take to come to rest: copies that move need longer than elections.
const AT_REST_WITHIN: Duration = support::PATIENCE.saturating_mul(2);

const PER_BATCH: u64 = 100;

/// Three full blocks and a part of a fourth. Batches lie across their borders.
const RECORDS: u64 = 3_500;
const FULL_BLOCKS: u64 = RECORDS / BLOCK_OFFSETS;

/// A value of 24 bytes that does not compress much.
fn value(n: u64) -> String {
    let bytes = noise(n + 1, 12).into_iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn values(count: u64) -> Vec<String> {
    (0..count).map(value).collect()
}

async fn publish(client: &Client, topic: &str, from: u64, to: u64) {
    let producer = client.producer(ProducerOptions::default());
    for first in (from..to).step_by(PER_BATCH as usize) {
        let batch = (first..first + PER_BATCH).map(|n| record(value(n)));
        let published = within(producer.publish_batch(topic, batch.collect(), Some(first))).await;
        assert_eq!(published.unwrap().first, first);
    }
}

/// A cluster with a topic on every node, of which `node` is stopped: its records are in files.
async fn filled(more: &str, node: usize) -> (Cluster, String) {
    let mut cluster = Cluster::start_with(3, more).await;
    let topic = cluster.topic_led_by(1).await;
    let client = cluster.any_client().await;
    publish(&client, &topic, 0, RECORDS).await;
    client.close().await;
    cluster.all_caught_up().await;
    cluster.stop(node).await;
    (cluster, topic)
}

/// What a node says of a topic to whoever asks no other: its records from the first on, and the error that they end with.
async fn said_by(cluster: &Cluster, node: usize, topic: &str) -> (Vec<String>, Option<ErrorCode>) {
    let connection = cluster.connection(node).await;
    let (send, receive) = connection.open_bi().await.unwrap();
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive));
    let open = proto::TailOpen {
        topic: topic.to_owned(),
        ..proto::TailOpen::default()
    };
    let request = Request::new(request::Kind::Tail(open));
    writer.header(&request).await.unwrap();
    let mut said = Vec::new();
    loop {
        let (frame, mut body) = within(reader.frame::<TailFrame>()).await.unwrap().unwrap();
        match frame.kind.unwrap() {
            tail_frame::Kind::Started(_) => {}
            tail_frame::Kind::End(_) => return (said, None),
            tail_frame::Kind::Error(error) => return (said, Some(error.code())),
            tail_frame::Kind::Batches(_) => {
                while body.has_remaining() {
                    let length = BatchHeader::decode_prefix(&body).unwrap().batch_bytes();
                    said.extend(values_of(&body.split_to(length)));
                }
            }
        }
    }
}

fn values_of(batch: &Bytes) -> Vec<String> {
    verify_stored(batch).unwrap();
    let values = records(batch).unwrap().map(|item| item.unwrap().1.value);
    values
        .map(|value| String::from_utf8(value.to_vec()).unwrap())
        .collect()
}

async fn counted(cluster: &Cluster, node: usize) -> RepairStatus {
    cluster.status(node).await.repair
}

/// Waits until a node has healed so many blocks, and all of its copy is readable.
async fn healed(cluster: &Cluster, node: usize, blocks: u64) {
    cluster
        .eventually("what cannot be read is healed", async || {
            let status = counted(cluster, node).await;
            status.blocks_healed >= blocks && status.blocks_unreadable == 0
        })
        .await;
}

/// Every node serves the whole topic, and has the same on its disk.
async fn is_whole(cluster: &Cluster, topic: &str, count: u64) {
    cluster.all_caught_up().await;
    for node in cluster.running() {
        let (said, end) = said_by(cluster, node, topic).await;
        assert_eq!(end, None, "n{}", node + 1);
        assert!(said == values(count), "n{}", node + 1);
    }
    cluster.assert_replicas_alike(topic, count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_never_served_and_readers_get_it_elsewhere_until_a_repair_heals_it()
{
    let (mut cluster, topic) = filled(NEVER, 0).await;
    let data = cluster.data(0);
    rot::flip(&data, &rot::batch_at(&data, &topic, 1_550));
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    let (said, end) = said_by(&cluster, 0, &topic).await;
    assert!(said == values(1_500), "{} records", said.len());
    assert_eq!(end, Some(ErrorCode::Corrupt));

    // A client that prefers this node goes on at another one, without a gap.
    let client = cluster.client(&[0]).await;
    assert!(texts(&read_all(&client, &topic).await) == values(RECORDS));
    client.close().await;
    let status = cluster.status(0).await;
    let repair_status = &status.repair;
    assert_eq!(
        (
            repair_status.blocks_damaged,
            repair_status.blocks_unreadable
        ),
        (1, 1)
    );
    let told = |warning: &&String| warning.contains(&topic) && warning.contains("1024 to 2047");
    assert!(
        status.warnings.iter().any(|warning| told(&warning)),
        "{:?}",
        status.warnings
    );

    let report = cluster.repair().await;
    let of = |node: usize, of: fn(&NodeRepair) -> u64| -> u64 {
        let nodes = report.nodes.iter();
        let named = nodes.filter(|told| told.node == cluster.name(node));
        named.map(of).sum()
    };
    assert_eq!(of(0, |node| node.blocks_healed), 1);
    assert_eq!(sum(&report, |node| node.blocks_healed), 1);
    assert_eq!(sum(&report, |node| node.blocks_differing), 0);
    let status = cluster.status(0).await;
    assert_eq!(
        (status.repair.blocks_healed, status.repair.blocks_unreadable),
        (1, 0)
    );
    assert!(status.repair.block_healed_ago.is_some());
    assert_eq!(status.warnings, Vec::<String>::new());
    is_whole(&cluster, &topic, RECORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rots_while_a_node_is_down_is_found_and_healed_by_itself() {
    let (mut cluster, topic) = filled("", 0).await;
    let data = cluster.data(0);
    // In a full block, and in the one that is not full.
    for offset in [50, 3_250] {
        rot::flip(&data, &rot::batch_at(&data, &topic, offset));
    }
    cluster.restart(0).await;
    healed(&cluster, 0, 2).await;
    assert_eq!(counted(&cluster, 0).await.blocks_damaged, 2);
    for node in 1..3 {
        assert_eq!(counted(&cluster, node).await.blocks_damaged, 0);
    }
    is_whole(&cluster, &topic, RECORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_are_given_blocks() {
    let cluster = Cluster::start_with(1, NEVER).await;
    let connection = cluster.connection(0).await;
    for kind in [
        request::Kind::CompareBlocks(proto::CompareBlocks::default()),
        request::Kind::FetchBlock(proto::FetchBlock::default()),
    ] {
        let reply::Kind::Error(error) = ask(&connection, kind).await else {
            panic!("a client is given blocks");
        };
        assert_eq!(error.code(), ErrorCode::Denied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_missing_as_a_whole_comes_back() {
    let (mut cluster, topic) = filled("", 2).await;
    let data = cluster.data(2);
    let engine = rot::disk(&data);
    let key = rot::key_of(&engine, &topic);
    engine.close().unwrap();
    drop(engine);
    // Every batch with an offset of the second block.
    let ends = (1_099..=2_099).step_by(PER_BATCH as usize);
    rot::remove(&data, key, ends);
    let engine = rot::disk(&data);
    assert_eq!(engine.unreadable_in(key, 1), Ok(Some(1_024)));
    engine.close().unwrap();
    drop(engine);
    cluster.restart(2).await;
    healed(&cluster, 2, 2).await;
    is_whole(&cluster, &topic, RECORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_with_rot_in_the_same_block_heal_each_other() {
    let (mut cluster, topic) = filled(NEVER, 0).await;
    cluster.stop(2).await;
    for (node, offset) in [(0, 1_150), (2, 1_950)] {
        let data = cluster.data(node);
        rot::flip(&data, &rot::batch_at(&data, &topic, offset));
    }
    // The one that is whole stays away.
    cluster.kill(1).await;
    cluster.restart(0).await;
    cluster.restart(2).await;
    cluster.all_lead().await;
    let client = cluster.any_client().await;
    cluster
        .eventually("both are healed", async || {
            within(client.repair(None)).await.unwrap();
            let first = counted(&cluster, 0).await;
            let second = counted(&cluster, 2).await;
            (first.blocks_healed, second.blocks_healed) == (1, 1)
        })
        .await;
    client.close().await;
    for node in [0, 2] {
        let (said, end) = said_by(&cluster, node, &topic).await;
        assert_eq!((said == values(RECORDS), end), (true, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_valid_histories_raise_the_alarm_and_are_left_alone() {
    let (mut cluster, topic) = filled(NEVER, 0).await;
    let data = cluster.data(0);
    let forged = rot::forge(&data, &topic, 550);
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    let report = cluster.repair().await;
    // By both sides, with each of the two others.
    assert!(
        sum(&report, |node| node.blocks_differing) >= 4,
        "{report:?}"
    );
    assert_eq!(sum(&report, |node| node.blocks_healed), 0);
    assert!(counted(&cluster, 0).await.blocks_differing >= 2);
    for node in 0..3 {
        assert!(is_told_of(&cluster, node, &topic).await);
    }
    for node in 0..3 {
        cluster.stop(node).await;
        let found = rot::batch_at(&cluster.data(node), &topic, 550);
        assert_eq!(found == forged, node == 0, "n{}", node + 1);
    }
}

/// Whether a node tells of two histories of a topic.
async fn is_told_of(cluster: &Cluster, node: usize, topic: &str) -> bool {
    let warnings = cluster.status(node).await.warnings;
    let told = |warning: &String| warning.contains("two histories") && warning.contains(topic);
    warnings.iter().any(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alarm_ends_with_the_records() {
    let (mut cluster, topic) = filled(NEVER, 0).await;
    rot::forge(&cluster.data(0), &topic, 550);
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    let none = async |what: &str| {
        cluster
            .eventually(what, async || {
                for node in 0..3 {
                    if is_told_of(&cluster, node, &topic).await {
                        return false;
                    }
                }
                true
            })
            .await;
    };
    cluster.repair().await;
    assert!(is_told_of(&cluster, 0, &topic).await);
    let client = cluster.any_client().await;
    // A part of the block is left, with the difference in it or not.
    within(client.trim_topic(&topic, 600)).await.unwrap();
    cluster.all_caught_up().await;
    assert!(is_told_of(&cluster, 0, &topic).await);
    within(client.trim_topic(&topic, BLOCK_OFFSETS))
        .await
        .unwrap();
    none("what was trimmed is no difference any more").await;
    client.close().await;
    // The same where the whole topic goes.
    for node in 0..3 {
        cluster.stop(node).await;
    }
    drop(cluster);
    let (mut cluster, topic) = filled(NEVER, 0).await;
    rot::forge(&cluster.data(0), &topic, 550);
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    cluster.repair().await;
    assert!(is_told_of(&cluster, 0, &topic).await);
    let client = cluster.any_client().await;
    within(client.delete_topic(&topic)).await.unwrap();
    client.close().await;
    cluster
        .eventually("what was deleted is no difference any more", async || {
            for node in 0..3 {
                if !cluster.status(node).await.warnings.is_empty() {
                    return false;
                }
            }
            true
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_in_sync_cost_next_to_nothing_on_the_wire() {
    let (mut cluster, _) = filled(NEVER, 0).await;
    cluster.restart(0).await;
    cluster.all_caught_up().await;
    // Until everyone knows that everyone is there.
    cluster.repair().await;
    let report = cluster.repair().await;
    let pairs = report.nodes.len() as u64 * 2;
    assert_eq!(sum(&report, |node| node.blocks), pairs * FULL_BLOCKS);
    assert_eq!(sum(&report, |node| node.blocks_damaged), 0);
    for node in &report.nodes {
        let of_one = node.bytes / u64::from(PARTITIONS) / 2;
        assert!((1..=1024).contains(&of_one), "{of_one} bytes in sync");
        eprintln!("{of_one} bytes for a partition and another copy in sync");
    }
    // The same by the clock, a part at a time.
    for node in 0..3 {
        cluster.stop(node).await;
    }
    drop(cluster);
    let (mut cluster, _) = filled("repair_every_seconds = 1\n", 0).await;
    cluster.restart(0).await;
    cluster
        .eventually("rounds have compared blocks", async || {
            let status = counted(&cluster, 1).await;
            status.rounds >= 3 && status.blocks >= 2 * FULL_BLOCKS
        })
        .await;
    let status = counted(&cluster, 1).await;
    assert_eq!((status.blocks_damaged, status.blocks_differing), (0, 0));
    let of_one = status.bytes / status.compared;
    assert!((1..=1024).contains(&of_one), "{of_one} bytes a comparison");
}
