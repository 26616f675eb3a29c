//! What a node does by itself: hints, walks, fills, handovers, expiry.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::Tree;
use mesh_ring::merkle::walk::{Request, Response, Salt, Step, Walk};
use mesh_ring::quorum::Role;
use mesh_ring::tombstone::{Refusal, Stamp};

use crate::message::{Message, NotKept};
use crate::node::{Node, Waiting};
use crate::shared::{Breakage, Event, MILLI_US, SECOND_US, Shared, short};

/// A hint that is being delivered.
pub(crate) struct Delivery {
    request: u64,
    at: u64,
    since_us: u64,
}

/// A walk that this node has begun.
pub(crate) struct Walking {
    id: u64,
    to: NodeId,
    machine: Walk,
    /// The oldest stamp of what its merges are made of.
    stamp: Stamp,
    since_us: u64,
}

/// The homes with which a copy was walked, of these homes.
#[derive(Default)]
pub(crate) struct Handover {
    homes: Vec<NodeId>,
    done: BTreeSet<NodeId>,
}

impl Handover {
    fn walked(&mut self, with: NodeId, homes: &[NodeId]) {
        if self.homes != homes {
            *self = Self {
                homes: homes.to_vec(),
                done: BTreeSet::new(),
            };
        }
        self.done.insert(with);
    }
}

impl Node {
    pub(crate) fn schedule(&self, shared: &mut Shared) {
        let delay_us = shared.chance.between(80, 250) * MILLI_US;
        let (node, run) = (self.id, self.run);
        shared.after(delay_us, Event::Tick { node, run });
    }

    pub(crate) fn tick(&mut self, shared: &mut Shared) {
        self.schedule(shared);
        let partitions = self.map.partitions().len() as u16;
        for partition in (0..partitions).map(PartitionId) {
            self.report(partition, shared);
            self.deliver(partition, shared);
            self.expire(partition, shared);
            self.begin_walk(partition, shared);
            if shared.chance.one_in(2) {
                self.begin_round(partition, shared);
            }
        }
    }

    fn report(&self, partition: PartitionId, shared: &mut Shared) {
        let Some(of) = self.map.assignment(partition) else {
            return;
        };
        let (epoch, node) = (of.epoch, self.id);
        if of.leader == node && !of.is_activated() {
            shared.proposals.push(ControlCommand::Activated {
                partition,
                epoch,
                leader: node,
            });
        }
        let follows = of.replicas.contains(&node) && of.target.is_some();
        if follows && !of.caught_up.contains(&node) {
            shared.proposals.push(ControlCommand::CaughtUp {
                partition,
                epoch,
                node,
            });
        }
    }

    fn expire(&mut self, partition: PartitionId, shared: &mut Shared) {
        let now_ms = self.now_ms(shared);
        let part = self.store.part(partition);
        let copy = part.copy.iter().flatten();
        let expired: Vec<(Bytes, Binding)> = copy
            .filter_map(|(key, binding)| Some((key.clone(), binding.expire(now_ms)?)))
            .collect();
        for (key, binding) in expired {
            self.store.part(partition).merge(&key, &binding);
            shared.count("expired values");
            self.sync(shared);
        }
    }

    /// Delivers the first hint whose home, or whoever holds the partition in its place, lives.
    fn deliver(&mut self, partition: PartitionId, shared: &mut Shared) {
        let is_stuck = |d: &Delivery, now_us| now_us - d.since_us > 2 * SECOND_US;
        if let Some(delivery) = self.deliveries.get(&partition)
            && !is_stuck(delivery, shared.now_us)
        {
            return;
        }
        self.deliveries.remove(&partition);
        let homes = self.preference(partition).homes;
        let live = self.live(partition, shared);
        let is_leaving = self
            .map
            .node(self.id)
            .is_none_or(|member| !member.is_staying());
        let hints = self.store.part(partition).hints.clone();
        for (at, hint) in hints {
            let first = homes.iter().copied().find(|home| live.contains(home));
            let to = match homes.contains(&hint.home) {
                true if live.contains(&hint.home) => Some(hint.home),
                true if !is_leaving => None,
                _ => {
                    shared.count("hints rerouted");
                    first
                }
            };
            let Some(to) = to else {
                continue;
            };
            let request = shared.unique();
            let message = Message::Put {
                request,
                partition,
                key: hint.key,
                state: hint.state,
                stamp: self.stamp(partition),
                role: Role::Home,
            };
            shared.send(self.id, to, &message);
            if shared.is_broken(Breakage::HintsGoneWhenSent) {
                self.store.part(partition).remove_hint(at);
            }
            let since_us = shared.now_us;
            let delivery = Delivery {
                request,
                at,
                since_us,
            };
            self.deliveries.insert(partition, delivery);
            return;
        }
    }

