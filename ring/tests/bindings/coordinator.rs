//! What a node coordinates for a client: its writes, and what reads share with them.

use std::collections::BTreeSet;

use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::quorum::{Generation, Outcome, Read, Role, Write, WriteEffect, actor};
use mesh_ring::tombstone::{Refusal, Stamp};
use mesh_ring::version::Dot;

use crate::message::{Message, NotKept};
use crate::node::{Node, Waiting};
use crate::oracle::Seen;
use crate::shared::{Breakage, Event, MILLI_US, Shared, short};
use crate::wish::{Context, Told, What, Wish};

pub(crate) enum Machine {
    Write {
        machine: Write,
        number: usize,
        after: Context,
        /// What it minted, and of when.
        state: Box<Binding>,
        stamp: Stamp,
        /// Whether it holds that itself.
        is_kept: bool,
    },
    Read {
        machine: Read,
        promised: Seen,
    },
}

pub(crate) struct Coordinated {
    pub(crate) wish: Wish,
    pub(crate) machine: Machine,
    pub(crate) map_version: u64,
}

impl Node {
    /// Starts what a client wants here.
    pub(crate) fn coordinate(&mut self, wish: Wish, shared: &mut Shared) {
        let live = self.live(wish.partition, shared);
        let request = shared.unique();
        match wish.what.clone() {
            What::Read => self.start_read(request, wish, &live, shared),
            What::Write {
                content,
                ttl_ms,
                seen,
            } => {
                let expires_ms = ttl_ms.map(|ttl| self.now_ms(shared) + ttl);
                self.start_write(request, wish, content, expires_ms, seen, &live, shared);
            }
        }
        let (node, run) = (self.id, self.run);
        let late_us = shared.chance.between(10, 60) * MILLI_US;
        let deadline_us = shared.chance.between(100, 3_000) * MILLI_US;
        shared.after(late_us, Event::Late { node, run, request });
        shared.after(deadline_us, Event::Deadline { node, run, request });
    }

    /// Who seems to live, of all that a request may go to.
    pub(crate) fn live(&self, partition: PartitionId, shared: &mut Shared) -> BTreeSet<NodeId> {
        let preference = self.preference(partition);
        let nodes = preference.homes.iter().chain(&preference.stand_ins);
        let nodes = nodes.chain(&preference.copies).copied();
        nodes
            .filter(|node| *node == self.id || shared.seems_live(self.id, *node))
            .collect()
    }

    #[expect(clippy::too_many_arguments, reason = "what a write is made of")]
    fn start_write(
        &mut self,
        request: u64,
        wish: Wish,
        content: Content,
        expires_ms: Option<u64>,
        seen: Option<Context>,
        live: &BTreeSet<NodeId>,
        shared: &mut Shared,
    ) {
        let preference = self.preference(wish.partition);
        let mut out = Vec::new();
        let machine = Write::new(
            &preference,
            self.id,
            wish.need,
            |node| live.contains(&node),
            &mut out,
        );
        let Ok(machine) = machine else {
            shared.count("refused writes");
            return;
        };
        let now_ms = self.now_ms(shared);
        let stamp = self.stamp(wish.partition);
        let part = self.store.part(wish.partition);
        if std::mem::take(&mut part.has_forgotten) && !shared.is_broken(Breakage::GenerationKept) {
            part.generation += 1;
        }
        let base = part.state(&wish.key);
        let base = base.expire(now_ms).unwrap_or(base);
        let starts = match shared.is_broken(Breakage::StartsNotCounted) {
            true => 0,
            false => self.disk.boot,
        };
        let forgotten = part.generation;
        let generation = Generation { starts, forgotten };
        let newest = base.versions().iter().map(|version| version.hlc).max();
        self.hlc = self.hlc.observe(newest.unwrap_or_default(), now_ms);
        self.counter += 1;
        let dot = Dot {
            node: actor(self.id, generation),
            boot: self.store.boot,
            counter: self.counter,
        };
        let vanishes = content == Content::Tombstone || expires_ms.is_some();
        let version = Version {
            dot,
            hlc: self.hlc,
            expires_ms: expires_ms.filter(|_| content != Content::Tombstone),
            content,
        };
        let token = seen.as_ref().map(|context| &context.token);
        let Ok(state) = base.write(token, version) else {
            shared.count("refused writes");
            return;
        };
        let past = match &seen {
            Some(context) => context.seen.clone(),
            None => shared.oracle.seen(&base),
        };
        let number = shared.oracle.minted(&wish.key, dot, past, vanishes);
        let after = context_after(&state, seen.as_ref(), dot, number, shared);
        shared.trace(&[5, request, number as u64], || {
            let node = short(self.id);
            format!("n{node} writes #{number} {dot} {wish:?} on {base:?}")
        });
        shared.count("writes");
        let coordinated = Coordinated {
            machine: Machine::Write {
                machine,
                number,
                after,
                state: Box::new(state.clone()),
                stamp,
                is_kept: true,
            },
            map_version: preference.map_version,
            wish,
        };
        self.requests.insert(request, coordinated);
        for effect in out {
            match effect {
                WriteEffect::Ask { node, role } if node == self.id => {
                    self.keep_own(request, &state, stamp, role, shared);
                }
                WriteEffect::Ask { node, role } => {
                    self.send_state(request, node, role, state.clone(), stamp, shared);
                }
                WriteEffect::Done(outcome) => self.written(request, outcome, shared),
            }
        }
    }

