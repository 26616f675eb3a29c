//! A write on its way to one of the nodes that are to have it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::name::BindingKey;
use mesh_ring::quorum::Role;
use mesh_ring::tombstone::Stamp;
use mesh_ring::version::Dot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::exchange;
use crate::node::Shared;
use crate::node::tombstones::Stale;
use crate::wire::proto::Error;

/// How soon a copy is sent again that was refused because one of both nodes goes by an older map.
const AGAIN: Duration = Duration::from_millis(20);

/// What is sent of a write, and what it takes to send it again where it was read too long ago.
#[derive(Clone)]
pub(super) struct Copying {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: PartitionId,
    pub(super) key: BindingKey,
    /// What the key was when the write was made.
    pub(super) binding: Bytes,
    /// Taken before that.
    pub(super) stamp: Stamp,
    /// Of the write.
    pub(super) dot: Dot,
}

impl Copying {
    /// Has `node` keep it; `done` is told when it does, durably, or that it does not, as far as is known.
    pub(super) fn send(
        &self,
        node: NodeId,
        role: Role,
        deadline: Instant,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let binding = self.binding.clone();
        let of = (&self.key, self.stamp);
        exchange::post(&self.shared, node, role, of, binding, deadline, done);
    }

    /// Makes it fit to be sent again. `None`: it cannot be, as this node does not hold the write any more. `is_kept`: whether
    /// this node keeps the write itself, once that is known.
    pub(super) async fn renew(
        mut self,
        stale: Stale,
        is_kept: watch::Receiver<Option<bool>>,
    ) -> Option<Self> {
        match stale {
            // The other node hears of the map like this one has.
            Stale::NewMap => {
                sleep(AGAIN).await;
                return Some(self);
            }
            Stale::OldMap => sleep(AGAIN).await,
            Stale::Fenced(fence) => {
                if !self.shared.catch_up(self.partition, fence).await {
                    return None;
                }
            }
        }
        let is_anew = self.read_anew(is_kept).await;
        is_anew.then_some(self)
    }

    async fn read_anew(&mut self, mut is_kept: watch::Receiver<Option<bool>>) -> bool {
        // What is read before the own copy is durable would lack the write.
        let kept = is_kept.wait_for(Option::is_some).await;
        if !kept.is_ok_and(|kept| *kept == Some(true)) {
            return false;
        }
        let stamp = self.shared.stamp(self.partition);
        let Ok(known) = exchange::known(&self.shared, self.key.clone()).await else {
            return false;
        };
        // The copy may have been given away, or the hint delivered.
        if !known.context().covers(self.dot) {
            return false;
        }
        (self.binding, self.stamp) = (known.encode().into(), stamp);
        true
    }
}
