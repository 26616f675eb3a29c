//! The one writer: a thread that drains the queue into one WriteBatch, syncs it, then answers everyone in it.
//!
//! Durable, then visible, then acknowledged: RocksDB publishes a batch to readers after its log record is synced, and
//! replies are sent after that. While one group syncs, the next gathers. Staging changes the writer's memory directly,
//! with no way back: a write that fails stops the store for good, so there is nothing to come back to.

mod append;
mod binding;
mod checkpoint;
mod group;
mod queue;
mod state;
mod topic;

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, Offset, PartitionId, ProducerId, TopicId, TopicKey};
use mesh_ring::name::{CursorName, TopicName};
use mesh_ring::version::{Dot, VersionVector};
use rocksdb::WriteBatch;

use crate::catalogue::{TopicConfig, TopicMeta};
use crate::error::{AppendError, BindingError, Stopped, TopicError};
use crate::keys::{family, meta};
use crate::options::Options;
use crate::reclaim::Garbage;
use crate::space::Space;
use crate::store::Store;
pub use checkpoint::JOURNAL_BYTES_MAX;
use group::Group;
pub use queue::QUEUE_BYTES_MAX;
pub(crate) use queue::Queue;
use queue::Taken;
pub(crate) use state::load_tail;
pub(crate) use topic::cursor;

/// How an answer reaches whoever asked.
pub(crate) type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

/// An append, ready to be ordered.
#[derive(Debug, Clone)]
pub struct Append {
    /// The topic.
    pub topic: TopicKey,
    /// A batch as [`crate::batch::BatchBuilder::finish`] makes it.
    pub batch: Vec<u8>,
    /// Refuse unless the topic's next offset is this.
    pub expected: Option<Offset>,
}

/// A durable append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// Epoch in which it was acknowledged.
    pub epoch: mesh_ring::ids::Epoch,
    /// Whether it had been appended before, and this is the answer to a retry.
    pub duplicate: bool,
}

/// A change of a binding.
#[derive(Debug, Clone)]
pub struct BindingWrite {
    /// The key.
    pub key: mesh_ring::name::BindingKey,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// What the writer had seen. `None`: supersede whatever is held.
    pub context: Option<VersionVector>,
    /// When the value expires, in unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// A durable change of a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The version that was made.
    pub dot: Dot,
    /// Its hybrid timestamp.
    pub hlc: Hlc,
    /// What a writer that has seen this should pass next.
    pub context: VersionVector,
}

/// What the writer can be asked.
pub(crate) enum Op {
    Append(Append, Done<Appended, AppendError>),
    Write(BindingWrite, Done<Written, BindingError>),
    CreateTopic {
        name: TopicName,
        config: TopicConfig,
        done: Done<TopicMeta, TopicError>,
    },
    DeleteTopic {
        topic: TopicKey,
        done: Done<(), TopicError>,
    },
    Trim {
        topic: TopicKey,
        first: Offset,
        done: Done<Offset, TopicError>,
    },
    CommitCursor {
        topic: TopicKey,
        name: CursorName,
        next: Offset,
        done: Done<(), TopicError>,
    },
    /// A binding whose time has come, as of `now_ms`: expire its values, collect its tombstones.
    Sweep {
        now_ms: u64,
        due_ms: u64,
        partition: PartitionId,
        key: Vec<u8>,
        done: Done<bool, BindingError>,
    },
    /// A producer that has been quiet for longer than windows are kept.
    ExpireProducer {
        topic: TopicKey,
        producer: ProducerId,
        before_ms: u64,
        done: Done<bool, TopicError>,
    },
    /// Ages are judged by this time from now on, also after a restart.
    JudgeAges {
        now_ms: u64,
        done: Done<(), TopicError>,
    },
    /// The space of these topics' garbage was given back, up to what their garbage keys said then.
    Reclaimed {
        topics: Vec<(TopicKey, Offset)>,
        done: Done<(), TopicError>,
    },
}

impl Op {
    /// About what the op adds to a WriteBatch, in bytes.
    fn staged_bytes(&self) -> usize {
        const KEYS_BYTES: usize = 160;
        match self {
            Op::Append(append, _) => append.batch.len() + KEYS_BYTES,
            Op::Write(write, _) => write.value.as_ref().map_or(0, Bytes::len) + 2 * KEYS_BYTES,
            _ => KEYS_BYTES,
        }
    }

    /// Tells whoever asked that the store stopped.
    pub(crate) fn refuse(self, stopped: &Stopped) {
        match self {
            Op::Append(_, done) => done(Err(stopped.clone().into())),
            Op::Write(_, done) => done(Err(stopped.clone().into())),
            Op::CreateTopic { done, .. } => done(Err(stopped.clone().into())),
            Op::DeleteTopic { done, .. }
            | Op::CommitCursor { done, .. }
            | Op::JudgeAges { done, .. }
            | Op::Reclaimed { done, .. } => done(Err(stopped.clone().into())),
            Op::Trim { done, .. } => done(Err(stopped.clone().into())),
            Op::Sweep { done, .. } => done(Err(stopped.clone().into())),
            Op::ExpireProducer { done, .. } => done(Err(stopped.clone().into())),
        }
    }
}

/// The writer's memory and the thread's body.
pub(crate) struct Writer {
    store: Arc<Store>,
    queue: Arc<Queue>,
    options: Options,
    space: Space,
    garbage: Arc<Garbage>,
    state: state::State,
    marker: u64,
}

