//! What the writer remembers between groups: the ends of hot topics, journals and producer windows.
//!
//! All of it can be read back from the store; nothing is read until it is needed, and an idle topic costs nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{Epoch, Index, NodeId, Offset, PartitionId, TopicKey};
use mesh_ring::producer::ProducerWindow;
use mesh_ring::version::Dot;

use super::group::Group;
use super::{Run, WindowKey};
use crate::batch::verify_stored;
use crate::catalogue::Extent;
use crate::codec::only_u64;
use crate::error::{Damage, ReadError};
use crate::journal::{Command, Entry};
use crate::keys::{self, family, meta};
use crate::store::Store;

/// Most topics whose ends are remembered. Beyond it all are forgotten: one seek each brings them back.
const TAILS_MAX: usize = 65_536;

/// How far ahead of the last timestamp the durable bound is set, in milliseconds.
const CLOCK_AHEAD_MS: u64 = 1_000;

/// Where a topic's log begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TopicTail {
    /// First offset that can be read.
    pub(crate) first: Offset,
    /// Byte position of the first stored batch.
    pub(crate) first_position: u64,
    /// The next offset to be given out.
    pub(crate) next: Offset,
    /// Byte position after the last batch.
    pub(crate) position: u64,
    /// Append time of the last record, unix milliseconds.
    pub(crate) append_time_ms: u64,
}

/// A partition in use.
pub(super) struct Partition {
    pub(super) next_index: Index,
    /// Epoch of the last entry.
    epoch: Epoch,
    /// Windows that are newer here than in `producers`, with the time of their last append.
    pub(super) windows: HashMap<WindowKey, Window>,
    /// Windows in `producers` reflect the journal up to here.
    pub(super) applied: Index,
    /// First entry that is still kept.
    pub(super) first_index: Index,
}

/// A producer's window and when it last moved.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    pub(super) last_append_ms: u64,
    pub(super) window: ProducerWindow,
}

pub(super) struct State {
    pub(super) partitions: HashMap<PartitionId, Partition>,
    pub(super) tails: HashMap<TopicKey, TopicTail>,
    pub(super) partition_count: u16,
    pub(super) epoch: Epoch,
    node: NodeId,
    boot: u32,
    counter: u64,
    hlc: Hlc,
    clock_bound: Hlc,
    /// Time by which ages were judged last, in any run: a producer that is older may have been forgotten.
    pub(super) age_ms: u64,
}

impl State {
    pub(super) fn new(run: Run) -> State {
        State {
            partitions: HashMap::new(),
            tails: HashMap::new(),
            partition_count: run.partitions,
            // A cluster of one: this node leads every partition, in a new epoch each time it starts.
            epoch: Epoch(run.boot.into()),
            node: run.node,
            boot: run.boot,
            counter: 0,
            hlc: run.clock_bound,
            clock_bound: run.clock_bound,
            age_ms: run.age_ms,
        }
    }

    /// Forgets topic ends where there are too many. Only between groups: within one they run ahead of the store.
    pub(super) fn forget_idle(&mut self) {
        if self.tails.len() > TAILS_MAX {
            self.tails = HashMap::new();
        }
    }

    /// The end of a topic's log; `None` where the topic does not exist.
    pub(super) fn tail(
        &mut self,
        group: &Group<'_>,
        topic: TopicKey,
    ) -> Result<Option<TopicTail>, ReadError> {
        if group.deleted.contains(&topic) {
            return Ok(None);
        }
        if let Some(tail) = self.tails.get(&topic) {
            return Ok(Some(*tail));
        }
        let tail = load_tail(group.store, topic)?;
        self.tails.extend(tail.map(|tail| (topic, tail)));
        Ok(tail)
    }

    pub(super) fn partition(
        &mut self,
        group: &Group<'_>,
        id: PartitionId,
    ) -> Result<&mut Partition, ReadError> {
        match self.partitions.entry(id) {
            Slot::Occupied(slot) => Ok(slot.into_mut()),
            Slot::Vacant(slot) => {
                let now_ms = group.now_ms.max(self.age_ms);
                Ok(slot.insert(Partition::load(group.store, id, now_ms)?))
            }
        }
    }

