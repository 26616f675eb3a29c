//! Bindings: values by key.

use std::time::Duration;

use bytes::Bytes;
use mesh_ring::limits::BINDING_VALUE_BYTES_MAX;
use mesh_ring::name::BindingKey;

use super::unary::{Repeat, pieces};
use super::{Client, ClientError};
use crate::wire::proto::{self, reply, request};

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
    /// The version that was made: the node's id, how often it had started, and its count of writes since.
    pub version: String,
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

impl Client {
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
            .links
            .ask(doing, Repeat::Unsafe, request::Kind::Put(put), value)
            .await?;
        match answer.one()? {
            (reply::Kind::Written(w), _) => Ok(WriteAck {
                context: w.context,
                version: w.version,
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
}
