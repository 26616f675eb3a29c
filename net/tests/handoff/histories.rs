//! Random histories of puts, deletes and values that expire, while nodes die and return, against what their writers know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_net::client::{Client, WriteOptions};
use tokio::task::JoinSet;

use crate::all_delivered;
use crate::cluster::Cluster;
use crate::support::Dice;
use crate::support::within;

const NODES: usize = 4;
const WRITERS: u64 = 4;
const KEYS_OF_EACH: u64 = 5;
/// Nodes that are killed and come back while the writers write.
const KILLS: u64 = 5;
const TTL: Duration = Duration::from_millis(400);

/// What a writer knows of a key of its own.
///
/// As long as every write was answered, each builds on the context of the one before. From the first on that was not, a
/// context may have to leave the writer's own write out (`Binding::context_after`): so the key is read before each
/// write, and what only stand-ins have of it may stay beside what comes later.
#[derive(Default)]
struct Known {
    /// `None`: deleted, or never written.
    acknowledged: Option<Value>,
    /// Of the last write that was acknowledged.
    context: Option<Bytes>,
    /// Writes of which no answer came, which may be there all the same. Whether there is one since the acknowledged one.
    uncertain: BTreeSet<String>,
    since: bool,
    is_unsure: bool,
    is_hinted: bool,
    /// What was done, for whoever reads why a test failed.
    done: Vec<String>,
}

struct Value {
    text: String,
    /// It may be gone from the first moment on, and must be from the second one on.
    expires: Option<(Instant, Instant)>,
}

impl Known {
    /// Whether this is what may be there of the key, by all that its only writer knows.
    fn allows(&self, asked: Instant, answered: Instant, values: &[String]) -> Result<(), String> {
        let text = self.acknowledged.as_ref().map(|value| &value.text);
        for value in values {
            if Some(value) != text && !self.uncertain.contains(value) {
                return Err(format!("{value} is back"));
            }
        }
        let expires = self.acknowledged.as_ref().and_then(|value| value.expires);
        let (may_be_gone, must_be_gone) = match expires {
            None => (false, false),
            Some((from, until)) => (answered >= from, asked > until),
        };
        match text {
            Some(text) if values.contains(text) && must_be_gone => {
                Err(format!("{text} has expired, and is there"))
            }
            Some(text) if !values.contains(text) && !self.since && !may_be_gone => {
                Err(format!("{text} was acknowledged, and is not there"))
            }
            _ => Ok(()),
        }
    }
}

struct Writer {
    number: u64,
    dice: Dice,
    keys: Vec<Known>,
    writes: u64,
    acknowledged: u64,
    promised_reads: u64,
}

impl Writer {
    fn key(&self, at: u64) -> String {
        format!("writer-{}/key-{at}", self.number)
    }