    /// Journals `command` and returns its index. The first entry of an epoch is preceded by a barrier.
    pub(super) fn journal(
        &mut self,
        group: &mut Group<'_>,
        id: PartitionId,
        command: Command,
    ) -> Result<Index, ReadError> {
        let epoch = self.epoch;
        let partition = self.partition(group, id)?;
        if partition.epoch < epoch {
            partition.epoch = epoch;
            partition.push(
                group,
                id,
                Entry {
                    epoch,
                    command: Command::Barrier,
                },
            );
        }
        Ok(partition.push(group, id, Entry { epoch, command }))
    }

    /// A dot that no other write, of this run or an earlier one, has.
    pub(super) fn mint(&mut self) -> Dot {
        self.counter += 1;
        Dot {
            node: self.node,
            boot: self.boot,
            counter: self.counter,
        }
    }

    /// A timestamp above all that this node gave out, whatever the physical clock does.
    pub(super) fn tick(&mut self, now_ms: u64) -> Hlc {
        self.hlc = self.hlc.next(now_ms);
        self.hlc
    }

    /// Makes durable that ages were judged by `now_ms`.
    pub(super) fn judge_ages(&mut self, group: &mut Group<'_>, now_ms: u64) {
        self.age_ms = self.age_ms.max(now_ms);
        group.put(family::META, meta::AGE, self.age_ms.to_be_bytes());
    }

    /// Makes durable, with the group, that no timestamp above the bound was given out.
    pub(super) fn bound_clock(&mut self, group: &mut Group<'_>) {
        if self.hlc > self.clock_bound {
            self.clock_bound = self
                .hlc
                .next(self.hlc.millis().saturating_add(CLOCK_AHEAD_MS));
            group.put(family::META, meta::CLOCK, self.clock_bound.0.to_be_bytes());
        }
    }
}

impl Partition {
    /// Reads the journal's end, and the windows that its unapplied rest changes.
    fn load(store: &Store, id: PartitionId, now_ms: u64) -> Result<Partition, ReadError> {
        let key = keys::applied_key(id);
        let applied = match store.get(family::TOPICS, &key)? {
            None => Index(0),
            Some(value) => {
                Index(only_u64(&value).map_err(|error| damaged("applied index", error))?)
            }
        };
        let mut iterator = store.iterate(family::JOURNAL, &id.0.to_be_bytes());
        iterator.seek_to_first();
        let first_index = iterator
            .key()
            .and_then(|key| keys::parse_journal_key(id, key))
            .unwrap_or(Index(1));
        let mut partition = Partition {
            next_index: applied.next(),
            epoch: Epoch(0),
            windows: HashMap::new(),
            applied,
            first_index,
        };
        iterator.seek(keys::journal_key(id, applied.max(Index(1))));
        while let Some((key, value)) = iterator.item() {
            let index = keys::parse_journal_key(id, key)
                .ok_or_else(|| damaged("journal", "key of a wrong length"))?;
            let entry = Entry::decode(value).map_err(|error| damaged("journal entry", error))?;
            partition.epoch = entry.epoch;
            partition.next_index = index.next();
            if index > applied {
                partition.replay(store, id, entry.command, now_ms)?;
            }
            iterator.next();
        }
        iterator.status().map_err(|error| {
            store.read_error(family::JOURNAL, &keys::journal_key(id, applied), &error)
        })?;
        Ok(partition)
    }

    /// Applies what is not written with its entry: producer windows.
    fn replay(
        &mut self,
        store: &Store,
        id: PartitionId,
        command: Command,
        now_ms: u64,
    ) -> Result<(), ReadError> {
        match command {
            Command::Append {
                topic,
                first,
                last,
                producer: Some((producer, epoch, sequence)),
            } => {
                let key = TopicKey {
                    partition: id,
                    id: topic,
                };
                let window = self.window(store, key, producer)?;
                window.window.record(epoch, sequence, first, last);
                // The entry does not tell the time; a later one only delays expiry.
                window.last_append_ms = now_ms;
            }
            Command::DeleteTopic { topic } => self.windows.retain(|(of, _), _| *of != topic),
            Command::ExpireProducer { topic, producer } => {
                self.windows.remove(&(topic, producer));
            }
            _ => {}
        }
        Ok(())
    }

