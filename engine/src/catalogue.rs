//! What the `topics` family says of a topic: its name and configuration, and where its log begins.

use mesh_ring::command::TopicConfig;
use mesh_ring::ids::{Offset, TopicKey};
use mesh_ring::name::TopicName;

use crate::codec::{CodecError, put_bytes, take_text, take_u8, take_u64};

/// A topic as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMeta {
    /// Partition and id. A topic that is deleted and made again has another id.
    pub key: TopicKey,
    /// Its name.
    pub name: TopicName,
    /// Its configuration.
    pub config: TopicConfig,
    /// When it was made, in unix milliseconds of the leader's clock.
    pub created_ms: u64,
}

/// Where a topic's log begins. Written at creation and by each trim; its end is the last key in `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    /// First offset that can be read, or the next to be given out where the log is empty.
    pub(crate) first: Offset,
    /// Byte position of the first stored batch (which may begin before `first`).
    pub(crate) position: u64,
    /// Append time of the last record that was trimmed, so that time never moves back in an emptied topic.
    pub(crate) append_time_ms: u64,
}

/// What of a topic's log can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicExtent {
    /// First offset that can be read.
    pub first: Offset,
    /// The offset that the next record will get.
    pub next: Offset,
    /// Stored size of the batches that hold `first..next`, in bytes, headers included.
    pub bytes: u64,
}

/// Writes what [`take_config`] reads: which limits there are, in bits, and those.
pub(crate) fn put_config(out: &mut Vec<u8>, config: &TopicConfig) {
    let flags = u8::from(config.retention_age_ms.is_some())
        | u8::from(config.retention_bytes.is_some()) << 1;
    out.push(flags);
    for limit in [config.retention_age_ms, config.retention_bytes]
        .into_iter()
        .flatten()
    {
        out.extend_from_slice(&limit.to_be_bytes());
    }
}

pub(crate) fn take_config(from: &mut &[u8]) -> Result<TopicConfig, CodecError> {
    let flags = take_u8(from)?;
    if flags > 3 {
        return Err(CodecError::Unknown(
            "topic configuration flags",
            flags.into(),
        ));
    }
    let mut limit = |bit: u8| {
        if flags & bit == 0 {
            Ok(None)
        } else {
            take_u64(from).map(Some)
        }
    };
    Ok(TopicConfig {
        retention_age_ms: limit(1)?,
        retention_bytes: limit(2)?,
    })
}

impl TopicMeta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.name.as_str().len());
        put_bytes(&mut out, self.name.as_str().as_bytes());
        put_config(&mut out, &self.config);
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out
    }

    pub(crate) fn decode(key: TopicKey, mut from: &[u8]) -> Result<TopicMeta, CodecError> {
        let from = &mut from;
        let name = TopicName::new(&take_text(from)?).map_err(|_| CodecError::Text)?;
        let meta = TopicMeta {
            key,
            name,
            config: take_config(from)?,
            created_ms: take_u64(from)?,
        };
        if from.is_empty() {
            Ok(meta)
        } else {
            Err(CodecError::Long)
        }
    }
}

impl Extent {
    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.first.to_be_bytes());
        out[8..16].copy_from_slice(&self.position.to_be_bytes());
        out[16..].copy_from_slice(&self.append_time_ms.to_be_bytes());
        out
    }

    pub(crate) fn decode(mut from: &[u8]) -> Result<Extent, CodecError> {
        let from = &mut from;
        let extent = Extent {
            first: take_u64(from)?,
            position: take_u64(from)?,
            append_time_ms: take_u64(from)?,
        };
        if from.is_empty() {
            Ok(extent)
        } else {
            Err(CodecError::Long)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_ring::ids::{PartitionId, TopicId};
    use proptest::prelude::*;

    const KEY: TopicKey = TopicKey {
        partition: PartitionId(1),
        id: TopicId(2),
    };

    fn meta(config: TopicConfig) -> TopicMeta {
        TopicMeta {
            key: KEY,
            name: TopicName::new("t").unwrap(),
            config,
            created_ms: 3,
        }
    }

    #[test]
    fn values_bytes() {
        let both = TopicConfig {
            retention_age_ms: Some(1),
            retention_bytes: Some(2),
        };
        assert_eq!(
            meta(both).encode(),
            [
                0, 0, 0, 1, b't', 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0,
                0, 0, 3
            ]
        );
        let extent = Extent {
            first: 1,
            position: 2,
            append_time_ms: 3,
        };
        assert_eq!(
            extent.encode(),
            [
                0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3
            ]
        );
        assert_eq!(Extent::decode(&extent.encode()), Ok(extent));
    }

    proptest! {
        #[test]
        fn metas_come_back(age in any::<Option<u64>>(), bytes in any::<Option<u64>>()) {
            let meta = meta(TopicConfig { retention_age_ms: age, retention_bytes: bytes });
            prop_assert_eq!(TopicMeta::decode(KEY, &meta.encode()), Ok(meta));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = TopicMeta::decode(KEY, &bytes);
            let _ = Extent::decode(&bytes);
        }
    }
}
