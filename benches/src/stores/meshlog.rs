//! Meshlog's engine as a library, the way a node uses it.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mesh_engine::batch::{BatchBuilder, Compression, records};
use mesh_engine::{Append, BindingWrite, Identity, Options, Solo, TopicConfig, prepare};
use mesh_ring::ids::{ClusterId, NodeId, TopicKey};
use mesh_ring::name::{BindingKey, TopicName};

use super::{READ_BYTES, Store, Visit};
use crate::Result;

/// An open engine and its topics.
pub struct Meshlog {
    engine: Solo,
    topics: Vec<TopicKey>,
}

impl Meshlog {
    /// Makes a store in `dir` with `topics` topics. A folder that is there already was prepared by `meshctl init`.
    ///
    /// # Errors
    /// What the engine says.
    pub fn create(dir: &Path, topics: usize) -> Result<Meshlog> {
        Meshlog::create_with(dir, topics, Options::default())
    }

    /// The same, opened with these options.
    ///
    /// # Errors
    /// What the engine says.
    pub fn create_with(dir: &Path, topics: usize, options: Options) -> Result<Meshlog> {
        if !dir.exists() {
            let identity = Identity {
                cluster: ClusterId([1; 16]),
                node: NodeId([2; 16]),
                name: "n1".into(),
                partitions: 64,
            };
            prepare(dir, &identity)?;
        }
        let engine = Solo::open(dir, options)?;
        Ok(Meshlog {
            topics: create_topics(&engine, topics)?,
            engine,
        })
    }

    /// Opens a store in `dir` that has `topics` topics.
    ///
    /// # Errors
    /// What the engine says; a topic is missing.
    pub fn open(dir: &Path, topics: usize) -> Result<Meshlog> {
        let engine = Solo::open(dir, Options::default())?;
        let found = (0..topics).map(|number| {
            let topic = engine.topic(&topic_name(number)?)?;
            Ok(topic.ok_or("a topic is missing")?.key)
        });
        Ok(Meshlog {
            topics: found.collect::<Result<_>>()?,
            engine,
        })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Solo {
        &self.engine
    }

    /// Reads and decodes the records of a topic from offset `from` up to `until`.
    ///
    /// # Errors
    /// What the engine says; a record is missing.
    pub fn read_range(&self, topic: usize, from: u64, until: u64) -> Result<()> {
        let (mut next, mut bytes) = (from, 0);
        while next < until {
            let batches = self.engine.read(self.topics[topic], next, READ_BYTES)?;
            if batches.is_empty() {
                return Err(format!("there is no record {next}, of {until}").into());
            }
            for batch in &batches {
                for record in records(batch)? {
                    let (offset, record) = record?;
                    bytes += record.value.len();
                    next = offset + 1;
                }
            }
        }
        std::hint::black_box(bytes);
        Ok(())
    }

    /// The offset that the topic's next record will get.
    ///
    /// # Errors
    /// What the engine says.
    pub fn next_offset(&self, topic: usize) -> Result<u64> {
        Ok(self.engine.describe(self.topics[topic])?.next)
    }

    /// Looks a topic up by its name, as a node does for each request, and reads the last record of it.
    ///
    /// # Errors
    /// What the engine says; the topic or the record is missing.
    pub fn read_last(&self, topic: usize) -> Result<()> {
        let found = self.engine.topic(&topic_name(topic)?)?;
        let key = found.ok_or("a topic is missing")?.key;
        let next = self.engine.describe(key)?.next;
        let batches = self.engine.read(key, next.saturating_sub(1), 1)?;
        std::hint::black_box(batches.first().ok_or("a record is missing")?);
        Ok(())
    }

    /// Keeps up to `limit` operations waiting for the disk.
    #[must_use]
    pub fn in_flight(&self, limit: usize) -> InFlight<'_> {
        let (done, finished) = sync_channel(limit);
        InFlight {
            store: self,
            done,
            finished,
            limit,
            waiting: 0,
        }
    }
}

/// Operations submitted one by one, a bounded number of them unanswered.
pub struct InFlight<'a> {
    store: &'a Meshlog,
    done: SyncSender<std::result::Result<(), String>>,
    finished: Receiver<std::result::Result<(), String>>,
    limit: usize,
    waiting: usize,
}

