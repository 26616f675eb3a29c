//! One partition under a leader that nobody follows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, PartitionId};
use mesh_ring::ledger::{Decision, Ledger, Moment, topics_max};

use super::Solo;
use crate::batch::{self, BatchError, LeaderStamp};
use crate::engine::{Answer, Engine};
use crate::error::{ReadError, Stopped};
use crate::replica::{JournalEntry, PartitionSource, Persist};

/// Entries that a start reads at a time.
const REPLAY_PAGE_ENTRIES: usize = 1_024;

/// A partition in use.
pub(super) struct Lead {
    ledger: Ledger,
    epoch: Epoch,
    /// The entry that begins the epoch, until it is written with the first change.
    barrier: Option<Index>,
    /// The last entry that is durable, as the writer tells.
    durable: Arc<AtomicU64>,
    /// The checkpoint under way is durable.
    checkpointed: Arc<AtomicBool>,
}

/// Why a change was not made.
pub(super) enum Failure<R> {
    Refused(R),
    Read(ReadError),
    Batch(BatchError),
    Stopped(Stopped),
}

impl<R> From<Stopped> for Failure<R> {
    fn from(stopped: Stopped) -> Self {
        Failure::Stopped(stopped)
    }
}

impl<R> From<ReadError> for Failure<R> {
    fn from(error: ReadError) -> Self {
        Failure::Read(error)
    }
}

impl Lead {
    /// Takes the partition over: all that is durable is committed.
    fn take_over<R>(engine: &Engine, partition: PartitionId) -> Result<Lead, Failure<R>> {
        let durable = engine.replica(partition)?;
        let last = durable.last.index;
        if durable.commit < last {
            commit_all(engine, partition, last)?;
        }
        let source = engine.source(partition);
        let checkpointed = engine.checkpointed(partition)?;
        let topics = topics_max(engine.identity().partitions);
        let mut ledger = Ledger::new(checkpointed).remembering(topics);
        while ledger.last() < last {
            let from = ledger.last().next();
            let page = engine.commands(partition, from, REPLAY_PAGE_ENTRIES)?;
            if page.is_empty() {
                return Err(ReadError::JournalGone { first: from }.into());
            }
            for (index, command) in page {
                ledger.follow(&source, index, &command)?;
            }
        }
        let barrier = last.next();
        ledger.follow(&source, barrier, &Command::Barrier)?;
        ledger.settle(barrier);
        ledger.lead();
        let epoch = Epoch(engine.boot().into()).max(durable.promised.next());
        Ok(Lead {
            ledger,
            epoch,
            barrier: Some(barrier),
            durable: Arc::new(AtomicU64::new(barrier.0)),
            checkpointed: Arc::default(),
        })
    }

    /// Takes note of what the writer has done since.
    fn catch_up(&mut self) {
        let durable = Index(self.durable.load(Ordering::Acquire));
        if durable > self.ledger.settled() {
            self.ledger.settle(durable);
        }
        if self.checkpointed.swap(false, Ordering::Acquire) {
            self.ledger.checkpoint_done();
        }
    }

    fn checkpoint(&mut self, engine: &Engine, partition: PartitionId) {
        if let Some(checkpoint) = self.ledger.checkpoint() {
            let checkpointed = Arc::clone(&self.checkpointed);
            engine.submit_checkpoint(partition, checkpoint, move |result| {
                checkpointed.store(result.is_ok(), Ordering::Release);
            });
        }
    }

    /// The entries that a decision adds, the barrier before the first of all.
    fn entries(&mut self, entry: JournalEntry) -> Vec<JournalEntry> {
        match self.barrier.take() {
            None => vec![entry],
            Some(index) => {
                let barrier = JournalEntry {
                    index,
                    epoch: self.epoch,
                    command: Command::Barrier,
                    batch: None,
                };
                vec![barrier, entry]
            }
        }
    }
}