    async fn run(mut self, client: Client, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            let at = self.dice.below(KEYS_OF_EACH);
            let hinted = self.write(&client, at).await;
            if hinted == Some(false) {
                self.read_back(&client, at).await;
            }
        }
        self
    }

    /// Writes a key; whether a stand-in has it, if the write was acknowledged.
    async fn write(&mut self, client: &Client, at: u64) -> Option<bool> {
        self.writes += 1;
        let key = self.key(at);
        let text = format!("{}-{}", self.number, self.writes);
        let kind = self.dice.below(10);
        let known = &mut self.keys[at as usize];
        if known.is_unsure {
            let got = client.get(key.as_bytes(), None).await.ok()?;
            known.context = got.map(|got| got.context);
        }
        let ttl = (kind >= 8).then_some(TTL);
        let options = WriteOptions {
            ttl,
            write: None,
            context: known.context.clone(),
        };
        let began = Instant::now();
        let deletes = kind < 3;
        let answer = if deletes {
            client.delete(key.as_bytes(), options).await
        } else {
            let value = text.clone().into_bytes().into();
            client.put(key.as_bytes(), value, options).await
        };
        let word = if deletes { "delete" } else { "put" };
        known
            .done
            .push(format!("{word} {text} ttl {ttl:?}: {answer:?}"));
        let Ok(ack) = answer else {
            if !deletes {
                known.uncertain.insert(text);
            }
            (known.since, known.is_unsure) = (true, true);
            return None;
        };
        self.acknowledged += 1;
        if known.is_unsure && known.is_hinted {
            let before = known.acknowledged.take();
            known.uncertain.extend(before.map(|value| value.text));
        }
        known.is_hinted = !ack.hinted.is_empty();
        known.context = Some(ack.context);
        known.since = false;
        known.acknowledged = (!deletes).then(|| Value {
            text,
            // Clocks of nodes and of this test are one, and a node's clock has milliseconds.
            expires: ttl.map(|ttl| (began + ttl - Duration::from_millis(2), Instant::now() + ttl)),
        });
        Some(!ack.hinted.is_empty())
    }

    /// A read of a majority sees what a majority of homes has.
    async fn read_back(&mut self, client: &Client, at: u64) {
        let key = self.key(at);
        let asked = Instant::now();
        let Ok(got) = client.get(key.as_bytes(), None).await else {
            return;
        };
        self.promised_reads += 1;
        let values = got.map(|got| got.values).unwrap_or_default();
        let values: Vec<String> = values.iter().map(|value| text(&value.value)).collect();
        if let Err(cause) = self.keys[at as usize].allows(asked, Instant::now(), &values) {
            let done = &self.keys[at as usize].done;
            let last = done[done.len().saturating_sub(5)..].join("\n");
            panic!("{key}: {cause}: {values:?} after\n{last}");
        }
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_agree_with_what_their_writers_know() {
    let seed = std::env::var("MESHLOG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    println!("MESHLOG_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut cluster = Cluster::start(NODES).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer {
            number,
            dice: Dice::new(seed.wrapping_mul(31).wrapping_add(number)),
            keys: (0..KEYS_OF_EACH).map(|_| Known::default()).collect(),
            writes: 0,
            acknowledged: 0,
            promised_reads: 0,
        };
        let nodes: Vec<usize> = (0..NODES).collect();
        let client = cluster.hasty_client(&nodes).await;
        writers.spawn(writer.run(client, Arc::clone(&stop)));
    }
    for _ in 0..KILLS {
        let node = dice.below(NODES as u64) as usize;
        tokio::time::sleep(Duration::from_millis(200 + dice.below(400))).await;
        cluster.kill(node).await;
        tokio::time::sleep(Duration::from_millis(200 + dice.below(1_000))).await;
        cluster.restart(node).await;
        // Two of four at a time would leave keys without a majority of homes, and writers without answers.
        cluster.all_lead().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut ended = Vec::new();
    while let Some(writer) = within(writers.join_next()).await {
        ended.push(writer.unwrap());
    }
    all_delivered(&cluster).await;
    let client = cluster.any_client().await;
    cluster
        .eventually("every copy is compared", async || {
            let report = within(client.repair(None)).await.unwrap();
            report.silent.is_empty() && report.missed.is_empty()
        })
        .await;
    let (mut acknowledged, mut promised) = (0, 0);
    for writer in &ended {
        acknowledged += writer.acknowledged;
        promised += writer.promised_reads;
        for at in 0..KEYS_OF_EACH {
            let key = writer.key(at);
            for read in 1..=3 {
                let asked = Instant::now();
                let got = within(client.get(key.as_bytes(), Some(read)))
                    .await
                    .unwrap();
                let values = got.map(|got| got.values).unwrap_or_default();
                let values: Vec<String> = values.iter().map(|value| text(&value.value)).collect();
                if let Err(cause) = writer.keys[at as usize].allows(asked, Instant::now(), &values)
                {
                    panic!("{key}, read of {read}: {cause}: {values:?}");
                }
            }
        }
    }
    println!("{acknowledged} acknowledged writes, {promised} promised reads");
    assert!(acknowledged > 50, "{acknowledged}");
    assert!(promised > 10, "{promised}");
}
