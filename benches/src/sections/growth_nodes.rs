//! The same work on few nodes and on very many: publishes, reads, point lookups, a restart, memory.

use std::path::Path;
use std::time::{Duration, Instant};

use mesh_net::client::{
    Client, Producer, ProducerOptions, Record, Start, TailOptions, TopicConfig,
};

use super::Run;
use crate::askers::{Asker, LOOK_EVERY, connect, introduce, key, missing, put_all, until_whole};
use crate::children::setting;
use crate::fleet::Fleet;
use crate::growth::{Growth, conclude};
use crate::load::runtime;
use crate::outcome::Findings;
use crate::payload::{Payload, mix};
use crate::process::resident_bytes;
use crate::rounds::{Samples, median};
use crate::work::RECORD_BYTES;
use crate::{Result, say};

const NODES: &str = "3,10,100";
const PARTITIONS: u16 = 256;
/// What they do by themselves in the beginning is over by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a node is back: finely, because that is measured.
const LOOK_FOR_NODE_EVERY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(60);

const TOPICS: u64 = 64;
const KEYS: u64 = 500;
/// Records published, and bindings looked up, in a round, one after the other.
const OPERATIONS: u64 = 1000;
/// Records of the topic that is read.
const READ: u64 = 10_000;

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let mut growths = [
        Growth::new("publish, one in flight", "ms", false),
        Growth::new("read of a topic", "records/s", true),
        Growth::new("point lookup at R=1", "ms", false),
        Growth::new("restart of a node", "ms", false),
        Growth::new("memory of a node", "MiB", false),
    ];
    let mut measured: Vec<Vec<Samples>> = vec![Vec::new(); growths.len()];
    for nodes in nodes(run)? {
        let dir = run.place.fresh();
        for (all, samples) in measured.iter_mut().zip(measure(run, nodes, &dir)?) {
            all.push(samples);
        }
        run.place.clear(&dir)?;
    }
    for (growth, samples) in growths.iter_mut().zip(measured) {
        growth.add(samples);
    }
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Nodes with small caches in one process, {PARTITIONS} partitions in all, three copies of each; a client in another process. \
         {OPERATIONS} records of 1 KiB are published to {TOPICS} topics and as many bindings looked up at nodes chosen at random, \
         one after the other: the median. A read goes through {READ} records. A node is restarted as by SIGTERM, and is back when \
         it says itself that all nodes are up and all partitions led. Clusters are measured one after the other, in three rounds \
         each. All nodes share the two cores: what they do when idle is in the figures, and with 100 nodes it is most of a core."
    ));
    conclude(&mut findings, "growth-nodes", &growths)?;
    Ok(findings)
}

fn nodes(run: &Run<'_>) -> Result<Vec<usize>> {
    let default = if run.is_quick() { "3,5" } else { NODES };
    let asked: String = setting("MESHLOG_BENCH_GROWTH_NODES", default.to_owned())?;
    let nodes = asked.split(',').map(|nodes| nodes.trim().parse::<usize>());
    let nodes: Vec<usize> = nodes.collect::<std::result::Result<_, _>>()?;
    if nodes.len() < 2 || nodes[0] < 3 || !nodes.is_sorted_by(|a, b| a < b) {
        let wanted = "two or more ascending numbers from 3 on, as in 3,10,100";
        return Err(format!("MESHLOG_BENCH_GROWTH_NODES={asked} is not {wanted}").into());
    }
    Ok(nodes)
}

/// The samples of each kind of work.
fn measure(run: &Run<'_>, nodes: usize, dir: &Path) -> Result<[Samples; 5]> {
    say(&format!("  starting {nodes} nodes"));
    let began = Instant::now();
    let runtime = runtime()?;
    let mut fleet = Fleet::start(dir, nodes, PARTITIONS)?;
    let askers = runtime.block_on(connect(&fleet, began))?;
    runtime.block_on(until_whole(&askers, began))?;
    std::thread::sleep(if run.is_quick() {
        LOOK_EVERY
    } else {
        SETTLES_WITHIN
    });
    let operations = run.sized(OPERATIONS).max(50);
    let work = runtime.block_on(Work::prepare(run, &askers))?;
    let mut samples = ["publish", "read", "lookup", "restart", "memory"].map(|_| Samples {
        name: format!("Meshlog, {nodes} nodes"),
        values: Vec::new(),
    });
    for round in 0..run.few_rounds() {
        let seed = round as u64;
        let mut values = vec![
            runtime.block_on(work.publish(operations, seed))?,
            runtime.block_on(work.read())?,
            runtime.block_on(look_up(&askers, operations, seed))?,
        ];
        // Not the first one: its client is the one that works.
        let number = 1 + round % (nodes - 1);
        let restarted = fleet.restart(number)?;
        values.push(runtime.block_on(until_back(&askers, number, restarted))?);
        values.push(resident_bytes(fleet.id())? as f64 / f64::from(1 << 20) / nodes as f64);
        for (samples, value) in samples.iter_mut().zip(values) {
            samples.values.push(value);
        }
    }
    Ok(samples)
}

