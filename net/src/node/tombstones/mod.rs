//! Tombstones of bindings are forgotten when nothing is left anywhere that they delete; the rules are
//! `mesh_ring::tombstone`'s.
//!
//! - `fences`: what this node admits, and with what it stamps; `rows`: as the disk has it;
//! - `stamps`: on the wire, and how a state is taken or refused;
//! - `answering`: what this node says when it is asked, and what it forgets when it is told to;
//! - `salvaged`: a disk that has lost its end, and may hold what others have forgotten;
//! - `rounds`: those that it begins; `waiting`: what waits for them, for people.

mod answering;
mod fences;
mod rounds;
mod rows;
mod salvaged;
mod stamps;
mod waiting;

use std::time::Duration;

use mesh_engine::RowChange;
use mesh_ring::ids::PartitionId;
use mesh_ring::map::{ClusterMap, NodeState};
use mesh_ring::tombstone::Stamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::answering::{ask, collect};
pub(super) use self::fences::Fences;
pub(super) use self::rounds::start;
pub(super) use self::rows::load;
pub(super) use self::stamps::{Stale, origin, sender, stamp_of};
pub(super) use self::waiting::Waiting;
use super::Shared;

/// How long a node that is behind another's fence waits for the question by which that was raised: it is on its way here too,
/// and comes to nothing where the fence is as high already.
const QUESTION_WAIT: Duration = Duration::from_millis(20);

/// How long a fence may take to be raised.
const RAISE_TIMEOUT: Duration = Duration::from_secs(2);

impl Shared {
    /// With what anything of the partition is stamped that is read from now on.
    pub(super) fn stamp(&self, id: PartitionId) -> Stamp {
        self.fences.stamp(id, self.map().version())
    }

    /// The same for every partition, in order.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let map_version = self.map().version();
        let partitions = (0..self.engine.identity().partitions).map(PartitionId);
        let stamps = partitions.map(|id| self.fences.stamp(id, map_version));
        stamps.collect()
    }

    /// From the first map on that has this node take part, it is asked in every round.
    pub(super) fn note_membership(&self, map: &ClusterMap) {
        let is_asked = map
            .node(self.me())
            .is_some_and(|member| !matches!(member.state, NodeState::Joining | NodeState::Removed));
        if is_asked && self.fences.note_since(map.version()) {
            // Where a crash comes before it, a later version is noted, by which less is admitted.
            let row = rows::since_row(map.version());
            self.engine.submit_rows(vec![row], |_| {});
        }
    }

    /// Another node is at this fence: sees to it that what is read here from now on is stamped with it, or with a higher one.
    /// `false`: not in time.
    pub(super) async fn catch_up(&self, id: PartitionId, fence: u64) -> bool {
        let wait = match self.fences.admits(id) < fence {
            true => QUESTION_WAIT,
            false => Duration::ZERO,
        };
        if self.fences.reaches(id, fence, Instant::now() + wait).await {
            return true;
        }
        if !self.may_raise(id, fence).await {
            return false;
        }
        let deadline = Instant::now() + RAISE_TIMEOUT;
        if self.fences.learn(id, fence) && !self.keep_fence(id).await {
            return false;
        }
        self.fences.reaches(id, fence, deadline).await
    }

    /// Has it on the disk that a look under this fence is over. `false`: the store has stopped.
    async fn keep_look(&self, id: PartitionId, fence: u64) -> bool {
        let looked = self.fences.note_look(id, fence);
        self.keep_row(rows::looked_row(id, looked)).await
    }

    async fn keep_row(&self, row: RowChange) -> bool {
        let (answer, durable) = oneshot::channel();
        self.engine.submit_rows(vec![row], move |result| {
            let _ = answer.send(result);
        });
        matches!(durable.await, Ok(Ok(())))
    }

    /// Has the partition's fence on the disk. `false`: the store has stopped.
    async fn keep_fence(&self, id: PartitionId) -> bool {
        let (answer, durable) = oneshot::channel();
        let mut kept = fences::Kept::default();
        self.fences.tell(id, self.map().version(), |told| {
            kept = told;
            let row = rows::fence_row(id, told);
            // The writer never waits for a fence: whoever holds one may wait for the writer.
            self.engine.submit_rows(vec![row], move |result| {
                let _ = answer.send(result);
            });
        });
        let is_durable = matches!(durable.await, Ok(Ok(())));
        if is_durable {
            self.fences.note_durable(id, kept);
        }
        is_durable
    }
}
