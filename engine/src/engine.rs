//! The engine's public doors.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::hash::partition_of;
use mesh_ring::ids::{Epoch, Offset, PartitionId, TopicId, TopicKey};
use mesh_ring::limits::LIST_PAGE_MAX;
use mesh_ring::name::{BindingKey, CursorName, TopicName};

use crate::boots::{Boot, Boots};
use crate::catalogue::{TopicExtent, TopicMeta};
use crate::codec::only_u64;
use crate::error::{BindingError, OpenError, ReadError, Stopped};
use crate::founding::Founding;
use crate::hints::HintCounts;
use crate::housekeeping::Schedule;
use crate::identity::Identity;
use crate::keys::{self, family};
use crate::leaves::Leaves;
use crate::listing;
use crate::lock::DirectoryLock;
use crate::open::{self, Opened};
use crate::options::{Clock, OnCommitted, Options};
use crate::read;
use crate::reclaim::Garbage;
use crate::replica::{End, Slots};
use crate::scrub::{self, Pace, ScrubReport};
use crate::space::{Shortage, Space};
use crate::storage::{self, FamilyUsage};
use crate::store::Store;
use crate::writer::{BindingWrite, Done, Op, Queue, Run, Writer, Written};

/// What an op weighs in the queue beside its payload, in bytes.
const OP_BYTES: usize = 256;

/// An open store. Every method may be called from any thread; those that answer only when something is durable block
/// for about one fsync.
///
/// Dropping it closes it as [`Engine::close`] does, but cannot say whether that worked. A process that dies without
/// either loses nothing that was acknowledged.
pub struct Engine {
    store: Arc<Store>,
    queue: Arc<Queue>,
    slots: Arc<Slots>,
    on_committed: Option<OnCommitted>,
    writer: Mutex<Option<JoinHandle<Result<(), Stopped>>>>,
    identity: Identity,
    founding: Option<Founding>,
    boot: u32,
    boots: Boots,
    found_damage: Option<String>,
    clock: Clock,
    tombstone_age_ms: u64,
    space: Space,
    garbage: Arc<Garbage>,
    schedule: Schedule,
    kept_hints: Arc<Mutex<HintCounts>>,
    leaves: Arc<Leaves>,
    _lock: DirectoryLock,
}

/// An answer that will come from the writer.
pub(crate) struct Answer<T, E>(Receiver<Result<T, E>>);

impl<T, E: From<Stopped>> Answer<T, E> {
    pub(crate) fn of(receiver: Receiver<Result<T, E>>) -> Answer<T, E> {
        Answer(receiver)
    }

    pub(crate) fn wait(self) -> Result<T, E> {
        self.0.recv().unwrap_or_else(|_| {
            Err(Stopped {
                cause: "the writer is gone".into(),
            }
            .into())
        })
    }
}

