//! The world of the model: machines, a network that keeps every message for ever and delivers it in any order and as
//! often as it likes or never, the cluster map, and what an observer who sees everything remembers.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::super::fault::Fault;
use super::super::{Activation, Config, Entry, Input, Limits, Payload, Role};
use super::machine::{Machine, Outcome, digest};
use super::network::{Envelope, Network};
use super::observer::Broken;
use super::store::{Batch, Store};
use crate::ids::{Epoch, NodeId};

pub(super) fn node(of: u8) -> NodeId {
    NodeId([of; 16])
}

/// What happens next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// The map goes on to its next epoch.
    NextEpoch,
    /// A node hears of the map as it is now.
    Configure(u8),
    /// A report reaches the map.
    Activate(Epoch),
    /// The next message of a channel arrives.
    Deliver(Arc<Envelope>),
    /// The next message of a channel is kept aside.
    Delay(Arc<Envelope>),
    /// The next message of a channel arrives, and a copy of it is kept aside.
    Double(Arc<Envelope>),
    /// A message that was kept aside arrives.
    DeliverLate(Arc<Envelope>),
    /// The oldest write of a node is synced.
    Sync(u8),
    /// A node loses what it has not synced, and starts again.
    Crash(u8),
    /// A node loses its last entry and its promises too, notices, and starts again knowing the map as it is now.
    Damage(u8),
    Propose(u8),
    Tick(u8),
    /// A node says what can wait until it has nothing else to do.
    Flush(u8),
}

/// The parts of a world that are the same in all of its states.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) nodes: u8,
    /// The epochs of the map, the first of them at the start: leader and replicas.
    pub(super) epochs: Vec<(u8, Vec<u8>)>,
    pub(super) proposals: u8,
    pub(super) crashes: u8,
    pub(super) damages: u8,
    pub(super) ticks: u8,
    pub(super) flushes: u8,
    /// Messages that leave their order.
    pub(super) disorder: u8,
    pub(super) fault: Option<Fault>,
    pub(super) leave_keys: bool,
    pub(super) limits: Limits,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) machines: Vec<(u64, Arc<Machine>)>,
    pub(super) network: Network,
    /// How many epochs the map has seen.
    pub(super) epochs: u8,
    pub(super) activated: u8,
    pub(super) reports: BTreeSet<Epoch>,
    pub(super) proposals: u8,
    pub(super) crashes: u8,
    pub(super) damages: u8,
    pub(super) ticks: u8,
    pub(super) flushes: u8,
    pub(super) disorder: u8,
    /// What the observer has seen committed, by index.
    pub(super) committed: Arc<Vec<Entry<Batch>>>,
    pub(super) truncated: bool,
    pub(super) broken: Option<Broken>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for (digest, _) in &self.machines {
            digest.hash(hasher);
        }
        self.network.digest().hash(hasher);
        let counts = (self.epochs, self.activated, self.proposals);
        let more = (
            self.crashes,
            self.damages,
            self.ticks,
            self.flushes,
            self.disorder,
        );
        (counts, more, &self.reports, &self.committed).hash(hasher);
        (self.truncated, self.broken).hash(hasher);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        digest(self) == digest(other)
    }
}

impl Rules {
    /// These disks, each in its first boot, while the map is in epoch `epochs` and has activated `activated`.
    pub(super) fn start(&self, stores: Vec<Store>, epochs: u8, activated: u8) -> World {
        let mut world = World {
            machines: Vec::new(),
            network: Network::default(),
            epochs,
            activated,
            reports: BTreeSet::new(),
            proposals: 0,
            crashes: 0,
            damages: 0,
            ticks: 0,
            flushes: 0,
            disorder: 0,
            committed: Arc::default(),
            truncated: false,
            broken: None,
        };
        for (me, store) in (0..).zip(stores) {
            let committed = usize::try_from(store.commit.0).unwrap();
            if committed > world.committed.len() {
                world.committed = Arc::new(store.journal[..committed].to_vec());
            }
            let machine = Machine::new(me, store, self.limits.clone(), self.fault);
            world.machines.push((machine.digest(), Arc::new(machine)));
        }
        world
    }

    /// Lets everything happen, in one order, that can without a new epoch, a proposal, or a fault.
    pub(super) fn settle(&self, mut world: World) -> World {
        loop {
            let mut actions = Vec::new();
            self.actions(&world, &mut actions);
            let harmless = actions.iter().find(|action| {
                matches!(
                    action,
                    Action::Configure(_)
                        | Action::Activate(_)
                        | Action::Deliver(_)
                        | Action::Sync(_)
                )
            });
            let Some(action) = harmless else { return world };
            world = self.next(&world, action);
            assert_eq!(world.broken, None);
        }
    }

    fn config(&self, world: &World) -> Config {
        let replicas = |epoch: u8| {
            let (_, replicas) = &self.epochs[usize::from(epoch.max(1)) - 1];
            replicas.iter().map(|of| node(*of)).collect()
        };
        let (leader, _) = &self.epochs[usize::from(world.epochs) - 1];
        Config {
            epoch: Epoch(world.epochs.into()),
            leader: node(*leader),
            replicas: replicas(world.epochs),
            learners: Vec::new(),
            activated: Activation {
                epoch: Epoch(world.activated.into()),
                replicas: replicas(world.activated),
            },
        }
    }

    /// The map's version: it changes with an epoch and with an activation.
    const fn version(world: &World) -> u8 {
        world.epochs + world.activated
    }

