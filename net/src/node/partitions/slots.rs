//! What there is of each partition here at a moment: it runs, arrives, leaves, or cannot be opened.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use mesh_ring::replica::Position;
use tokio_util::sync::CancellationToken;

use crate::node::partition::Partition;
use crate::node::transfer::Arrival;
use crate::tasks::TaskSet;

/// The partitions of this node, by number.
#[derive(Debug, Default)]
pub(in crate::node) struct Partitions {
    slots: RwLock<Slots>,
    /// The actors. They outlive the node's other tasks, which wait for their answers.
    pub(super) actors: TaskSet,
    /// Copies that are too far behind, and who found so.
    outdated: Mutex<BTreeMap<PartitionId, Outdated>>,
}

#[derive(Debug, Default)]
struct Slots {
    of: BTreeMap<PartitionId, Slot>,
    /// The node stops: whatever is put into a slot from now on ends at once.
    closed: bool,
}

/// A leader's word that a copy lacks more than its journal has.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Outdated {
    /// The leader.
    pub(in crate::node) by: NodeId,
    /// Its epoch.
    pub(in crate::node) epoch: Epoch,
    /// The entry before the first of its journal.
    pub(in crate::node) before: Position,
}

/// What there is of one partition.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    Running(Partition, Stop),
    /// Its data is on its way here.
    Arriving(Arrival),
    /// Others keep it now, and are given what they lack before it is dropped.
    Leaving(Stop),
    /// It cannot be opened; the log says why.
    Closed,
}

impl Slot {
    fn end(&self) {
        match self {
            Slot::Running(_, stop) | Slot::Leaving(stop) => stop.wanted.cancel(),
            Slot::Arriving(arrival) => arrival.stop.wanted.cancel(),
            Slot::Closed => {}
        }
    }
}

/// Ends what runs in a slot, and tells when it has ended.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Stop {
    wanted: CancellationToken,
    ended: CancellationToken,
}

impl Stop {
    pub(in crate::node) fn wanted(&self) -> &CancellationToken {
        &self.wanted
    }

    pub(in crate::node) fn note_end(&self) {
        self.ended.cancel();
    }

    pub(super) async fn and_wait(&self) {
        self.wanted.cancel();
        self.ended.cancelled().await;
    }
}

impl Partitions {
    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outdated(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Outdated>> {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(&self, id: PartitionId) -> Option<Slot> {
        self.read().of.get(&id).cloned()
    }

    pub(super) fn set(&self, id: PartitionId, slot: Slot) {
        let mut slots = self.write();
        if slots.closed {
            slot.end();
        } else {
            slots.of.insert(id, slot);
        }
    }

    pub(super) fn remove(&self, id: PartitionId) {
        self.write().of.remove(&id);
    }

    /// The partition, where it runs here.
    pub(in crate::node) fn get(&self, id: PartitionId) -> Option<Partition> {
        match self.read().of.get(&id) {
            Some(Slot::Running(partition, _)) => Some(partition.clone()),
            _ => None,
        }
    }

    /// Tells everything that runs here to end, and whatever would begin to run.
    pub(in crate::node) fn give_up(&self) {
        let mut slots = self.write();
        slots.closed = true;
        std::mem::take(&mut slots.of).values().for_each(Slot::end);
    }

    /// Ends everything that runs here, and waits until it has.
    pub(in crate::node) async fn stop(&self) {
        self.give_up();
        self.actors.join().await;
    }

    /// The partition, where its copy is on its way here.
    pub(in crate::node) fn arriving(&self, id: PartitionId) -> Option<Arrival> {
        match self.read().of.get(&id) {
            Some(Slot::Arriving(arrival)) => Some(arrival.clone()),
            _ => None,
        }
    }

    /// All that run here.
    pub(in crate::node) fn running(&self) -> Vec<Partition> {
        let slots = self.read();
        let running = slots.of.values().filter_map(|slot| match slot {
            Slot::Running(partition, _) => Some(partition.clone()),
            _ => None,
        });
        running.collect()
    }

    /// How many copies are still to be handed over to those who keep their partitions now.
    pub(in crate::node) fn leaving(&self) -> usize {
        let slots = self.read();
        let leaving = |slot: &&Slot| matches!(slot, Slot::Leaving(_));
        slots.of.values().filter(leaving).count()
    }
}
