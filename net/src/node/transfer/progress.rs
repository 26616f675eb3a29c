//! The transfers of this node, for people, and the rate that they share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_ring::ids::{NodeId, PartitionId};

use super::desk::Desks;
use crate::wire::proto::TransferStatus;

/// Transfers under way, each by its partition and the node that gets it.
#[derive(Debug)]
pub(in crate::node) struct Transfers {
    under_way: Mutex<BTreeMap<(PartitionId, NodeId), Arc<Transfer>>>,
    rate: Rate,
    /// What is read for comparisons.
    reads: Rate,
    pub(super) desks: Desks,
}

/// One transfer, as its two ends note it.
#[derive(Debug)]
pub(super) struct Transfer {
    from: NodeId,
    to: NodeId,
    partition: PartitionId,
    began: Instant,
    /// Bytes of this run, and what both ends think there is in all.
    moved: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
}

/// Ends the transfer's place in the list with itself.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    transfers: &'a Transfers,
    transfer: Arc<Transfer>,
}

impl Transfers {
    /// Transfers that together give away at most `bytes_per_second`; 0: as fast as they go.
    pub(in crate::node) fn new(bytes_per_second: u64) -> Transfers {
        Transfers {
            under_way: Mutex::default(),
            rate: Rate::new(bytes_per_second),
            reads: Rate::new(bytes_per_second),
            desks: Desks::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PartitionId, NodeId), Arc<Transfer>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, partition: PartitionId, from: NodeId, to: NodeId) -> Listed<'_> {
        let transfer = Arc::new(Transfer {
            from,
            to,
            partition,
            began: Instant::now(),
            moved: AtomicU64::new(0),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        });
        self.lock().insert((partition, to), Arc::clone(&transfer));
        Listed {
            transfers: self,
            transfer,
        }
    }

    /// What there is to be seen.
    pub(in crate::node) fn status(&self) -> Vec<TransferStatus> {
        self.lock()
            .values()
            .map(|transfer| transfer.status())
            .collect()
    }

    /// Waits until `bytes` more may be given away.
    pub(in crate::node) async fn spend(&self, bytes: usize) {
        self.rate.spend(bytes).await;
    }

    /// How many bytes may be read to be compared in so much time.
    pub(in crate::node) fn read_in(&self, time: Duration) -> u64 {
        match self.reads.bytes_per_second {
            0 => u64::MAX,
            rate => (rate as f64 * time.as_secs_f64()) as u64,
        }
    }

    /// Waits until `bytes` more may be read to be compared: as fast as they may be given away, and beside that, so that no copy
    /// on its way waits for a comparison.
    pub(in crate::node) async fn spend_read(&self, bytes: usize) {
        self.reads.spend(bytes).await;
    }
}

impl Listed<'_> {
    /// `bytes` more have moved; the whole is at `done` of about `total`.
    pub(super) fn note(&self, bytes: usize, done: u64, total: u64) {
        let transfer = &self.transfer;
        transfer.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        transfer.done.store(done, Ordering::Relaxed);
        transfer.total.store(total, Ordering::Relaxed);
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let key = (self.transfer.partition, self.transfer.to);
        let mut under_way = self.transfers.lock();
        if under_way
            .get(&key)
            .is_some_and(|newest| Arc::ptr_eq(newest, &self.transfer))
        {
            under_way.remove(&key);
        }
    }
}

impl Transfer {
    fn status(&self) -> TransferStatus {
        let moved = self.moved.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        TransferStatus {
            partition: self.partition.0.into(),
            from: Bytes::copy_from_slice(&self.from.0),
            to: Bytes::copy_from_slice(&self.to.0),
            bytes_done: self.done.load(Ordering::Relaxed),
            bytes_total: self.total.load(Ordering::Relaxed),
            state: if moved == 0 { "waiting" } else { "copying" }.to_owned(),
            bytes_per_second: (moved as f64 / seconds) as u64,
        }
    }
}

/// Bytes by the clock: what was spent too fast is waited for.
#[derive(Debug)]
struct Rate {
    bytes_per_second: u64,
    /// Until when what was spent so far takes at this rate.
    paid_until: Mutex<Option<Instant>>,
}

/// What may be spent at once after a pause.
const BURST: Duration = Duration::from_millis(50);

impl Rate {
    fn new(bytes_per_second: u64) -> Rate {
        Rate {
            bytes_per_second,
            paid_until: Mutex::default(),
        }
    }

    async fn spend(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let wait = {
            let now = Instant::now();
            let mut paid = self
                .paid_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let until = paid.unwrap_or(now).max(now) + cost;
            *paid = Some(until);
            until.saturating_duration_since(now + BURST)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 16]);

    #[tokio::test]
    async fn what_is_given_away_keeps_to_the_rate() {
        let transfers = Transfers::new(8 << 20);
        let began = Instant::now();
        for _ in 0..8 {
            transfers.spend(512 << 10).await;
        }
        assert!(began.elapsed() + BURST >= Duration::from_millis(500));
    }

    #[test]
    fn a_transfer_is_listed_while_it_lasts() {
        let transfers = Transfers::new(0);
        let listed = transfers.begin(PartitionId(3), NODE, NodeId([2; 16]));
        listed.note(10, 10, 100);
        let status = transfers.status();
        assert_eq!(
            (
                status[0].partition,
                status[0].bytes_done,
                status[0].bytes_total
            ),
            (3, 10, 100)
        );
        assert_eq!(status[0].state, "copying");
        drop(listed);
        assert!(transfers.status().is_empty());
    }
}