impl InFlight<'_> {
    /// Submits a batch; waits first while as many as allowed are unanswered.
    ///
    /// # Errors
    /// An earlier one was refused, or the values fit no batch.
    pub fn append(&mut self, topic: usize, values: &[&[u8]]) -> Result<()> {
        let append = Append {
            topic: self.store.topics[topic],
            batch: encode(values)?,
            expected: None,
        };
        self.wait_for(self.limit - 1)?;
        self.waiting += 1;
        let done = self.done.clone();
        self.store.engine.submit_append(append, move |result| {
            // Never full: it holds as many as may be unanswered. Gone only if the run has failed.
            let _ = done.try_send(result.map(drop).map_err(|error| error.to_string()));
        });
        Ok(())
    }

    /// Submits a write of a binding; waits first while as many as allowed are unanswered.
    ///
    /// # Errors
    /// An earlier one was refused, or the key is not one.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let write = write(key, value)?;
        self.wait_for(self.limit - 1)?;
        self.waiting += 1;
        let done = self.done.clone();
        self.store.engine.submit_write(write, move |result| {
            let _ = done.try_send(result.map(drop).map_err(|error| error.to_string()));
        });
        Ok(())
    }

    /// Waits until everything submitted is durable.
    ///
    /// # Errors
    /// One was refused.
    pub fn finish(mut self) -> Result<()> {
        self.wait_for(0)
    }

    fn wait_for(&mut self, most: usize) -> Result<()> {
        while self.waiting > most {
            self.finished.recv()??;
            self.waiting -= 1;
        }
        // What else has been answered costs no wait.
        while self.waiting > 0 {
            match self.finished.try_recv() {
                Ok(answer) => answer?,
                Err(_) => break,
            }
            self.waiting -= 1;
        }
        Ok(())
    }
}

impl Store for Meshlog {
    fn append(&mut self, topic: usize, values: &[&[u8]]) -> Result<()> {
        self.engine.append(Append {
            topic: self.topics[topic],
            batch: encode(values)?,
            expected: None,
        })?;
        Ok(())
    }

    fn replay(&mut self, topic: usize, visit: Visit<'_>) -> Result<()> {
        let mut next = 0;
        loop {
            let batches = self.engine.read(self.topics[topic], next, READ_BYTES)?;
            if batches.is_empty() {
                return Ok(());
            }
            for batch in &batches {
                for record in records(batch)? {
                    let (offset, record) = record?;
                    visit(&record.value);
                    next = offset + 1;
                }
            }
        }
    }

    fn read(&mut self, topic: usize, offset: u64, visit: Visit<'_>) -> Result<()> {
        let batches = self.engine.read(self.topics[topic], offset, 1)?;
        for record in records(batches.first().ok_or("no such record")?)? {
            let (at, record) = record?;
            if at == offset {
                visit(&record.value);
                return Ok(());
            }
        }
        Err("no such record".into())
    }

    fn put(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<()> {
        let mut in_flight = self.in_flight(pairs.len());
        for (key, value) in pairs {
            in_flight.put(key, value)?;
        }
        in_flight.finish()
    }

    fn get(&mut self, key: &[u8], visit: Visit<'_>) -> Result<()> {
        let binding = self
            .engine
            .binding(&BindingKey::new(key)?)?
            .ok_or("no such binding")?;
        let version = binding.newest_live(now_ms()).ok_or("no live value")?;
        match &version.content {
            mesh_ring::binding::Content::Value(value) => visit(value),
            mesh_ring::binding::Content::Tombstone => return Err("no live value".into()),
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.engine.close()?)
    }
}

/// The records as a client sends them: encoded and checksummed once.
fn encode(values: &[&[u8]]) -> Result<Vec<u8>> {
    // A record's fields beside its value take a few bytes.
    let body = values.iter().map(|value| value.len() + 16).sum();
    let mut batch = BatchBuilder::with_capacity(Compression::None, body);
    let now = now_ms() as i64;
    for value in values {
        batch.push_parts(None, value, &[], now)?;
    }
    Ok(batch.finish(None)?)
}

fn write(key: &[u8], value: &[u8]) -> Result<BindingWrite> {
    let value = Some(Bytes::copy_from_slice(value));
    Ok(BindingWrite {
        key: BindingKey::new(key)?,
        value,
        context: None,
        expires_ms: None,
    })
}

fn topic_name(number: usize) -> Result<TopicName> {
    Ok(TopicName::new(&format!("bench-{number:06}"))?)
}

/// Creates the topics, many at a time where there are many: each waits for an fsync.
fn create_topics(engine: &Solo, topics: usize) -> Result<Vec<TopicKey>> {
    let numbers: Vec<usize> = (0..topics).collect();
    let share = topics.div_ceil(64).max(1);
    std::thread::scope(|scope| {
        let creators: Vec<_> = numbers
            .chunks(share)
            .map(|numbers| {
                scope.spawn(move || {
                    let make = |number: &usize| {
                        Ok(engine
                            .create_topic(&topic_name(*number)?, TopicConfig::default())?
                            .key)
                    };
                    numbers.iter().map(make).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut keys = Vec::with_capacity(topics);
        for creator in creators {
            keys.extend(
                creator
                    .join()
                    .map_err(|_| "a thread that made topics panicked")??,
            );
        }
        Ok(keys)
    })
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
