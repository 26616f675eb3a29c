//! The one writer: a thread that drains the queue into one WriteBatch, syncs it, then answers everyone in it.
//!
//! Durable, then visible, then acknowledged: RocksDB publishes a batch to readers after its log record is synced, and
//! replies are sent after that. While one group syncs, the next gathers. Staging changes the writer's memory directly,
//! with no way back: a write that fails stops the store for good, so there is nothing to come back to.

mod apply;
mod binding;
mod group;
mod journal;
mod queue;
mod replace;
mod state;

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, Offset, PartitionId, TopicKey};
use mesh_ring::version::{Dot, VersionVector};
use rocksdb::WriteBatch;

use crate::error::{BindingError, ReadError, Stopped, TopicError};
use crate::keys::{self, family, meta};
use crate::options::Options;
use crate::reclaim::Garbage;
use crate::replica::{CheckpointOp, CommitOp, PersistOp, Record, Slots};
use crate::rows::RowChange;
use crate::space::Space;
use crate::store::Store;
use crate::transfer::ReplaceOp;
pub(crate) use group::Completion;
use group::Group;
pub use queue::QUEUE_BYTES_MAX;
pub(crate) use queue::Queue;
use queue::Taken;

/// How an answer reaches whoever asked.
pub(crate) type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

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

/// Another node's copy of a binding, to be taken into this node's.
#[derive(Debug)]
pub(crate) struct BindingMerge {
    pub(crate) key: mesh_ring::name::BindingKey,
    pub(crate) theirs: Binding,
    /// About what it takes when it is stored.
    pub(crate) bytes: usize,
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
    /// Entries and promises of a replica.
    Persist(Box<PersistOp>, Done<(), Stopped>),
    /// Entries that are committed.
    Commit(Box<CommitOp>),
    Checkpoint(Box<CheckpointOp>),
    /// All rows of a partition, or some of a copy of it.
    Replace(Box<ReplaceOp>),
    Write(BindingWrite, Done<Written, BindingError>),
    Merge(BindingMerge, Done<(), BindingError>),
    /// A binding whose time has come, as of `now_ms`: expire its values, collect its tombstones.
    Sweep {
        now_ms: u64,
        due_ms: u64,
        partition: PartitionId,
        key: Vec<u8>,
        done: Done<bool, BindingError>,
    },
    /// Rows of the control plane, all or none.
    Rows {
        changes: Vec<RowChange>,
        done: Done<(), Stopped>,
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
            Op::Persist(op, _) => op.bytes(),
            Op::Replace(op) => op.bytes(),
            Op::Write(write, _) => write.value.as_ref().map_or(0, Bytes::len) + 2 * KEYS_BYTES,
            Op::Merge(merge, _) => merge.bytes + 2 * KEYS_BYTES,
            Op::Rows { changes, .. } => changes.iter().map(RowChange::bytes).sum(),
            _ => KEYS_BYTES,
        }
    }

    /// Tells whoever asked that the store stopped.
    pub(crate) fn refuse(self, stopped: &Stopped) {
        match self {
            Op::Persist(_, done) => done(Err(stopped.clone())),
            Op::Commit(op) => (op.done)(Err(stopped.clone())),
            Op::Checkpoint(op) => (op.done)(Err(stopped.clone())),
            Op::Replace(op) => (op.done)(Err(stopped.clone())),
            Op::Rows { done, .. } => done(Err(stopped.clone())),
            Op::Write(_, done) => done(Err(stopped.clone().into())),
            Op::Merge(_, done) => done(Err(stopped.clone().into())),
            Op::JudgeAges { done, .. } | Op::Reclaimed { done, .. } => {
                done(Err(stopped.clone().into()));
            }
            Op::Sweep { done, .. } => done(Err(stopped.clone().into())),
        }
    }
}

/// The writer's memory and the thread's body.
pub(crate) struct Writer {
    store: Arc<Store>,
    queue: Arc<Queue>,
    slots: Arc<Slots>,
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
}

