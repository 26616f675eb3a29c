//! What nodes and the store say of one request, heard by the task that carries it out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Many tell, one hears. As long as its owner asks a bounded number of nodes, it is bounded by that.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    heard: Mutex<VecDeque<T>>,
    told: Notify,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            heard: Mutex::default(),
            told: Notify::new(),
        }
    }
}

impl<T> Inbox<T> {
    /// Never blocks: it may be called by the store's writer.
    pub(super) fn tell(&self, word: T) {
        self.lock().push_back(word);
        self.told.notify_one();
    }

    /// The next word. Cancel-safe.
    pub(super) async fn next(&self) -> T {
        loop {
            if let Some(word) = self.lock().pop_front() {
                return word;
            }
            self.told.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
