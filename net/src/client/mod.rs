//! The client: everything that a program does with a cluster.
//!
//! A [`Client`] holds one connection and dials it anew by itself. Every request ends within the configured timeout,
//! retries included; a retry never appends twice.
//!
//! - [`Client`]: bindings, topics and facts, a request each;
//! - [`Producer`]: records into topics; concurrent calls share batches by themselves;
//! - [`Tail`]: records out of a topic, resuming by itself.

mod config;
mod error;
mod link;
mod producer;
mod tail;
mod unary;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
pub use config::{ClientConfig, ConfigError, INFLIGHT_BYTES_MAX_DEFAULT, TIMEOUT_DEFAULT};
pub use error::ClientError;
use link::Link;
pub use mesh_engine::TopicConfig;
pub use mesh_engine::batch::{Compression, Record};
use mesh_ring::{
    ids::{ClusterId, NodeId},
    limits::{BINDING_VALUE_BYTES_MAX, LIST_PAGE_MAX},
    name::{BindingKey, CursorName, TopicName},
};
use producer::Inflight;
pub use producer::{Producer, ProducerOptions, Published};
pub use tail::{Start, Tail, TailBatch, TailOptions, TailRecord};
use tokio::time::Instant;
use unary::{Answer, Repeat, pieces};

use crate::{
    tasks::TaskSet,
    wire::proto::{self, reply, request},
};

/// How to write a binding.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Remove the value after so long. At least a millisecond.
    pub ttl: Option<Duration>,
    /// Replicas that must acknowledge; `None`: a majority.
    pub write: Option<u32>,
    /// The causal context of what the writer has read: it supersedes that and nothing else. `None`: it supersedes what
    /// the node holds.
    pub context: Option<Bytes>,
}

/// A binding was written durably.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WriteAck {
    /// What the writer has seen now, for its next write.
    pub context: Bytes,
    /// The nodes that have it durably.
    pub acknowledged: Vec<String>,
    /// The nodes that are away, for which others keep it.
    pub hinted: Vec<String>,
}

/// A binding's live values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Got {
    /// The newest first; never empty. More than one: concurrent writes.
    pub values: Vec<GotValue>,
    /// What was read, for a write that supersedes it.
    pub context: Bytes,
}

/// One live value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GotValue {
    /// The value.
    pub value: Bytes,
    /// When it was written, Unix milliseconds.
    pub time_ms: u64,
    /// When it expires, Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// What a topic is and holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// The partition that holds it.
    pub partition: u16,
    /// Its incarnation: a topic deleted and made again has another.
    pub id: u64,
    /// The first offset that is left.
    pub first: u64,
    /// The offset of the next record.
    pub next: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// The node that orders it.
    pub leader: String,
    /// The leader's epoch.
    pub epoch: u64,
    /// The nodes that hold it.
    pub replicas: Vec<String>,
    /// Its retention.
    pub config: TopicConfig,
}

/// Facts about a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// The epoch in which it leads.
    pub epoch: u64,
    /// How often its store was opened.
    pub boot: u32,
    /// The address that it listens on.
    pub address: String,
    /// Its version.
    pub version: String,
    /// The format of its store.
    pub format: u32,
    /// Bytes free where its store lies, if the system tells.
    pub free_bytes: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// Connections open.
    pub connections: u32,
}