    /// Whether this was the answer to the delivery of a hint.
    pub(crate) fn delivered(
        &mut self,
        request: u64,
        result: &Result<(), NotKept>,
        shared: &mut Shared,
    ) -> bool {
        let mut deliveries = self.deliveries.iter();
        let found = deliveries.find(|(_, delivery)| delivery.request == request);
        let Some((partition, at)) = found.map(|(partition, delivery)| (*partition, delivery.at))
        else {
            return false;
        };
        self.deliveries.remove(&partition);
        match result {
            Ok(()) => {
                self.store.part(partition).remove_hint(at);
                shared.count("hints delivered");
                self.sync(shared);
                self.deliver(partition, shared);
            }
            Err(NotKept::Stamp(Refusal::Fenced { fence, .. })) => {
                self.learn(partition, *fence, shared);
            }
            Err(_) => {}
        }
        true
    }

    fn begin_walk(&mut self, partition: PartitionId, shared: &mut Shared) {
        if let Some(walking) = self.walks.get(&partition)
            && shared.now_us - walking.since_us < 3 * SECOND_US
        {
            return;
        }
        self.walks.remove(&partition);
        let mut others = self.preference(partition).homes;
        others.retain(|home| *home != self.id);
        let Some(to) = shared.chance.pick(&others) else {
            return;
        };
        let stamp = self.stamp(partition);
        let part = self.store.part(partition);
        if part.copy.is_none() {
            return;
        }
        let tree = Tree::clone(&part.tree());
        let salt = Salt(shared.chance.next().to_be_bytes());
        let walking = Walking {
            id: shared.unique(),
            to,
            machine: Walk::new(tree, salt),
            stamp,
            since_us: shared.now_us,
        };
        self.walks.insert(partition, walking);
        self.go_on(partition, shared);
    }

    fn go_on(&mut self, partition: PartitionId, shared: &mut Shared) {
        let part = self.store.parts.entry(partition).or_default();
        let Some(walking) = self.walks.get_mut(&partition) else {
            return;
        };
        let Ok(step) = walking.machine.next(part) else {
            self.walks.remove(&partition);
            return;
        };
        match step {
            Step::Send(request) => {
                if let Request::States(states) = &request {
                    shared.trace(&[7, states.len() as u64], || "the walk sends".to_owned());
                    shared.count("repairs sent");
                }
                let message = Message::Walk {
                    walk: walking.id,
                    partition,
                    stamp: walking.stamp,
                    request,
                };
                let to = walking.to;
                shared.send(self.id, to, &message);
            }
            Step::Done { .. } => {
                let from = walking.to;
                self.walks.remove(&partition);
                self.when_synced(Waiting::Filled { partition, from }, shared);
            }
        }
    }

    pub(crate) fn walked(
        &mut self,
        from: NodeId,
        walk: u64,
        partition: PartitionId,
        stamp: Stamp,
        response: Option<Response>,
        shared: &mut Shared,
    ) {
        let admitted = self.admit(partition, stamp, shared);
        self.learn(partition, stamp.fence, shared);
        if stamp.map_version < self.map.version() {
            shared.send(self.id, from, &Message::Map(Box::new(self.map.clone())));
        }
        let part = self.store.parts.entry(partition).or_default();
        let Some(walking) = self.walks.get_mut(&partition) else {
            return;
        };
        if walking.id != walk {
            return;
        }
        let Some(response) = response.filter(|_| admitted.is_ok()) else {
            self.walks.remove(&partition);
            return;
        };
        walking.stamp = walking.stamp.oldest(stamp);
        let Ok(news) = walking.machine.answered(response, part) else {
            // An answer that came twice.
            self.walks.remove(&partition);
            return;
        };
        for state in news {
            let binding = Binding::decode(&state.binding).expect("it was encoded");
            part.merge(&state.key, &binding);
            shared.count("repairs received");
        }
        self.sync(shared);
        self.go_on(partition, shared);
    }

    /// All that `from` has is here, and all that is here was sent to it and is durable there.
    pub(crate) fn filled(&mut self, partition: PartitionId, from: NodeId, shared: &mut Shared) {
        let homes = self.preference(partition).homes;
        let is_all = |done: &BTreeSet<NodeId>| homes.iter().all(|home| done.contains(home));
        if let Some(handover) = self.handovers.get_mut(&partition) {
            handover.walked(from, &homes);
            if is_all(&handover.done) {
                shared.trace(&[8, short(self.id)], || "a copy is dropped".to_owned());
                shared.count("copies dropped");
                self.handovers.remove(&partition);
                self.store.part(partition).drop_copy();
                self.sync(shared);
            }
        }
        let Some(of) = self.map.assignment(partition) else {
            return;
        };
        if !of.learners.contains(&self.id) {
            self.fills.remove(&partition);
            return;
        }
        let fill = self.fills.entry(partition).or_default();
        fill.walked(from, &homes);
        let needed = |home: &NodeId| self.map.is_live(*home);
        let is_filled = homes
            .iter()
            .all(|home| fill.done.contains(home) || !needed(home));
        if is_filled && fill.done.len() > homes.len() / 2 {
            shared.proposals.push(ControlCommand::CaughtUp {
                partition,
                epoch: of.epoch,
                node: self.id,
            });
            shared.count("fills");
            self.fills.remove(&partition);
        }
    }
}
