//! What a partition's actor can make the node do.

use std::sync::Arc;
use std::time::Duration;

use mesh_engine::ReadError;
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::replica::{Lane, Message, Position, Report};

use super::Shared;
use super::partition::{Ask, Doors};
use super::partitions::Outdated;
use super::payload::Payload;
use crate::tasks::blocking;

/// How long after a replica was asked to pull its copy anew it is asked how far it is.
const PROBE_AFTER: Duration = Duration::from_millis(200);

/// The node, as its partitions see it.
pub(super) struct NodeDoors(pub(super) Arc<Shared>);

impl NodeDoors {
    /// What this copy knows to be committed, its leader's journal does not have: it is replaced as a whole.
    fn rebuild_here(&self, partition: PartitionId, epoch: Epoch) {
        let map = self.0.map();
        let Some(assignment) = map.assignment(partition) else {
            return;
        };
        tracing::warn!(%partition, leader = %assignment.leader, "this copy has records that all who vote on it have lost: it gives way to theirs");
        // No journal holds this entry.
        let before = Position {
            epoch,
            index: Index(u64::MAX),
        };
        let asked = Outdated {
            by: assignment.leader,
            epoch,
            before,
        };
        self.0.rebuild(partition, asked);
    }
}

impl Doors for NodeDoors {
    fn send(&self, to: NodeId, partition: PartitionId, message: Message<Payload>, lane: Lane) {
        // What cannot be sent now is said again when it matters.
        let _ = self.0.peers.send(to, partition, message, lane);
    }

    fn read(&self, id: PartitionId, to: NodeId, epoch: Epoch, from: Index, bytes: usize) {
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn("journal read", async move {
            let engine = Arc::clone(&shared.engine);
            let read = blocking(move || engine.read_entries(id, from, bytes)).await;
            if let Some(Err(error)) = &read {
                shared.note_damage(error);
            }
            if let (Some(entries), Some(partition)) = (read, shared.partitions.get(id)) {
                // A partition that has ended meanwhile needs no answer.
                let _ = partition.send(Ask::Read { to, epoch, entries }).await;
            }
        });
    }

    fn report(&self, partition: PartitionId, report: Report) {
        self.0.reports.push(partition, report);
    }

    fn damaged(&self, error: &ReadError) {
        self.0.note_damage(error);
    }

    fn rebuild(&self, partition: PartitionId, epoch: Epoch, node: NodeId) {
        if node == self.0.me() {
            return self.rebuild_here(partition, epoch);
        }
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn("rebuild request", async move {
            let engine = Arc::clone(&shared.engine);
            let Some(Ok(journal)) = blocking(move || engine.replica(partition)).await else {
                return;
            };
            shared
                .ask_to_rebuild(partition, epoch, journal.before, node)
                .await;
            tokio::select! {
                () = tokio::time::sleep(PROBE_AFTER) => {}
                () = shared.tasks.stopping() => return,
            }
            // It answers when its new copy is there. Where it has not heard, it is found to be behind once more.
            if let Some(leader) = shared.partitions.get(partition)
                && shared.peers.is_connected(node)
            {
                let _ = leader.send(Ask::Connected(node)).await;
            }
        });
    }
}