/// What a node stores in one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FamilyUsage {
    /// The family.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// About how many keys.
    pub keys_estimate: u64,
}

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

    /// Writes a value.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] above a limit; [`ClientError::Conflict`] where the key has too many concurrent values;
    /// [`ClientError::Unavailable`] where it was not done, or may have been done, which the message says.
    pub async fn put(
        &self,
        key: &[u8],
        value: Bytes,
        options: WriteOptions,
    ) -> Result<WriteAck, ClientError> {
        if value.len() > BINDING_VALUE_BYTES_MAX {
            return Err(ClientError::Invalid(format!(
                "a value of {} bytes; the limit is {BINDING_VALUE_BYTES_MAX}",
                value.len()
            )));
        }
        self.write("put", key, false, value, options).await
    }

    /// Removes a key's values, leaving a tombstone.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn delete(&self, key: &[u8], options: WriteOptions) -> Result<WriteAck, ClientError> {
        self.write("delete", key, true, Bytes::new(), options).await
    }

    async fn write(
        &self,
        doing: &str,
        key: &[u8],
        delete: bool,
        value: Bytes,
        options: WriteOptions,
    ) -> Result<WriteAck, ClientError> {
        BindingKey::new(key)?;
        let put = proto::Put {
            key: Bytes::copy_from_slice(key),
            delete,
            ttl_ms: options
                .ttl
                .map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)),
            write: options.write,
            context: options.context,
        };
        let answer = self
            .0
            .link
            .ask(doing, Repeat::Unsafe, request::Kind::Put(put), value)
            .await?;
        match answer.one()? {
            (reply::Kind::Written(w), _) => Ok(WriteAck {
                context: w.context,
                acknowledged: w.acknowledged,
                hinted: w.hinted,
            }),
            _ => Err(ClientError::protocol("another kind of answer")),
        }
    }

    /// Reads a key's live values. `None` where there is none.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`], [`ClientError::Refused`], [`ClientError::Invalid`].
    pub async fn get(&self, key: &[u8], read: Option<u32>) -> Result<Option<Got>, ClientError> {
        BindingKey::new(key)?;
        let get = proto::Get {
            key: Bytes::copy_from_slice(key),
            read,
        };
        let answer = self.ask_safe("get", request::Kind::Get(get)).await?;
        let mut got = Got {
            values: Vec::new(),
            context: Bytes::new(),
        };
        for reply in answer.replies {
            let (reply::Kind::Values(part), body) = reply else {
                return Err(ClientError::protocol("another kind of answer"));
            };
            let bodies = pieces(body, part.values.iter().map(|v| v.length))?;
            got.values
                .extend(part.values.iter().zip(bodies).map(|(v, value)| GotValue {
                    value,
                    time_ms: v.time_ms,
                    expires_ms: v.expires_ms,
                }));
            if got.context.is_empty() {
                got.context = part.context;
            }
        }
        Ok(if got.values.is_empty() {
            None
        } else {
            Some(got)
        })
    }

    /// Up to `limit` keys with a live value that begin with `prefix` and come after `after`, in order.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<Vec<Bytes>, ClientError> {
        let prefix = Bytes::copy_from_slice(prefix);
        self.pages(limit, after.map(Bytes::copy_from_slice), |after, limit| {
            request::Kind::List(proto::List {
                prefix: prefix.clone(),
                after,
                limit,
            })
        })
        .await
    }

    /// Makes a topic. With `if_not_exists` one that is there is described instead, whatever its retention.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] where it exists.
    pub async fn create_topic(
        &self,
        name: &str,
        config: TopicConfig,
        if_not_exists: bool,
    ) -> Result<TopicDescription, ClientError> {
        let name = TopicName::new(name)?.to_string();
        let settings = proto::TopicSettings {
            retention_age_ms: config.retention_age_ms,
            retention_bytes: config.retention_bytes,
        };
        let create = proto::CreateTopic {
            name,
            settings: Some(settings),
            if_not_exists,
        };
        let repeat = if if_not_exists {
            Repeat::Safe
        } else {
            Repeat::Unsafe
        };
        let answer = self
            .0
            .link
            .ask(
                "create topic",
                repeat,
                request::Kind::CreateTopic(create),
                Bytes::new(),
            )
            .await?;
        describe(answer)
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] where there is none.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, ClientError> {
        let name = TopicName::new(name)?.to_string();
        describe(
            self.ask_safe(
                "describe topic",
                request::Kind::DescribeTopic(proto::DescribeTopic { name }),
            )
            .await?,
        )
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] where there is none.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let name = TopicName::new(name)?.to_string();
        let delete = request::Kind::DeleteTopic(proto::DeleteTopic { name });
        done(
            self.0
                .link
                .ask("delete topic", Repeat::Unsafe, delete, Bytes::new())
                .await?,
        )
    }

    /// Up to `limit` names of topics that begin with `prefix` and come after `after`, in order.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`], [`ClientError::Refused`].
    pub async fn list_topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, ClientError> {
        let text = |name: Bytes| {
            String::from_utf8(name.into())
                .map_err(|_| ClientError::protocol("a topic name that is no text"))
        };
        let after = after.map(|after| Bytes::copy_from_slice(after.as_bytes()));
        let names = self
            .pages(limit, after, |after, limit| {
                let after = after.map(|after| String::from_utf8_lossy(&after).into_owned());
                request::Kind::ListTopics(proto::ListTopics {
                    prefix: prefix.into(),
                    after,
                    limit,
                })
            })
            .await?;
        names.into_iter().map(text).collect()
    }

    /// Removes a topic's records before offset `before`. Returns the first offset that is left.
    ///
    /// # Errors
    /// [`ClientError::NotFound`]; [`ClientError::OffsetBeyondEnd`] above the topic's end.
    pub async fn trim_topic(&self, name: &str, before: u64) -> Result<u64, ClientError> {
        let name = TopicName::new(name)?.to_string();
        let trim = request::Kind::TrimTopic(proto::TrimTopic { name, before });
        match self.ask_safe("trim topic", trim).await?.one()? {
            (reply::Kind::Trimmed(trimmed), _) => Ok(trimmed.first),
            _ => Err(ClientError::protocol("another kind of answer")),
        }
    }

    /// A producer with an identity of its own, so that its retries are never appended twice.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::start(self, options)
    }

    /// Reads a topic. Nothing is asked before the first [`Tail::next`].
    pub fn tail(&self, topic: &str, options: TailOptions) -> Tail {
        Tail::new(self.0.link.clone(), topic, options)
    }

    /// Remembers, on the cluster and durably, at which offset the reader called `name` resumes.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] where there is no topic; [`ClientError::OffsetBeyondEnd`] above its end.
    pub async fn commit_cursor(
        &self,
        topic: &str,
        name: &str,
        next: u64,
    ) -> Result<(), ClientError> {
        let topic = TopicName::new(topic)?.to_string();
        let name = CursorName::new(name)?.to_string();
        let commit = request::Kind::CommitCursor(proto::CommitCursor { topic, name, next });
        done(self.ask_safe("commit cursor", commit).await?)
    }

    /// Facts about the node that the client is connected to.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn info(&self) -> Result<NodeInfo, ClientError> {
        let (reply::Kind::Info(info), _) = self
            .ask_safe("info", request::Kind::Info(proto::GetInfo {}))
            .await?
            .one()?
        else {
            return Err(ClientError::protocol("another kind of answer"));
        };
        let id = |bytes: &[u8]| {
            <[u8; 16]>::try_from(bytes).map_err(|_| ClientError::protocol("an ill-formed id"))
        };
        Ok(NodeInfo {
            node: NodeId(id(&info.node)?),
            cluster: ClusterId(id(&info.cluster)?),
            partitions: u16::try_from(info.partitions)
                .map_err(|_| ClientError::protocol("too many partitions"))?,
            name: info.name,
            epoch: info.epoch,
            boot: info.boot,
            address: info.address,
            version: info.version,
            format: info.format,
            free_bytes: info.free_bytes,
            uptime: Duration::from_millis(info.uptime_ms),
            connections: info.connections,
        })
    }

    /// What that node stores, by family.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn storage(&self) -> Result<Vec<FamilyUsage>, ClientError> {
        match self
            .ask_safe("storage", request::Kind::Storage(proto::GetStorage {}))
            .await?
            .one()?
        {
            (reply::Kind::Storage(storage), _) => Ok(storage
                .families
                .into_iter()
                .map(|f| FamilyUsage {
                    name: f.name,
                    bytes: f.bytes,
                    keys_estimate: f.keys_estimate,
                })
                .collect()),
            _ => Err(ClientError::protocol("another kind of answer")),
        }
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

fn done(answer: Answer) -> Result<(), ClientError> {
    match answer.one()? {
        (reply::Kind::Done(_), _) => Ok(()),
        _ => Err(ClientError::protocol("another kind of answer")),
    }
}

fn describe(answer: Answer) -> Result<TopicDescription, ClientError> {
    let (reply::Kind::Topic(topic), _) = answer.one()? else {
        return Err(ClientError::protocol("another kind of answer"));
    };
    let key = topic
        .topic
        .ok_or_else(|| ClientError::protocol("a topic without an id"))?;
    let settings = topic.settings.unwrap_or_default();
    Ok(TopicDescription {
        name: topic.name,
        partition: u16::try_from(key.partition)
            .map_err(|_| ClientError::protocol("an ill-formed partition"))?,
        id: key.id,
        first: topic.first,
        next: topic.next,
        bytes: topic.bytes,
        leader: topic.leader,
        epoch: topic.epoch,
        replicas: topic.replicas,
        config: TopicConfig {
            retention_age_ms: settings.retention_age_ms,
            retention_bytes: settings.retention_bytes,
        },
    })
}
