//! Partitions of which too few replicas live: whoever asks is told the numbers, now and not when the time is up.

use std::sync::Arc;
use std::time::Duration;

use mesh_ring::ids::PartitionId;
use mesh_ring::map::ClusterMap;

use super::partition::{Ask, Partition};
use super::{Shared, reply};
use crate::wire::proto::Error;

/// How often those are looked for who began to wait while the last replica but one was dying.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Shared {
    /// Why nothing of the partition can be committed: fewer of its replicas live than are needed.
    pub(super) fn shortage(&self, id: PartitionId) -> Option<Error> {
        self.shortage_by(&self.map(), id)
    }

    /// The same by this map.
    pub(super) fn shortage_by(&self, map: &ClusterMap, id: PartitionId) -> Option<Error> {
        let (need, have) = self.live_majority(map.assignment(id)?);
        (have < need).then(|| reply::not_enough_replicas(need, have))
    }
}

/// Tells those who wait for a commit that there are too few replicas for it, until the node stops.
pub(super) async fn tell(shared: Arc<Shared>) {
    let mut lives = shared.lives.clone();
    loop {
        lives.mark_unchanged();
        let short =
            |partition: &Partition| partition.leads() && shared.shortage(partition.id).is_some();
        let mut partitions = shared.partitions.running();
        partitions.retain(short);
        for partition in &partitions {
            // Where it has ended, everyone was told.
            let _ = partition.send(Ask::GiveUp).await;
        }
        tokio::select! {
            changed = lives.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN), if !partitions.is_empty() => {}
            () = shared.tasks.stopping() => return,
        }
    }
}
