//! The one writer: a thread that drains the queue into one WriteBatch, syncs it, then answers everyone in it.
//!
//! Durable, then visible, then acknowledged: RocksDB publishes a batch to readers after its log record is synced, and
//! replies are sent after that. While one group syncs, the next gathers. Staging changes the writer's memory directly,
//! with no way back: a write that fails stops the store for good, so there is nothing to come back to.

mod apply;
mod binding;
mod blocks;
mod group;
mod hints;
mod journal;
mod mend;
mod op;
mod queue;
mod replace;
mod state;
mod stored;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::LeafSum;
use mesh_ring::version::{Dot, VersionVector};
use rocksdb::WriteBatch;

use crate::error::{BindingError, ReadError, Stopped, TopicError};
use crate::hints::HintCounts;
use crate::keys::{self, family, meta};
use crate::leaves::{Changes, Digests, Leaves};
use crate::options::Options;
use crate::reclaim::Garbage;
use crate::replica::{Record, Slots};
use crate::space::Space;
use crate::store::Store;
use crate::wal::Ahead;
pub(crate) use group::Completion;
use group::Group;
pub(crate) use op::Op;
pub use queue::QUEUE_BYTES_MAX;
pub(crate) use queue::Queue;
use queue::Taken;

/// How an answer reaches whoever asked.
pub(crate) type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

/// Told of what a key is after a write that is not durable yet, and of the write.
pub(crate) type Decided = Box<dyn FnOnce(&Binding, &Written) + Send>;

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