impl Engine {
    /// Opens the store in `data`, or makes it where [`crate::prepare`] has put a bootstrap file.
    ///
    /// After a crash everything that was acknowledged is there; a write that was never acknowledged is there whole or
    /// not at all. The time does not grow with the store, but where what is derived from bindings is lost: then all of them
    /// are read.
    ///
    /// # Errors
    /// See [`OpenError`]: each case is refused before anything is written.
    pub fn open(data: impl AsRef<Path>, options: Options) -> Result<Engine, OpenError> {
        let data = data.as_ref();
        let Opened {
            store,
            identity,
            founding,
            boot,
            boots,
            starts,
            clock_bound,
            age_ms,
            found_damage,
            lock,
        } = open::open(data, &options)?;
        let hints = HintCounts::load(&store).map_err(|error| OpenError::Damaged {
            data: data.to_owned(),
            detail: error.to_string(),
        })?;
        let kept_hints = Arc::new(Mutex::new(hints.clone()));
        let store = Arc::new(store);
        let queue = Arc::new(Queue::new());
        let slots = Arc::new(Slots::new(identity.partitions));
        let space = Space::new(data.to_owned(), options.reserve_bytes);
        let garbage = Arc::new(Garbage::default());
        let leaves =
            Leaves::load(&store, identity.partitions, found_damage.is_some()).map_err(|error| {
                OpenError::Damaged {
                    data: data.to_owned(),
                    detail: error.to_string(),
                }
            })?;
        let leaves = Arc::new(leaves);
        let run = Run {
            node: identity.node,
            boot,
            starts,
            partitions: identity.partitions,
            clock_bound,
            hints,
            kept_hints: Arc::clone(&kept_hints),
            hint_bytes_max: options.hint_bytes_max,
            leaves: Arc::clone(&leaves),
        };
        let clock = Arc::clone(&options.clock);
        let tombstone_age_ms = options.tombstone_age_ms;
        let on_committed = options.on_committed.clone();
        let schedule = Schedule::new(age_ms, &options);
        let writer = Writer::new(
            Arc::clone(&store),
            Arc::clone(&queue),
            Arc::clone(&slots),
            options,
            space.clone(),
            Arc::clone(&garbage),
            run,
        );
        let thread = std::thread::Builder::new()
            .name("engine-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Io {
                data: data.to_owned(),
                detail: error.to_string(),
            })?;
        let writer = Mutex::new(Some(thread));
        Ok(Engine {
            store,
            queue,
            slots,
            on_committed,
            writer,
            identity,
            founding,
            boot,
            boots,
            found_damage,
            clock,
            tombstone_age_ms,
            space,
            garbage,
            schedule,
            kept_hints,
            leaves,
            _lock: lock,
        })
    }

    /// Finishes what is queued, writes everything out, and takes no more writes. The next open replays nothing. Reads
    /// go on, and the directory stays locked, until the engine is dropped.
    ///
    /// # Errors
    /// The store stopped before, or could not write on the way out. What was acknowledged is safe all the same.
    pub fn close(&self) -> Result<(), Stopped> {
        self.queue.close();
        let thread = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match thread.map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(Stopped {
                cause: "the writer panicked".into(),
            }),
            None => Ok(()),
        }
    }

    /// Whose store this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The members of the cluster that was founded with this store; `None` where it joins one, or is used by itself.
    pub fn founding(&self) -> Option<&Founding> {
        self.founding.as_ref()
    }

    /// What had been acknowledged and was lost before this opening, in words: every replica is suspect since.
    pub fn found_damage(&self) -> Option<&str> {
        self.found_damage.as_deref()
    }

    /// This opening of the store, durable since before [`Engine::open`] returned.
    pub fn boot_token(&self) -> Boot {
        self.boots.0.last().copied().unwrap_or(Boot {
            count: self.boot,
            token: [0; 16],
        })
    }

    /// Earlier openings, the newest first: among them is the last that anyone knows of, unless this is an old copy of the
    /// disk.
    pub fn earlier_boots(&self) -> impl Iterator<Item = Boot> + '_ {
        self.boots.0.iter().rev().skip(1).copied()
    }

    /// How often the store was opened, this time included.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// The epoch in which a node that is by itself appends in this run.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.boot.into())
    }

    /// Why the store takes no writes, if it does not.
    pub fn stopped(&self) -> Option<Stopped> {
        self.queue.stopped()
    }

    /// The partition of a topic's name or a binding's key.
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        partition_of(key, self.identity.partitions)
    }

    // Topics.

    /// Looks a topic up by name.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn topic(&self, name: &TopicName) -> Result<Option<TopicMeta>, ReadError> {
        read::topic_named(&self.store, self.partition_of(name.as_bytes()), name)
    }

    /// Names of topics, in order, that begin with `prefix` and come after `after`; at most `limit` and at most
    /// [`LIST_PAGE_MAX`].
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn list_topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, ReadError> {
        let limit = limit.min(LIST_PAGE_MAX) as usize;
        listing::topics(&self.store, self.identity.partitions, prefix, after, limit)
    }

    /// What of a topic can be read now.
    ///
    /// # Errors
    /// [`ReadError::TopicDeleted`], or its last batch is damaged.
    pub fn describe(&self, topic: TopicKey) -> Result<TopicExtent, ReadError> {
        self.committed(topic, |end| read::extent(&self.store, end, topic))
    }

    /// The offsets of what is committed here, also where the batch that ends it cannot be read.
    ///
    /// # Errors
    /// [`ReadError::TopicDeleted`]; or the catalogue is damaged, or the log so that not even its end is known.
    pub fn committed_offsets(&self, topic: TopicKey) -> Result<Range<Offset>, ReadError> {
        let damage = match self.describe(topic) {
            Ok(extent) => return Ok(extent.first..extent.next),
            Err(ReadError::Damaged(damage)) => damage,
            Err(error) => return Err(error),
        };
        let Some(last) = damage.offset.filter(|_| damage.topic == Some(topic)) else {
            return Err(ReadError::Damaged(damage));
        };
        self.committed(topic, |end| {
            let extent = read::load_extent(&self.store, topic)?;
            let first = extent.ok_or(ReadError::TopicDeleted)?.first;
            let stored = last.saturating_add(1);
            let next = end(topic.id).map_or(stored, |end| end.next.min(stored));
            Ok(first..next.max(first))
        })
    }

    /// Whole committed batches, verbatim, from the one that contains `from`, until `max_bytes` are reached; at least one
    /// if there is any, none at the end. A batch may begin before `from`, and before the topic's first offset.
    ///
    /// # Errors
    /// [`ReadError::TopicDeleted`], [`ReadError::Trimmed`], [`ReadError::BeyondEnd`], or damage, which is never served.
    pub fn read(
        &self,
        topic: TopicKey,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        self.committed(topic, |end| {
            read::batches(&self.store, end, topic, from, max_bytes)
        })
    }

    /// The same, at most `max_bytes`, where that takes no look at the disk: what was written lately. Also whether that is all
    /// that is committed by now. `None`: there is nothing of it, or [`Engine::read`] knows more.
    pub fn read_at_hand(
        &self,
        topic: TopicKey,
        from: Offset,
        max_bytes: usize,
    ) -> Option<(Vec<Bytes>, bool)> {
        let read = self.committed(topic, |end| {
            Ok(read::batches_at_hand(
                &self.store,
                end,
                topic,
                from,
                max_bytes,
            ))
        });
        read.ok().flatten()
    }

    /// The first offset that was appended at `time_ms` (unix milliseconds) or later; the next offset where none was.
    ///
    /// # Errors
    /// As for [`Engine::read`].
    pub fn offset_at_time(&self, topic: TopicKey, time_ms: u64) -> Result<Offset, ReadError> {
        self.committed(topic, |end| {
            read::offset_at_time(&self.store, end, topic, time_ms)
        })
    }

    /// The next offset that the reader `name` wants, if it ever committed one.
    ///
    /// # Errors
    /// The cursor cannot be read.
    pub fn cursor(&self, topic: TopicKey, name: &CursorName) -> Result<Option<Offset>, ReadError> {
        let key = keys::cursor_key(topic, name.as_str());
        let value = self.store.get(family::CURSORS, &key)?;
        value
            .map(|value| only_u64(&value).map_err(|error| read::undecodable("cursor", &error)))
            .transpose()
    }

    // Bindings.

    /// Writes or deletes a binding and returns when that is durable.
    ///
    /// # Errors
    /// See [`BindingError`].
    pub fn write_binding(&self, write: BindingWrite) -> Result<Written, BindingError> {
        let (sender, receiver) = sync_channel(1);
        self.submit_write(write, move |result| {
            let _ = sender.send(result);
        });
        Answer(receiver).wait()
    }

    /// Queues a write; `done` is called on the writer's thread when it is durable or refused, and must not block. The call itself
    /// blocks only while more than [`crate::QUEUE_BYTES_MAX`] wait for the disk.
    pub fn submit_write(
        &self,
        write: BindingWrite,
        done: impl FnOnce(Result<Written, BindingError>) + Send + 'static,
    ) {
        let bytes =
            write.value.as_ref().map_or(0, Bytes::len) + write.key.as_bytes().len() + OP_BYTES;
        self.queue
            .push(Op::Write(write, None, Box::new(done)), bytes);
    }

    /// As [`Engine::submit_write`]; `decided` is called first, on the writer's thread, with what the key is after the write, so that it
    /// can be on its way to others while it becomes durable here. It must not block, is not called for a write that is
    /// refused, and tells of nothing that is acknowledged yet.
    pub fn submit_write_early(
        &self,
        write: BindingWrite,
        decided: impl FnOnce(&Binding, &Written) + Send + 'static,
        done: impl FnOnce(Result<Written, BindingError>) + Send + 'static,
    ) {
        let bytes =
            write.value.as_ref().map_or(0, Bytes::len) + write.key.as_bytes().len() + OP_BYTES;
        let op = Op::Write(write, Some(Box::new(decided)), Box::new(done));
        self.queue.push(op, bytes);
    }

    /// A binding with all its versions, tombstones and expired values included; see [`Binding::live`].
    ///
    /// # Errors
    /// The binding cannot be read.
    pub fn binding(&self, key: &BindingKey) -> Result<Option<Binding>, ReadError> {
        read::binding(
            &self.store,
            self.partition_of(key.as_bytes()),
            key.as_bytes(),
        )
    }

    /// The same, where that takes no look at the disk. `None`: it may take one.
    pub fn binding_at_hand(&self, key: &BindingKey) -> Option<Result<Option<Binding>, ReadError>> {
        let partition = self.partition_of(key.as_bytes());
        read::binding_at_hand(&self.store, partition, key.as_bytes())
    }

    /// Keys with a live value, in order, that begin with `prefix` and come after `after`; at most `limit` and at most
    /// [`LIST_PAGE_MAX`].
    ///
    /// # Errors
    /// A binding cannot be read.
    pub fn list_bindings(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<Vec<Bytes>, ReadError> {
        let limit = limit.min(LIST_PAGE_MAX) as usize;
        listing::bindings(
            &self.store,
            self.identity.partitions,
            prefix,
            after,
            limit,
            self.now_ms(),
        )
    }

    // The disk.

    /// Reads everything that is stored and reports what does not match its checksum. `pace` is asked after each step.
    pub fn scrub(&self, pace: Pace<'_>) -> ScrubReport {
        scrub::scrub(&self.store, &self.leaves, self.identity.partitions, pace)
    }

    /// What is stored, by family.
    pub fn storage(&self) -> Vec<FamilyUsage> {
        storage::usage(&self.store)
    }

    /// Whether the file system has room above the reserve. Where not, no new records are to be taken; trims may go on.
    ///
    /// # Errors
    /// What is free and what is kept.
    pub fn admit(&self) -> Result<(), Shortage> {
        self.space.admit()
    }

    /// Bytes that the file system has free. `None` where the system does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        self.space.free()
    }

    /// Reads what is committed of a topic; see [`Slots::committed`].
    pub(crate) fn committed<T>(
        &self,
        topic: TopicKey,
        read: impl Fn(&dyn Fn(TopicId) -> Option<End>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        self.slots.committed(&self.store, topic.partition, read)
    }

    /// Tells whoever wants to know that topics have new committed records.
    pub(crate) fn tell(&self, committed: &[(TopicKey, Offset)]) {
        if let (Some(on_committed), false) = (&self.on_committed, committed.is_empty()) {
            on_committed(committed);
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn leaves(&self) -> &Leaves {
        &self.leaves
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(crate) fn tombstone_age_ms(&self) -> u64 {
        self.tombstone_age_ms
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn garbage(&self) -> &Garbage {
        &self.garbage
    }

    pub(crate) fn kept_hints(&self) -> MutexGuard<'_, HintCounts> {
        self.kept_hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Physical time as the store sees it, in unix milliseconds: what expiry is judged by.
    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Puts a control op ahead of all bulk.
    pub(crate) fn ask<T, E>(&self, op: impl FnOnce(Done<T, E>) -> Op) -> Answer<T, E>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (sender, receiver) = sync_channel(1);
        let done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.queue.push_control(op(done));
        Answer(receiver)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(stopped) = self.close() {
            tracing::warn!(cause = stopped.cause, "the store did not close cleanly");
        }
    }
}
