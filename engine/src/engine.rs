//! The engine's public doors.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::hash::partition_of;
use mesh_ring::ids::{Epoch, Offset, PartitionId, TopicKey};
use mesh_ring::limits::LIST_PAGE_MAX;
use mesh_ring::name::{BindingKey, CursorName, TopicName};

use crate::batch;
use crate::catalogue::{TopicConfig, TopicExtent, TopicMeta};
use crate::error::{AppendError, BindingError, OpenError, ReadError, Stopped, TopicError};
use crate::housekeeping::Schedule;
use crate::identity::Identity;
use crate::listing;
use crate::lock::DirectoryLock;
use crate::open::{self, Opened};
use crate::options::{Clock, Options};
use crate::read;
use crate::reclaim::Garbage;
use crate::scrub::{self, Pace, ScrubReport};
use crate::space::Space;
use crate::storage::{self, FamilyUsage};
use crate::store::Store;
use crate::writer::{
    Append, Appended, BindingWrite, Done, Op, Queue, Run, Writer, Written, cursor,
};

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
    writer: Mutex<Option<JoinHandle<Result<(), Stopped>>>>,
    identity: Identity,
    boot: u32,
    clock: Clock,
    space: Space,
    garbage: Arc<Garbage>,
    schedule: Schedule,
    _lock: DirectoryLock,
}

/// An answer that will come from the writer.
pub(crate) struct Answer<T, E>(Receiver<Result<T, E>>);

impl<T, E: From<Stopped>> Answer<T, E> {
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
    /// not at all. The time does not grow with the store.
    ///
    /// # Errors
    /// See [`OpenError`]: each case is refused before anything is written.
    pub fn open(data: impl AsRef<Path>, options: Options) -> Result<Engine, OpenError> {
        let data = data.as_ref();
        let Opened {
            store,
            identity,
            boot,
            clock_bound,
            age_ms,
            lock,
        } = open::open(data, &options)?;
        let store = Arc::new(store);
        let queue = Arc::new(Queue::new());
        let space = Space::new(data.to_owned(), options.reserve_bytes);
        let garbage = Arc::new(Garbage::default());
        let run = Run {
            node: identity.node,
            boot,
            partitions: identity.partitions,
            clock_bound,
            age_ms: age_ms.unwrap_or(0),
        };
        let clock = Arc::clone(&options.clock);
        let schedule = Schedule::new(age_ms, &options);
        let writer = Writer::new(
            Arc::clone(&store),
            Arc::clone(&queue),
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
            writer,
            identity,
            boot,
            clock,
            space,
            garbage,
            schedule,
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

    /// How often the store was opened, this time included.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// The epoch in which this run appends.
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

    /// Makes a topic.
    ///
    /// # Errors
    /// [`TopicError::Exists`], [`TopicError::DiskFull`], or the store stopped.
    pub fn create_topic(
        &self,
        name: &TopicName,
        config: TopicConfig,
    ) -> Result<TopicMeta, TopicError> {
        let name = name.clone();
        self.ask(|done| Op::CreateTopic { name, config, done })
            .wait()
    }

    /// Removes a topic with its records, cursors and producers. One made again under its name is another topic.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], or the store stopped.
    pub fn delete_topic(&self, topic: TopicKey) -> Result<(), TopicError> {
        self.ask(|done| Op::DeleteTopic { topic, done }).wait()
    }

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
        read::extent(&self.store, topic)
    }

    /// Removes the records before `first` (exclusive) and returns the first offset that remains, which may have been
    /// later already. Disk space comes back when [`Engine::reclaim`] has run.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::BeyondEnd`], or the store stopped.
    pub fn trim(&self, topic: TopicKey, first: Offset) -> Result<Offset, TopicError> {
        self.ask(|done| Op::Trim { topic, first, done }).wait()
    }

    /// Appends a batch and returns when it is durable.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let (sender, receiver) = sync_channel(1);
        self.submit_append(append, move |result| {
            let _ = sender.send(result);
        });
        Answer(receiver).wait()
    }

    /// Queues a batch; `done` is called, on the writer's thread, when it is durable or refused. It must not block.
    ///
    /// Appends to one topic are ordered as they were submitted. The call itself checks the batch and blocks only while
    /// more than [`crate::QUEUE_BYTES_MAX`] wait for the disk; it may call `done` itself.
    pub fn submit_append(
        &self,
        append: Append,
        done: impl FnOnce(Result<Appended, AppendError>) + Send + 'static,
    ) {
        if let Err(error) = batch::validate(&append.batch) {
            return done(Err(AppendError::Invalid(error)));
        }
        let bytes = append.batch.len() + OP_BYTES;
        self.queue.push(Op::Append(append, Box::new(done)), bytes);
    }

    /// Whole stored batches, verbatim, from the one that contains `from`, until `max_bytes` are reached; at least one
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
        read::batches(&self.store, topic, from, max_bytes)
    }

    /// The first offset that was appended at `time_ms` (unix milliseconds) or later; the next offset where none was.
    ///
    /// # Errors
    /// As for [`Engine::read`].
    pub fn offset_at_time(&self, topic: TopicKey, time_ms: u64) -> Result<Offset, ReadError> {
        read::offset_at_time(&self.store, topic, time_ms)
    }

    /// Remembers, durably, the next offset that the reader `name` wants.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::BeyondEnd`], or the store stopped.
    pub fn commit_cursor(
        &self,
        topic: TopicKey,
        name: &CursorName,
        next: Offset,
    ) -> Result<(), TopicError> {
        let name = name.clone();
        self.ask(|done| Op::CommitCursor {
            topic,
            name,
            next,
            done,
        })
        .wait()
    }

    /// The next offset that the reader `name` wants, if it ever committed one.
    ///
    /// # Errors
    /// The cursor cannot be read.
    pub fn cursor(&self, topic: TopicKey, name: &CursorName) -> Result<Option<Offset>, ReadError> {
        cursor(&self.store, topic, name)
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

    /// Queues a write; otherwise as [`Engine::submit_append`].
    pub fn submit_write(
        &self,
        write: BindingWrite,
        done: impl FnOnce(Result<Written, BindingError>) + Send + 'static,
    ) {
        let bytes =
            write.value.as_ref().map_or(0, Bytes::len) + write.key.as_bytes().len() + OP_BYTES;
        self.queue.push(Op::Write(write, Box::new(done)), bytes);
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
        scrub::scrub(&self.store, self.identity.partitions, pace)
    }

    /// What is stored, by family.
    pub fn storage(&self) -> Vec<FamilyUsage> {
        storage::usage(&self.store)
    }

    /// Bytes that the file system has free. `None` where the system does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        self.space.free()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
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
