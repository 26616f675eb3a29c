//! Streams of JetStream.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context, consumer, stream};
use async_nats::{Client, HeaderMap, header};
use bench_drive::{Error, Reader, Result, System, Visit};
use bytes::Bytes;
use futures_util::stream::{BoxStream, ReadyChunks};
use futures_util::{StreamExt, TryStreamExt};

/// How long servers have to form their cluster and elect its leaders.
const START: Duration = Duration::from_secs(60);
/// How long a record may take to be acknowledged.
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
/// More than any job has in flight.
const IN_FLIGHT_MAX: usize = 16_384;
/// Streams that are made at a time.
const MADE_AT_A_TIME: usize = 16;
/// Messages that a reader takes at a time, where so many have come.
const MESSAGES: usize = 1_024;

/// What a topic is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// A stream.
    Streams,
    /// A subject of the one stream that there is.
    Subjects,
}

/// A connection that publishes.
#[derive(Clone)]
pub struct Streams {
    addresses: Arc<[String]>,
    replicas: usize,
    layout: Layout,
    admin: Context,
    client: Client,
    jetstream: Context,
    batches: Arc<AtomicU64>,
}

impl Streams {
    /// Connects as soon as a server answers.
    pub async fn connect(addresses: &[String], replicas: usize, layout: Layout) -> Result<Self> {
        let client = in_time(|| async { Ok(async_nats::connect(addresses).await?) }).await?;
        // Only acknowledgements may take so long: a question that is lost while a cluster forms is soon asked again.
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(ACKNOWLEDGED)
            .ack_timeout(ACKNOWLEDGED)
            .max_ack_inflight(IN_FLIGHT_MAX)
            .build(client.clone());
        Ok(Self {
            addresses: addresses.into(),
            replicas,
            layout,
            admin: jetstream::new(client.clone()),
            client,
            jetstream,
            batches: Arc::default(),
        })
    }

    /// Waits until what is stored can be read.
    pub async fn find(&self) -> Result<()> {
        in_time(|| async { Ok(self.admin.get_stream(stream_name(0)).await.map(drop)?) }).await
    }

    async fn make(&self, number: usize) -> Result<()> {
        let subjects = match self.layout {
            Layout::Streams => subject(number),
            Layout::Subjects => "t.*".to_owned(),
        };
        let config = stream::Config {
            name: stream_name(number),
            subjects: vec![subjects],
            storage: stream::StorageType::File,
            num_replicas: self.replicas,
            allow_atomic_publish: true,
            ..Default::default()
        };
        in_time(|| async {
            let made = self.admin.create_stream(config.clone()).await;
            Ok(made.map(drop)?)
        })
        .await?;
        if self.replicas == 1 {
            return Ok(());
        }
        // What is published before its leader is elected is lost, and waited for in vain.
        in_time(|| async {
            let made = self.admin.get_stream(stream_name(number)).await?;
            let cluster = made.get_info().await?.cluster;
            let leader = cluster.and_then(|cluster| cluster.leader);
            Ok(leader.map(drop).ok_or("the stream has no leader")?)
        })
        .await
    }
}

/// Tries until it works or the servers have had their time.
async fn in_time<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if began.elapsed() > START => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn stream_name(number: usize) -> String {
    format!("s{number}")
}

fn subject(topic: usize) -> String {
    format!("t.{topic}")
}

impl System for Streams {
    type Reader = StreamReader;

    async fn make_topics(&self, count: usize) -> Result<()> {
        let streams = match self.layout {
            Layout::Streams => count,
            Layout::Subjects => 1,
        };
        futures_util::stream::iter(0..streams)
            .map(|number| self.make(number))
            .buffer_unordered(MADE_AT_A_TIME)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    async fn publish(&self, topic: usize, value: Bytes) -> Result<()> {
        self.jetstream.publish(subject(topic), value).await?.await?;
        Ok(())
    }

    /// As an atomic batch: all of them in a row, or none, and one acknowledgement.
    async fn publish_batch(&self, topic: usize, values: Vec<Bytes>) -> Result<()> {
        let id = self.batches.fetch_add(1, Ordering::Relaxed).to_string();
        let count = values.len();
        for (number, value) in (1..).zip(values) {
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_BATCH_ID, id.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, number.to_string());
            if number < count {
                let publish = self
                    .client
                    .publish_with_headers(subject(topic), headers, value);
                publish.await?;
                continue;
            }
            headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
            let publish = self
                .jetstream
                .publish_with_headers(subject(topic), headers, value);
            let stored = publish.await?.await?;
            if stored.batch_size != Some(count as u64) {
                return Err(format!("NATS has stored another batch: {stored:?}").into());
            }
        }
        Ok(())
    }

    /// One by one, and all acknowledgements in the end: an atomic batch takes longer where nothing is fsynced.
    async fn put_in(&self, topic: usize, values: Vec<Bytes>) -> Result<()> {
        let mut acknowledgements = Vec::with_capacity(values.len());
        for value in values {
            acknowledgements.push(self.jetstream.publish(subject(topic), value).await?);
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await?;
        }
        Ok(())
    }

    async fn reader(&self) -> Result<StreamReader> {
        let client = async_nats::connect(&self.addresses[..]).await?;
        Ok(StreamReader {
            jetstream: jetstream::new(client.clone()),
            client,
            messages: None,
        })
    }
}

type Messages = ReadyChunks<BoxStream<'static, Result<Bytes>>>;

/// Reads a stream over a connection of its own, through an ordered consumer that the server pushes to.
pub struct StreamReader {
    client: Client,
    jetstream: Context,
    messages: Option<Messages>,
}

impl Reader for StreamReader {
    async fn begin(&mut self, topic: usize) -> Result<()> {
        let config = consumer::push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            deliver_policy: consumer::DeliverPolicy::All,
            ..Default::default()
        };
        let stream = self.jetstream.get_stream(stream_name(topic)).await?;
        let messages = stream.create_consumer(config).await?.messages().await?;
        let values =
            messages.map(|message| message.map(|m| m.payload.clone()).map_err(Error::from));
        self.messages = Some(values.boxed().ready_chunks(MESSAGES));
        Ok(())
    }

    async fn next(&mut self, visit: Visit<'_>) -> Result<()> {
        let messages = self.messages.as_mut().ok_or("no stream is read")?;
        for value in messages.next().await.ok_or("the stream has ended")? {
            visit(&value?);
        }
        Ok(())
    }
}
