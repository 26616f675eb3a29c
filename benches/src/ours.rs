//! Meshlog itself under the load that its peers have: real nodes, and the client library in this process.

use std::sync::Arc;
use std::time::Duration;

use bench_drive::{Done, Job, Reader, System, Visit, measure, prepare, runtime};
use bytes::Bytes;
use mesh_net::client::{
    Client, ClientConfig, Producer, ProducerOptions, Record, Start, Tail, TailOptions, TopicConfig,
};
use tokio::task::JoinSet;

use crate::Result;
use crate::mesh::Mesh;
use crate::place::Place;

/// How long a job may take; the nodes are killed after it.
const LIMIT: Duration = Duration::from_secs(180);
/// Topics that are made at a time.
const MADE_AT_A_TIME: usize = 64;

/// Starts so many nodes, does a job on them, and stops them.
///
/// # Errors
/// A node's or the client's; the job takes too long.
pub fn run(place: &Place, nodes: usize, job: &Job) -> Result<Done> {
    let dir = place.fresh();
    let mesh = Mesh::start(&dir, nodes)?;
    let config = mesh.client_config()?;
    let runtime = runtime(job)?;
    let done = runtime.block_on(async {
        tokio::time::timeout(LIMIT, work(place, config, job))
            .await
            .map_err(|_| format!("not done after {LIMIT:?}"))?
    });
    drop(runtime);
    drop(mesh);
    place.clear(&dir)?;
    done
}

async fn work(place: &Place, config: ClientConfig, job: &Job) -> Result<Done> {
    let ours = Ours::connect(config, job.topics()).await?;
    prepare(&ours, job).await?;
    if job.stored().is_some() {
        place.settle()?;
    }
    let done = measure(&ours, job).await?;
    ours.client.close().await;
    Ok(done)
}

/// A cluster, and the client that publishes to it.
#[derive(Clone)]
struct Ours {
    config: ClientConfig,
    client: Client,
    producer: Producer,
    names: Arc<[String]>,
}

impl Ours {
    async fn connect(config: ClientConfig, topics: usize) -> Result<Ours> {
        let client = Client::connect(config.clone()).await?;
        let names = (0..topics).map(|number| format!("versus/{number}"));
        Ok(Ours {
            producer: client.producer(ProducerOptions::default()),
            names: names.collect(),
            config,
            client,
        })
    }
}

fn record(value: Bytes) -> Record {
    Record {
        value,
        ..Record::default()
    }
}

impl System for Ours {
    type Reader = OurReader;

    async fn make_topics(&self, count: usize) -> Result<()> {
        let mut makers = JoinSet::new();
        for lane in 0..MADE_AT_A_TIME {
            let ours = self.clone();
            makers.spawn(async move {
                for name in ours.names[..count]
                    .iter()
                    .skip(lane)
                    .step_by(MADE_AT_A_TIME)
                {
                    let made = ours.client.create_topic(name, TopicConfig::default(), true);
                    made.await?;
                }
                Ok::<_, crate::Error>(())
            });
        }
        while let Some(made) = makers.join_next().await {
            made??;
        }
        Ok(())
    }

    async fn publish(&self, topic: usize, value: Bytes) -> Result<()> {
        let published = self.producer.publish(&self.names[topic], record(value));
        published.await?;
        Ok(())
    }

    async fn publish_batch(&self, topic: usize, values: Vec<Bytes>) -> Result<()> {
        let records = values.into_iter().map(record).collect();
        let published = self
            .producer
            .publish_batch(&self.names[topic], records, None);
        published.await?;
        Ok(())
    }

    async fn reader(&self) -> Result<OurReader> {
        Ok(OurReader {
            client: Client::connect(self.config.clone()).await?,
            names: Arc::clone(&self.names),
            tail: None,
        })
    }
}

/// A client of its own that reads a topic.
struct OurReader {
    client: Client,
    names: Arc<[String]>,
    tail: Option<Tail>,
}

impl Reader for OurReader {
    async fn begin(&mut self, topic: usize) -> Result<()> {
        let options = TailOptions {
            start: Start::First,
            follow: true,
            until: None,
        };
        self.tail = Some(self.client.tail(&self.names[topic], options));
        Ok(())
    }

    async fn next(&mut self, visit: Visit<'_>) -> Result<()> {
        let tail = self.tail.as_mut().ok_or("no topic is read")?;
        let batch = tail.next().await?.ok_or("the tail has ended")?;
        for record in batch.records {
            visit(&record.record.value);
        }
        Ok(())
    }
}
