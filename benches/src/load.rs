//! Records published without pause by this process, and a note of every acknowledgement: when it came, and for what.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_net::client::{
    Client, ClientConfig, ClientError, Producer, ProducerOptions, Record, Start, TailOptions,
    TopicConfig,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::Result;
use crate::payload::Payload;
use crate::work::RECORD_BYTES;

/// How long a publish may take: longer than any takeover, so that each is answered.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How hard the load is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Records of each topic that are in flight.
    pub in_flight: usize,
    /// How long each of them rests after its acknowledgement.
    pub pause: Duration,
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// When it came.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// Of which epoch.
    pub epoch: u64,
    offset: u64,
    /// What was published there: each number once.
    number: u64,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Of them, those that are not where they were acknowledged, or are there twice.
    pub lost: u64,
}

/// A load that is under way.
pub struct Load {
    runtime: Runtime,
    client: Client,
    shared: Arc<Shared>,
    lanes: JoinSet<()>,
}

struct Shared {
    topics: Vec<Topic>,
    payload: Payload,
    pace: Pace,
    next: AtomicU64,
    stopping: AtomicBool,
    failure: Mutex<Option<ClientError>>,
}

struct Topic {
    name: String,
    acks: Mutex<Vec<Ack>>,
}

/// A runtime for clients.
///
/// # Errors
/// The system's.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