    /// Keeps its own part of a write that it coordinates, and counts it when it is durable.
    fn keep_own(
        &mut self,
        request: u64,
        state: &Binding,
        stamp: Stamp,
        role: Role,
        shared: &mut Shared,
    ) {
        let Some(of) = self.requests.get(&request) else {
            return;
        };
        let (partition, key) = (of.wish.partition, of.wish.key.clone());
        // It was made of what this very node holds, and so is as new as that.
        let fence = self.store.part(partition).fence;
        let stamp = Stamp { fence, ..stamp };
        match self.keep(partition, &key, state, stamp, role, shared) {
            Ok(()) => self.when_synced(Waiting::Own { request, role }, shared),
            Err(_) => {
                shared.count("writes that were not kept");
                self.store.part(partition).has_forgotten = true;
                if let Some(of) = self.requests.get_mut(&request)
                    && let Machine::Write { is_kept, .. } = &mut of.machine
                {
                    *is_kept = false;
                }
                let node = self.id;
                self.step_write(request, shared, |write, out| write.failed(node, role, out));
            }
        }
    }

    fn send_state(
        &mut self,
        request: u64,
        node: NodeId,
        role: Role,
        state: Binding,
        stamp: Stamp,
        shared: &mut Shared,
    ) {
        let Some(of) = self.requests.get(&request) else {
            return;
        };
        let (partition, key) = (of.wish.partition, of.wish.key.clone());
        let message = Message::Put {
            request,
            partition,
            key,
            state,
            stamp,
            role,
        };
        shared.send(self.id, node, &message);
    }

    /// Sends what it holds of a request's key by now, or what it minted if it could not keep that.
    pub(crate) fn send_write(
        &mut self,
        request: u64,
        node: NodeId,
        role: Role,
        shared: &mut Shared,
    ) {
        let Some(of) = self.requests.get(&request) else {
            return;
        };
        let (partition, key) = (of.wish.partition, of.wish.key.clone());
        let (stamp, state) = match &of.machine {
            Machine::Write {
                state,
                stamp,
                is_kept: false,
                ..
            } => (*stamp, Binding::clone(state)),
            _ => {
                let stamp = self.stamp(partition);
                (stamp, self.store.part(partition).state(&key))
            }
        };
        if node == self.id {
            self.keep_own(request, &state, stamp, role, shared);
        } else {
            self.send_state(request, node, role, state, stamp, shared);
        }
    }

    pub(crate) fn acknowledged(
        &mut self,
        request: u64,
        node: NodeId,
        role: Role,
        shared: &mut Shared,
    ) {
        self.step_write(request, shared, |write, out| {
            write.acknowledged(node, role, out);
        });
    }

