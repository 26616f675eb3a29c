//! The reads that a node coordinates.

use std::collections::BTreeSet;

use mesh_ring::ids::NodeId;
use mesh_ring::quorum::{Answer, Read, ReadEffect, ReadOutcome, Role};

use crate::coordinator::{Coordinated, Machine};
use crate::message::Message;
use crate::node::Node;
use crate::shared::{Breakage, Shared, short};
use crate::wish::{Context, Told, Wish};

impl Node {
    pub(crate) fn start_read(
        &mut self,
        request: u64,
        wish: Wish,
        live: &BTreeSet<NodeId>,
        shared: &mut Shared,
    ) {
        let mut preference = self.preference(wish.partition);
        let away = shared.chance.next();
        let (homes, map_version) = (preference.homes.len(), preference.map_version);
        if shared.is_broken(Breakage::StandInsCountAsHomes) {
            let stand_ins = std::mem::take(&mut preference.stand_ins);
            preference.homes.splice(0..0, stand_ins);
        }
        let mut out = Vec::new();
        let read = Read::new(
            &preference,
            self.id,
            wish.need,
            |node| live.contains(&node),
            |node| away >> short(node) & 1 == 1,
            &mut out,
        );
        let Ok(machine) = read else {
            return;
        };
        let promised = shared.oracle.firm(&wish.key, map_version, wish.need, homes);
        let coordinated = Coordinated {
            wish,
            machine: Machine::Read { machine, promised },
            map_version,
        };
        self.requests.insert(request, coordinated);
        self.do_read(request, out, shared);
    }

    pub(crate) fn got(
        &mut self,
        request: u64,
        node: NodeId,
        answer: Option<Answer>,
        shared: &mut Shared,
    ) {
        self.step_read(request, shared, |read, out| match answer {
            Some(answer) => read.answered(node, answer, out),
            None => read.failed(node, out),
        });
    }

    pub(crate) fn step_read(
        &mut self,
        request: u64,
        shared: &mut Shared,
        step: impl FnOnce(&mut Read, &mut Vec<ReadEffect>),
    ) {
        let mut out = Vec::new();
        match self.requests.get_mut(&request).map(|of| &mut of.machine) {
            Some(Machine::Read { machine, .. }) => step(machine, &mut out),
            _ => return,
        }
        self.do_read(request, out, shared);
    }

    fn do_read(&mut self, request: u64, effects: Vec<ReadEffect>, shared: &mut Shared) {
        for effect in effects {
            let Some(of) = self.requests.get(&request) else {
                return;
            };
            let (partition, key) = (of.wish.partition, of.wish.key.clone());
            match effect {
                ReadEffect::Ask(node) => {
                    let message = Message::Get {
                        request,
                        partition,
                        key,
                    };
                    shared.send(self.id, node, &message);
                }
                ReadEffect::Done(outcome) => self.was_read(request, outcome, shared),
                ReadEffect::Repair(repair) => {
                    let stamp = if shared.is_broken(Breakage::RepairsStampedAnew) {
                        self.stamp(partition)
                    } else {
                        repair.stamp
                    };
                    shared.count("read repairs");
                    let message = Message::Put {
                        request,
                        partition,
                        key,
                        state: repair.binding,
                        stamp,
                        role: Role::Home,
                    };
                    shared.send(self.id, repair.node, &message);
                }
            }
        }
    }

    fn was_read(&self, request: u64, outcome: ReadOutcome, shared: &mut Shared) {
        let Some(of) = self.requests.get(&request) else {
            return;
        };
        let Machine::Read { promised, .. } = &of.machine else {
            return;
        };
        let ReadOutcome::Read { binding, homes, .. } = outcome else {
            return;
        };
        shared.count("reads");
        let is_same_map = self.map.version() == of.map_version;
        if homes.len() >= of.wish.need && is_same_map {
            shared.oracle.check_read(promised, &binding);
            shared.count("promised reads");
        }
        let context = Context {
            token: binding.context().clone(),
            seen: shared.oracle.seen(&binding),
        };
        shared.told.push(Told {
            client: of.wish.client,
            key: of.wish.key.clone(),
            context,
        });
    }
}
