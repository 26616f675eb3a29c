//! Producers that publish for as long as the tour wants, and remember what they were told.

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

/// The topic that they publish to.
pub(super) const TOPIC: &str = "orders";
/// Producers, and publishes that each keeps in flight.
const PRODUCERS: u64 = 4;
const IN_FLIGHT: u64 = 8;
/// Longest time the producers may take for what is waited for, a failover included.
const LOAD_MAX: Duration = Duration::from_secs(40);

pub(super) async fn connect(tour: &Tour<'_>) -> Result<Client, Failure> {
    let file = Layout::new(tour.dir().join("mesh"))
        .client()
        .join("client.toml");
    let mut config = ClientConfig::load(&file).map_err(|e| Failure::failed(e.to_string()))?;
    // A publish that meets the death of a leader must live until there is another.
    config.timeout = LOAD_MAX;
    Ok(Client::connect(config).await?)
}

/// What a producer was told about one record.
pub(super) struct Ack {
    pub(super) offset: u64,
    pub(super) value: String,
}

/// Producers that publish until they are stopped.
pub(super) struct Load {
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
    pub(super) fn start(client: &Client) -> Self {
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

    pub(super) fn acknowledged(&self) -> u64 {
        self.state.acknowledged.load(Ordering::Relaxed)
    }

    /// Calls that have been made and not been answered.
    pub(super) fn waiting(&self) -> u64 {
        let acknowledged = self.acknowledged();
        self.state
            .started
            .load(Ordering::Relaxed)
            .saturating_sub(acknowledged)
    }

    pub(super) async fn wait_for(&self, acknowledged: u64) -> Result<(), Failure> {
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
    pub(super) async fn finish(mut self) -> Result<Vec<Ack>, Failure> {
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
pub(super) async fn read(client: &Client) -> Result<Vec<String>, Failure> {
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
