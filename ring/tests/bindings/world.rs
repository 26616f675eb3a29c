//! A run: nodes, clients and trouble for a while, then healing, then the checks that need rest.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_ring::binding::Content;
use mesh_ring::ids::{ClusterId, NodeId, PartitionId};
use mesh_ring::map::{ClusterMap, Member, NodeState};

use crate::control::Control;
use crate::node::Node;
use crate::shared::{Breakage, Event, MILLI_US, SECOND_US, Shared, short};
use crate::trouble;
use crate::wish::{Context, What, Wish};

/// How long everything may take to come to rest once the world is whole, in microseconds.
const REST_US: u64 = 90 * SECOND_US;
const CLIENTS: usize = 3;
const KEYS: u64 = 5;

pub(crate) struct World {
    nodes: Vec<Node>,
    control: Control,
    /// What each client knows of the keys.
    clients: Vec<BTreeMap<Bytes, Context>>,
    shared: Shared,
    trouble_until_us: u64,
    healed_us: Option<u64>,
}

/// What a run was like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Summary {
    pub(crate) hash: u64,
    /// How often each kind of thing happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// Runs one seed. Panics at the first thing that must not be.
pub(crate) fn run(seed: u64, breakage: Option<Breakage>, traced: bool) -> Summary {
    let mut world = World::new(seed, breakage, traced);
    while !world.step() {}
    world.check_at_rest();
    Summary {
        hash: world.shared.hash(),
        counts: world.shared.counts,
    }
}

impl World {
    fn new(seed: u64, breakage: Option<Breakage>, traced: bool) -> Self {
        let mut shared = Shared::new(seed, breakage, traced);
        shared.network.delay_us = shared.chance.between(500, 12_000);
        trouble::calm(&mut shared);
        let count = shared.chance.pick(&[3, 3, 4, 5, 5, 6]).unwrap_or(3);
        let members: Vec<Member> = (1..=count).map(trouble::member).collect();
        let partitions = shared.chance.between(1, 2) as u16;
        let map = ClusterMap::founding(ClusterId([7; 16]), &members, partitions, 3);
        let map = map.expect("it can be founded");
        let nodes: Vec<Node> = members.iter().map(|m| Node::new(m.id, &map)).collect();
        for node in &nodes {
            let delay_us = shared.chance.below(SECOND_US / 4);
            shared.after(delay_us, Event::Start(node.id));
        }
        for client in 0..CLIENTS {
            shared.after(SECOND_US / 2, Event::Client(client));
        }
        shared.after(SECOND_US, Event::Trouble);
        let trouble_until_us = shared.chance.between(5, 20) * SECOND_US;
        Self {
            control: Control::new(map, &mut shared),
            nodes,
            clients: vec![BTreeMap::new(); CLIENTS],
            shared,
            trouble_until_us,
            healed_us: None,
        }
    }

