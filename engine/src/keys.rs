//! Every key layout of the store, in one place.
//!
//! Integers are big-endian, so that RocksDB's byte order is their order. A layout is never changed in place: the
//! numbers and prefixes here are on disk for ever, and a change is a step in `mesh-migrations`.

mod bindings;

use mesh_ring::ids::{Epoch, Index, Offset, PartitionId, ProducerId, TopicId, TopicKey};

pub use bindings::{
    MERKLE_CHANGES_PREFIX, binding_index_bounds, binding_key, expiry_key, generation_key,
    hint_count_key, hint_key, hint_of_key, merkle_changes_key, merkle_page_key, parse_binding_key,
    parse_expiry_key, parse_hint_count_key, parse_hint_key, parse_hint_of_key,
    parse_merkle_changes_key, parse_merkle_page_key, parse_tombstone_key, parse_under_leaf_key,
    tombstone_key, tombstone_prefix, under_leaf_bounds, under_leaf_key, under_leaf_prefix,
};

/// Column families, by name.
pub mod family {
    /// (partition, topic, last offset) → record batch.
    pub const LOG: &str = "log";
    /// (partition, index) → journal entry.
    pub const JOURNAL: &str = "journal";
    /// The catalogue: names, topic records, extents, topics under retention, checkpoints.
    pub const TOPICS: &str = "topics";
    /// (partition, topic, producer) → producer window.
    pub const PRODUCERS: &str = "producers";
    /// (partition, topic, name) → next offset to read.
    pub const CURSORS: &str = "cursors";
    /// (partition, key) → binding.
    pub const BINDINGS: &str = "bindings";
    /// Where to find bindings other than by key: those under a leaf, those that are only tombstones.
    pub const BINDING_INDEX: &str = "binding_index";
    /// (partition, due time, key) → nothing: values to expire when that time has come.
    pub const EXPIRY: &str = "expiry";
    /// (target, partition, sequence) → hint.
    pub const HINTS: &str = "hints";
    /// (partition, page) → additive sums of leaves; and what of them changed since.
    pub const MERKLE: &str = "merkle";
    /// What this node has promised as a replica of each partition, and what its journal is like.
    pub const REPLICAS: &str = "replicas";
    /// The control plane's own rows: keys are whatever it makes of them.
    pub const CONTROL: &str = "control";
    /// Format version, identity, boot count, tail marker, clock bound.
    pub const META: &str = "meta";

    /// All of them, in the order in which they are listed to people.
    pub const ALL: [&str; 13] = [
        LOG,
        JOURNAL,
        TOPICS,
        PRODUCERS,
        CURSORS,
        BINDINGS,
        BINDING_INDEX,
        EXPIRY,
        HINTS,
        MERKLE,
        REPLICAS,
        CONTROL,
        META,
    ];
}

/// Keys of the `meta` family.
pub mod meta {
    /// u32 BE: the format version of everything else.
    pub const FORMAT: &[u8] = b"format";
    /// Present while a migration is under way; written by `mesh-migrations`.
    pub const MIGRATION: &[u8] = b"migration";
    /// Who this store belongs to.
    pub const IDENTITY: &[u8] = b"identity";
    /// u32 BE: how often the store was opened for writing.
    pub const BOOT: &[u8] = b"boot";
    /// u64 BE: written when the writer falls idle, so that the last acknowledged group is never the last WAL record.
    pub const MARKER: &[u8] = b"marker";
    /// u64 BE: unix milliseconds by which ages were judged last.
    pub const AGE: &[u8] = b"age";
    /// u64 BE: no hybrid timestamp above this was ever given out.
    pub const CLOCK: &[u8] = b"clock";
    /// The boot counts and random tokens of this and of earlier openings.
    pub const BOOTS: &[u8] = b"boots";
    /// Members and replication of a cluster that is founded with this store.
    pub const FOUNDING: &[u8] = b"founding";
    /// u32 BE: how often the store was opened after it had not been closed.
    pub const STARTS: &[u8] = b"starts";
    /// Present while the store is closed.
    pub const CLOSED: &[u8] = b"closed";
    /// What the keys of [`super::generation_key`] begin with.
    pub const GENERATION: &[u8] = b"generation/";
    /// What the keys of [`super::hint_count_key`] begin with.
    pub const HINT_COUNT: &[u8] = b"hints/";
}

const REPLICA: u8 = 0;
const EPOCH: u8 = 1;
const IMPORT: u8 = 2;

const CHECKPOINT: u8 = 0;
const NAME: u8 = 1;
const TOPIC: u8 = 2;
const EXTENT: u8 = 3;
const RETAINED: u8 = 4;
const GARBAGE: u8 = 5;

fn partition_prefixed(partition: PartitionId, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + rest.len());
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

fn tagged(partition: PartitionId, tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + rest.len());
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

