//! A run: nodes, clients and trouble for a while, then healing, then the checks that need rest.

use std::collections::BTreeMap;

use mesh_ring::ids::{ClusterId, NodeId, PartitionId};
use mesh_ring::map::{ClusterMap, Member};
use mesh_ring::replica::Role;

use crate::clients::Client;
use crate::control::Control;
use crate::node::Node;
use crate::shared::{Breakage, Claim, Event, Shared, short};
use crate::trouble;

const SECOND_US: u64 = 1_000_000;

/// How long everything may take to come to rest once the world is whole, in microseconds.
const REST_US: u64 = 60 * SECOND_US;

pub(crate) struct World {
    nodes: Vec<Node>,
    control: Control,
    clients: Vec<Client>,
    shared: Shared,
    /// When the last trouble is made.
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
    let acknowledged = world.shared.oracle.acked.len() as u64;
    let mut counts = std::mem::take(&mut world.shared.counts);
    counts.insert("acknowledged batches", acknowledged);
    Summary {
        hash: world.shared.hash(),
        counts,
    }
}

impl World {
    fn new(seed: u64, breakage: Option<Breakage>, traced: bool) -> Self {
        let mut shared = Shared::new(seed, breakage, traced);
        shared.network.delay_us = shared.chance.between(500, 8_000);
        trouble::calm(&mut shared);
        let count = *[1, 2, 3, 3, 3, 4, 5, 5]
            .get(shared.chance.below(8) as usize)
            .unwrap_or(&3);
        let nodes: Vec<Node> = (0..count)
            .map(|at| trouble::new_node(at, &mut shared))
            .collect();
        // Mostly few, so that replicas often fall behind what is kept.
        shared.journal_kept = shared.chance.pick(&[15, 40, 40, 1_000]).unwrap_or(40);
        let members: Vec<Member> = nodes
            .iter()
            .map(|node| Member::new(node.id, &node.name, &format!("{}:1", node.name), &node.zone))
            .collect();
        let partitions = shared.chance.between(1, 3) as u16;
        let replication = if shared.chance.one_in(4) { 5 } else { 3 };
        let map = ClusterMap::founding(ClusterId([7; 16]), &members, partitions, replication);
        let Ok(map) = map else {
            panic!("{map:?}");
        };
        let names: Vec<(PartitionId, String)> = (0..partitions)
            .flat_map(|p| ["a", "b"].map(|name| (PartitionId(p), format!("{name}{p}"))))
            .collect();
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        let clients = (0..3).map(|id| Client::new(id, &names, &ids)).collect();
        for id in &ids {
            let delay_us = shared.chance.below(SECOND_US);
            shared.after(delay_us, Event::Start(*id));
        }
        for client in 0..3 {
            shared.after(SECOND_US / 2, Event::Client(client));
        }
        shared.after(2 * SECOND_US, Event::Trouble);
        let trouble_us = shared.chance.between(5, 25) * SECOND_US;
        Self {
            control: Control::new(map, &mut shared),
            nodes,
            clients,
            shared,
            trouble_until_us: trouble_us,
            healed_us: None,
        }
    }

    /// Takes the next event. True: all is done and at rest.
    fn step(&mut self) -> bool {
        let Some(event) = self.shared.next() else {
            panic!("nothing is going to happen any more");
        };
        self.dispatch(event);
        for claim in std::mem::take(&mut self.shared.claims) {
            self.check(&claim);
        }
        self.healed_us.is_some_and(|healed_us| {
            let late = self.shared.now_us - healed_us > REST_US;
            let rests = self.shared.now_us - healed_us > SECOND_US && self.is_at_rest();
            assert!(
                rests || !late,
                "it does not come to rest: {}",
                self.unrest()
            );
            rests
        })
    }

    fn dispatch(&mut self, event: Event) {
        let shared = &mut self.shared;
        match event {
            Event::Message { to: node, .. }
            | Event::Synced { node, .. }
            | Event::Read { node, .. }
            | Event::Tick { node, .. }
            | Event::Map { node, .. }
            | Event::Transfer { to: node, .. }
            | Event::Copied { node, .. }
            | Event::Pull { to: node, .. }
            | Event::TransferEnded { to: node, .. }
            | Event::Request { to: node, .. } => {
                if let Some(node) = self.nodes.iter_mut().find(|of| of.id == node) {
                    node.handle(event, shared);
                }
            }
            Event::Start(node) => {
                if let Some(node) = self.nodes.iter_mut().find(|of| of.id == node) {
                    node.start(shared);
                }
            }
            Event::Resume(node) => {
                if let Some(node) = self.nodes.iter_mut().find(|of| of.id == node) {
                    node.paused = false;
                    for event in std::mem::take(&mut node.backlog) {
                        node.handle(event, shared);
                    }
                }
            }
            Event::Damage(node) => {
                if let Some(node) = self.nodes.iter_mut().find(|of| of.id == node) {
                    trouble::damage(node, &self.control.map, shared);
                }
            }
            Event::Propose(command) => self.control.propose(&command, &self.nodes, shared),
            Event::ControlTick => {
                self.control.tick(&self.nodes, shared);
                self.connect();
            }
            Event::Answer { client, id, answer } => {
                let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
                self.clients[client].answered(id, answer, &ids, shared);
            }
            Event::Client(client) => {
                let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
                self.clients[client].step(&ids, shared);
            }
            Event::Trouble => self.trouble(),
            Event::Heal => self.heal(),
        }
    }

