//! The tour's hard stop: `kill -9` while records are being published, and what is left.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_net::client::{
    Client, ClientConfig, ClientError, Producer, ProducerOptions, Record, Start, TailOptions,
};
use tokio::task::JoinSet;

use super::tour::Tour;
use crate::error::Failure;
use crate::layout::Layout;
use crate::process::NodeProcess;
use crate::units::grouped;

const TOPIC: &str = "orders";
/// Producers, and publishes that each keeps in flight.
const PRODUCERS: u64 = 4;
const IN_FLIGHT: u64 = 8;
/// Acknowledgements before the kill, and after the restart.
const BEFORE: u64 = 2_000;
const AFTER: u64 = 2_000;
/// Longest time the producers may take for either, the restart included.
const LOAD_MAX: Duration = Duration::from_secs(40);

pub(super) async fn survive(
    tour: &mut Tour<'_>,
    node: NodeProcess,
    input: &[u8],
) -> Result<NodeProcess, Failure> {
    tour.heading("kill -9, in the middle of publishing")?;
    let client = connect(tour).await?;
    let load = Load::start(&client);
    load.wait_for(BEFORE).await?;
    node.kill().await?;
    let (acknowledged, waiting) = (load.acknowledged(), load.waiting());
    tour.claim(
        acknowledged >= BEFORE && waiting > 0,
        &format!(
            "killed with {} records acknowledged and {waiting} calls waiting",
            grouped(acknowledged)
        ),
    )?;
    let began = Instant::now();
    let node = tour.serve("mesh/n1").await?;
    let took = began.elapsed().as_millis();
    load.wait_for(load.acknowledged() + AFTER).await?;
    tour.claim(
        true,
        &format!("it serves again after {took} ms, and the producers have gone on by themselves"),
    )?;
    let acknowledged = load.finish().await?;
    let stored = read(&client).await?;
    client.close().await;

    let kept = acknowledged
        .iter()
        .filter(|ack| stored.get(ack.offset as usize) == Some(&ack.value));
    tour.claim(
        kept.count() == acknowledged.len(),
        &format!(
            "each of {} acknowledged records is at the offset that was told",
            grouped(acknowledged.len() as u64)
        ),
    )?;
    let mut times: HashMap<&str, u64> = HashMap::new();
    stored
        .iter()
        .for_each(|value| *times.entry(value.as_str()).or_default() += 1);
    tour.claim(
        times.values().all(|times| *times == 1) && times.len() == acknowledged.len(),
        "each is there once: the calls that were waiting were retried, and no retry was appended twice",
    )?;
    let tailed = tour.meshctl(&["tail", "commits"]).await?;
    tour.claim(
        tailed.ok() && tailed.stdout == input,
        "and the older topic gives the same bytes as before",
    )?;
    Ok(node)
}

async fn connect(tour: &Tour<'_>) -> Result<Client, Failure> {
    let file = Layout::new(tour.dir().join("mesh"))
        .client()
        .join("client.toml");
    let mut config = ClientConfig::load(&file).map_err(|e| Failure::failed(e.to_string()))?;
    // A publish that meets the crash must live until the node is back.
    config.timeout = LOAD_MAX;
    Ok(Client::connect(config).await?)
}

/// What a producer was told about one record.
struct Ack {
    offset: u64,
    value: String,
}

/// Producers that publish until they are stopped.
struct Load {
    tasks: JoinSet<Result<Vec<Ack>, ClientError>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stopping: AtomicBool,
    started: AtomicU64,
    acknowledged: AtomicU64,
}

impl Load {
    fn start(client: &Client) -> Self {
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        for number in 0..PRODUCERS {
            let producer = client.producer(ProducerOptions::default());
            for lane in 0..IN_FLIGHT {
                tasks.spawn(publish(
                    producer.clone(),
                    format!("order {number}-{lane}"),
                    state.clone(),
                ));
            }
        }
        Self { tasks, state }
    }

    fn acknowledged(&self) -> u64 {
        self.state.acknowledged.load(Ordering::Relaxed)
    }

    /// Calls that have been made and not been answered.
    fn waiting(&self) -> u64 {
        let acknowledged = self.acknowledged();
        self.state
            .started
            .load(Ordering::Relaxed)
            .saturating_sub(acknowledged)
    }

    async fn wait_for(&self, acknowledged: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + LOAD_MAX;
        while self.acknowledged() < acknowledged {
            if Instant::now() > deadline {
                return Err(Failure::failed(format!(
                    "the producers had {} records acknowledged within {LOAD_MAX:?}, not {acknowledged}",
                    self.acknowledged()
                )));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Lets every call that was made be answered, and gives all acknowledgements.
    async fn finish(mut self) -> Result<Vec<Ack>, Failure> {
        self.state.stopping.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(task) = self.tasks.join_next().await {
            all.extend(task.map_err(|e| Failure::failed(format!("a producer ended early: {e}")))??);
        }
        Ok(all)
    }
}

async fn publish(
    producer: Producer,
    name: String,
    state: Arc<State>,
) -> Result<Vec<Ack>, ClientError> {
    let mut told = Vec::new();
    while !state.stopping.load(Ordering::Relaxed) {
        let value = format!("{name}-{}", told.len());
        let record = Record {
            value: value.clone().into(),
            ..Record::default()
        };
        state.started.fetch_add(1, Ordering::Relaxed);
        let published = producer.publish(TOPIC, record).await?;
        state.acknowledged.fetch_add(1, Ordering::Relaxed);
        told.push(Ack {
            offset: published.first,
            value,
        });
    }
    Ok(told)
}

/// Every record of the topic, in order. A gap in the offsets is an error.
async fn read(client: &Client) -> Result<Vec<String>, Failure> {
    let options = TailOptions {
        start: Start::First,
        follow: false,
        until: None,
    };
    let mut tail = client.tail(TOPIC, options);
    let mut stored = Vec::new();
    while let Some(batch) = tail.next().await? {
        for record in batch.records {
            if record.offset != stored.len() as u64 {
                return Err(Failure::failed(format!(
                    "offset {} where {} was due",
                    record.offset,
                    stored.len()
                )));
            }
            stored.push(String::from_utf8_lossy(&record.record.value).into_owned());
        }
    }
    Ok(stored)
}