impl Load {
    /// Makes the topics where they are missing, and begins to publish to all of them.
    ///
    /// # Errors
    /// The client's.
    pub fn start(mut config: ClientConfig, topics: &[String], pace: Pace) -> Result<Load> {
        config.timeout = TIMEOUT;
        let runtime = runtime()?;
        let client = runtime.block_on(Client::connect(config))?;
        for name in topics {
            let making = client.create_topic(name, TopicConfig::default(), true);
            runtime.block_on(making)?;
        }
        let topic = |name: &String| Topic {
            name: name.clone(),
            acks: Mutex::default(),
        };
        let shared = Arc::new(Shared {
            topics: topics.iter().map(topic).collect(),
            payload: Payload::new(RECORD_BYTES),
            pace,
            next: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let mut lanes = JoinSet::new();
        let entered = runtime.enter();
        let producer = client.producer(ProducerOptions::default());
        for lane in 0..pace.in_flight * topics.len() {
            lanes.spawn(Arc::clone(&shared).publish(producer.clone(), lane % topics.len()));
        }
        drop(entered);
        Ok(Load {
            runtime,
            client,
            shared,
            lanes,
        })
    }

    /// The client, and what runs it.
    #[must_use]
    pub fn client(&self) -> (&Runtime, &Client) {
        (&self.runtime, &self.client)
    }

    /// The epoch of the topic's last acknowledgement; 0 where there is none.
    #[must_use]
    pub fn epoch(&self, topic: usize) -> u64 {
        let acks = self.acks(topic);
        acks.last().map_or(0, |ack| ack.epoch)
    }

    /// When each acknowledgement of the topic came that came after `from`, and the last one before it.
    #[must_use]
    pub fn times_around(&self, topic: usize, from: Instant) -> Vec<Instant> {
        let acks = self.acks(topic);
        let first = acks.partition_point(|ack| ack.at < from);
        let around = &acks[first.saturating_sub(1)..];
        around.iter().map(|ack| ack.at).collect()
    }

    /// Milliseconds that acknowledgements took which came in this time, of all topics.
    #[must_use]
    pub fn latencies(&self, from: Instant, until: Instant) -> Vec<f64> {
        let mut all = Vec::new();
        for topic in 0..self.shared.topics.len() {
            let acks = self.acks(topic);
            let within = acks.iter().filter(|ack| (from..until).contains(&ack.at));
            all.extend(within.map(|ack| ack.took.as_secs_f64() * 1e3));
        }
        all
    }

    /// Waits for the topic's first acknowledgement after `since` of a later epoch; returns when it came.
    ///
    /// # Errors
    /// None comes for a minute; the load has failed.
    pub fn wait_for_epoch_after(
        &self,
        topic: usize,
        epoch: u64,
        since: Instant,
    ) -> Result<Instant> {
        let began = Instant::now();
        while began.elapsed() < TIMEOUT {
            self.check()?;
            {
                let acks = self.acks(topic);
                let new = &acks[acks.partition_point(|ack| ack.at < since)..];
                if let Some(first) = new.iter().find(|ack| ack.epoch > epoch) {
                    return Ok(first.at);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!("nothing of topic {topic} is acknowledged for {TIMEOUT:?}").into())
    }

    /// Whether all goes well.
    ///
    /// # Errors
    /// What a publish failed with.
    pub fn check(&self) -> Result<()> {
        match &*lock(&self.shared.failure) {
            None => Ok(()),
            Some(error) => Err(format!("the load: {error}").into()),
        }
    }

    fn acks(&self, topic: usize) -> MutexGuard<'_, Vec<Ack>> {
        lock(&self.shared.topics[topic].acks)
    }

    /// Lets every call end, and reads every topic to its end: what was acknowledged must be where it was, once.
    ///
    /// # Errors
    /// A publish or the reader failed.
    pub fn finish(mut self) -> Result<Outcome> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.runtime.block_on(async {
            while let Some(lane) = self.lanes.join_next().await {
                lane?;
            }
            Ok::<_, crate::Error>(())
        })?;
        self.check()?;
        let mut outcome = Outcome::default();
        for topic in &self.shared.topics {
            let stored = self.runtime.block_on(read(&self.client, &topic.name))?;
            let acks = lock(&topic.acks);
            outcome.acknowledged += acks.len() as u64;
            outcome.lost += lost(&stored, &acks);
        }
        self.runtime.block_on(self.client.close());
        Ok(outcome)
    }
}

impl Shared {
    async fn publish(self: Arc<Self>, producer: Producer, topic: usize) {
        let topic = &self.topics[topic];
        while !self.stopping.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let mut value = self.payload.value(number).to_vec();
            value[..8].copy_from_slice(&number.to_be_bytes());
            let record = Record {
                value: value.into(),
                ..Record::default()
            };
            let began = Instant::now();
            let published = match producer.publish(&topic.name, record).await {
                Ok(published) => published,
                Err(error) => {
                    lock(&self.failure).get_or_insert(error);
                    return;
                }
            };
            {
                // Timed under the lock, so that the notes are in the order of their times.
                let mut acks = lock(&topic.acks);
                let at = Instant::now();
                acks.push(Ack {
                    at,
                    took: at - began,
                    epoch: published.epoch,
                    offset: published.first,
                    number,
                });
            }
            tokio::time::sleep(self.pace.pause).await;
        }
    }
}

/// The number at each offset.
async fn read(client: &Client, topic: &str) -> Result<Vec<u64>> {
    let options = TailOptions {
        start: Start::First,
        follow: false,
        until: None,
    };
    let (mut tail, mut numbers) = (client.tail(topic, options), Vec::new());
    while let Some(batch) = tail.next().await? {
        for record in batch.records {
            let number = record.record.value.first_chunk::<8>();
            let number = number.ok_or("a record is shorter than any that was published")?;
            if record.offset != numbers.len() as u64 {
                return Err(format!("{topic} skips to offset {}", record.offset).into());
            }
            numbers.push(u64::from_be_bytes(*number));
        }
    }
    Ok(numbers)
}

/// Acknowledged records that are not where they were acknowledged, and stored ones that are there again.
fn lost(stored: &[u64], acks: &[Ack]) -> u64 {
    let is_there = |ack: &&Ack| stored.get(ack.offset as usize) == Some(&ack.number);
    let missing = acks.len() - acks.iter().filter(is_there).count();
    let different: HashSet<&u64> = stored.iter().collect();
    (missing + stored.len() - different.len()) as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_there_twice_is_counted() {
        let ack = |offset, number| Ack {
            at: Instant::now(),
            took: Duration::ZERO,
            epoch: 1,
            offset,
            number,
        };
        let acks = [ack(0, 7), ack(1, 8)];
        assert_eq!(lost(&[7, 8, 9], &acks), 0);
        assert_eq!(lost(&[7], &acks), 1);
        assert_eq!(lost(&[8, 7], &acks), 2);
        assert_eq!(lost(&[7, 8, 8], &acks), 1);
    }
}
