//! The client: everything that a program does with a cluster.
//!
//! A [`Client`] begins at one node and learns the others from it: appends go straight to the leaders, tails to any
//! replica, everything else to whoever answers. Nodes that die, stop or hand over are left by themselves. Every request
//! ends within the configured timeout, retries included; a retry never appends twice.
//!
//! - [`Client`]: bindings, topics and facts, a request each;
//! - [`Producer`]: records into topics; concurrent calls share batches by themselves;
//! - [`Tail`]: records out of a topic, resuming by itself;
//! - [`Watch`]: what keys hold, and every change of it, resuming by itself.

mod back_off;
mod bindings;
mod cluster;
mod config;
mod doubt;
mod error;
mod facts;
mod line;
mod link;
mod links;
mod listeners;
mod producer;
mod repair;
mod routes;
mod sockets;
mod status;
mod tail;
mod topics;
mod unary;
mod watch;

use std::sync::Arc;

pub use bindings::{Got, GotValue, WriteAck, WriteOptions};
use bytes::Bytes;
pub use cluster::{ClusterChange, ClusterView, NodeState, NodeView, PartitionView, TopicHash};
pub use config::{ClientConfig, ConfigError, INFLIGHT_BYTES_MAX_DEFAULT, TIMEOUT_DEFAULT};
pub use error::ClientError;
pub use facts::{FamilyUsage, NodeInfo};
use links::Links;
pub use listeners::{Listener, Listeners, Listening};
pub use mesh_engine::TopicConfig;
pub use mesh_engine::batch::{Compression, Record};
use mesh_ring::limits::LIST_PAGE_MAX;
use producer::Inflight;
pub use producer::{Producer, ProducerOptions, Published};
pub use repair::{NodeRepair, RepairProgress, RepairReport};
pub use status::{
    CopyStatus, FollowerLag, NodeStatus, RepairStatus, TombstoneStatus, TransferStatus,
};
pub use tail::{Start, Tail, TailBatch, TailOptions, TailRecord};
pub use topics::TopicDescription;
use unary::{Answer, Repeat, pieces};
pub use watch::{Watch, WatchEvent, WatchKind, WatchTarget};

use crate::tasks::TaskSet;
use crate::wire::proto::{reply, request};

/// A connection to a cluster. Cheap to clone; all clones share its connections to the nodes.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    links: Arc<Links>,
    inflight: Arc<Inflight>,
    /// The tasks of producers, which end when they have nothing left.
    producers: TaskSet,
    /// Those of connections, which do not.
    tasks: TaskSet,
    id: Bytes,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.producers.abort();
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
        let tasks = TaskSet::default();
        let links = Arc::new(Links::new(&config, tasks.clone())?);
        if let Err(error) = links.connect().await {
            tasks.abort();
            return Err(error);
        }
        Ok(Self(Arc::new(Inner {
            links,
            inflight: Arc::new(Inflight::new(config.inflight_bytes_max, config.timeout)),
            producers: TaskSet::default(),
            tasks,
            id: producer::random_id()?,
        })))
    }

    /// A producer with an identity of its own, so that its retries are never appended twice.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::start(self, options)
    }

    /// Reads a topic. Nothing is asked before the first [`Tail::next`].
    pub fn tail(&self, topic: &str, options: TailOptions) -> Tail {
        Tail::new(self.0.links.clone(), topic, options)
    }

    /// Ends the client: what producers still have is refused as unavailable, and the node is told.
    pub async fn close(self) {
        self.0.inflight.close();
        self.0.producers.join().await;
        self.0.links.close().await;
    }

    async fn ask_safe(&self, doing: &str, kind: request::Kind) -> Result<Answer, ClientError> {
        self.0
            .links
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
