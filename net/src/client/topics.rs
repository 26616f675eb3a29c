//! Topics: made, described, listed, trimmed, and the places of their readers.

use bytes::Bytes;
use mesh_engine::TopicConfig;
use mesh_ring::name::{CursorName, TopicName};

use super::unary::{Answer, Repeat};
use super::{Client, ClientError};
use crate::wire::proto::{self, reply, request};

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

impl Client {
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
            .links
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
                .links
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