    /// Takes the next event. True: all is done and at rest.
    fn step(&mut self) -> bool {
        let event = self.shared.next().expect("something is going to happen");
        self.dispatch(event);
        for told in std::mem::take(&mut self.shared.told) {
            self.clients[told.client].insert(told.key, told.context);
        }
        let Some(healed_us) = self.healed_us else {
            return false;
        };
        // What is on its way for seconds arrives before the checks.
        let rests = self.shared.now_us - healed_us > 10 * SECOND_US && self.unrest().is_none();
        let late = self.shared.now_us - healed_us > REST_US;
        assert!(
            rests || !late,
            "it does not come to rest: {:?}",
            self.unrest()
        );
        rests
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Message { to, from, message } => {
                self.with(to, None, |node, shared| {
                    node.receive(from, *message, shared)
                });
            }
            Event::Synced { node, run } => self.with(node, Some(run), Node::synced),
            Event::Tick { node, run } => self.with(node, Some(run), Node::tick),
            Event::Late { node, run, request } => {
                self.with(node, Some(run), |node, shared| node.late(request, shared));
            }
            Event::Deadline { node, run, request } => {
                self.with(node, Some(run), |node, shared| {
                    node.deadline(request, shared)
                });
            }
            Event::Map { node, map } => self.map(node, &map),
            Event::Crash(id) => {
                let node = self.nodes.iter_mut().find(|node| node.id == id);
                if let Some(node) = node.filter(|_| self.shared.is_troubled) {
                    trouble::crash(node, &mut self.shared);
                }
            }
            Event::Start(node) => {
                let is_removed = self.control.map.is_removed(node);
                if let Some(node) = self.nodes.iter_mut().find(|it| it.id == node)
                    && !is_removed
                {
                    node.start(&mut self.shared);
                }
            }
            Event::Client(client) => self.client(client),
            Event::ControlTick => {
                let removed = self.removed();
                self.control.tick(&self.nodes, &mut self.shared);
                for node in self.removed() {
                    if !removed.contains(&node) {
                        self.forget(node);
                    }
                }
            }
            Event::Trouble => self.trouble(),
        }
    }

    fn with(&mut self, id: NodeId, run: Option<u64>, act: impl FnOnce(&mut Node, &mut Shared)) {
        let node = self.nodes.iter_mut().find(|node| node.id == id);
        if let Some(node) = node.filter(|node| node.is_up && run.is_none_or(|run| run == node.run))
        {
            act(node, &mut self.shared);
        }
    }

    fn map(&mut self, id: NodeId, map: &ClusterMap) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == id) else {
            return;
        };
        let is_new = node.run == 0 && node.map.node(id).is_none();
        let state = map.node(id).map(|member| member.state);
        if is_new && state.is_some_and(|state| state != NodeState::Joining) {
            // It joins: whatever was read by older maps is not for it.
            node.map = map.clone();
            node.since = map.version();
            node.start(&mut self.shared);
        } else if node.is_up {
            node.learn_map(map, &mut self.shared);
            if node.is_removed(map) {
                node.crash(&mut self.shared);
            }
        }
    }

    fn removed(&self) -> Vec<NodeId> {
        let nodes = self.nodes.iter().map(|node| node.id);
        nodes
            .filter(|node| self.control.map.is_removed(*node))
            .collect()
    }

    /// A node was removed: what it alone had is gone, as whoever removed it was told.
    fn forget(&mut self, id: NodeId) {
        self.shared.count("removed nodes");
        self.shared
            .trace(&[31, short(id)], || format!("n{} is gone", short(id)));
        let map = &self.control.map;
        if let Some(node) = self.nodes.iter_mut().find(|node| node.id == id) {
            node.crash(&mut self.shared);
        }
        let others = self.nodes.iter().filter(|node| !map.is_removed(node.id));
        let others: Vec<&Node> = others.collect();
        self.shared.oracle.forgive(|key, dot| {
            let partition = map.partition(key);
            others.iter().any(|node| {
                let part = node.disk.parts.get(&partition);
                part.is_some_and(|part| part.state(key).context().covers(dot))
            })
        });
    }

    fn client(&mut self, client: usize) {
        if self.healed_us.is_some() {
            return;
        }
        let shared = &mut self.shared;
        let pause_us = shared.chance.between(5, 80) * MILLI_US;
        shared.after(pause_us, Event::Client(client));
        let key = Bytes::from(format!("key{}", shared.chance.below(KEYS)));
        let known = self.clients[client].get(&key).cloned();
        let seen = known.filter(|_| shared.chance.one_in(2));
        let value = Content::Value(Bytes::from(shared.unique().to_string()));
        let write = |content, ttl_ms| What::Write {
            content,
            ttl_ms,
            seen,
        };
        let what = match shared.chance.below(20) {
            0..7 => What::Read,
            7..14 => write(value, None),
            14..16 => write(value, Some(shared.chance.between(100, 3_000))),
            _ => write(Content::Tombstone, None),
        };
        let need = shared.chance.pick(&[1, 1, 2, 2, 2, 3]).unwrap_or(2);
        let up: Vec<usize> = (0..self.nodes.len())
            .filter(|at| self.nodes[*at].is_up)
            .collect();
        let Some(at) = shared.chance.pick(&up) else {
            return;
        };
        let partition = self.nodes[at].map.partition(&key);
        let live = self.nodes[at].live(partition, shared);
        let preference = self.nodes[at].preference(partition);
        let coordinator = preference.coordinator(|node| live.contains(&node));
        let wish = Wish {
            client,
            partition,
            key,
            need,
            what,
        };
        if let Some(coordinator) = coordinator {
            self.with(coordinator, None, |node, shared| {
                node.coordinate(wish, shared)
            });
        }
    }

    fn trouble(&mut self) {
        if self.shared.now_us < self.trouble_until_us {
            trouble::make(&mut self.nodes, &self.control.map, &mut self.shared);
            let pause_us = self.shared.chance.between(50, 1_200) * MILLI_US;
            self.shared.after(pause_us, Event::Trouble);
            return;
        }
        trouble::calm(&mut self.shared);
        self.shared.network.stray_per_mille = 0;
        self.shared.network.doubled_per_mille = 0;
        self.shared.is_troubled = false;
        self.healed_us = Some(self.shared.now_us);
        for node in &mut self.nodes {
            node.clock_ms = 0;
            self.shared.after(1, Event::Start(node.id));
        }
    }

    fn members(&self) -> impl Iterator<Item = &Node> {
        let map = &self.control.map;
        self.nodes
            .iter()
            .filter(|node| map.node(node.id).is_some() && !map.is_removed(node.id))
    }

    fn holders(&self, partition: PartitionId) -> impl Iterator<Item = &Node> {
        let of = &self.control.map.partitions()[usize::from(partition.0)];
        self.members().filter(|node| of.needs_copy(node.id))
    }

    /// Why the world does not rest.
    fn unrest(&self) -> Option<String> {
        let map = &self.control.map;
        for node in self.members() {
            let name = short(node.id);
            if !node.is_up || node.map.version() != map.version() {
                return Some(format!("n{name} has not the map"));
            }
            if node.store.hints() + node.disk.hints() > 0 {
                return Some(format!("n{name} has hints"));
            }
            for (partition, of) in map.assignments() {
                let part = node.disk.parts.get(&partition);
                let has_copy = part.is_some_and(|part| part.copy.is_some());
                if has_copy != of.needs_copy(node.id) {
                    return Some(format!("n{name} has a copy of {partition}: {has_copy}"));
                }
            }
        }
        for (partition, of) in map.assignments() {
            if of.target.is_some() || !of.is_activated() {
                return Some(format!("{partition} moves: {of:?}"));
            }
            let mut copies = self
                .holders(partition)
                .map(|node| &node.disk.parts[&partition].copy);
            let first = copies.next().and_then(Option::as_ref)?;
            if copies.any(|copy| copy.as_ref() != Some(first)) {
                return Some(format!("the replicas of {partition} differ"));
            }
            let waits = first.iter().find(|(_, binding)| binding.is_collectable());
            if let Some((key, binding)) = waits {
                return Some(format!("{key:?} is not collected: {binding:?}"));
            }
        }
        None
    }

    fn check_at_rest(&self) {
        // The keys of all partitions, as the first replica of each holds them: all replicas are equal.
        let mut held = BTreeMap::new();
        for (partition, _) in self.control.map.assignments() {
            let node = self.holders(partition).next().expect("it has a replica");
            held.extend(node.disk.parts[&partition].copy.clone().unwrap_or_default());
        }
        self.shared.oracle.check_at_rest(&held);
    }
}