fn topic_prefixed(topic: TopicKey, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(10 + rest.len());
    key.extend_from_slice(&topic_prefix(topic));
    key.extend_from_slice(rest);
    key
}

/// `log` family. Key: partition u16 | topic id u64 | last offset u64.
///
/// Keyed by the *last* offset, one forward seek finds the batch that contains an offset.
pub fn log_key(topic: TopicKey, last: Offset) -> [u8; 18] {
    let mut key = [0; 18];
    key[..10].copy_from_slice(&topic_prefix(topic));
    key[10..].copy_from_slice(&last.to_be_bytes());
    key
}

/// The topic and last offset that a `log` key names.
pub fn parse_log_key(key: &[u8]) -> Option<(TopicKey, Offset)> {
    let key: &[u8; 18] = key.try_into().ok()?;
    let (topic, last) = key.split_at(10);
    Some((
        parse_topic_prefix(topic)?,
        u64::from_be_bytes(last.try_into().ok()?),
    ))
}

/// What every key of one topic begins with in `log`, `producers` and `cursors`: partition u16 | topic id u64.
pub fn topic_prefix(topic: TopicKey) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&topic.partition.0.to_be_bytes());
    key[2..].copy_from_slice(&topic.id.0.to_be_bytes());
    key
}

fn parse_topic_prefix(key: &[u8]) -> Option<TopicKey> {
    let (partition, id) = key.split_at_checked(2)?;
    Some(TopicKey {
        partition: PartitionId(u16::from_be_bytes(partition.try_into().ok()?)),
        id: TopicId(u64::from_be_bytes(id.try_into().ok()?)),
    })
}

