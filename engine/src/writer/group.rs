//! One group: the WriteBatch under construction, what later ops of the group must see of it, and who waits for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, NodeId, Offset, PartitionId, TopicKey};
use mesh_ring::merkle::LeafId;
use rocksdb::{ColumnFamily, WriteBatch};

use super::Done;
use crate::catalogue::{Extent, TopicMeta};
use crate::error::{ReadError, Stopped};
use crate::hints::HintStats;
use crate::journal::Entry;
use crate::keys::{self, family};
use crate::leaves::{Changes, Leaves, Settled};
use crate::replica::RECORD_BYTES;
use crate::space::Shortage;
use crate::store::Store;

pub(super) struct Group<'a> {
    pub(super) store: &'a Store,
    pub(super) batch: WriteBatch,
    /// Batches for the log and entries for the journal, by key. Put last and in order: what has its neighbour in the
    /// memtable before it is inserted without a search.
    log: Vec<([u8; 18], Bytes)>,
    journal: Vec<([u8; 10], Range<usize>)>,
    /// The bytes of those entries, one behind the other.
    entries: Vec<u8>,
    /// Records of replicas, the last of each.
    records: BTreeMap<PartitionId, [u8; RECORD_BYTES]>,
    /// Physical time of the group, unix milliseconds.
    pub(super) now_ms: u64,
    /// Whether there is room for anything but control.
    pub(super) space: Result<(), Shortage>,
    pub(super) replies: Vec<Box<dyn Reply>>,
    /// Topics with new records and the next offset of each, in order; a topic may come again, further on.
    pub(super) committed: Vec<(TopicKey, Offset)>,
    /// Topics created in this group.
    pub(super) created: HashMap<TopicKey, TopicMeta>,
    /// Where topics begin that were created or trimmed in this group.
    pub(super) extents: HashMap<TopicKey, Extent>,
    /// Topics deleted in this group.
    pub(super) deleted: HashSet<TopicKey>,
    /// Topics trimmed in this group: the first offset that remains, and how many bytes went.
    pub(super) trimmed: Vec<(TopicKey, Offset, u64)>,
    /// Rows of bindings as this group leaves them: the encoded value, `None` where it was removed.
    pub(super) bindings: HashMap<Vec<u8>, Option<Bytes>>,
    pub(super) leaves: &'a Leaves,
    /// What this group changes of leaves.
    pub(super) changes: Changes,
    /// Leaves that could not be read, and that this group has summed anew.
    pub(super) summed_anew: HashSet<(PartitionId, LeafId)>,
    /// Partitions whose bindings this group has removed: what the store still shows of them does not count.
    pub(super) wiped: HashSet<PartitionId>,
    /// Partitions of which this node has forgotten something since that was last looked at.
    pub(super) forgotten: Vec<PartitionId>,
    /// Whether leaves are kept; see [`crate::Options::with_leaves`].
    pub(super) with_leaves: bool,
    /// Hints as this group leaves them, by key; `None` where one was removed.
    pub(super) hints: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Rows that find hints by key as this group leaves them; `None` where one was removed.
    pub(super) hint_index: HashMap<Vec<u8>, Option<u64>>,
    /// Where the number of hints changed.
    pub(super) counted: BTreeSet<(NodeId, PartitionId)>,
    /// What it changed to, once the group is durable.
    pub(super) recounted: Vec<((NodeId, PartitionId), Option<HintStats>)>,
}

/// What becomes true in memory when a group is durable, before anyone is told of it.
pub(crate) trait Completion: Send + 'static {
    /// Makes it so, and adds the topics whose readers are to be told, each with its next offset.
    fn complete(&mut self, committed: &mut Vec<(TopicKey, Offset)>);
}

/// An answer that waits for the group to be durable.
pub(super) trait Reply {
    /// The group is durable.
    fn complete(&mut self, _committed: &mut Vec<(TopicKey, Offset)>) {}

    /// Sends it; `stopped` where the group did not become durable.
    fn send(self: Box<Self>, stopped: Option<&Stopped>);
}

struct Pending<T, E> {
    done: Done<T, E>,
    result: Result<T, E>,
}

impl<T, E: From<Stopped>> Reply for Pending<T, E> {
    fn send(self: Box<Self>, stopped: Option<&Stopped>) {
        (self.done)(match stopped {
            None => self.result,
            Some(stopped) => Err(stopped.clone().into()),
        });
    }
}

struct Completed<C, T> {
    completion: C,
    done: Done<T, Stopped>,
    value: T,
}

impl<C: Completion, T> Reply for Completed<C, T> {
    fn complete(&mut self, committed: &mut Vec<(TopicKey, Offset)>) {
        self.completion.complete(committed);
    }

    fn send(self: Box<Self>, stopped: Option<&Stopped>) {
        (self.done)(match stopped {
            None => Ok(self.value),
            Some(stopped) => Err(stopped.clone()),
        });
    }
}

