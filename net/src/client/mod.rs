//! The client: everything that a program does with a cluster.
//!
//! A [`Client`] holds one connection and dials it anew by itself. Every request ends within the configured timeout,
//! retries included; a retry never appends twice.
//!
//! - [`Client`]: bindings, topics and facts, a request each;
//! - [`Producer`]: records into topics; concurrent calls share batches by themselves;
//! - [`Tail`]: records out of a topic, resuming by itself.

mod bindings;
mod config;
mod error;
mod facts;
mod link;
mod producer;
mod tail;
mod topics;
mod unary;

use std::sync::Arc;

pub use bindings::{Got, GotValue, WriteAck, WriteOptions};
use bytes::Bytes;
pub use config::{ClientConfig, ConfigError, INFLIGHT_BYTES_MAX_DEFAULT, TIMEOUT_DEFAULT};
pub use error::ClientError;
pub use facts::{FamilyUsage, NodeInfo};
use link::Link;
pub use mesh_engine::TopicConfig;
pub use mesh_engine::batch::{Compression, Record};
use mesh_ring::limits::LIST_PAGE_MAX;
use producer::Inflight;
pub use producer::{Producer, ProducerOptions, Published};
pub use tail::{Start, Tail, TailBatch, TailOptions, TailRecord};
use tokio::time::Instant;
pub use topics::TopicDescription;
use unary::{Answer, Repeat, pieces};

use crate::tasks::TaskSet;
use crate::wire::proto::{reply, request};

/// A connection to a cluster. Cheap to clone; all clones share it.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    inflight: Arc<Inflight>,
    tasks: TaskSet,
    id: Bytes,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Client {
    /// Connects to the first node that answers.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] where none does within the timeout; [`ClientError::Refused`] where the identity is
    /// not accepted or cannot be read.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let link = Arc::new(Link::new(&config)?);
        link.connection(Instant::now() + config.timeout).await?;
        Ok(Self(Arc::new(Inner {
            link,
            inflight: Arc::new(Inflight::new(config.inflight_bytes_max, config.timeout)),
            tasks: TaskSet::default(),
            id: producer::random_id()?,
        })))
    }

    /// A producer with an identity of its own, so that its retries are never appended twice.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::start(self, options)
    }

    /// Reads a topic. Nothing is asked before the first [`Tail::next`].
    pub fn tail(&self, topic: &str, options: TailOptions) -> Tail {
        Tail::new(self.0.link.clone(), topic, options)
    }

    /// Ends the client: what producers still have is refused as unavailable, and the node is told.
    pub async fn close(self) {
        self.0.inflight.close();
        self.0.tasks.join().await;
        self.0.link.close().await;
    }

    async fn ask_safe(&self, doing: &str, kind: request::Kind) -> Result<Answer, ClientError> {
        self.0
            .link
            .ask(doing, Repeat::Safe, kind, Bytes::new())
            .await
    }

    /// Gathers a listing over as many pages as it takes.
    async fn pages(
        &self,
        limit: u32,
        mut after: Option<Bytes>,
        page: impl Fn(Option<Bytes>, u32) -> request::Kind,
    ) -> Result<Vec<Bytes>, ClientError> {
        let mut all = Vec::new();
        loop {
            let wanted = (limit as usize - all.len()).min(LIST_PAGE_MAX as usize);
            if wanted == 0 {
                return Ok(all);
            }
            let (reply::Kind::Names(names), body) = self
                .ask_safe("list", page(after.take(), wanted as u32))
                .await?
                .one()?
            else {
                return Err(ClientError::protocol("another kind of answer"));
            };
            let found = pieces(body, names.lengths.into_iter())?;
            after = found.last().cloned();
            all.extend(found.into_iter().take(wanted));
            if !names.more || after.is_none() {
                return Ok(all);
            }
        }
    }
}
