//! A disk that came back without its end.
//!
//! It may hold values whose tombstones it has lost, and which all others have forgotten since. Whether they have, the fences tell: to
//! forget a tombstone every node looks under a new fence, and keeps, before it answers, that it has. So a copy that has lost its
//! end is suspect, and is stamped with the fence under which its disk has looked last. Another home that goes by a higher one
//! has, or had, what this copy lacks: the copy is given up and taken anew from that home, hints of the partition as well.
//! Where all other homes, which may be suspect as well, take and give everything in comparisons by fences as low as that, nothing
//! was forgotten that any of them knows of, and the copy is as good as any: so of several that have lost their ends, the one that
//! lacks least stays.
//!
//! Who has given its copy up takes part in no round, and counts as suspect, until it was compared with all other homes.
//!
//! Given up is also what was acknowledged by this node alone and lay in no comparison yet. A disk that has lost its end has lost
//! such writes anyway.

use std::sync::Arc;
use std::time::Duration;

use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use tokio::time::sleep;

use super::fences::{EMPTIED, Looked};
use super::rows;
use crate::node::{Shared, repair};
use crate::tasks::blocking;

/// How soon copies are compared again of which nobody was there to compare them with.
const AGAIN: Duration = Duration::from_millis(200);

/// Compares what is suspect with other homes, until nothing is. It ends when the node stops.
pub(super) async fn prove(shared: Arc<Shared>) {
    loop {
        let suspects = shared.fences.suspects();
        if suspects.is_empty() {
            return;
        }
        for id in suspects {
            tokio::select! {
                () = shared.prove_one(id) => {}
                () = shared.tasks.stopping() => return,
            }
        }
        tokio::select! {
            () = sleep(AGAIN) => {}
            () = shared.tasks.stopping() => return,
        }
    }
}

/// Whether a node has a copy of the partition that counts.
fn is_home(map: &ClusterMap, id: PartitionId, node: NodeId) -> bool {
    map.assignment(id)
        .is_some_and(|of| of.replicas.contains(&node) && of.activated.replicas.contains(&node))
}

impl Shared {
    async fn prove_one(self: &Arc<Self>, id: PartitionId) {
        let (map, me) = (self.map(), self.me());
        if !map.assignment(id).is_some_and(|of| of.needs_copy(me)) {
            let shared = Arc::clone(self);
            let anything = blocking(move || repair::has_anything(&shared.engine, id)).await;
            // What is left is on its way to the homes, and given up where one of them has a higher fence.
            if anything == Some(false) && self.engine.oldest_hint_ms(id).is_none() {
                self.trust_copy(id).await;
            }
            return;
        }
        let Some(mut others) = repair::others_of(self, id) else {
            return;
        };
        others.retain(|node| is_home(&map, id, *node));
        let mut are_compared = is_home(&map, id, me) || !others.is_empty();
        for node in others {
            let compared = match self.is_alive(node) {
                true => repair::compare(self, id, node)
                    .await
                    .map_err(|error| error.to_string()),
                false => Err("it is away".into()),
            };
            if let Err(cause) = compared {
                tracing::debug!(partition = %id, %node, cause, "a suspect copy was not compared");
                are_compared = false;
            }
        }
        if are_compared {
            self.trust_copy(id).await;
        }
    }

    /// A home of the partition goes by this fence. Where that is higher than what a suspect copy has looked under here, the copy
    /// goes. To be waited for before anything is compared with that home.
    pub(in crate::node) async fn give_way(&self, id: PartitionId, fence: u64, to: NodeId) {
        let is_lower = |looked: u64| looked < fence;
        if self.fences.suspect(id).is_some_and(is_lower) && is_home(&self.map(), id, to) {
            self.give_up_copy(id, fence).await;
        }
    }

    /// Whether the partition's fence may be raised to this one here: what is suspect never leaves under it.
    pub(super) async fn may_raise(&self, id: PartitionId, fence: u64) -> bool {
        if self.fences.suspect(id).is_none_or(|looked| looked >= fence) {
            return true;
        }
        let map = self.map();
        let keeps = map
            .assignment(id)
            .is_some_and(|of| of.needs_copy(self.me()));
        // A home compares first. Who only stands in for one has nothing but hints.
        !keeps && self.give_up_copy(id, fence).await
    }

    /// `false`: the store has stopped, a hint cannot be read, or who the homes are is known by a map that a
    /// restart would not know.
    async fn give_up_copy(&self, id: PartitionId, fence: u64) -> bool {
        let _turn = self.fences.giving_up.lock().await;
        if self
            .fences
            .suspect(id)
            .is_none_or(|looked| looked == EMPTIED)
        {
            return true;
        }
        if !self.control.has_map_in_log() {
            return false;
        }
        // Before the copy goes: otherwise what is as old could come to the emptied one, and leave it under the new fence.
        self.fences.learn(id, fence);
        let engine = Arc::clone(&self.engine);
        let dropped = blocking(move || {
            engine
                .wipe_bindings(id)
                .map_err(|error| error.to_string())?;
            engine.drop_hints(id).map_err(|error| error.to_string())
        });
        match dropped.await {
            Some(Ok(hints)) => {
                tracing::warn!(partition = %id, hints, "the disk has lost its end, and tombstones were forgotten since: the copy of the bindings is taken anew from the other homes");
            }
            Some(Err(error)) => {
                tracing::error!(partition = %id, error, "a copy that may hold what was deleted cannot be given up");
                return false;
            }
            None => return false,
        }
        // On the disk it stays what it was: after a crash it is compared, and emptied if need be, again.
        self.fences.note_emptied(id);
        true
    }

    async fn trust_copy(&self, id: PartitionId) {
        let Looked { fence, .. } = self.fences.note_look(id, 0);
        let looked = Looked {
            fence: if fence == EMPTIED { 0 } else { fence },
            is_suspect: false,
        };
        if self.keep_row(rows::looked_row(id, looked)).await {
            self.fences.trust(id);
        }
    }
}
