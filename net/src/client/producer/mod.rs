//! Publishing: concurrent calls share batches, batches share the connection, retries append nothing twice.
//!
//! Records wait in `gather`, numbered batches in `flights`. The `router` puts each topic on the `lane` to its leader, which
//! moves them; their publishers are told through one `completion` a batch.

mod completion;
mod flights;
mod gather;
mod lane;
mod router;
mod topic;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
pub(super) use gather::Inflight;
use gather::Shared;
use lane::Road;
use mesh_engine::batch::{Compression, Record};

use super::{Client, error::ClientError};

/// How a producer publishes.
#[derive(Clone, Copy, Debug)]
pub struct ProducerOptions {
    /// How batches are compressed.
    pub compression: Compression,
    /// Make topics that are missing, without retention limits.
    pub create: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            create: true,
        }
    }
}

/// Where records are now, durably.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// The offset of the first, or only, record.
    pub first: u64,
    /// The offset of the last, or only, record.
    pub last: u64,
    /// The epoch in which the leader acknowledged them.
    pub epoch: u64,
    /// The names of the replicas that had fsynced them by then.
    pub synced: Arc<[String]>,
}

/// Publishes records. Cheap to clone; all clones are one producer.
///
/// Records of one topic keep the order of the calls. A call that has returned an error has not appended its records,
/// unless the message says that they may be written. Dropping a call's future leaves it open whether they are.
#[derive(Clone, Debug)]
pub struct Producer(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Keeps the lanes alive.
    _client: Client,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.orphaned.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Producer {
    pub(super) fn start(client: &Client, options: ProducerOptions) -> Self {
        static PRODUCERS: AtomicU64 = AtomicU64::new(0);
        let inner = &client.0;
        let shared = Arc::new(Shared::new(
            inner.inflight.clone(),
            options.compression,
            options.create,
        ));
        let mut writer = inner.id.to_vec();
        writer.extend(PRODUCERS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let road = Arc::new(Road {
            shared: shared.clone(),
            links: inner.links.clone(),
            writer: writer.into(),
            next_request: AtomicU64::new(0),
        });
        let routing = router::run(road, inner.producers.clone());
        inner.producers.spawn("producer", routing);
        Self(Arc::new(Handle {
            shared,
            _client: client.clone(),
        }))
    }

    /// Publishes one record and returns when it is durable. Where nothing is under way it is sent at once; otherwise it
    /// shares a batch with others that wait.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for a record or name outside the limits; [`ClientError::Unavailable`] at the timeout;
    /// [`ClientError::NotFound`] where the topic is missing and is not to be made; [`ClientError::TopicDeleted`] where
    /// it was deleted since this producer's last record; [`ClientError::Refused`] without leave to write it.
    pub async fn publish(&self, topic: &str, record: Record) -> Result<Published, ClientError> {
        let shared = &self.0.shared;
        let counted = shared
            .inflight
            .acquire(gather::counted_bytes(&record))
            .await?;
        let (completion, place) = match shared.push(topic, &record, counted) {
            Ok(pushed) => pushed,
            Err(error) => {
                shared.inflight.release(counted);
                return Err(error);
            }
        };
        drop(record);
        let batch = completion.wait().await.as_ref().map_err(Clone::clone)?;
        let offset = batch.first + place;
        Ok(Published {
            first: offset,
            last: offset,
            epoch: batch.epoch,
            synced: batch.synced.clone(),
        })
    }

    /// Publishes records as one batch: all of them, in a row, or none. With `expected` only if the first one gets that
    /// offset.
    ///
    /// # Errors
    /// As for [`Producer::publish`]; [`ClientError::Conflict`] where the expected offset is not the next one;
    /// [`ClientError::Invalid`] where they do not fit into one batch.
    pub async fn publish_batch(
        &self,
        topic: &str,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> Result<Published, ClientError> {
        let shared = &self.0.shared;
        let bytes = records.iter().map(gather::counted_bytes).sum();
        let mut builder = shared.builder(bytes);
        for record in &records {
            builder.push(record)?;
        }
        if builder.is_empty() {
            return Err(ClientError::Invalid("a batch without records".into()));
        }
        drop(records);
        let counted = shared.inflight.acquire(bytes).await?;
        let completion = match shared.push_batch(topic, builder, expected, counted) {
            Ok(completion) => completion,
            Err(error) => {
                shared.inflight.release(counted);
                return Err(error);
            }
        };
        let batch = completion.wait().await.as_ref().map_err(Clone::clone)?;
        Ok(Published {
            first: batch.first,
            last: batch.last,
            epoch: batch.epoch,
            synced: batch.synced.clone(),
        })
    }
}

/// Names a client's streams.
pub(super) fn random_id() -> Result<Bytes, ClientError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| ClientError::Failed(format!("no randomness: {e}")))?;
    Ok(Bytes::copy_from_slice(&id))
}