impl Solo {
    /// Decides under the partition's lock, submits, and lets the writer answer. The writer never takes that lock.
    pub(super) fn submit<A: Send + 'static, R: Send + 'static>(
        &self,
        partition: PartitionId,
        batch: Option<Vec<u8>>,
        decide: impl FnOnce(
            &mut Ledger,
            &PartitionSource<'_>,
            Moment,
        ) -> Result<Decision<A, R>, ReadError>,
        done: impl FnOnce(Epoch, Result<A, Failure<R>>) + Send + 'static,
    ) {
        let engine = &*self.engine;
        let Some(mut slot) = self.lead(partition) else {
            let error = ReadError::Store(format!("there is no partition {partition}"));
            return done(engine.epoch(), Err(Failure::Read(error)));
        };
        let lead = match &mut *slot {
            Some(lead) => lead,
            empty => match Lead::take_over(engine, partition) {
                Ok(lead) => empty.insert(lead),
                Err(error) => return done(engine.epoch(), Err(error)),
            },
        };
        lead.catch_up();
        let at = Moment {
            now_ms: engine.now_ms(),
            age_ms: engine.judged_ms(),
        };
        let epoch = lead.epoch;
        let outcome = match decide(&mut lead.ledger, &engine.source(partition), at) {
            Err(error) => Err(Failure::Read(error)),
            Ok(Decision::Answer { answer, .. }) => Ok(answer),
            Ok(Decision::Refuse { refusal, .. }) => Err(Failure::Refused(refusal)),
            Ok(Decision::Propose {
                index,
                command,
                answer,
            }) => match stamped(&command, batch, epoch) {
                Ok(batch) => {
                    let promise = lead.barrier.map(|_| epoch);
                    let entries = lead.entries(JournalEntry {
                        index,
                        epoch,
                        command,
                        batch,
                    });
                    let persist = Persist {
                        promise,
                        ..Persist::entries(partition, entries)
                    };
                    let durable = Arc::clone(&lead.durable);
                    let answered = Box::new(move |result: Result<(), Stopped>| {
                        if result.is_ok() {
                            durable.fetch_max(index.0, Ordering::AcqRel);
                        }
                        done(epoch, result.map(|()| answer).map_err(Failure::Stopped));
                    });
                    engine.submit_committed(persist, answered);
                    if lead.ledger.checkpoint_due() {
                        lead.checkpoint(engine, partition);
                    }
                    return;
                }
                Err(error) => {
                    lead.ledger.withdraw(index);
                    Err(Failure::Batch(error))
                }
            },
        };
        // In the order of the calls, and after what it may rest upon.
        let nothing = Persist::entries(partition, Vec::new());
        engine.submit_persist(nothing, move |result| {
            done(
                epoch,
                match result {
                    Ok(()) => outcome,
                    Err(stopped) => Err(Failure::Stopped(stopped)),
                },
            );
        });
    }

    /// Checkpoints every partition in use and waits until that is durable, so that the next start replays nothing.
    pub(super) fn checkpoint_all(&self) {
        for partition in (0..self.engine.identity().partitions).map(PartitionId) {
            let Some(mut slot) = self.lead(partition) else {
                continue;
            };
            if let Some(lead) = &mut *slot
                && drain(&self.engine, partition)
            {
                lead.catch_up();
                lead.checkpoint(&self.engine, partition);
                drain(&self.engine, partition);
                lead.catch_up();
            }
        }
    }

    fn lead(&self, partition: PartitionId) -> Option<MutexGuard<'_, Option<Lead>>> {
        let slot = self.partitions.get(usize::from(partition.0))?;
        // A ledger that panicked half way would be wrong; the next use takes over from what is durable.
        Some(slot.lock().unwrap_or_else(|poisoned| {
            slot.clear_poison();
            let mut slot = PoisonError::into_inner(poisoned);
            *slot = None;
            slot
        }))
    }
}

/// Stamps the batch of an append.
fn stamped(
    command: &Command,
    batch: Option<Vec<u8>>,
    epoch: Epoch,
) -> Result<Option<Bytes>, BatchError> {
    let (
        Command::Append {
            first,
            position,
            time_ms,
            ..
        },
        Some(mut batch),
    ) = (command, batch)
    else {
        return Ok(None);
    };
    let stamp = LeaderStamp {
        base_offset: *first,
        base_position: position - batch.len() as u64,
        epoch,
        append_time_ms: *time_ms,
    };
    batch::stamp(&mut batch, stamp)?;
    Ok(Some(batch.into()))
}

/// Waits until all that is submitted for the partition is durable. `false`: the store stopped.
fn drain(engine: &Engine, partition: PartitionId) -> bool {
    let (sender, receiver) = sync_channel(1);
    let nothing = Persist::entries(partition, Vec::new());
    engine.submit_persist(nothing, move |result| {
        let _ = sender.send(result.is_ok());
    });
    receiver.recv().unwrap_or(false)
}

/// Commits what an earlier run left, and waits for it.
fn commit_all<R>(engine: &Engine, partition: PartitionId, last: Index) -> Result<(), Failure<R>> {
    let (sender, receiver) = sync_channel(1);
    engine.submit_commit(partition, last, move |result| {
        let _ = sender.send(result);
    });
    Answer::of(receiver).wait().map_err(Failure::Stopped)
}
