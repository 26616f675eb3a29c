//! How soon a record is with a reader at a node that does not lead.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_net::client::{
    Client, ProducerOptions, Record, Start, TailOptions, TailRecord, TopicConfig,
};
use mesh_ring::hash::partition_of;
use tokio::sync::mpsc;

use super::Run;
use crate::load::runtime;
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Samples, median, quantile};
use crate::work::RECORD_BYTES;
use crate::{Result, say};

/// Records of each round.
const RECORDS: u64 = 1_000;
/// The cluster is idle between two of them.
const PAUSE: Duration = Duration::from_millis(5);
/// Records that the reader may have told of before they are taken note of.
const DELIVERED_MAX: usize = 16;
/// Longest wait for a record.
const PATIENCE: Duration = Duration::from_secs(10);

const DELIVERED: &str = "meshctl, delivered to a follower's tail";
const ACKNOWLEDGED: &str = "meshctl, acknowledged to the publisher";
const FSYNC: &str = "one fsync of the same disk";

/// Milliseconds of each record of a round.
#[derive(Default)]
struct Times {
    delivered: Vec<f64>,
    acknowledged: Vec<f64>,
    fsync: Vec<f64>,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let dir = run.place.fresh();
    let mesh = Mesh::start(&dir, 3)?;
    let rounds = run.few_rounds();
    let mut times = Vec::new();
    for round in 0..rounds {
        let records = run.sized(RECORDS).max(50);
        let topic = format!("tailed/{round}");
        let round = runtime()?.block_on(measure(&mesh, &topic, records, run.place.path()))?;
        times.push(round);
    }
    drop(mesh);
    run.place.clear(&dir)?;

    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Three nodes and nothing else to do. Records of 1 KiB, one every {} ms or so, are published through the leader, and \
         read by a tail that a follower serves, from the call to publish until the tail gives the record out; both clients \
         are in one process. After each record 1 KiB is appended to a file on the same disk and synced (`fdatasync`): one \
         fsync. The bar is held against the median of these.",
        PAUSE.as_millis()
    ));
    let ratio = |times: &Times| {
        quantile(&times.delivered, 0.99) / (3.0 * quantile(&times.fsync, 0.5) + 1.0)
    };
    let (p99, fsync) = (
        median(times.iter().map(|t| quantile(&t.delivered, 0.99)).collect()),
        median(times.iter().map(|t| quantile(&t.fsync, 0.5)).collect()),
    );
    let measured = format!(
        "p99 {p99:.3} ms against {:.3} ms; one fsync {fsync:.3} ms",
        3.0 * fsync + 1.0
    );
    say(&format!("  follower's tail: {measured}"));
    findings.bar(
        "ring-tail",
        median(times.iter().map(ratio).collect()),
        measured,
    );
    for (title, part) in [
        ("idle cluster, one record, median", 0.5),
        ("idle cluster, one record, p99", 0.99),
    ] {
        let samples = |name: &str, of: fn(&Times) -> &Vec<f64>| Samples {
            name: name.to_owned(),
            values: times
                .iter()
                .map(|times| quantile(of(times), part))
                .collect(),
        };
        let samples = [
            samples(DELIVERED, |times| &times.delivered),
            samples(ACKNOWLEDGED, |times| &times.acknowledged),
            samples(FSYNC, |times| &times.fsync),
        ];
        let comparison = Comparison::new(title, "ms", false, FSYNC, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

async fn measure(mesh: &Mesh, topic: &str, records: u64, dir: &Path) -> Result<Times> {
    let client = Client::connect(mesh.client_config()?).await?;
    client
        .create_topic(topic, TopicConfig::default(), false)
        .await?;
    let reader = follower(mesh, &client, topic).await?;
    let mut tail = reader.tail(
        topic,
        TailOptions {
            start: Start::First,
            follow: true,
            until: None,
        },
    );
    let (sender, mut delivered) = mpsc::channel::<(TailRecord, Instant)>(DELIVERED_MAX);
    let reading = tokio::spawn(async move {
        while let Ok(Some(batch)) = tail.next().await {
            let now = Instant::now();
            for record in batch.records {
                if sender.send((record, now)).await.is_err() {
                    return;
                }
            }
        }
    });
    let (producer, payload) = (
        client.producer(ProducerOptions::default()),
        Payload::new(RECORD_BYTES),
    );
    let mut file = File::create(dir.join("one-fsync"))?;
    let mut times = Times::default();
    // The first ones find connections and routes.
    let warm_up = records / 10;
    for number in 0..warm_up + records {
        let record = Record {
            value: payload.value(number).to_vec().into(),
            ..Record::default()
        };
        let began = Instant::now();
        let published = producer.publish(topic, record).await?;
        let acknowledged = began.elapsed();
        let (record, at) = tokio::time::timeout(PATIENCE, delivered.recv())
            .await?
            .ok_or("the tail has ended")?;
        if record.offset != published.first {
            return Err("the tail gives out another record than was published".into());
        }
        let began_sync = Instant::now();
        file.write_all(payload.value(number))?;
        file.sync_data()?;
        let synced = began_sync.elapsed();
        if number >= warm_up {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            times.delivered.push(ms(at - began));
            times.acknowledged.push(ms(acknowledged));
            times.fsync.push(ms(synced));
        }
        tokio::time::sleep(PAUSE).await;
    }
    reading.abort();
    reader.close().await;
    client.close().await;
    Ok(times)
}

/// A client whose only contact holds the topic and does not lead it: its tails are served there.
async fn follower(mesh: &Mesh, client: &Client, topic: &str) -> Result<Client> {
    let view = client.cluster().await?;
    let partition = partition_of(topic.as_bytes(), u16::try_from(view.partitions.len())?);
    let held = &view.partitions[usize::from(partition.0)];
    let mut replicas = held.replicas.iter();
    let follower = replicas.find(|node| Some(**node) != held.leader);
    let follower = follower.and_then(|node| view.node(*node));
    let follower = follower.ok_or("the topic has no follower")?;
    let mut config = mesh.client_config()?;
    config.nodes = vec![follower.address.clone()];
    Ok(Client::connect(config).await?)
}
