//! `bench publish` and `bench replay`.

use std::sync::Arc;
use std::time::Instant;

use mesh_net::client::{
    Client, Producer, ProducerOptions, Record, Start, TailOptions, TopicConfig,
};
use tokio::task::JoinSet;

use super::Measured;
use super::load::{Load, Ticket, histogram, note};
use crate::error::Failure;
use crate::payload::Payloads;
use crate::time::now_ms;

/// Records a request, and requests at a time, while `replay` prepares what it reads.
const PREPARE_BATCH: u64 = 256;
const PREPARE_REQUESTS: u64 = 8;

pub(super) async fn publish(
    client: &Client,
    load: &Load,
    topics: u64,
) -> Result<Measured, Failure> {
    let names = create(client, topics).await?;
    let call = publisher(client, load, &names);
    let measured = load.measure(call).await;
    delete(client, &names).await?;
    measured
}

pub(super) async fn replay(client: &Client, load: &Load, topics: u64) -> Result<Measured, Failure> {
    let names = create(client, topics).await?;
    let prepared = load
        .of(load.records, PREPARE_BATCH, PREPARE_REQUESTS)
        .send(publisher(client, load, &names), "preparing")
        .await;
    let measured = match prepared {
        Ok(_) => read_all(client, load, &names).await,
        Err(failure) => Err(failure),
    };
    delete(client, &names).await?;
    measured
}

/// A call that publishes the records of a ticket to the topic whose turn it is.
fn publisher(
    client: &Client,
    load: &Load,
    names: &Arc<[String]>,
) -> impl Fn(Ticket) -> PublishCall + Clone + Send + 'static {
    let producer = client.producer(ProducerOptions::default());
    let (payloads, names) = (load.payloads.clone(), names.clone());
    move |ticket| {
        Box::pin(publish_one(
            producer.clone(),
            payloads.clone(),
            names.clone(),
            ticket,
        ))
    }
}

type PublishCall =
    std::pin::Pin<Box<dyn Future<Output = Result<(), mesh_net::client::ClientError>> + Send>>;

async fn publish_one(
    producer: Producer,
    payloads: Payloads,
    names: Arc<[String]>,
    ticket: Ticket,
) -> Result<(), mesh_net::client::ClientError> {
    let turn = (ticket.first / ticket.count.max(1)) as usize % names.len();
    let record = |number| Record {
        value: payloads.get(number),
        timestamp_ms: now_ms() as i64,
        ..Record::default()
    };
    if ticket.count == 1 {
        producer.publish(&names[turn], record(ticket.first)).await?;
    } else {
        let records = (ticket.first..ticket.first + ticket.count)
            .map(record)
            .collect();
        producer.publish_batch(&names[turn], records, None).await?;
    }
    Ok(())
}

/// Reads every topic from its start to its end, one tail each, all at once. A request's latency is the time that
/// the next batch took to arrive.
async fn read_all(
    client: &Client,
    load: &Load,
    names: &Arc<[String]>,
) -> Result<Measured, Failure> {
    let progress = load.progress("measuring");
    let began = Instant::now();
    let mut readers = JoinSet::new();
    for name in names.iter() {
        let options = TailOptions {
            start: Start::First,
            follow: false,
            until: None,
        };
        let (mut tail, progress) = (client.tail(name, options), progress.clone());
        readers.spawn(async move {
            let (mut records, mut bytes, mut latency) = (0, 0, histogram()?);
            loop {
                let asked = Instant::now();
                let Some(batch) = tail.next().await? else {
                    break;
                };
                note(&mut latency, asked);
                records += batch.records.len() as u64;
                bytes += batch
                    .records
                    .iter()
                    .map(|r| r.record.value.len() as u64)
                    .sum::<u64>();
                progress.inc(batch.records.len() as u64);
            }
            Ok::<_, Failure>((records, bytes, latency))
        });
    }
    let (mut records, mut bytes, mut latency) = (0, 0, histogram()?);
    while let Some(reader) = readers.join_next().await {
        let read = reader.map_err(|e| Failure::failed(format!("a reader ended early: {e}")))??;
        records += read.0;
        bytes += read.1;
        latency
            .add(read.2)
            .map_err(|e| Failure::failed(format!("cannot add up latencies: {e}")))?;
    }
    let took = began.elapsed();
    progress.finish_and_clear();
    if records != load.records {
        return Err(Failure::failed(format!(
            "published {} records, but read {records}",
            load.records
        )));
    }
    Ok(Measured {
        records,
        bytes,
        took,
        latency,
    })
}

/// Makes topics with names of this run's own.
async fn create(client: &Client, topics: u64) -> Result<Arc<[String]>, Failure> {
    let run = now_ms();
    let names: Arc<[String]> = (0..topics)
        .map(|number| format!("bench-{run:x}-{number}"))
        .collect();
    for name in names.iter() {
        client
            .create_topic(name, TopicConfig::default(), false)
            .await?;
    }
    Ok(names)
}

async fn delete(client: &Client, names: &[String]) -> Result<(), Failure> {
    for name in names {
        client.delete_topic(name).await?;
    }
    Ok(())
}