impl Writer {
    pub(crate) fn new(
        store: Arc<Store>,
        queue: Arc<Queue>,
        slots: Arc<Slots>,
        options: Options,
        space: Space,
        garbage: Arc<Garbage>,
        run: Run,
    ) -> Writer {
        Writer {
            store,
            queue,
            slots,
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
                    self.mark()
                        .map_err(|error| self.stop(failed(&error), Vec::new()))?;
                }
                Taken::Closed => {
                    return self
                        .close()
                        .map_err(|error| self.stop(failed(&error), Vec::new()));
                }
            }
        }
    }

    /// Stages, syncs and answers one group.
    fn commit(&mut self, ops: Vec<Op>) -> Result<(), Stopped> {
        let store = Arc::clone(&self.store);
        let bytes = ops.iter().map(Op::staged_bytes).sum();
        let mut group = Group::new(&store, bytes, (self.options.clock)(), self.space.check());
        let mut ops = ops.into_iter();
        while let Some(op) = ops.next() {
            if let Err(error) = self.stage(&mut group, op) {
                // What is committed can be neither applied nor passed over.
                let cause = format!("what is committed cannot be applied: {error}");
                let stopped = self.stop(cause, group.replies);
                ops.for_each(|op| op.refuse(&stopped));
                return Err(stopped);
            }
        }
        self.state.bound_clock(&mut group);
        group.seal();
        let Group {
            batch,
            mut replies,
            mut committed,
            deleted,
            trimmed,
            ..
        } = group;
        if !batch.is_empty()
            && let Err(error) = store.write_synced(batch)
        {
            return Err(self.stop(failed(&error), replies));
        }
        self.garbage.note(&trimmed, !deleted.is_empty());
        for reply in &mut replies {
            reply.complete(&mut committed);
        }
        if let (Some(on_committed), false) = (&self.options.on_committed, committed.is_empty()) {
            on_committed(&committed);
        }
        replies.into_iter().for_each(|reply| reply.send(None));
        Ok(())
    }

    /// # Errors
    /// What is committed cannot be applied; all else is answered to whoever asked.
    fn stage(&mut self, group: &mut Group<'_>, op: Op) -> Result<(), ReadError> {
        match op {
            Op::Persist(op, done) => group.persist(*op, done)?,
            Op::Commit(op) => group.commit(*op)?,
            Op::Checkpoint(op) => group.checkpoint(*op),
            Op::Replace(op) => {
                let latest = group.replace(*op)?;
                self.state.observe(latest, group.now_ms);
            }
            Op::Write(write, done) => {
                let result = self
                    .state
                    .write(group, write, self.options.tombstone_age_ms);
                group.reply(done, result);
            }
            Op::Merge(merge, done) => {
                let result = self
                    .state
                    .merge(group, &merge, self.options.tombstone_age_ms);
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
            Op::Rows { changes, done } => {
                for change in changes {
                    change.stage(&mut group.batch, group.store.family(family::CONTROL));
                }
                group.reply(done, Ok(()));
            }
            Op::JudgeAges { now_ms, done } => {
                group.put(family::META, meta::AGE, now_ms.to_be_bytes());
                group.reply(done, Ok(()));
            }
            Op::Reclaimed { topics, done } => {
                let result = group.reclaimed(&topics).map_err(TopicError::Read);
                group.reply(done, result);
            }
        }
        Ok(())
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

    /// Writes what only memory has (how far journals are committed), and all memtables, so that the next open replays
    /// nothing.
    fn close(&mut self) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        self.slots.for_each(|partition, journal| {
            if journal.record == Record::default() {
                return;
            }
            batch.put_cf(
                self.store.family(family::REPLICAS),
                keys::replica_key(partition),
                journal.record.encode(),
            );
        });
        if !batch.is_empty() {
            self.store.write_synced(batch)?;
        }
        self.store.flush_all()
    }

    /// Stops the store for good: tells the owner first, then everyone who waits.
    fn stop(&self, cause: String, replies: Vec<Box<dyn group::Reply>>) -> Stopped {
        let stopped = Stopped { cause };
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

fn failed(error: &rocksdb::Error) -> String {
    format!("a write to the log failed: {error}")
}