/// What the writer must know of this run of the store.
pub(crate) struct Run {
    pub(crate) node: NodeId,
    pub(crate) boot: u32,
    pub(crate) partitions: u16,
    pub(crate) clock_bound: Hlc,
    /// Time by which ages were judged last, in any run.
    pub(crate) age_ms: u64,
}

impl Writer {
    pub(crate) fn new(
        store: Arc<Store>,
        queue: Arc<Queue>,
        options: Options,
        space: Space,
        garbage: Arc<Garbage>,
        run: Run,
    ) -> Writer {
        Writer {
            store,
            queue,
            options,
            space,
            garbage,
            state: state::State::new(run),
            marker: 0,
        }
    }

    /// Runs until the queue is closed and drained, or a write fails.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        let mut unmarked = false;
        loop {
            match self
                .queue
                .take(unmarked.then_some(self.options.marker_after))
            {
                Taken::Ops(ops) => {
                    unmarked = true;
                    self.commit(ops)?;
                }
                Taken::Idle => {
                    unmarked = false;
                    self.mark().map_err(|error| self.stop(&error, Vec::new()))?;
                }
                Taken::Closed => {
                    return self.close().map_err(|error| self.stop(&error, Vec::new()));
                }
            }
        }
    }

    /// Stages, syncs and answers one group.
    fn commit(&mut self, ops: Vec<Op>) -> Result<(), Stopped> {
        let store = Arc::clone(&self.store);
        self.state.forget_idle();
        let bytes = ops.iter().map(Op::staged_bytes).sum();
        let mut group = Group::new(&store, bytes, (self.options.clock)(), self.space.check());
        for op in ops {
            self.stage(&mut group, op);
        }
        self.state.bound_clock(&mut group);
        self.checkpoint_if_due(&mut group);
        group.seal();
        let Group {
            batch,
            replies,
            committed,
            deleted,
            trimmed,
            ..
        } = group;
        if !batch.is_empty()
            && let Err(error) = store.write_synced(batch)
        {
            return Err(self.stop(&error, replies));
        }
        self.garbage.note(&trimmed, !deleted.is_empty());
        if let (Some(on_committed), false) = (&self.options.on_committed, committed.is_empty()) {
            on_committed(&committed);
        }
        replies.into_iter().for_each(|reply| reply.send(None));
        Ok(())
    }

    fn stage(&mut self, group: &mut Group<'_>, op: Op) {
        match op {
            Op::Append(append, done) => {
                let result = self.state.append(group, append);
                group.reply(done, result);
            }
            Op::Write(write, done) => {
                let result = self
                    .state
                    .write(group, write, self.options.tombstone_age_ms);
                group.reply(done, result);
            }
            Op::CreateTopic { name, config, done } => {
                let result = self.state.create_topic(group, name, config);
                group.reply(done, result);
            }
            Op::DeleteTopic { topic, done } => {
                let result = self.state.delete_topic(group, topic);
                group.reply(done, result);
            }
            Op::Trim { topic, first, done } => {
                let result = self.state.trim(group, topic, first);
                group.reply(done, result);
            }
            Op::CommitCursor {
                topic,
                name,
                next,
                done,
            } => {
                let result = self.state.commit_cursor(group, topic, &name, next);
                group.reply(done, result);
            }
            Op::Sweep {
                now_ms,
                due_ms,
                partition,
                key,
                done,
            } => {
                let result = self.state.sweep(
                    group,
                    now_ms,
                    due_ms,
                    partition,
                    &key,
                    self.options.tombstone_age_ms,
                );
                group.reply(done, result);
            }
            Op::ExpireProducer {
                topic,
                producer,
                before_ms,
                done,
            } => {
                let result = self
                    .state
                    .expire_producer(group, topic, producer, before_ms);
                group.reply(done, result);
            }
            Op::JudgeAges { now_ms, done } => {
                self.state.judge_ages(group, now_ms);
                group.reply(done, Ok(()));
            }
            Op::Reclaimed { topics, done } => {
                let result = self.state.reclaimed(group, &topics);
                group.reply(done, result);
            }
        }
    }

    /// Puts a record behind the last group. Synced like every other: the next group must not begin before it is whole.
    fn mark(&mut self) -> Result<(), rocksdb::Error> {
        self.marker += 1;
        let mut batch = WriteBatch::default();
        batch.put_cf(
            self.store.family(family::META),
            meta::MARKER,
            self.marker.to_be_bytes(),
        );
        self.store.write_synced(batch)
    }

    /// Writes what only memory has, so that the next open replays nothing.
    fn close(&mut self) -> Result<(), rocksdb::Error> {
        let store = Arc::clone(&self.store);
        let mut group = Group::new(&store, 0, (self.options.clock)(), Ok(()));
        self.state.checkpoint(&mut group);
        group.seal();
        store.write_synced(group.batch)?;
        store.flush_all()
    }

    /// Stops the store for good: tells the owner first, then everyone who waits.
    fn stop(&self, error: &rocksdb::Error, replies: Vec<Box<dyn group::Reply>>) -> Stopped {
        let stopped = Stopped {
            cause: format!("a write to the log failed: {error}"),
        };
        tracing::error!(cause = stopped.cause, "the store has stopped");
        let queued = self.queue.stop(&stopped);
        if let Some(on_stopped) = &self.options.on_stopped {
            on_stopped(&stopped.cause);
        }
        for reply in replies {
            reply.send(Some(&stopped));
        }
        for op in queued {
            op.refuse(&stopped);
        }
        stopped
    }
}

/// Names a producer's window in one partition.
type WindowKey = (TopicId, ProducerId);
