//! A fourth node that joins three with much stored, while records are appended.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use mesh_net::client::{
    Client, ClusterView, NodeState, ProducerOptions, Record, TopicConfig, TransferStatus,
};
use mesh_ring::hash::partition_of;
use mesh_ring::ids::{NodeId, PartitionId};
use tokio::task::JoinSet;

use super::Run;
use crate::load::{Load, Pace, runtime};
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Samples, quantile};
use crate::work::RECORD_BYTES;
use crate::{Result, say};

/// Bytes of values on each of three nodes.
const STORED: u64 = 2 << 30;
const PARTITIONS: u16 = 64;
/// Every partition has as many, so that each has the same share.
const TOPICS_OF_PARTITION: usize = 4;
const COPIES: u64 = 3;

/// Topics that are filled at the same time.
const WRITERS: usize = 8;
const BATCH: u64 = 256;

/// Some 700 records a second.
const PACE: Pace = Pace {
    in_flight: 1,
    pause: Duration::from_millis(20),
};
const LOAD_TOPICS: usize = 16;
/// How long the load is watched before the node joins.
const BEFORE: Duration = Duration::from_secs(20);

/// How often the new node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For so long nothing may be left to move.
const SETTLED: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let stored = run.sized(STORED);
    // Four nodes' worth, and half as much again while it is compacted.
    run.place.need(stored * 6)?;
    let dir = run.place.fresh();
    let mut mesh = Mesh::start(&dir, 3)?;
    runtime()?.block_on(fill(&mesh, stored))?;
    run.place.settle()?;

    let topics: Vec<String> = (0..LOAD_TOPICS)
        .map(|number| format!("load/{number}"))
        .collect();
    let load = Load::start(mesh.client_config()?, &topics, PACE)?;
    std::thread::sleep(Duration::from_secs(3));
    let before = Instant::now();
    std::thread::sleep(if run.is_quick() { BEFORE / 10 } else { BEFORE });

    let joined = Instant::now();
    let loopback = loopback_bytes();
    let moved = join(&mut mesh, &load)?;
    let done = Instant::now();
    let loopback = loopback_bytes()
        .zip(loopback)
        .map(|(after, before)| after - before);
    let latencies = (load.latencies(before, joined), load.latencies(joined, done));
    let appended = latencies.0.len() as u64;
    let outcome = load.finish()?;
    if outcome.lost > 0 {
        return Err(format!("{} acknowledged records are lost", outcome.lost).into());
    }
    drop(mesh);
    run.place.clear(&dir)?;

    let held = stored + appended * RECORD_BYTES as u64;
    let report = Report {
        moved,
        // What four nodes must at least give the fourth, so that none has more than any other.
        least_copies: u64::from(PARTITIONS) * COPIES / 4,
        copy: held / u64::from(PARTITIONS),
        took: done - joined,
        loopback,
        stored,
    };
    findings(&report, &latencies.0, &latencies.1, run.is_quick())
}

/// What the move came to.
struct Report {
    moved: Moved,
    least_copies: u64,
    /// Bytes of values in a copy.
    copy: u64,
    took: Duration,
    loopback: Option<u64>,
    stored: u64,
}

