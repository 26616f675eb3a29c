//! What waits to be written to one peer, in one lane.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// A message was dropped instead of sent. The replication core sends again what matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotSent {
    /// No address of the node is known.
    #[error("the node is not in the ring")]
    Unknown,
    /// There is no connection to it.
    #[error("the node is not connected")]
    Disconnected,
    /// The connection takes less than it is given.
    #[error("too much waits to be sent to the node")]
    Full,
}

/// A bounded queue with many writers and one reader. It takes nothing while it is shut.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    bytes_max: usize,
    items_max: usize,
    inner: Mutex<Inner<T>>,
    filled: Notify,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Inner<T> {
    open: bool,
    items: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Outbox<T> {
    /// An open and empty one.
    pub(super) fn new(bytes_max: usize, items_max: usize) -> Self {
        Self {
            bytes_max,
            items_max,
            inner: Mutex::new(Inner {
                open: true,
                items: VecDeque::new(),
                bytes: 0,
            }),
            filled: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Adds what takes `bytes`, or drops it. An item above the limit fits where nothing else is.
    ///
    /// # Errors
    /// [`NotSent::Disconnected`] while shut, [`NotSent::Full`].
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), NotSent> {
        let mut inner = self.lock();
        let reason = if !inner.open {
            NotSent::Disconnected
        } else if inner.items.len() >= self.items_max
            || (inner.bytes > 0 && inner.bytes.saturating_add(bytes) > self.bytes_max)
        {
            NotSent::Full
        } else {
            inner.bytes += bytes;
            inner.items.push_back((item, bytes));
            drop(inner);
            self.filled.notify_one();
            return Ok(());
        };
        drop(inner);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Err(reason)
    }

    /// Waits for items, and takes the oldest of them: one, and further ones while they take `bytes` at most together.
    /// Cancel-safe.
    pub(super) async fn take(&self, bytes: usize) -> Vec<T> {
        loop {
            let filled = self.filled.notified();
            let taken = self.take_now(bytes);
            if !taken.is_empty() {
                return taken;
            }
            filled.await;
        }
    }

    /// Resolves once there is something to take. Cancel-safe.
    pub(super) async fn is_filled(&self) {
        loop {
            let filled = self.filled.notified();
            if !self.lock().items.is_empty() {
                return;
            }
            filled.await;
        }
    }

    fn take_now(&self, bytes: usize) -> Vec<T> {
        let mut inner = self.lock();
        let (mut taken, mut sum) = (Vec::new(), 0_usize);
        while let Some((_, weight)) = inner.items.front() {
            sum = sum.saturating_add(*weight);
            if !taken.is_empty() && sum > bytes {
                break;
            }
            if let Some((item, weight)) = inner.items.pop_front() {
                inner.bytes -= weight;
                taken.push(item);
            }
        }
        taken
    }

    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// Drops what waits, and takes nothing more until it is opened again.
    pub(super) fn shut(&self) {
        let mut inner = self.lock();
        inner.open = false;
        inner.bytes = 0;
        let dropped = std::mem::take(&mut inner.items);
        drop(inner);
        self.dropped
            .fetch_add(dropped.len() as u64, Ordering::Relaxed);
    }

    /// How many items were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn order_is_kept_and_both_limits_hold() {
        let outbox = Outbox::new(100, 4);
        assert_eq!(outbox.push(0, 500), Ok(()), "one alone always fits");
        assert_eq!(outbox.push(1, 1), Err(NotSent::Full));
        assert_eq!(outbox.take(10).await, [0]);
        for item in 1..=4 {
            assert_eq!(outbox.push(item, 20), Ok(()));
        }
        assert_eq!(outbox.push(5, 20), Err(NotSent::Full), "four items");
        assert_eq!(outbox.take(50).await, [1, 2]);
        assert_eq!(outbox.take(1).await, [3]);
        assert_eq!(outbox.take(1000).await, [4]);
        assert_eq!(outbox.dropped(), 2);
    }

    #[tokio::test]
    async fn what_waits_is_dropped_when_it_shuts() {
        let outbox = Outbox::new(100, 4);
        outbox.push(1, 20).unwrap();
        outbox.shut();
        assert_eq!(outbox.push(2, 20), Err(NotSent::Disconnected));
        outbox.open();
        outbox.push(3, 20).unwrap();
        assert_eq!((outbox.take(1000).await, outbox.dropped()), (vec![3], 2));
    }

    #[tokio::test]
    async fn a_reader_is_woken() {
        let outbox = Outbox::new(100, 4);
        let reading = async {
            outbox.is_filled().await;
            outbox.take(100).await
        };
        let writing = async {
            tokio::task::yield_now().await;
            outbox.push(7, 1).unwrap();
        };
        let (read, ()) = tokio::join!(reading, writing);
        assert_eq!(read, [7]);
    }
}