/// Bindings to be removed where they still are what they were when that was agreed on.
#[derive(Debug)]
pub(crate) struct CollectOp {
    pub(crate) partition: PartitionId,
    /// Keys with the digests of what is to go.
    pub(crate) bindings: Vec<(Vec<u8>, LeafSum)>,
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

/// Ops of a group from which on it is worth to wake somebody who makes digests.
const OPS_MANY: usize = 64;

/// The writer's memory and the thread's body.
pub(crate) struct Writer {
    store: Arc<Store>,
    queue: Arc<Queue>,
    slots: Arc<Slots>,
    options: Options,
    space: Space,
    garbage: Arc<Garbage>,
    state: state::State,
    leaves: Arc<Leaves>,
    digests: Digests,
    /// What is kept of hints, as readers see it.
    kept_hints: Arc<Mutex<HintCounts>>,
    ahead: Ahead,
    marker: u64,
}

/// What the writer must know of this run of the store.
pub(crate) struct Run {
    pub(crate) node: NodeId,
    pub(crate) boot: u32,
    /// How often a start did not follow a clean stop.
    pub(crate) starts: u32,
    pub(crate) partitions: u16,
    pub(crate) clock_bound: Hlc,
    /// What is kept of hints, as the store was opened.
    pub(crate) hints: HintCounts,
    /// The same, to be kept up for readers.
    pub(crate) kept_hints: Arc<Mutex<HintCounts>>,
    pub(crate) hint_bytes_max: u64,
    pub(crate) leaves: Arc<Leaves>,
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
            ahead: Ahead::new(store.db().path()),
            store,
            queue,
            slots,
            options,
            space,
            garbage,
            kept_hints: Arc::clone(&run.kept_hints),
            leaves: Arc::clone(&run.leaves),
            digests: Digests::default(),
            state: state::State::new(run),
            marker: 0,
        }
    }

    /// Runs until the queue is closed and drained, or a write fails.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        let mut unmarked = false;
        self.ahead.keep(0);
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
        let (store, leaves) = (Arc::clone(&self.store), Arc::clone(&self.leaves));
        let bytes = ops.iter().map(Op::staged_bytes).sum();
        let mut group = Group::new(
            &store,
            &leaves,
            bytes,
            (self.options.clock)(),
            self.space.check(),
        );
        group.with_leaves = self.options.with_leaves;
        if ops.len() >= OPS_MANY && group.with_leaves {
            group.changes = Changes::of_many(self.digests.begin());
        }
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
        self.state.count_hints(&mut group);
        let settled = match group.seal() {
            Ok(settled) => settled,
            Err(error) => {
                let cause = format!("what Merkle leaves were cannot be read: {error}");
                return Err(self.stop(cause, group.replies));
            }
        };
        let Group {
            batch,
            mut replies,
            mut committed,
            deleted,
            trimmed,
            recounted,
            bindings,
            ..
        } = group;
        let moment = leaves.moment();
        let logged = batch.size_in_bytes() as u64;
        if !batch.is_empty()
            && let Err(error) = store.write_synced(batch)
        {
            return Err(self.stop(failed(&error), replies));
        }
        leaves.show(settled);
        drop(moment);
        if !recounted.is_empty() {
            let mut kept = self
                .kept_hints
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for (pair, stats) in recounted {
                kept.set(pair, stats);
            }
        }
        self.garbage.note(&trimmed, !deleted.is_empty());
        for reply in &mut replies {
            reply.complete(&mut committed);
        }
        if let (Some(on_committed), false) = (&self.options.on_committed, committed.is_empty()) {
            on_committed(&committed);
        }
        if let (Some(on_bound), false) = (&self.options.on_bound, bindings.is_empty()) {
            on_bound(
                &mut bindings
                    .keys()
                    .filter_map(|row| keys::parse_binding_key(row)),
            );
        }
        replies.into_iter().for_each(|reply| reply.send(None));
        self.ahead.keep(logged);
        Ok(())
    }

    /// # Errors
    /// What is committed cannot be applied; all else is answered to whoever asked.
    fn stage(&mut self, group: &mut Group<'_>, op: Op) -> Result<(), ReadError> {
        self.stage_op(group, op)?;
        for partition in std::mem::take(&mut group.forgotten) {
            self.state.forget(group, partition)?;
        }
        Ok(())
    }

    fn stage_op(&mut self, group: &mut Group<'_>, op: Op) -> Result<(), ReadError> {
        match op {
            Op::Persist(op) => group.persist(op)?,
            Op::Commit(op) => group.commit(op)?,
            Op::Checkpoint(op) => group.checkpoint(*op),
            Op::Replace(op) => {
                let latest = group.replace(*op)?;
                self.state.observe(latest, group.now_ms);
            }
            Op::Write(write, decided, done) => {
                let result = self.state.write(group, write, decided);
                group.reply(done, result);
            }
            Op::Merge(merge, done) => {
                let result = self.state.merge(group, &merge);
                group.reply(done, result);
            }
            Op::Heal(merge, done) => {
                let result = self.state.heal(group, &merge);
                group.reply(done, result);
            }
            Op::Collect(op, done) => {
                let result = group.collect(&op);
                group.reply(done, result);
            }
            Op::Recount(partition, leaf, done) => {
                let result = group.recount(partition, leaf);
                group.reply(done, result.map_err(BindingError::Read));
            }
            Op::WipeBindings(partition, done) => {
                group.wipe_bindings(partition);
                group.reply(done, Ok(()));
            }
            Op::Sweep {
                now_ms,
                due_ms,
                partition,
                key,
                done,
            } => {
                let result = self.state.sweep(group, now_ms, due_ms, partition, &key);
                group.reply(done, result);
            }
            Op::Hint(hint, done) => {
                let result = self.state.hint(group, &hint);
                group.reply(done, result);
            }
            Op::HintedWrite(target, write, decided, done) => {
                let result = self.state.hinted_write(group, target, write, decided);
                group.reply(done, result);
            }
            Op::SettleHints(op, done) => {
                let settled = self.state.settle_hints(group, &op);
                group.reply(done, settled);
            }
            Op::HealBlock(op, done) => {
                let result = group.heal_block(&op);
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
        let logged = batch.size_in_bytes() as u64;
        self.store.write_synced(batch)?;
        self.ahead.keep(logged);
        Ok(())
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
        batch.put_cf(self.store.family(family::META), meta::CLOSED, []);
        let _moment = self.leaves.moment();
        self.leaves.fold_all(&self.store, &mut batch);
        self.store.write_synced(batch)?;
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