impl<'a> Group<'a> {
    /// An empty group that will take about `bytes`.
    pub(super) fn new(
        store: &'a Store,
        leaves: &'a Leaves,
        bytes: usize,
        now_ms: u64,
        space: Result<(), Shortage>,
    ) -> Group<'a> {
        Group {
            store,
            // Grown step by step, a large group would be copied several times over.
            batch: WriteBatch::with_capacity_bytes(bytes),
            log: Vec::new(),
            journal: Vec::new(),
            entries: Vec::new(),
            records: BTreeMap::new(),
            now_ms,
            space,
            replies: Vec::new(),
            committed: Vec::new(),
            created: HashMap::new(),
            extents: HashMap::new(),
            deleted: HashSet::new(),
            trimmed: Vec::new(),
            bindings: HashMap::new(),
            leaves,
            changes: Changes::default(),
            summed_anew: HashSet::new(),
            wiped: HashSet::new(),
            with_leaves: true,
            hints: HashMap::new(),
            hint_index: HashMap::new(),
            forgotten: Vec::new(),
            counted: BTreeSet::new(),
            recounted: Vec::new(),
        }
    }

    /// Keeps the answer until the group is durable: even a refusal may rest on what this group writes.
    pub(super) fn reply<T: 'static, E: From<Stopped> + 'static>(
        &mut self,
        done: Done<T, E>,
        result: Result<T, E>,
    ) {
        self.replies.push(Box::new(Pending { done, result }));
    }

    /// Keeps the answer until the group is durable and `completion` has been told.
    pub(super) fn complete<T: 'static>(
        &mut self,
        completion: impl Completion,
        done: Done<T, Stopped>,
        value: T,
    ) {
        self.replies.push(Box::new(Completed {
            completion,
            done,
            value,
        }));
    }

    pub(super) fn family(&self, name: &str) -> &'a ColumnFamily {
        self.store.family(name)
    }

    pub(super) fn put(&mut self, name: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.batch.put_cf(self.family(name), key, value);
    }

    /// Tells those who wait for the topic, once the group is durable.
    pub(super) fn committed(&mut self, topic: TopicKey, next: Offset) {
        match self.committed.last_mut() {
            Some((last, upto)) if *last == topic => *upto = next,
            _ => self.committed.push((topic, next)),
        }
    }

    /// Puts a record batch into the log when the group is sealed.
    pub(super) fn put_log(&mut self, key: [u8; 18], batch: Bytes) {
        self.log.push((key, batch));
    }

    /// Puts an entry into the journal when the group is sealed.
    pub(super) fn put_journal(&mut self, key: [u8; 10], epoch: Epoch, command: &Command) {
        let begin = self.entries.len();
        Entry::put(&mut self.entries, epoch, command);
        self.journal.push((key, begin..self.entries.len()));
    }

    /// Puts a replica's record when the group is sealed.
    pub(super) fn put_record(&mut self, partition: PartitionId, record: [u8; RECORD_BYTES]) {
        self.records.insert(partition, record);
    }

    /// Puts what waits for the log and the journal now: what follows is to delete some of it. Sorted as the numbers that
    /// their keys are, which compare faster than bytes.
    pub(super) fn settle_log(&mut self) {
        let mut log = std::mem::take(&mut self.log);
        log.sort_unstable_by_key(|([head @ .., y, z], _)| {
            (u128::from_be_bytes(*head), u16::from_be_bytes([*y, *z]))
        });
        let family = self.family(family::LOG);
        for (key, batch) in log {
            self.batch.put_cf(family, key, batch);
        }
        let mut journal = std::mem::take(&mut self.journal);
        journal.sort_unstable_by_key(|([y, z, tail @ ..], _)| {
            (u16::from_be_bytes([*y, *z]), u64::from_be_bytes(*tail))
        });
        let family = self.family(family::JOURNAL);
        for (key, entry) in journal {
            self.batch.put_cf(family, key, &self.entries[entry]);
        }
        self.entries.clear();
    }

    /// Completes the WriteBatch. Nothing is staged after this. Returns what is to be shown of leaves when it is durable.
    ///
    /// # Errors
    /// What is changed of leaves cannot be told.
    pub(super) fn seal(&mut self) -> Result<Settled, ReadError> {
        self.settle_log();
        self.settle_bindings();
        for (partition, record) in std::mem::take(&mut self.records) {
            self.put(family::REPLICAS, keys::replica_key(partition), record);
        }
        let changes = std::mem::take(&mut self.changes);
        self.leaves.settle(self.store, changes, &mut self.batch)
    }

    pub(super) fn delete(&mut self, name: &str, key: impl AsRef<[u8]>) {
        self.batch.delete_cf(self.family(name), key);
    }

    /// Deletes every key in `from..to`.
    pub(super) fn delete_range(&mut self, name: &str, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(self.family(name), from, to);
    }
}
