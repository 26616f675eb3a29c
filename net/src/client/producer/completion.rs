//! How the publishers of one batch learn together what became of it.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::client::ClientError;

/// Where a whole batch went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Appended {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) epoch: u64,
    pub(super) synced: Arc<[String]>,
}

/// One result for all the publishers of a batch: they share an allocation and a wake-up.
#[derive(Debug, Default)]
pub(super) struct Completion {
    result: OnceLock<Result<Appended, ClientError>>,
    resolved: Notify,
}

impl Completion {
    /// Settles the batch. The first result stays.
    pub(super) fn resolve(&self, result: Result<Appended, ClientError>) {
        if self.result.set(result).is_ok() {
            self.resolved.notify_waiters();
        }
    }

    pub(super) fn is_resolved(&self) -> bool {
        self.result.get().is_some()
    }

    /// Waits for the result. A waiter that goes away leaves nothing behind.
    pub(super) async fn wait(&self) -> &Result<Appended, ClientError> {
        loop {
            // Made before looking, so that a result which comes in between wakes it.
            let resolved = self.resolved.notified();
            if let Some(result) = self.result.get() {
                return result;
            }
            resolved.await;
        }
    }
}