    /// The window of a producer, made empty where there is none.
    pub(super) fn window(
        &mut self,
        store: &Store,
        topic: TopicKey,
        producer: mesh_ring::ids::ProducerId,
    ) -> Result<&mut Window, ReadError> {
        match self.windows.entry((topic.id, producer)) {
            Slot::Occupied(slot) => Ok(slot.into_mut()),
            Slot::Vacant(slot) => {
                let window =
                    match store.get(family::PRODUCERS, &keys::producer_key(topic, producer))? {
                        None => Window::default(),
                        Some(value) => Window::decode(&value)?,
                    };
                Ok(slot.insert(window))
            }
        }
    }

    fn push(&mut self, group: &mut Group<'_>, id: PartitionId, entry: Entry) -> Index {
        let index = self.next_index;
        group.put_journal(keys::journal_key(id, index), entry.encode());
        self.next_index = index.next();
        index
    }
}

impl Window {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.last_append_ms.to_be_bytes().to_vec();
        out.extend_from_slice(&self.window.encode());
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Window, ReadError> {
        let (time, window) = value
            .split_at_checked(8)
            .ok_or_else(|| damaged("producer window", "cut short"))?;
        Ok(Window {
            last_append_ms: only_u64(time).map_err(|error| damaged("producer window", error))?,
            window: ProducerWindow::decode(window)
                .map_err(|error| damaged("producer window", error))?,
        })
    }
}

/// Reads where a topic's log begins and ends; `None` where the topic does not exist.
pub(crate) fn load_tail(store: &Store, topic: TopicKey) -> Result<Option<TopicTail>, ReadError> {
    loop {
        let Some(extent) = load_extent(store, topic)? else {
            return Ok(None);
        };
        let tail = tail_after(store, topic, extent)?;
        // A trim between the two reads would give the new log with the old extent.
        if tail.next > extent.first || load_extent(store, topic)? == Some(extent) {
            return Ok(Some(tail));
        }
    }
}

fn load_extent(store: &Store, topic: TopicKey) -> Result<Option<Extent>, ReadError> {
    let extent = store.get(family::TOPICS, &keys::extent_key(topic))?;
    extent
        .map(|extent| Extent::decode(&extent).map_err(|error| damaged("topic extent", error)))
        .transpose()
}

fn tail_after(store: &Store, topic: TopicKey, extent: Extent) -> Result<TopicTail, ReadError> {
    let mut tail = TopicTail {
        first: extent.first,
        first_position: extent.position,
        next: extent.first,
        position: extent.position,
        append_time_ms: extent.append_time_ms,
    };
    let mut iterator = store.iterate(family::LOG, &keys::topic_prefix(topic));
    iterator.seek_to_last();
    if let Some((key, batch)) = iterator.item() {
        let header = verify_stored(batch).map_err(|error| {
            let last = keys::parse_log_key(key).map(|(_, last)| last);
            ReadError::Damaged(Damage {
                what: "the last batch of a topic".into(),
                topic: Some(topic),
                offset: last,
                files: store.files_of(family::LOG, key),
                detail: error.to_string(),
            })
        })?;
        tail.next = header.next_offset();
        tail.position = header.leader.base_position + batch.len() as u64;
        tail.append_time_ms = header.leader.append_time_ms;
    }
    iterator
        .status()
        .map_err(|error| store.read_error(family::LOG, &keys::log_key(topic, tail.next), &error))?;
    Ok(tail)
}

/// A stored value that does not decode.
pub(super) fn damaged(what: &str, detail: impl ToString) -> ReadError {
    ReadError::Damaged(Damage {
        what: what.to_owned(),
        topic: None,
        offset: None,
        files: Vec::new(),
        detail: detail.to_string(),
    })
}
