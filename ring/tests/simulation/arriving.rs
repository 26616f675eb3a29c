//! A partition whose copy is on its way: its journal is gone, and a witness votes in its place.

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use mesh_ring::replica::{Left, Message, Witness, WitnessEffect};

use crate::actor::config_of;
use crate::disk::What;
use crate::node::Node;
use crate::shared::{Event, Shared, short};
use crate::store::{Cmd, Store};

/// Longest time between the first and the last part of a copy, in microseconds.
const COPY_US: u64 = 3_000_000;

pub(crate) struct Arriving {
    pub(crate) generation: u64,
    /// Who gives the copy, if anyone does.
    from: Option<NodeId>,
    /// The copy; none after a crash, until another one is asked for.
    export: Option<Box<Store>>,
    /// Once the journal is gone.
    witness: Option<Witness>,
}

impl Node {
    /// A copy is offered: the journal here goes, unless it turns out to be of use.
    pub(crate) fn import(
        &mut self,
        from: NodeId,
        partition: PartitionId,
        export: Box<Store>,
        shared: &mut Shared,
    ) {
        if let Some(arriving) = self.arriving.get_mut(&partition) {
            if arriving.export.is_none() {
                (arriving.from, arriving.export) = (Some(from), Some(export));
                let generation = arriving.generation;
                self.copy(partition, generation, shared);
            }
            return;
        }
        let store = self.disk.stores.get(&partition);
        // One that holds the entry before the giver's first can follow, and what it has acknowledged counts.
        let is_of_use = store.is_some_and(|store| store.holds(export.before));
        if is_of_use || self.actors.remove(&partition).is_none() {
            return self.tell_giver(partition, from, shared);
        }
        self.generations += 1;
        let arriving = Arriving {
            generation: self.generations,
            from: Some(from),
            export: Some(export),
            witness: None,
        };
        self.arriving.insert(partition, arriving);
        self.submit(partition, self.generations, What::Empty, shared);
    }

    /// Goes on after a start that found a copy half taken.
    pub(crate) fn resume_arrival(&mut self, partition: PartitionId, left: Left) {
        self.generations += 1;
        let arriving = Arriving {
            generation: self.generations,
            from: None,
            export: None,
            witness: Some(Witness::new(self.boot().count, left)),
        };
        self.arriving.insert(partition, arriving);
    }

    /// The journal is gone: from here on a witness votes.
    pub(crate) fn emptied(&mut self, partition: PartitionId, generation: u64, shared: &mut Shared) {
        let store = self.disk.stores.get(&partition);
        let left = store.and_then(Store::left).unwrap_or_default();
        let witness = Witness::new(self.boot().count, left);
        let arriving = self.arriving.get_mut(&partition);
        if let Some(arriving) = arriving.filter(|of| of.generation == generation) {
            arriving.witness = Some(witness);
            self.tell_witnesses();
            self.copy(partition, generation, shared);
        }
    }

    fn copy(&mut self, partition: PartitionId, generation: u64, shared: &mut Shared) {
        let delay_us = shared.chance.below(COPY_US);
        let (node, run) = (self.id, self.run);
        let event = Event::Copied {
            node,
            run,
            partition,
            generation,
        };
        shared.after(delay_us, event);
    }

    /// All parts of the copy are here.
    pub(crate) fn copied(&mut self, partition: PartitionId, generation: u64, shared: &mut Shared) {
        let arriving = self.arriving.get_mut(&partition);
        let Some(arriving) = arriving.filter(|of| of.generation == generation) else {
            return;
        };
        if let Some(export) = arriving.export.take() {
            self.submit(partition, generation, What::Import(export), shared);
        }
    }

    pub(crate) fn imported(
        &mut self,
        partition: PartitionId,
        generation: u64,
        shared: &mut Shared,
    ) {
        let of = self.arriving.get(&partition);
        if of.is_none_or(|of| of.generation != generation) {
            return;
        }
        let giver = self.arriving.remove(&partition).and_then(|of| of.from);
        shared.count("imports");
        self.obey(shared);
        if let Some(giver) = giver {
            self.tell_giver(partition, giver, shared);
        }
    }

    fn tell_giver(&self, partition: PartitionId, to: NodeId, shared: &mut Shared) {
        let from = self.id;
        shared.send(from, to, || Event::TransferEnded {
            to,
            from,
            partition,
        });
    }

    /// Asks leaders for copies that nobody gives.
    pub(crate) fn pull(&self, map: &ClusterMap, shared: &mut Shared) {
        let from = self.id;
        for (partition, arriving) in &self.arriving {
            let Some(of) = map.assignment(*partition) else {
                continue;
            };
            let (partition, to) = (*partition, of.leader);
            if to == self.id {
                // It has nothing to lead with.
                let resign = ControlCommand::Resign {
                    partition,
                    epoch: of.epoch,
                    to: None,
                };
                shared.propose(self.id, &resign);
            } else if arriving.export.is_none() {
                shared.send(from, to, || Event::Pull {
                    to,
                    from,
                    partition,
                });
            }
        }
    }

    /// Tells every witness what the map says.
    pub(crate) fn tell_witnesses(&mut self) {
        let Some(map) = &self.map else { return };
        for (partition, arriving) in &mut self.arriving {
            let assignment = map.assignment(*partition);
            if let (Some(witness), Some(assignment)) = (&mut arriving.witness, assignment) {
                witness.configure(config_of(assignment));
            }
        }
    }

    pub(crate) fn witness_hears(
        &mut self,
        from: NodeId,
        partition: PartitionId,
        message: &Message<Cmd>,
        shared: &mut Shared,
    ) {
        let mut out = Vec::new();
        let arriving = self.arriving.get_mut(&partition);
        if let Some(witness) = arriving.and_then(|of| of.witness.as_mut()) {
            witness.received(from, message, &mut out);
        }
        self.carry_out(partition, out, shared);
    }

    pub(crate) fn witness_promised(
        &mut self,
        partition: PartitionId,
        epoch: Epoch,
        shared: &mut Shared,
    ) {
        let mut out = Vec::new();
        let arriving = self.arriving.get_mut(&partition);
        if let Some(witness) = arriving.and_then(|of| of.witness.as_mut()) {
            shared.count("votes of witnesses");
            witness.promised(epoch, &mut out);
        }
        self.carry_out(partition, out, shared);
    }

    fn carry_out(
        &mut self,
        partition: PartitionId,
        effects: Vec<WitnessEffect<Cmd>>,
        shared: &mut Shared,
    ) {
        let (me, generation) = (
            self.id,
            self.arriving.get(&partition).map(|of| of.generation),
        );
        for effect in effects {
            shared.trace(&[13, short(me)], || {
                format!("n{} p{partition}, a witness, does {effect:?}", short(me))
            });
            match effect {
                WitnessEffect::Promise(epoch) => {
                    let generation = generation.unwrap_or_default();
                    self.submit(partition, generation, What::Promise(epoch), shared);
                }
                WitnessEffect::Send { to, message } => {
                    shared.send(me, to, || Event::Message {
                        to,
                        from: me,
                        partition,
                        message: message.clone(),
                    });
                }
            }
        }
    }
}
