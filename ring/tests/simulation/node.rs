//! A node: starts and crashes, follows the map, and has an actor for each partition that the map gives it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::ledger::Moment;
use mesh_ring::map::{Boot, ClusterMap};
use mesh_ring::replica::{Entry, Input, Message};

use crate::actor::{Actor, Hands};
use crate::arriving::Arriving;
use crate::disk::{Disk, Done, What, Write};
use crate::requests::{self, Answer, Request};
use crate::shared::{Breakage, Event, Shared, Wanted, short};
use crate::store::{Cmd, Store};

/// Unix time at which a run begins, in milliseconds.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

const TICK_US: u64 = 40_000;

/// Ticks between two attempts to register.
const REGISTER_TICKS: u64 = 8;

/// Ticks after which a report of which the map shows nothing is made again.
const REPORT_TICKS: u64 = 12;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) disk: Disk,
    pub(crate) is_up: bool,
    /// Events of an earlier run of the process do not reach a later one.
    pub(crate) run: u64,
    pub(crate) paused: bool,
    /// What came while it was paused.
    pub(crate) backlog: Vec<Event>,
    pub(crate) actors: BTreeMap<PartitionId, Actor>,
    pub(crate) map: Option<ClusterMap>,
    /// Partitions of which a copy is on its way.
    pub(crate) arriving: BTreeMap<PartitionId, Arriving>,
    /// Partitions whose copies are being removed.
    dropping: BTreeSet<PartitionId>,
    pub(crate) generations: u64,
    ticks: u64,
    /// The peers to which there is a connection, and which run of theirs it reaches.
    peers: BTreeMap<NodeId, u64>,
    /// How far its clock is off, in milliseconds.
    pub(crate) clock_ms: i64,
    /// Its steady clock at the start of the process.
    pub(crate) steady_from_ms: u64,
}

impl Node {
    pub(crate) fn new(id: NodeId, name: String, zone: String) -> Self {
        Self {
            id,
            name,
            zone,
            disk: Disk::default(),
            is_up: false,
            run: 0,
            paused: false,
            backlog: Vec::new(),
            actors: BTreeMap::new(),
            map: None,
            arriving: BTreeMap::new(),
            dropping: BTreeSet::new(),
            generations: 0,
            ticks: 0,
            peers: BTreeMap::new(),
            clock_ms: 0,
            steady_from_ms: 0,
        }
    }