    pub(crate) fn kept(
        &mut self,
        request: u64,
        node: NodeId,
        role: Role,
        result: Result<(), NotKept>,
        shared: &mut Shared,
    ) {
        if self.delivered(request, &result, shared) {
            return;
        }
        let Some(partition) = self.requests.get(&request).map(|of| of.wish.partition) else {
            return;
        };
        match result {
            Ok(()) => self.acknowledged(request, node, role, shared),
            // It could not read anew what it does not hold.
            Err(NotKept::Stamp(Refusal::Fenced { fence, .. })) if self.holds(request) => {
                self.learn(partition, fence, shared);
                let again = Waiting::Again {
                    request,
                    node,
                    role,
                };
                self.when_synced(again, shared);
            }
            Err(NotKept::Stamp(Refusal::NewMap { .. })) => {
                shared.send(self.id, node, &Message::Map(Box::new(self.map.clone())));
                let again = Waiting::Again {
                    request,
                    node,
                    role,
                };
                self.when_synced(again, shared);
            }
            Err(_) => self.step_write(request, shared, |write, out| write.failed(node, role, out)),
        }
    }

    fn holds(&self, request: u64) -> bool {
        let machine = self.requests.get(&request).map(|of| &of.machine);
        !matches!(machine, Some(Machine::Write { is_kept: false, .. }))
    }

    fn step_write(
        &mut self,
        request: u64,
        shared: &mut Shared,
        step: impl FnOnce(&mut Write, &mut Vec<WriteEffect>),
    ) {
        let mut out = Vec::new();
        match self.requests.get_mut(&request).map(|of| &mut of.machine) {
            Some(Machine::Write { machine, .. }) => step(machine, &mut out),
            _ => return,
        }
        for effect in out {
            match effect {
                WriteEffect::Ask { node, role } => self.send_write(request, node, role, shared),
                WriteEffect::Done(outcome) => self.written(request, outcome, shared),
            }
        }
    }

    fn written(&mut self, request: u64, outcome: Outcome, shared: &mut Shared) {
        let Some(of) = self.requests.get(&request) else {
            return;
        };
        let Machine::Write { number, after, .. } = &of.machine else {
            return;
        };
        shared.trace(&[6, request], || format!("#{number}: {outcome:?}"));
        match outcome {
            Outcome::Written {
                acknowledged,
                hinted,
            } => {
                let distinct: BTreeSet<&NodeId> = acknowledged.iter().collect();
                assert!(distinct.len() >= of.wish.need, "success below the quorum");
                shared.count("acknowledged writes");
                let write = &mut shared.oracle.writes[*number];
                write.is_acknowledged = true;
                if hinted.is_empty() {
                    write.firm = Some((of.map_version, acknowledged.len()));
                } else {
                    shared.count("writes with hints");
                }
                let told = Told {
                    client: of.wish.client,
                    key: of.wish.key.clone(),
                    context: after.clone(),
                };
                shared.told.push(told);
            }
            Outcome::TooFew { need, have } => {
                assert!(have < need);
                shared.count("writes with too few nodes");
            }
        }
    }

    pub(crate) fn late(&mut self, request: u64, shared: &mut Shared) {
        let nodes: Vec<NodeId> = self.map.nodes().iter().map(|member| member.id).collect();
        for node in &nodes {
            self.step_read(request, shared, |read, out| read.late(*node, out));
            self.step_write(request, shared, |write, out| {
                write.late(*node, Role::Home, out);
            });
        }
    }

    pub(crate) fn deadline(&mut self, request: u64, shared: &mut Shared) {
        self.step_read(request, shared, Read::deadline);
        self.step_write(request, shared, Write::deadline);
        self.requests.remove(&request);
    }
}

/// What the writer is told, and what that truly stands for.
fn context_after(
    state: &Binding,
    seen: Option<&Context>,
    dot: Dot,
    number: usize,
    shared: &Shared,
) -> Context {
    let token = state.context_after(seen.map(|context| &context.token), dot);
    let seen = if token == *state.context() {
        shared.oracle.seen(state)
    } else {
        let mut seen = seen.map(|context| context.seen.clone()).unwrap_or_default();
        if token.covers(dot) {
            seen.insert(number);
        }
        seen
    };
    Context { token, seen }
}