/// The first key after every key that begins with `prefix`; `None` where there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// `journal` family. Key: partition u16 | index u64.
pub fn journal_key(partition: PartitionId, index: Index) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&partition.0.to_be_bytes());
    key[2..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// The index that a `journal` key of `partition` names.
pub fn parse_journal_key(partition: PartitionId, key: &[u8]) -> Option<Index> {
    let index = key.strip_prefix(&partition.0.to_be_bytes())?;
    Some(Index(u64::from_be_bytes(index.try_into().ok()?)))
}

/// `topics` family. Key: partition u16 | 0. How far the windows of the partition's producers are written.
pub fn checkpoint_key(partition: PartitionId) -> Vec<u8> {
    tagged(partition, CHECKPOINT, &[])
}

/// `topics` family. Key: partition u16 | 1 | name. The topic id.
pub fn name_key(partition: PartitionId, name: &str) -> Vec<u8> {
    tagged(partition, NAME, name.as_bytes())
}

/// What every name of `partition` begins with in the `topics` family.
pub fn name_prefix(partition: PartitionId) -> Vec<u8> {
    tagged(partition, NAME, &[])
}

/// `topics` family. Key: partition u16 | 2 | topic id u64. Name and configuration.
pub fn topic_key(topic: TopicKey) -> Vec<u8> {
    tagged(topic.partition, TOPIC, &topic.id.0.to_be_bytes())
}

/// What every key made by [`topic_key`] for `partition` begins with.
pub fn topic_keys_prefix(partition: PartitionId) -> Vec<u8> {
    tagged(partition, TOPIC, &[])
}

/// The topic that a key made by [`topic_key`] names.
pub fn parse_topic_key(key: &[u8]) -> Option<TopicKey> {
    parse_tagged_topic(TOPIC, key)
}

/// `topics` family. Key: partition u16 | 3 | topic id u64. Where the topic's log begins.
pub fn extent_key(topic: TopicKey) -> Vec<u8> {
    tagged(topic.partition, EXTENT, &topic.id.0.to_be_bytes())
}

/// `topics` family. Key: partition u16 | 4 | topic id u64. Present for topics with a retention limit.
pub fn retained_key(topic: TopicKey) -> Vec<u8> {
    tagged(topic.partition, RETAINED, &topic.id.0.to_be_bytes())
}

/// What every retained topic of `partition` begins with in the `topics` family.
pub fn retained_prefix(partition: PartitionId) -> Vec<u8> {
    tagged(partition, RETAINED, &[])
}

/// The topic that a key made by [`retained_key`] names.
pub fn parse_retained_key(key: &[u8]) -> Option<TopicKey> {
    parse_tagged_topic(RETAINED, key)
}

fn parse_tagged_topic(tag: u8, key: &[u8]) -> Option<TopicKey> {
    let (partition, rest) = key.split_at_checked(2)?;
    let id = rest.strip_prefix(&[tag])?;
    Some(TopicKey {
        partition: PartitionId(u16::from_be_bytes(partition.try_into().ok()?)),
        id: TopicId(u64::from_be_bytes(id.try_into().ok()?)),
    })
}

/// `topics` family. Key: partition u16 | 5 | topic id u64. Present while records of the topic that were trimmed or deleted
/// still take disk space.
pub fn garbage_key(topic: TopicKey) -> Vec<u8> {
    tagged(topic.partition, GARBAGE, &topic.id.0.to_be_bytes())
}

/// What every topic of `partition` with garbage begins with in the `topics` family.
pub fn garbage_prefix(partition: PartitionId) -> Vec<u8> {
    tagged(partition, GARBAGE, &[])
}

/// The topic that a key made by [`garbage_key`] names.
pub fn parse_garbage_key(key: &[u8]) -> Option<TopicKey> {
    parse_tagged_topic(GARBAGE, key)
}

/// `producers` family. Key: partition u16 | topic id u64 | producer id.
pub fn producer_key(topic: TopicKey, producer: ProducerId) -> Vec<u8> {
    topic_prefixed(topic, &producer.0)
}

/// `cursors` family. Key: partition u16 | topic id u64 | name.
pub fn cursor_key(topic: TopicKey, name: &str) -> Vec<u8> {
    topic_prefixed(topic, name.as_bytes())
}

/// `replicas` family. Key: partition u16 | 0. What was promised, where the journal begins, how far it is applied.
pub fn replica_key(partition: PartitionId) -> Vec<u8> {
    tagged(partition, REPLICA, &[])
}

/// `replicas` family. Key: partition u16 | 1 | epoch u64. The index of the epoch's first entry.
pub fn epoch_key(partition: PartitionId, epoch: Epoch) -> Vec<u8> {
    tagged(partition, EPOCH, &epoch.0.to_be_bytes())
}

/// What every key made by [`epoch_key`] begins with.
pub fn epoch_prefix(partition: PartitionId) -> Vec<u8> {
    tagged(partition, EPOCH, &[])
}

/// The epoch that a key of `partition` made by [`epoch_key`] names.
pub fn parse_epoch_key(partition: PartitionId, key: &[u8]) -> Option<Epoch> {
    let epoch = key.strip_prefix(&epoch_prefix(partition)[..])?;
    Some(Epoch(u64::from_be_bytes(epoch.try_into().ok()?)))
}

/// `replicas` family. Key: partition u16 | 2. How far a copy that is coming in has come.
pub fn import_key(partition: PartitionId) -> Vec<u8> {
    tagged(partition, IMPORT, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0x0102);
    const T: TopicKey = TopicKey {
        partition: P,
        id: TopicId(7),
    };

    #[test]
    fn topic_keys_bytes() {
        assert_eq!(
            log_key(T, 9),
            [1, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]
        );
        assert_eq!(parse_log_key(&log_key(T, 9)), Some((T, 9)));
        assert_eq!(parse_log_key(&[0; 17]), None);
        assert_eq!(topic_prefix(T), [1, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(topic_key(T), [1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(extent_key(T), [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(retained_key(T), [1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(parse_retained_key(&retained_key(T)), Some(T));
        assert_eq!(parse_retained_key(&extent_key(T)), None);
        assert_eq!(topic_keys_prefix(P), [1, 2, 2]);
        assert_eq!(parse_topic_key(&topic_key(T)), Some(T));
        assert_eq!(parse_topic_key(&extent_key(T)), None);
        assert_eq!(garbage_key(T), [1, 2, 5, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(parse_garbage_key(&garbage_key(T)), Some(T));
        assert_eq!(cursor_key(T, "a"), [1, 2, 0, 0, 0, 0, 0, 0, 0, 7, b'a']);
        assert_eq!(producer_key(T, ProducerId([3; 16]))[10..], [3; 16]);
    }

    #[test]
    fn partition_keys_bytes() {
        assert_eq!(journal_key(P, Index(5)), [1, 2, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(
            parse_journal_key(P, &journal_key(P, Index(5))),
            Some(Index(5))
        );
        assert_eq!(
            parse_journal_key(PartitionId(1), &journal_key(P, Index(5))),
            None
        );
        assert_eq!(checkpoint_key(P), [1, 2, 0]);
        assert_eq!(name_key(P, "n"), [1, 2, 1, b'n']);
        assert_eq!(name_prefix(P), [1, 2, 1]);
        assert_eq!(retained_prefix(P), [1, 2, 4]);
        assert_eq!(garbage_prefix(P), [1, 2, 5]);
        assert_eq!(replica_key(P), [1, 2, 0]);
        let epoch = epoch_key(P, Epoch(5));
        assert_eq!(epoch, [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(parse_epoch_key(P, &epoch), Some(Epoch(5)));
        assert_eq!(parse_epoch_key(PartitionId(1), &epoch), None);
        assert_eq!(parse_epoch_key(P, &replica_key(P)), None);
        assert_eq!(import_key(P), [1, 2, 2]);
    }

    #[test]
    fn the_end_of_a_prefix_is_the_next_key() {
        assert_eq!(prefix_end(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(prefix_end(&[1, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255, 255]), None);
        assert_eq!(prefix_end(&[]), None);
    }
}