    pub(super) fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (me, (_, machine)) in (0..).zip(&world.machines) {
            // That an epoch is activated concerns its leader alone.
            let leads = me == self.epochs[usize::from(world.epochs) - 1].0;
            let news = machine.version != Self::version(world);
            if news && leads || machine.epochs != world.epochs {
                actions.push(Action::Configure(me));
            }
            if !machine.pending.is_empty() {
                actions.push(Action::Sync(me));
            }
            if world.proposals < self.proposals && machine.leads() {
                actions.push(Action::Propose(me));
            }
            if world.crashes < self.crashes {
                actions.push(Action::Crash(me));
            }
            if world.damages < self.damages && !machine.store.journal.is_empty() {
                actions.push(Action::Damage(me));
            }
            if world.ticks < self.ticks && machine.replica.wants_tick() {
                actions.push(Action::Tick(me));
            }
            if world.flushes < self.flushes && machine.flushes() {
                actions.push(Action::Flush(me));
            }
        }
        if usize::from(world.epochs) < self.epochs.len() {
            actions.push(Action::NextEpoch);
        }
        for epoch in &world.reports {
            if epoch.0 == u64::from(world.epochs) && world.activated < world.epochs {
                actions.push(Action::Activate(*epoch));
            }
        }
        for envelope in world.network.next() {
            actions.push(Action::Deliver(Arc::clone(envelope)));
            if world.disorder < self.disorder {
                actions.push(Action::Delay(Arc::clone(envelope)));
                actions.push(Action::Double(Arc::clone(envelope)));
            }
        }
        let late = world.network.aside().iter().cloned();
        actions.extend(late.map(Action::DeliverLate));
    }

    /// The world after `action`.
    pub(super) fn next(&self, world: &World, action: &Action) -> World {
        let mut next = world.clone();
        match action {
            Action::NextEpoch => next.epochs += 1,
            Action::Activate(epoch) => next.activated = u8::try_from(epoch.0).unwrap(),
            Action::Configure(me) => {
                let config = self.config(world);
                let version = Self::version(world);
                let epochs = world.epochs;
                self.step(&mut next, *me, |machine| {
                    machine.version = version;
                    machine.epochs = epochs;
                    machine.step(Input::Configure(config))
                });
            }
            Action::Deliver(envelope) => {
                next.network.take_next(envelope);
                self.deliver(&mut next, envelope);
            }
            Action::Delay(envelope) => {
                next.disorder += 1;
                next.network.take_next(envelope);
                next.network.put_aside(envelope);
            }
            Action::Double(envelope) => {
                next.disorder += 1;
                next.network.take_next(envelope);
                next.network.put_aside(envelope);
                self.deliver(&mut next, envelope);
            }
            Action::DeliverLate(envelope) => {
                next.network.take_aside(envelope);
                self.deliver(&mut next, envelope);
            }
            Action::Sync(me) => {
                self.step(&mut next, *me, |machine| machine.persist(self.leave_keys));
            }
            Action::Crash(me) => {
                next.crashes += 1;
                self.step(&mut next, *me, |machine| {
                    *machine = machine.crash();
                    Outcome::default()
                });
            }
            Action::Damage(me) => {
                next.damages += 1;
                let config = self.config(world);
                let version = Self::version(world);
                let epochs = world.epochs;
                self.step(&mut next, *me, |machine| {
                    machine.store.damage();
                    *machine = machine.crash();
                    machine.version = version;
                    machine.epochs = epochs;
                    machine.step(Input::Configure(config))
                });
            }
            Action::Propose(me) => {
                next.proposals += 1;
                // A long batch first, so that what it leaves behind lies beyond the ones after it.
                let (id, records) = (next.proposals, if next.proposals == 1 { 2 } else { 1 });
                self.step(&mut next, *me, |machine| {
                    let first = machine.view(self.leave_keys).next_offset();
                    machine.propose(Batch { id, first, records })
                });
            }
            Action::Tick(me) => {
                next.ticks += 1;
                self.step(&mut next, *me, |machine| machine.step(Input::Tick));
            }
            Action::Flush(me) => {
                next.flushes += 1;
                self.step(&mut next, *me, Machine::flush);
            }
        }
        next
    }

    fn deliver(&self, world: &mut World, envelope: &Envelope) {
        let from = node(envelope.from);
        let message = envelope.message.clone();
        self.step(world, envelope.to, |machine| {
            machine.step(Input::Received { from, message })
        });
    }

    fn step(&self, world: &mut World, me: u8, act: impl FnOnce(&mut Machine) -> Outcome) {
        let at = usize::from(me);
        let mut machine = Machine::clone(&world.machines[at].1);
        let outcome = act(&mut machine);
        world.machines[at] = (machine.digest(), Arc::new(machine));
        world.truncated |= outcome.truncated;
        if outcome.panicked {
            world.broken = Some(Broken::Assertion);
            return;
        }
        if let Some(epoch) = outcome.activated {
            world.reports.insert(epoch);
        }
        for envelope in &outcome.sent {
            world.network.send(Arc::clone(envelope));
        }
        world.broken = world.broken.or_else(|| self.observe(world, at, &outcome));
    }
}

impl World {
    pub(super) fn machine(&self, me: u8) -> &Machine {
        &self.machines[usize::from(me)].1
    }

    pub(super) fn has_suspects(&self) -> bool {
        self.machines
            .iter()
            .any(|(_, machine)| machine.store.suspect)
    }

    pub(super) fn has_suspects_among(&self, nodes: &[u8]) -> bool {
        nodes.iter().any(|me| self.machine(*me).store.suspect)
    }

    /// Whether the leader of the newest epoch serves.
    pub(super) fn serves(&self) -> bool {
        let role = Role::Leading(Epoch(self.epochs.into()));
        self.machines
            .iter()
            .any(|(_, machine)| machine.replica.role() == role)
    }

    pub(super) fn committed_batches(&self) -> usize {
        let batch = |entry: &&Entry<Batch>| matches!(entry.payload, Payload::Command(_));
        self.committed.iter().filter(batch).count()
    }
}
