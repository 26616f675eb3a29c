//! Producers and tails that go on across every crash, and remember everything that they were ever told.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mesh_net::client::{
    Client, ClientConfig, Producer, ProducerOptions, Record, Start, TailOptions,
};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

use crate::mesh::PATIENCE;

pub(crate) const TOPICS: usize = 3;
const PRODUCERS: usize = 4;
/// Calls that each producer keeps in flight.
const LANES: usize = 4;

/// What is known about a topic: the value at each offset, as whoever saw it first was told.
#[derive(Default)]
struct Known {
    values: Vec<Option<String>>,
    /// Offsets that a producer was told.
    acknowledged: Vec<u64>,
    contradictions: Vec<String>,
}

impl Known {
    fn note(&mut self, offset: u64, value: &str, by: &str) {
        let index = usize::try_from(offset).unwrap();
        if self.values.len() <= index {
            self.values.resize(index + 1, None);
        }
        match &self.values[index] {
            None => self.values[index] = Some(value.to_owned()),
            Some(held) if held == value => {}
            Some(held) => self
                .contradictions
                .push(format!("offset {offset}: {held}, but {by} saw {value}")),
        }
    }
}

struct Shared {
    known: [Mutex<Known>; TOPICS],
    stopping: AtomicBool,
}

pub(crate) fn topic(number: usize) -> String {
    format!("crash/{number}")
}

impl Shared {
    fn acknowledged(&self) -> usize {
        self.known
            .iter()
            .map(|known| known.lock().unwrap().acknowledged.len())
            .sum()
    }

    /// Publishes values that nobody else publishes, one after the other, until it is told to stop.
    async fn publish(self: Arc<Self>, producer: Producer, name: String) -> u64 {
        let mut number = 0;
        while !self.stopping.load(Ordering::Relaxed) {
            let value = format!("{name}-{number}");
            let target = number as usize % TOPICS;
            let record = Record {
                value: value.clone().into(),
                ..Record::default()
            };
            let published = producer.publish(&topic(target), record).await.unwrap();
            let mut known = self.known[target].lock().unwrap();
            known.note(published.first, &value, "its producer");
            known.acknowledged.push(published.first);
            number += 1;
        }
        number
    }

    /// Follows a topic across every crash: offsets come one by one, and what they hold never changes.
    async fn follow(self: Arc<Self>, client: Client, number: usize) {
        let options = TailOptions {
            start: Start::First,
            follow: true,
            until: None,
        };
        let mut tail = client.tail(&topic(number), options);
        let mut next = 0;
        while let Some(batch) = tail.next().await.unwrap() {
            let mut known = self.known[number].lock().unwrap();
            for record in batch.records {
                assert_eq!(
                    record.offset,
                    next,
                    "a tail of {} skipped or repeated",
                    topic(number)
                );
                let value = String::from_utf8(record.record.value.to_vec()).unwrap();
                known.note(record.offset, &value, "a tail");
                next += 1;
            }
        }
    }

    /// Reads every topic whole, and compares it with everything that was ever seen of it.
    async fn check(&self, client: &Client) -> usize {
        let mut records = 0;
        for (number, known) in self.known.iter().enumerate() {
            let acknowledged: Vec<u64> = known.lock().unwrap().acknowledged.clone();
            let stored = read(client, &topic(number)).await;
            for offset in acknowledged {
                assert!(
                    (offset as usize) < stored.len(),
                    "offset {offset} of {} is lost",
                    topic(number)
                );
            }
            let mut known = known.lock().unwrap();
            for (offset, value) in stored.iter().enumerate() {
                known.note(offset as u64, value, "a reader");
            }
            assert_eq!(known.contradictions, Vec::<String>::new());
            let different: HashSet<&String> = stored.iter().collect();
            assert_eq!(
                different.len(),
                stored.len(),
                "a record of {} is there twice",
                topic(number)
            );
            records += stored.len();
        }
        records
    }
}

async fn read(client: &Client, topic: &str) -> Vec<String> {
    let options = TailOptions {
        start: Start::First,
        follow: false,
        until: None,
    };
    let mut tail = client.tail(topic, options);
    let mut values = Vec::new();
    while let Some(batch) = tail.next().await.unwrap() {
        for record in batch.records {
            assert_eq!(
                record.offset,
                values.len() as u64,
                "offsets of {topic} are not dense"
            );
            values.push(String::from_utf8(record.record.value.to_vec()).unwrap());
        }
    }
    values
}

fn connect(runtime: &Runtime, config: &Path) -> Client {
    let mut config = ClientConfig::load(config).unwrap();
    // A call that meets a crash must live until there is a node again.
    config.timeout = PATIENCE;
    runtime.block_on(Client::connect(config)).unwrap()
}

/// A load under way.
pub(crate) struct Load {
    runtime: Runtime,
    client: Client,
    shared: Arc<Shared>,
    producers: JoinSet<u64>,
    tails: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to publish to topics that are there, and to follow them, with the identity of this `client.toml`.
    pub(crate) fn start(config: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let clients = [connect(&runtime, config), connect(&runtime, config)];
        let shared = Arc::new(Shared {
            known: Default::default(),
            stopping: AtomicBool::new(false),
        });
        let (mut producers, mut tails) = (JoinSet::new(), Vec::new());
        let entered = runtime.enter();
        for number in 0..PRODUCERS {
            // Two connections: a node must tell producers apart by their id, not by where they come from.
            let producer = clients[number % 2].producer(ProducerOptions::default());
            for lane in 0..LANES {
                let name = format!("{number}-{lane}");
                producers.spawn(shared.clone().publish(producer.clone(), name));
            }
        }
        for number in 0..TOPICS {
            let client = clients[number % 2].clone();
            tails.push(tokio::spawn(shared.clone().follow(client, number)));
        }
        drop(entered);
        let [client, _] = clients;
        Self {
            runtime,
            client,
            shared,
            producers,
            tails,
        }
    }

    /// Publishes that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.acknowledged()
    }

    /// Reads all topics whole: everything ever told must be there, and no tail may have ended.
    pub(crate) fn check(&self) {
        self.runtime.block_on(self.shared.check(&self.client));
        assert!(
            self.tails.iter().all(|tail| !tail.is_finished()),
            "a tail has ended"
        );
    }

    /// Lets every call that was made be answered, and reads everything once more.
    pub(crate) fn finish(mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let published: u64 = self.runtime.block_on(async {
            let mut published = 0;
            while let Some(lane) = self.producers.join_next().await {
                published += lane.unwrap();
            }
            published
        });
        assert_eq!(self.shared.acknowledged() as u64, published);
        let stored = self.runtime.block_on(self.shared.check(&self.client));
        assert_eq!(
            stored as u64, published,
            "what is stored is what was acknowledged, each record once"
        );
        self.tails.iter().for_each(JoinHandle::abort);
    }
}