    pub(crate) fn start(&mut self, shared: &mut Shared) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        self.run += 1;
        self.disk.kept = shared.journal_kept;
        self.steady_from_ms = shared.chance.below(1_000_000);
        let count = self.disk.boots.last().map_or(0, |boot| boot.count) + 1;
        let mut token = [0; 16];
        token[..8].copy_from_slice(&shared.chance.next().to_be_bytes());
        self.disk.boots.push(Boot { count, token });
        let me = short(self.id);
        shared.trace(&[10, me], || format!("n{me} starts, boot {count}"));
        self.register(shared);
        let (node, run) = (self.id, self.run);
        shared.after(TICK_US, Event::Tick { node, run });
    }

    pub(crate) fn crash(&mut self, shared: &mut Shared) {
        if !self.is_up {
            return;
        }
        self.is_up = false;
        self.run += 1;
        self.paused = false;
        self.backlog.clear();
        self.actors.clear();
        self.arriving.clear();
        self.dropping.clear();
        self.peers.clear();
        self.map = None;
        let reached = shared.chance.one_in(2);
        self.disk.crash(reached);
        if shared.is_broken(Breakage::SyncedWritesLost) {
            self.disk.damage(0, false);
        }
        let me = short(self.id);
        shared.trace(&[11, me], || format!("n{me} crashes"));
    }

    pub(crate) fn boot(&self) -> Boot {
        self.disk.boots.last().copied().unwrap_or_default()
    }

    fn register(&self, shared: &mut Shared) {
        let known = self.disk.boots.len() - 1;
        let command = ControlCommand::Register {
            node: self.id,
            boot: self.boot(),
            previous: self.disk.boots[..known].to_vec(),
            address: format!("{}:1", self.name),
            zone: self.zone.clone(),
        };
        shared.propose(self.id, &command);
    }

    /// Whether the map knows of this start.
    pub(crate) fn is_registered(&self) -> bool {
        let map = self.map.as_ref();
        map.and_then(|map| map.node(self.id))
            .is_some_and(|member| member.boot == self.boot())
    }

    /// Does something with an actor.
    fn with<R>(
        &mut self,
        partition: PartitionId,
        shared: &mut Shared,
        work: impl FnOnce(&mut Actor, &mut Hands<'_>) -> R,
    ) -> Option<R> {
        let steady_ms = self.steady_from_ms + shared.now_us / 1_000;
        let actor = self.actors.get_mut(&partition)?;
        let mut hands = Hands {
            disk: &mut self.disk,
            run: self.run,
            steady_ms,
            shared,
        };
        Some(work(actor, &mut hands))
    }

    pub(crate) fn handle(&mut self, event: Event, shared: &mut Shared) {
        if !self.is_up {
            return;
        }
        if self.paused {
            self.backlog.push(event);
            return;
        }
        match event {
            Event::Message {
                from,
                partition,
                message,
                ..
            } => self.message(from, partition, message, shared),
            Event::Synced { run, .. } if run == self.run => self.synced(shared),
            Event::Read {
                run,
                partition,
                generation,
                wanted,
                ..
            } if run == self.run => self.read(partition, generation, &wanted, shared),
            Event::Tick { run, .. } if run == self.run => self.tick(shared),
            Event::Map { map, .. } => self.follow(*map, shared),
            Event::Transfer {
                from,
                partition,
                export,
                ..
            } => self.import(from, partition, export, shared),
            Event::Copied {
                run,
                partition,
                generation,
                ..
            } if run == self.run => self.copied(partition, generation, shared),
            Event::Pull {
                from, partition, ..
            } => {
                // Also by one that has not taken over yet: it may need this very vote.
                self.with(partition, shared, |actor, hands| {
                    actor.transfer(from, hands);
                });
            }
            Event::TransferEnded {
                from, partition, ..
            } => {
                self.with(partition, shared, |actor, hands| {
                    actor.transfer_ended(from, hands);
                });
            }
            Event::Request { request, .. } => self.request(&request, shared),
            _ => {}
        }
    }

    /// Notices that a connection to another node came up, or went down: `None`.
    pub(crate) fn connection(&mut self, peer: NodeId, run: Option<u64>, shared: &mut Shared) {
        if !self.is_up || self.paused || self.peers.get(&peer).copied() == run {
            return;
        }
        match run {
            Some(run) => self.peers.insert(peer, run),
            None => self.peers.remove(&peer),
        };
        let partitions: Vec<PartitionId> = self.actors.keys().copied().collect();
        for partition in partitions {
            let input = match run {
                Some(_) => Input::Connected(peer),
                None => Input::Disconnected(peer),
            };
            self.with(partition, shared, |actor, hands| actor.input(input, hands));
        }
    }

    fn message(
        &mut self,
        from: NodeId,
        partition: PartitionId,
        message: Message<Cmd>,
        shared: &mut Shared,
    ) {
        let (me, sender) = (short(self.id), short(from));
        shared.trace(&[12, me, sender, message.epoch().0], || {
            format!("n{me} p{partition} hears from n{sender}: {message:?}")
        });
        if self.arriving.contains_key(&partition) {
            return self.witness_hears(from, partition, &message, shared);
        }
        self.with(partition, shared, |actor, hands| {
            actor.input(Input::Received { from, message }, hands);
        });
    }

    fn synced(&mut self, shared: &mut Shared) {
        let (done, more) = self.disk.synced();
        if more {
            let delay_us = shared.chance.between(200, 4_000);
            let (node, run) = (self.id, self.run);
            shared.after(delay_us, Event::Synced { node, run });
        }
        for (partition, generation, done) in done {
            match done {
                Done::Emptied => self.emptied(partition, generation, shared),
                Done::Promised(epoch) => self.witness_promised(partition, epoch, shared),
                Done::Imported => self.imported(partition, generation, shared),
                Done::Dropped => {
                    self.dropping.remove(&partition);
                    self.obey(shared);
                }
                Done::Persisted(_) | Done::Applied(_) | Done::Checkpointed(_) => {}
            }
            let of = self.actors.get(&partition).map(|actor| actor.generation);
            if of != Some(generation) {
                continue;
            }
            self.with(partition, shared, |actor, hands| match done {
                Done::Persisted(ticket) => {
                    if !hands.shared.is_broken(Breakage::ConfirmedBeforeSync) {
                        actor.input(Input::Persisted(ticket), hands);
                    }
                }
                Done::Applied(upto) => actor.disk_applied(upto, hands),
                Done::Checkpointed(first) => {
                    actor.ledger.checkpoint_done();
                    actor.input(Input::Forgotten(first), hands);
                }
                Done::Emptied | Done::Promised(_) | Done::Imported | Done::Dropped => {}
            });
        }
    }

    fn read(
        &mut self,
        partition: PartitionId,
        generation: u64,
        wanted: &Wanted,
        shared: &mut Shared,
    ) {
        self.with(partition, shared, |actor, hands| {
            if actor.generation == generation {
                actor.read(wanted, hands);
            }
        });
    }

    fn tick(&mut self, shared: &mut Shared) {
        self.ticks += 1;
        let (node, run) = (self.id, self.run);
        shared.after(TICK_US, Event::Tick { node, run });
        if !self.is_registered() && self.ticks.is_multiple_of(REGISTER_TICKS) {
            self.register(shared);
        }
        let map = self.map.clone();
        let report = self.ticks.is_multiple_of(REPORT_TICKS);
        if let Some(map) = map.as_ref().filter(|_| report) {
            self.pull(map, shared);
        }
        let partitions: Vec<PartitionId> = self.actors.keys().copied().collect();
        for partition in partitions {
            let moment = self.moment(shared);
            let assignment = map.as_ref().and_then(|map| map.assignment(partition));
            self.with(partition, shared, |actor, hands| {
                actor.tick(hands);
                requests::keep_house(actor, moment, hands);
                if let Some(assignment) = assignment.filter(|_| report) {
                    actor.report_who_keeps_up(assignment, hands);
                }
            });
        }
    }

    /// Takes over a newer map: copies that it no longer needs go, and all others hear of it.
    fn follow(&mut self, map: ClusterMap, shared: &mut Shared) {
        let known = self.map.as_ref();
        if known.is_some_and(|known| known.version() >= map.version()) {
            return;
        }
        self.map = Some(map);
        if self.is_registered() {
            self.obey(shared);
        }
    }

    pub(crate) fn obey(&mut self, shared: &mut Shared) {
        let Some(map) = self.map.clone() else { return };
        self.tell_witnesses();
        for (partition, assignment) in map.assignments() {
            if self.dropping.contains(&partition) {
                // What comes next begins with nothing.
                continue;
            }
            if assignment.needs_copy(self.id) {
                if !self.actors.contains_key(&partition) && !self.arriving.contains_key(&partition)
                {
                    self.load(partition, shared);
                }
                self.with(partition, shared, |actor, hands| {
                    actor.configure(assignment, hands);
                });
            } else if self.actors.remove(&partition).is_some()
                || self.disk.stores.contains_key(&partition)
            {
                self.arriving.remove(&partition);
                self.dropping.insert(partition);
                shared.count("copies dropped");
                self.submit(partition, 0, What::Drop, shared);
            }
        }
    }

    fn load(&mut self, partition: PartitionId, shared: &mut Shared) {
        if let Some(left) = self.disk.stores.get(&partition).and_then(Store::left) {
            self.resume_arrival(partition, left);
            return self.tell_witnesses();
        }
        self.generations += 1;
        let steady_ms = self.steady_from_ms + shared.now_us / 1_000;
        let mut hands = Hands {
            disk: &mut self.disk,
            run: self.run,
            steady_ms,
            shared,
        };
        let boot = hands.disk.boots.last().map_or(1, |boot| boot.count);
        let actor = Actor::load(self.id, partition, self.generations, boot, &mut hands);
        self.actors.insert(partition, actor);
    }

    pub(crate) fn submit(
        &mut self,
        partition: PartitionId,
        generation: u64,
        what: What,
        shared: &mut Shared,
    ) {
        let write = Write {
            partition,
            generation,
            what,
        };
        if self.disk.submit(write) {
            let delay_us = shared.chance.between(200, 4_000);
            let (node, run) = (self.id, self.run);
            shared.after(delay_us, Event::Synced { node, run });
        }
    }

    pub(crate) fn moment(&self, shared: &Shared) -> Moment {
        let true_ms = START_MS + shared.now_us / 1_000;
        let now_ms = true_ms.saturating_add_signed(self.clock_ms);
        Moment {
            now_ms,
            age_ms: true_ms - 1_000,
        }
    }

    fn request(&mut self, request: &Request, shared: &mut Shared) {
        let moment = self.moment(shared);
        let answered = self.with(request.partition, shared, |actor, hands| {
            requests::serve(actor, request, moment, hands);
        });
        if answered.is_none() {
            let delay_us = shared.chance.between(100, shared.network.delay_us);
            let event = Event::Answer {
                client: request.client,
                id: request.id,
                answer: Answer::NotLeader(None),
            };
            shared.after(delay_us, event);
        }
    }

    /// Whether all of it is done that can be done.
    pub(crate) fn is_quiet(&self) -> bool {
        self.disk.is_quiet()
            && self.arriving.is_empty()
            && self.actors.values().all(Actor::is_quiet)
    }

    pub(crate) fn holds(&self, partition: PartitionId, entry: &Entry<Cmd>) -> bool {
        let store = self.disk.stores.get(&partition);
        store.is_some_and(|store| store.holds(entry.position()))
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.disk.stores.values().any(|store| store.suspect)
    }

    /// Waits for the disk.
    pub(crate) fn finish_writing(&mut self, shared: &mut Shared) {
        self.synced(shared);
    }

    pub(crate) fn checkpoint_all(&mut self, shared: &mut Shared) {
        let partitions: Vec<PartitionId> = self.actors.keys().copied().collect();
        for partition in partitions {
            self.with(partition, shared, |actor, hands| {
                actor.checkpoint_all(hands)
            });
        }
    }
}