fn findings(report: &Report, before: &[f64], during: &[f64], quick: bool) -> Result<Findings> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    if !quick && report.moved.bytes < report.moved.copies * report.copy / 2 {
        return Err(
            "the transfers were over before they were looked at: nothing is known of their bytes"
                .into(),
        );
    }
    let (moved, least) = (report.moved.bytes, report.least_copies * report.copy);
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "{:.2} GiB of 1 KiB records in {} topics, evenly over {PARTITIONS} partitions, on three nodes; the fourth gets {} \
         copies, the fewest that balance are {}. Sources send at most 64 MiB/s each, as by default: it took {:.0} s. The \
         fewest bytes are those of the values alone; each copy is counted as the largest that was seen under way, and \
         attempts that were broken off are counted too. Over the loopback went {} MiB in that time, with the load, its \
         replication and every header.",
        report.stored as f64 / f64::from(1 << 30),
        usize::from(PARTITIONS) * TOPICS_OF_PARTITION,
        report.moved.copies,
        report.least_copies,
        report.took.as_secs_f64(),
        report.loopback.map_or("?".to_owned(), |bytes| format!("{:.0}", mib(bytes))),
    ));
    let measured = format!(
        "{} copies, {:.0} MiB, against {} with {:.0} MiB of values",
        report.moved.copies,
        mib(moved),
        report.least_copies,
        mib(least)
    );
    say(&format!(
        "  join: {measured} in {:.1} s",
        report.took.as_secs_f64()
    ));
    findings.bar("join-bytes", moved as f64 / least as f64, measured);
    let p99 = [before, during].map(|latencies| quantile(latencies, 0.99));
    let measured = format!("p99 {:.2} against {:.2} ms", p99[1], p99[0]);
    say(&format!("  append meanwhile: {measured}"));
    findings.bar("join-latency", p99[1] / p99[0], measured);
    for (title, part) in [("append, median", 0.5), ("append, p99", 0.99)] {
        let samples = [
            ("meshctl, before the node joins", before),
            ("meshctl, while it is filled", during),
        ]
        .map(|(name, latencies)| Samples {
            name: name.to_owned(),
            values: vec![quantile(latencies, part)],
        });
        let baseline = samples[0].name.clone();
        let comparison = Comparison::new(title, "ms", false, &baseline, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

/// Stores as much in every partition.
async fn fill(mesh: &Mesh, stored: u64) -> Result<()> {
    let client = Client::connect(mesh.client_config()?).await?;
    let names = names();
    let records = stored / names.len() as u64 / RECORD_BYTES as u64;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let own = names.iter().skip(writer).step_by(WRITERS).cloned();
        writers.spawn(write(client.clone(), own.collect(), records));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    client.close().await;
    Ok(())
}

async fn write(client: Client, topics: Vec<String>, records: u64) -> Result<()> {
    let (producer, payload) = (
        client.producer(ProducerOptions::default()),
        Payload::new(RECORD_BYTES),
    );
    for topic in topics {
        client
            .create_topic(&topic, TopicConfig::default(), true)
            .await?;
        for first in (0..records).step_by(BATCH as usize) {
            let values = payload.values(first, BATCH.min(records - first) as usize);
            let record = |value: &&[u8]| Record {
                value: value.to_vec().into(),
                ..Record::default()
            };
            let batch = values.iter().map(record).collect();
            producer.publish_batch(&topic, batch, None).await?;
        }
    }
    Ok(())
}

/// Names of topics, as many in every partition.
fn names() -> Vec<String> {
    let mut left = vec![TOPICS_OF_PARTITION; usize::from(PARTITIONS)];
    let mut names = Vec::new();
    for number in 0.. {
        let name = format!("stored/{number}");
        let partition = partition_of(name.as_bytes(), PARTITIONS);
        let left = &mut left[usize::from(partition.0)];
        if *left > 0 {
            *left -= 1;
            names.push(name);
        }
        if names.len() == usize::from(PARTITIONS) * TOPICS_OF_PARTITION {
            break;
        }
    }
    names
}

/// What went to other nodes.
#[derive(Clone, Copy)]
struct Moved {
    copies: u64,
    bytes: u64,
}

/// Lets a fourth node in, and waits until it holds its share.
fn join(mesh: &mut Mesh, load: &Load) -> Result<Moved> {
    let (runtime, client) = load.client();
    let before = runtime.block_on(client.cluster())?;
    let folder = mesh.folder("n4");
    let folder = folder.to_str().ok_or("the folder's name is not UTF-8")?;
    mesh.json(&["node", "new", folder, "--port", "0"])?;
    mesh.json(&["node", "join", folder, "--no-wait"])?;
    mesh.serve("n4")?;
    let view = runtime.block_on(client.cluster())?;
    let node = view.named("n4").ok_or("the map does not know n4")?;
    let (id, mut config) = (node.id, mesh.client_config()?);
    config.nodes = vec![node.address.clone()];
    let newcomer = runtime.block_on(Client::connect(config))?;
    let mut seen = Seen::default();
    let (began, mut settled) = (Instant::now(), None);
    let after = loop {
        load.check()?;
        let status = runtime.block_on(newcomer.node_status())?;
        let to_it = status.transfers.iter().filter(|transfer| transfer.to == id);
        to_it.for_each(|transfer| seen.note(transfer));
        let view = runtime.block_on(client.cluster())?;
        if is_done(&view, id) {
            let since = *settled.get_or_insert_with(Instant::now);
            if since.elapsed() >= SETTLED {
                break view;
            }
        } else {
            settled = None;
        }
        if began.elapsed() > PATIENCE {
            return Err("n4 does not get its share".into());
        }
        std::thread::sleep(LOOK_EVERY);
    };
    runtime.block_on(newcomer.close());
    let copies = new_copies(&before, &after);
    Ok(Moved {
        copies,
        bytes: copies * seen.largest + seen.broken_off,
    })
}

fn is_done(view: &ClusterView, node: NodeId) -> bool {
    let up = view
        .node(node)
        .is_some_and(|node| node.state == NodeState::Up);
    let mut partitions = view.partitions.iter();
    let holds = partitions.any(|partition| partition.replicas.contains(&node));
    up && holds
        && view
            .partitions
            .iter()
            .all(|partition| partition.target.is_none())
}

/// Copies that are where none was before, on whichever node.
fn new_copies(before: &ClusterView, after: &ClusterView) -> u64 {
    let pairs = before.partitions.iter().zip(&after.partitions);
    let new = pairs.map(|(before, after)| {
        let holders = after.replicas.iter();
        holders
            .filter(|node| !before.replicas.contains(node))
            .count() as u64
    });
    new.sum()
}

/// What was seen of the transfers under way.
#[derive(Default)]
struct Seen {
    /// The most that any came to.
    largest: u64,
    /// What attempts had brought that began anew.
    broken_off: u64,
    last: BTreeMap<PartitionId, u64>,
}

impl Seen {
    fn note(&mut self, transfer: &TransferStatus) {
        let last = self.last.insert(transfer.partition, transfer.bytes_done);
        self.broken_off += last.filter(|last| *last > transfer.bytes_done).unwrap_or(0);
        self.largest = self.largest.max(transfer.bytes_done);
    }
}

/// Bytes that the loopback has carried so far.
fn loopback_bytes() -> Option<u64> {
    let bytes = fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes").ok()?;
    bytes.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_as_many_topics() {
        let mut topics = BTreeMap::new();
        for name in names() {
            *topics
                .entry(partition_of(name.as_bytes(), PARTITIONS))
                .or_insert(0) += 1;
        }
        assert_eq!(topics.len(), usize::from(PARTITIONS));
        assert!(topics.values().all(|count| *count == TOPICS_OF_PARTITION));
    }

    #[test]
    fn attempts_that_begin_anew_are_counted() {
        let mut seen = Seen::default();
        for bytes_done in [10, 40, 5, 50] {
            seen.note(&TransferStatus {
                partition: PartitionId(1),
                from: NodeId([1; 16]),
                to: NodeId([2; 16]),
                bytes_done,
                bytes_total: 50,
                bytes_per_second: 0,
                state: "copying".to_owned(),
            });
        }
        assert_eq!((seen.largest, seen.broken_off), (50, 40));
    }
}
