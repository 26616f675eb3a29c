//! `kill -9` in a loop while producers publish and tails follow: no acknowledged record is lost, no offset changes, no
//! retried record is there twice.
//!
//! `MESHLOG_CRASH_ROUNDS` sets the number of rounds (50).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_net::client::{
    Client, ClientConfig, Producer, ProducerOptions, Record, Start, TailOptions,
};
use tokio::task::{JoinHandle, JoinSet};

use crate::mesh::{Mesh, PATIENCE, free_port, until};

const TOPICS: usize = 3;
const PRODUCERS: usize = 4;
/// Calls that each producer keeps in flight.
const LANES: usize = 4;
/// Acknowledgements that a round waits for before it may kill.
const ROUND_ACKS: usize = 150;

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

struct Load {
    known: [Mutex<Known>; TOPICS],
    stopping: AtomicBool,
}

fn topic(number: usize) -> String {
    format!("crash/{number}")
}

impl Load {
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

fn connect(runtime: &tokio::runtime::Runtime, mesh: &Mesh) -> Client {
    let mut config = ClientConfig::load(&mesh.path("mesh/client/client.toml")).unwrap();
    // A call that meets a crash must live until the node is back.
    config.timeout = PATIENCE;
    runtime.block_on(Client::connect(config)).unwrap()
}

#[test]
fn kill_nine_in_a_loop_under_load_loses_changes_and_repeats_nothing() {
    let rounds: u32 =
        std::env::var("MESHLOG_CRASH_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    let mut mesh = Mesh::with(&["--port", &free_port().to_string()]);
    mesh.serve();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let (client, other) = (connect(&runtime, &mesh), connect(&runtime, &mesh));
    for number in 0..TOPICS {
        mesh.ok(&["topic", "create", &topic(number)]);
    }
    let load = Arc::new(Load {
        known: Default::default(),
        stopping: AtomicBool::new(false),
    });
    let mut producers: JoinSet<u64> = JoinSet::new();
    for number in 0..PRODUCERS {
        // Two connections: a node must tell producers apart by their id, not by where they come from.
        let producer = [&client, &other][number % 2].producer(ProducerOptions::default());
        for lane in 0..LANES {
            let publish = load
                .clone()
                .publish(producer.clone(), format!("{number}-{lane}"));
            producers.spawn(publish);
        }
    }
    let tails: Vec<JoinHandle<()>> = (0..TOPICS)
        .map(|number| {
            tokio::spawn(
                load.clone()
                    .follow([&client, &other][number % 2].clone(), number),
            )
        })
        .collect();

    for round in 0..rounds {
        let before = load.acknowledged();
        assert!(
            until(|| load.acknowledged() >= before + ROUND_ACKS),
            "round {round}: the load stands still"
        );
        // Anywhere between two acknowledgements and in the middle of anything else.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 7_919 % 30_000));
        mesh.kill();
        mesh.serve();
        runtime.block_on(load.check(&client));
        assert!(
            tails.iter().all(|tail| !tail.is_finished()),
            "round {round}: a tail has ended"
        );
    }

    load.stopping.store(true, Ordering::Relaxed);
    let published: u64 = runtime.block_on(async {
        let mut published = 0;
        while let Some(lane) = producers.join_next().await {
            published += lane.unwrap();
        }
        published
    });
    assert_eq!(load.acknowledged() as u64, published);
    let stored = runtime.block_on(load.check(&client));
    assert_eq!(
        stored as u64, published,
        "what is stored is what was acknowledged, each record once"
    );
    tails.iter().for_each(JoinHandle::abort);
    assert!(mesh.stop().success());
}