    /// Nodes notice who is there. A way that is cut is noticed late, or not at all.
    fn connect(&mut self) {
        let shared = &mut self.shared;
        let runs: Vec<(NodeId, bool, u64)> = self
            .nodes
            .iter()
            .map(|node| (node.id, node.is_up, node.run))
            .collect();
        for node in &mut self.nodes {
            let me = node.id;
            for (peer, is_up, run) in runs.iter().filter(|(peer, ..)| *peer != me) {
                let cut = |a, b| shared.network.cut.contains(&(a, b));
                let is_cut = cut(node.id, *peer) || cut(*peer, node.id);
                if *is_up && !is_cut {
                    node.connection(*peer, Some(*run), shared);
                } else if shared.chance.one_in(5) {
                    node.connection(*peer, None, shared);
                }
            }
        }
    }

    fn trouble(&mut self) {
        let shared = &mut self.shared;
        if shared.now_us > self.trouble_until_us {
            shared.after(0, Event::Heal);
            return;
        }
        if shared.chance.one_in(20) {
            let stuck_us = shared.chance.below(3 * SECOND_US);
            self.control.stuck_until_us = shared.now_us + stuck_us;
        }
        trouble::make(&mut self.nodes, &self.control.map, shared);
        let delay_us = shared.chance.between(20_000, 1_500_000);
        shared.after(delay_us, Event::Trouble);
    }

    fn heal(&mut self) {
        let shared = &mut self.shared;
        shared.trace(&[50], || "the world is whole again".to_owned());
        trouble::calm(shared);
        shared.network.lost_per_mille = 0;
        self.control.stuck_until_us = 0;
        for node in &mut self.nodes {
            node.clock_ms = 0;
            if !node.is_up {
                shared.after(SECOND_US / 10, Event::Start(node.id));
            }
        }
        for client in &mut self.clients {
            client.finishes = true;
        }
        self.healed_us = Some(shared.now_us);
    }

    /// What a leader holds to be committed is durable on majorities.
    fn check(&self, claim: &Claim) {
        for set in &claim.sets {
            let holds = |id: &&NodeId| {
                let node = self.nodes.iter().find(|node| node.id == **id);
                // A damaged disk did hold what it acknowledged.
                node.is_some_and(|node| {
                    node.holds(claim.partition, &claim.entry) || node.is_suspect()
                })
            };
            let holders = set.iter().filter(holds).count();
            assert!(
                2 * holders > set.len(),
                "entry {:?} of partition {} is committed with {holders} of {} copies",
                claim.entry.position(),
                claim.partition,
                set.len()
            );
        }
    }

    /// The nodes that the map counts on for a partition, with their actors.
    fn members(&self) -> impl Iterator<Item = (PartitionId, &Node)> {
        let assignments = self.control.map.assignments();
        assignments.flat_map(move |(partition, of)| {
            let nodes = of.replicas.iter().chain(&of.learners);
            nodes.filter_map(move |id| {
                let node = self.nodes.iter().find(|node| node.id == *id)?;
                Some((partition, node))
            })
        })
    }

    fn is_at_rest(&self) -> bool {
        self.clients.iter().all(Client::is_done)
            && self
                .control
                .map
                .partitions()
                .iter()
                .all(|of| of.is_activated() && of.target.is_none())
            && self.members().all(|(_, node)| node.is_quiet())
            && self.members().all(|(partition, node)| {
                let truth = self.shared.oracle.truths.get(&partition);
                let upto = truth.map_or(0, |truth| truth.committed.len() as u64);
                let actor = node.actors.get(&partition);
                actor.is_some_and(|actor| {
                    actor.applied.0 == upto
                        && !actor.replica.is_suspect()
                        && !matches!(actor.replica.role(), Role::TakingOver(_))
                })
            })
    }

    /// Why it is not at rest, for people.
    fn unrest(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for client in self.clients.iter().filter(|client| !client.is_done()) {
            let _ = writeln!(text, "client: {}", client.waits());
        }
        for of in self.control.map.partitions() {
            let _ = writeln!(text, "map: {of:?}");
        }
        for node in &self.nodes {
            let state = self.control.map.node(node.id).map(|member| member.state);
            let _ = writeln!(
                text,
                "n{}: up {} registered {} {state:?} quiet {}",
                short(node.id),
                node.is_up,
                node.is_registered(),
                node.is_quiet()
            );
            for (partition, actor) in &node.actors {
                let _ = writeln!(
                    text,
                    "  p{partition}: {:?} commit {} last {:?} applied {} lag {:?} suspect {} ticks {}",
                    actor.replica.role(),
                    actor.replica.commit(),
                    actor.replica.last(),
                    actor.applied,
                    actor.replica.lag(),
                    actor.replica.is_suspect(),
                    actor.replica.wants_tick()
                );
            }
        }
        text
    }

    /// All replicas have come to the same state, the one that follows from what was committed; and it holds all that
    /// was promised.
    fn check_at_rest(&mut self) {
        for node in &mut self.nodes {
            node.checkpoint_all(&mut self.shared);
            while !node.disk.is_quiet() {
                node.finish_writing(&mut self.shared);
            }
        }
        self.shared.oracle.check_promises();
        let mut leaders: BTreeMap<PartitionId, usize> = BTreeMap::new();
        for (partition, node) in self.members() {
            let Some(truth) = self.shared.oracle.truths.get(&partition) else {
                continue;
            };
            let who = format!("n{} p{partition}", short(node.id));
            let store = &node.disk.stores[&partition];
            store.check_state(&truth.state, truth.committed.len() as u64, &who);
            for (index, entry) in &store.entries {
                let position = self.shared.oracle.position(partition, *index);
                assert_eq!(position, Some(entry.position()), "{who}");
            }
            let leads = node.actors[&partition].is_leading();
            *leaders.entry(partition).or_default() += usize::from(leads);
        }
        for (partition, count) in leaders {
            assert_eq!(count, 1, "partition {partition} has {count} leaders");
        }
    }
}
