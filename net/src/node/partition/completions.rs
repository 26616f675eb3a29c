//! What the engine's writer tells the actor: counters that only rise, and one bell.
//!
//! The writer's thread must never wait for an actor, and a queue of completions would need a bound that it could meet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_engine::Stopped;
use mesh_ring::ids::Index;
use tokio::sync::Notify;

/// Shared by one actor and the callbacks that it left with the engine.
#[derive(Debug, Default)]
pub(super) struct Completions {
    persisted: AtomicU64,
    applied: AtomicU64,
    /// First journal entry that is kept since the last checkpoint, until the actor takes it.
    checkpointed: Mutex<Option<Index>>,
    stopped: Mutex<Option<String>>,
    bell: Notify,
}

impl Completions {
    /// Everything up to this ticket is durable, or the store has stopped.
    pub(super) fn persisted(&self, ticket: u64, result: Result<(), Stopped>) {
        self.note(&self.persisted, ticket, result);
    }

    /// Everything committed up to this index is applied, or the store has stopped.
    pub(super) fn applied(&self, upto: Index, result: Result<(), Stopped>) {
        self.note(&self.applied, upto.0, result);
    }

    /// A checkpoint is durable; the journal begins at this entry now.
    pub(super) fn checkpointed(&self, result: Result<Index, Stopped>) {
        match result {
            Ok(first) => *lock(&self.checkpointed) = Some(first),
            Err(stopped) => *lock(&self.stopped) = Some(stopped.cause),
        }
        self.bell.notify_one();
    }

    pub(super) fn take_checkpointed(&self) -> Option<Index> {
        lock(&self.checkpointed).take()
    }

    fn note(&self, counter: &AtomicU64, value: u64, result: Result<(), Stopped>) {
        match result {
            Ok(()) => {
                counter.fetch_max(value, Ordering::AcqRel);
            }
            Err(stopped) => {
                *lock(&self.stopped) = Some(stopped.cause);
            }
        }
        self.bell.notify_one();
    }

    pub(super) fn persisted_upto(&self) -> u64 {
        self.persisted.load(Ordering::Acquire)
    }

    pub(super) fn applied_upto(&self) -> Index {
        Index(self.applied.load(Ordering::Acquire))
    }

    pub(super) fn stopped(&self) -> Option<String> {
        lock(&self.stopped).clone()
    }

    /// Resolves when something was told since the last call.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
