//! What every value should look like, and how to call the place where it stands.

use mesh_ring::binding::Binding;
use mesh_ring::ids::{Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::name::{BindingKey, CursorName, TopicName};
use mesh_ring::producer::ProducerWindow;

use crate::boots::Boots;
use crate::catalogue::{Extent, TopicMeta};
use crate::codec::{CodecError, only_u32, only_u64};
use crate::founding::Founding;
use crate::hints::{HintRow, HintStats};
use crate::identity::Identity;
use crate::journal::Entry;
use crate::keys::{self, family, meta};
use crate::leaves;
use crate::names::Generation;
use crate::replica::{Record, decode_checkpoint};

pub(super) const WRONG_KEY: &str = "a key that is never written";

/// A place in the store, in words and in numbers where it has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) what: String,
    pub(super) topic: Option<TopicKey>,
    pub(super) offset: Option<Offset>,
}

/// Checks a value of any family but `log` against its codec, and its key against its layout.
pub(crate) fn check(name: &str, key: &[u8], value: &[u8]) -> Result<(), String> {
    match name {
        family::JOURNAL => {
            known(partition_of(key).and_then(|p| keys::parse_journal_key(p, key)))?;
            done(Entry::decode(value))
        }
        family::TOPICS => check_topics(key, value),
        family::PRODUCERS => {
            known((key.len() == 26).then_some(()))?;
            let (_last_append_ms, window) = value
                .split_first_chunk::<8>()
                .ok_or_else(|| CodecError::Short.to_string())?;
            done(ProducerWindow::decode(window))
        }
        family::CURSORS => {
            let (_, name) = known(topic_of(key))?;
            done(CursorName::new(&text(name)?))?;
            done(only_u64(value))
        }
        family::BINDINGS => {
            done(BindingKey::new(known(key.get(2..))?))?;
            done(Binding::decode(value))
        }
        family::EXPIRY => {
            known(keys::parse_expiry_key(key))?;
            empty(value)
        }
        family::BINDING_INDEX => {
            let partition = known(partition_of(key))?;
            if let Some((key, _target)) = keys::parse_hint_of_key(partition, key) {
                done(BindingKey::new(key))?;
                return done(only_u64(value));
            }
            let under = keys::parse_under_leaf_key(partition, key).map(|(_, key)| key);
            let tombstone = || keys::parse_tombstone_key(partition, key).map(|(_, key)| key);
            done(BindingKey::new(known(under.or_else(tombstone))?))?;
            empty(value)
        }
        family::MERKLE => match keys::parse_merkle_changes_key(key) {
            Some(_) => leaves::entries(value).try_for_each(done),
            None => {
                let partition = known(partition_of(key))?;
                known(keys::parse_merkle_page_key(partition, key))?;
                done(leaves::decode_page(value))
            }
        },
        family::HINTS => {
            known((key.len() == 26).then_some(()))?;
            let hint = HintRow::decode(value).map_err(|error| error.to_string())?;
            done(BindingKey::new(hint.key))?;
            done(Binding::decode(hint.binding))
        }
        family::REPLICAS => check_replicas(key, value),
        family::META => check_meta(key, value),
        _ => Ok(()),
    }
}

fn check_topics(key: &[u8], value: &[u8]) -> Result<(), String> {
    let partition = known(partition_of(key))?;
    if key == keys::checkpoint_key(partition) {
        return done(decode_checkpoint(value));
    }
    if let Some(name) = key.strip_prefix(&keys::name_prefix(partition)[..]) {
        done(TopicName::new(&text(name)?))?;
        return done(only_u64(value));
    }
    let topic = known(catalogued_topic(key))?;
    if key == keys::topic_key(topic) {
        done(TopicMeta::decode(topic, value))
    } else if key == keys::extent_key(topic) {
        done(Extent::decode(value))
    } else if key == keys::garbage_key(topic) {
        done(only_u64(value))
    } else if key == keys::retained_key(topic) {
        empty(value)
    } else {
        Err(WRONG_KEY.to_owned())
    }
}

fn check_replicas(key: &[u8], value: &[u8]) -> Result<(), String> {
    let partition = known(partition_of(key))?;
    if key == keys::replica_key(partition) {
        done(Record::decode(value))
    } else if key == keys::import_key(partition) {
        Ok(())
    } else {
        known(keys::parse_epoch_key(partition, key))?;
        done(only_u64(value))
    }
}