/// Topics to publish to, and one that is full.
struct Work {
    client: Client,
    producer: Producer,
    payload: Payload,
    topics: Vec<String>,
    read: u64,
}

impl Work {
    async fn prepare(run: &Run<'_>, askers: &[Asker]) -> Result<Work> {
        let client = askers.first().ok_or("there is no node")?.0.clone();
        let topics: Vec<String> = (0..TOPICS).map(|number| format!("t{number}")).collect();
        for topic in &topics {
            client
                .create_topic(topic, TopicConfig::default(), true)
                .await?;
        }
        let work = Work {
            producer: client.producer(ProducerOptions::default()),
            client,
            payload: Payload::new(RECORD_BYTES),
            topics,
            read: run.sized(READ),
        };
        let mut under_way = tokio::task::JoinSet::new();
        for number in 0..work.read {
            let (producer, record) = (work.producer.clone(), work.record(number));
            under_way.spawn(async move { producer.publish("read", record).await });
            if under_way.len() >= 256
                && let Some(published) = under_way.join_next().await
            {
                published??;
            }
        }
        while let Some(published) = under_way.join_next().await {
            published??;
        }
        put_all(askers, KEYS).await?;
        introduce(askers, KEYS, PARTITIONS).await?;
        // Every leader has been met after this.
        for number in 0..TOPICS {
            work.publish_one(number).await?;
        }
        Ok(work)
    }

    fn record(&self, number: u64) -> Record {
        Record {
            value: self.payload.value(number).to_vec().into(),
            ..Record::default()
        }
    }

    async fn publish_one(&self, number: u64) -> Result<()> {
        let topic = &self.topics[(number % TOPICS) as usize];
        self.producer.publish(topic, self.record(number)).await?;
        Ok(())
    }

    /// The median of so many publishes, in milliseconds.
    async fn publish(&self, operations: u64, seed: u64) -> Result<f64> {
        let (mut took, mut random) = (Vec::new(), seed);
        for _ in 0..operations {
            let began = Instant::now();
            self.publish_one(mix(&mut random)).await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(took))
    }

    /// Records a second.
    async fn read(&self) -> Result<f64> {
        let options = TailOptions {
            start: Start::First,
            follow: false,
            until: None,
        };
        let (began, mut records) = (Instant::now(), 0);
        let mut tail = self.client.tail("read", options);
        while let Some(batch) = tail.next().await? {
            records += batch.records.len() as u64;
        }
        if records == self.read {
            Ok(records as f64 / began.elapsed().as_secs_f64())
        } else {
            Err(format!("{records} of {} records were read", self.read).into())
        }
    }
}

/// The median of so many reads of a binding, in milliseconds.
async fn look_up(askers: &[Asker], operations: u64, seed: u64) -> Result<f64> {
    let (mut took, mut random) = (Vec::new(), seed);
    for _ in 0..operations {
        let (client, _) = &askers[mix(&mut random) as usize % askers.len()];
        let key = key(mix(&mut random) % KEYS);
        let began = Instant::now();
        client.get(key.as_bytes(), Some(1)).await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(took))
}

/// Milliseconds since `began` until the node says that all nodes are up and all partitions led.
async fn until_back(askers: &[Asker], number: usize, began: Instant) -> Result<f64> {
    let back = &askers[number..=number];
    let took = loop {
        if let Ok(view) = back[0].0.cluster().await
            && missing(&view, askers.len()).is_none()
        {
            break began.elapsed();
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("node {number} is not back after {PATIENCE:?}").into());
        }
        tokio::time::sleep(LOOK_FOR_NODE_EVERY).await;
    };
    // The others have heard of it before the next round begins.
    until_whole(askers, Instant::now()).await?;
    Ok(took.as_secs_f64() * 1e3)
}
