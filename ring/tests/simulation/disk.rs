//! A node's disk: one queue, one sync for everything that waits, and nothing that was not synced survives a crash.

use std::collections::{BTreeMap, VecDeque};

use mesh_ring::ids::{Epoch, Index, PartitionId};
use mesh_ring::ledger::Checkpoint;
use mesh_ring::map::Boot;
use mesh_ring::replica::Entry;

use crate::store::{Cmd, Store};

/// What is to be written for a partition. `generation` tells one actor of it from the next.
pub(crate) struct Write {
    pub(crate) partition: PartitionId,
    pub(crate) generation: u64,
    pub(crate) what: What,
}

pub(crate) enum What {
    Persist {
        ticket: u64,
        promise: Option<Epoch>,
        suspect: Option<bool>,
        truncate: Option<Index>,
        entries: Vec<Entry<Cmd>>,
        applied: Index,
    },
    Apply(Index),
    Checkpoint(Checkpoint),
    /// The journal goes: a copy of it is on its way.
    Empty,
    /// A promise of a partition without a journal.
    Promise(Epoch),
    Import(Box<Store>),
    Drop,
}

/// What is durable now.
pub(crate) enum Done {
    Persisted(u64),
    Applied(Index),
    /// With the first index that is kept.
    Checkpointed(Index),
    Emptied,
    Promised(Epoch),
    Imported,
    Dropped,
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) stores: BTreeMap<PartitionId, Store>,
    /// All starts of the node, the newest last.
    pub(crate) boots: Vec<Boot>,
    queue: VecDeque<Write>,
    syncing: Vec<Write>,
    /// What a damaged disk comes back with.
    saved: Option<BTreeMap<PartitionId, Store>>,
    /// Entries that a journal keeps at least.
    pub(crate) kept: u64,
}

impl Disk {
    /// Queues a write. True: a sync is to be started.
    pub(crate) fn submit(&mut self, write: Write) -> bool {
        self.queue.push_back(write);
        self.start()
    }

    fn start(&mut self) -> bool {
        if !self.syncing.is_empty() || self.queue.is_empty() {
            return false;
        }
        self.syncing.extend(self.queue.drain(..));
        true
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.syncing.is_empty()
    }

    /// The sync is done. What became durable, in order; and whether the next one is to be started.
    pub(crate) fn synced(&mut self) -> (Vec<(PartitionId, u64, Done)>, bool) {
        let mut done = Vec::new();
        for write in std::mem::take(&mut self.syncing) {
            let (partition, generation) = (write.partition, write.generation);
            done.push((partition, generation, self.write(write)));
        }
        let start = self.start();
        (done, start)
    }

    fn write(&mut self, write: Write) -> Done {
        if matches!(write.what, What::Drop) {
            self.stores.remove(&write.partition);
            return Done::Dropped;
        }
        let store = self.stores.entry(write.partition).or_default();
        match write.what {
            What::Persist {
                ticket,
                promise,
                suspect,
                truncate,
                entries,
                applied,
            } => {
                if let Some(from) = truncate {
                    store.truncate(from);
                }
                store.promised = store.promised.max(promise.unwrap_or_default());
                store.suspect = suspect.unwrap_or(store.suspect);
                for entry in entries {
                    store.add(entry);
                }
                store.applied = store.applied.max(applied);
                Done::Persisted(ticket)
            }
            What::Apply(upto) => {
                store.apply(upto);
                Done::Applied(upto)
            }
            What::Checkpoint(checkpoint) => {
                store.checkpoint(&checkpoint, self.kept);
                Done::Checkpointed(store.before.index.next())
            }
            What::Empty => {
                store.empty();
                Done::Emptied
            }
            What::Promise(epoch) => {
                store.promised = store.promised.max(epoch);
                Done::Promised(epoch)
            }
            What::Import(export) => {
                store.import(*export);
                Done::Imported
            }
            What::Drop => Done::Dropped,
        }
    }

    /// The power goes. What was being synced is there as a whole or not at all.
    pub(crate) fn crash(&mut self, reached: bool) {
        if reached {
            self.synced();
        }
        self.syncing.clear();
        self.queue.clear();
    }

    /// Notes what the disk will come back with if it is damaged: synced writes after this are lost.
    pub(crate) fn begin_to_rot(&mut self) {
        self.saved = Some(self.stores.clone());
    }

    pub(crate) fn is_rotting(&self) -> bool {
        self.saved.is_some()
    }

    /// Nothing was lost after all.
    pub(crate) fn heal(&mut self) {
        self.saved = None;
    }

    /// What was synced since it began to rot is lost; where the node notices, all that it holds is suspect.
    pub(crate) fn damage(&mut self, partitions: u16, noticed: bool) {
        if let Some(saved) = self.saved.take() {
            self.stores = saved;
            if noticed {
                // Also those of which nothing is left.
                for partition in (0..partitions).map(PartitionId) {
                    self.stores.entry(partition).or_default().suspect = true;
                }
            }
        }
    }
}