fn check_meta(key: &[u8], value: &[u8]) -> Result<(), String> {
    match key {
        meta::FORMAT | meta::BOOT | meta::STARTS => done(only_u32(value)),
        meta::MARKER | meta::AGE | meta::CLOCK => done(only_u64(value)),
        meta::CLOSED => empty(value),
        meta::IDENTITY => done(Identity::decode(value)),
        meta::BOOTS => done(Boots::decode(value)),
        meta::FOUNDING => known(Founding::decode(&text(value)?)).map(drop),
        _ if key.starts_with(meta::GENERATION) => done(Generation::decode(value)),
        _ if key.starts_with(meta::HINT_COUNT) => {
            known(keys::parse_hint_count_key(key))?;
            done(HintStats::decode(value))
        }
        // A newer version may have left what this one does not know.
        _ => Ok(()),
    }
}

fn known<T>(parsed: Option<T>) -> Result<T, String> {
    parsed.ok_or_else(|| WRONG_KEY.to_owned())
}

fn done<T, E: ToString>(decoded: Result<T, E>) -> Result<(), String> {
    decoded.map(drop).map_err(|error| error.to_string())
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

fn empty(value: &[u8]) -> Result<(), String> {
    if value.is_empty() {
        Ok(())
    } else {
        Err("a value where there should be none".to_owned())
    }
}

fn partition_of(key: &[u8]) -> Option<PartitionId> {
    let bytes = key.first_chunk::<2>()?;
    Some(PartitionId(u16::from_be_bytes(*bytes)))
}

/// The topic that a key of `log`, `producers` or `cursors` begins with, and what follows it.
fn topic_of(key: &[u8]) -> Option<(TopicKey, &[u8])> {
    let (id, rest) = key.get(2..)?.split_first_chunk::<8>()?;
    let topic = TopicKey {
        partition: partition_of(key)?,
        id: TopicId(u64::from_be_bytes(*id)),
    };
    Some((topic, rest))
}

/// The topic that a topic record, an extent or a retention mark of `topics` is about.
fn catalogued_topic(key: &[u8]) -> Option<TopicKey> {
    let id: [u8; 8] = key.get(3..)?.try_into().ok()?;
    Some(TopicKey {
        partition: partition_of(key)?,
        id: TopicId(u64::from_be_bytes(id)),
    })
}

/// What stands at `key`, or would: a key may be cut short.
pub(super) fn place(name: &str, key: &[u8]) -> Place {
    let in_topic = |what: String, topic, offset| Place {
        what,
        topic: Some(topic),
        offset,
    };
    let outside = |what: String| Place {
        what,
        topic: None,
        offset: None,
    };
    let partition = partition_of(key);
    match (name, partition) {
        (family::META, _) => outside(format!("meta value {}", key.escape_ascii())),
        (family::EXPIRY, _) => match keys::parse_expiry_key(key) {
            Some((due_ms, _, key)) => outside(format!(
                "the due time {due_ms} of binding {}",
                key.escape_ascii()
            )),
            None => outside("a due time".to_owned()),
        },
        (family::HINTS, _) => outside("a hint".to_owned()),
        (family::BINDING_INDEX, Some(partition)) => {
            outside(format!("the index of partition {partition}'s bindings"))
        }
        (family::MERKLE, _) if keys::parse_merkle_changes_key(key).is_some() => {
            outside("changes of Merkle leaves".to_owned())
        }
        (family::CONTROL, _) => outside(format!("row {} of the control plane", key.escape_ascii())),
        (family::LOG, _) => match (keys::parse_log_key(key), topic_of(key)) {
            (Some((topic, offset)), _) => in_topic(
                format!("topic {topic} at offset {offset}"),
                topic,
                Some(offset),
            ),
            (None, Some((topic, _))) => in_topic(format!("topic {topic}"), topic, None),
            _ => outside("the log".to_owned()),
        },
        (family::PRODUCERS | family::CURSORS, _) => match topic_of(key) {
            Some((topic, name)) => {
                let what = if name.len() == 16 {
                    "producer"
                } else {
                    "cursor"
                };
                let name = name.escape_ascii();
                in_topic(format!("{what} {name} of topic {topic}"), topic, None)
            }
            None => outside(format!("the {name}")),
        },
        (family::TOPICS, Some(partition)) => match catalogued_topic(key) {
            Some(topic)
                if [
                    keys::topic_key(topic),
                    keys::extent_key(topic),
                    keys::retained_key(topic),
                    keys::garbage_key(topic),
                ]
                .iter()
                .any(|known| known == key) =>
            {
                in_topic(
                    format!("what the catalogue says of topic {topic}"),
                    topic,
                    None,
                )
            }
            _ => outside(format!("the catalogue of partition {partition}")),
        },
        (family::REPLICAS, Some(partition)) => outside(format!(
            "what is promised as a replica of partition {partition}"
        )),
        (family::JOURNAL, Some(partition)) => match keys::parse_journal_key(partition, key) {
            Some(index) => outside(format!("entry {index} of partition {partition}'s journal")),
            None => outside(format!("the journal of partition {partition}")),
        },
        (family::BINDINGS, Some(_)) if key.len() > 2 => {
            outside(format!("binding {}", key[2..].escape_ascii()))
        }
        (_, Some(partition)) => outside(format!("the {name} of partition {partition}")),
        (_, None) => outside(format!("the {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_ring::ids::Index;

    const T: TopicKey = TopicKey {
        partition: PartitionId(1),
        id: TopicId(7),
    };

    #[test]
    fn a_value_that_no_codec_wrote_is_refused_in_every_family() {
        let journal = keys::journal_key(PartitionId(1), Index(2));
        for (name, key, value) in [
            (family::JOURNAL, journal.to_vec(), &b"x"[..]),
            (family::JOURNAL, b"x".to_vec(), b""),
            (family::TOPICS, keys::checkpoint_key(T.partition), b"short"),
            (family::TOPICS, keys::name_key(T.partition, "t"), b"short"),
            (family::TOPICS, keys::topic_key(T), b"x"),
            (family::TOPICS, keys::extent_key(T), b"x"),
            (family::TOPICS, keys::retained_key(T), b"x"),
            (family::TOPICS, keys::garbage_key(T), b"x"),
            (family::TOPICS, b"\0\x01\x09".to_vec(), b""),
            (
                family::PRODUCERS,
                keys::producer_key(T, mesh_ring::ids::ProducerId([1; 16])),
                b"x",
            ),
            (family::CURSORS, keys::cursor_key(T, "c"), b"x"),
            (family::BINDINGS, keys::binding_key(T.partition, b"k"), b"x"),
            (family::EXPIRY, b"x".to_vec(), b""),
            (family::EXPIRY, keys::expiry_key(1, T.partition, b"k"), b"x"),
            (family::BINDING_INDEX, b"\0\x01\x09".to_vec(), b""),
            (
                family::BINDING_INDEX,
                keys::tombstone_key(T.partition, 1, b""),
                b"",
            ),
            (
                family::BINDING_INDEX,
                keys::tombstone_key(T.partition, 1, b"k"),
                b"x",
            ),
            (
                family::MERKLE,
                keys::merkle_page_key(T.partition, 1).to_vec(),
                b"x",
            ),
            (family::MERKLE, keys::merkle_changes_key(1).to_vec(), b"x"),
            (family::MERKLE, b"\0\x01\x01\x01".to_vec(), b""),
            (family::HINTS, b"x".to_vec(), b""),
            (
                family::HINTS,
                keys::hint_key(mesh_ring::ids::NodeId([1; 16]), T.partition, 1),
                b"x",
            ),
            (
                family::META,
                keys::hint_count_key(mesh_ring::ids::NodeId([1; 16]), T.partition),
                b"x",
            ),
            (family::REPLICAS, keys::replica_key(T.partition), b"x"),
            (family::REPLICAS, b"\0\x01\x09".to_vec(), b""),
            (
                family::REPLICAS,
                keys::epoch_key(T.partition, mesh_ring::ids::Epoch(1)),
                b"x",
            ),
            (family::META, meta::FORMAT.to_vec(), b"x"),
            (family::META, meta::IDENTITY.to_vec(), b"x"),
            (family::META, meta::CLOCK.to_vec(), b"x"),
        ] {
            assert!(check(name, &key, value).is_err(), "{name} {key:?}");
            assert!(!place(name, &key).what.is_empty());
        }
        assert_eq!(
            check(family::CURSORS, &keys::cursor_key(T, "c"), &[0; 8]),
            Ok(())
        );
        assert_eq!(check(family::TOPICS, &keys::retained_key(T), b""), Ok(()));
    }

    #[test]
    fn places_have_their_topic_and_offset() {
        let at = place(family::LOG, &keys::log_key(T, 9));
        assert_eq!((at.topic, at.offset), (Some(T), Some(9)));
        assert_eq!(place(family::LOG, &[0, 1]).topic, None);
        assert_eq!(
            place(family::CURSORS, &keys::cursor_key(T, "c")).topic,
            Some(T)
        );
        assert_eq!(place(family::TOPICS, &keys::extent_key(T)).topic, Some(T));
        assert_eq!(
            place(family::TOPICS, &keys::name_key(T.partition, "12345678")).topic,
            None
        );
    }
}
