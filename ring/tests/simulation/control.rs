//! The control plane as one register: the map changes by `control::apply`, and everyone hears of it sooner or later.

use std::collections::BTreeMap;

use mesh_ring::control::{ControlCommand, Observed, Patience, apply, due};
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;

use crate::node::Node;
use crate::shared::{Event, Shared};

const TICK_US: u64 = 150_000;

pub(crate) struct Control {
    pub(crate) map: ClusterMap,
    /// Since when each node looks as it does, in microseconds.
    observed: BTreeMap<NodeId, (bool, u64)>,
    /// How long a node has to be silent to be taken for dead, in milliseconds.
    silence_ms: u64,
    patience: Patience,
    /// Nothing is decided before this, as if the group had no majority.
    pub(crate) stuck_until_us: u64,
}

impl Control {
    pub(crate) fn new(map: ClusterMap, shared: &mut Shared) -> Self {
        shared.after(TICK_US, Event::ControlTick);
        Self {
            map,
            observed: BTreeMap::new(),
            silence_ms: shared.chance.between(200, 900),
            patience: Patience {
                dead_after_ms: shared.chance.between(3_000, 15_000),
                settled_after_ms: 2_000,
                leaders_at_once: 2,
            },
            stuck_until_us: 0,
        }
    }

    pub(crate) fn propose(
        &mut self,
        command: &ControlCommand,
        nodes: &[Node],
        shared: &mut Shared,
    ) {
        if shared.now_us < self.stuck_until_us {
            return;
        }
        let before = self.map.version();
        let outcome = apply(&mut self.map, command);
        shared.trace(&[40, self.map.version()], || {
            let outcome = outcome.as_ref().map(|outcome| outcome.version);
            format!(
                "control: {command:?}: {outcome:?} {:?}",
                self.map.partitions()
            )
        });
        if self.map.version() > before {
            match command {
                ControlCommand::Remove { .. } => shared.count("removed nodes"),
                ControlCommand::Drain { .. } => shared.count("drained nodes"),
                ControlCommand::Admit { .. } => shared.count("joined nodes"),
                _ => {}
            }
            if let Err(error) = self.map.check() {
                panic!("{error}");
            }
            for node in nodes {
                self.tell(node.id, shared);
            }
        }
    }

    fn tell(&self, node: NodeId, shared: &mut Shared) {
        if shared.network.uncontrolled.contains(&node) || shared.chance.one_in(20) {
            return;
        }
        let delay_us = match shared.chance.below(10) {
            0 => shared.chance.between(50_000, 600_000),
            _ => shared.chance.between(500, 20_000),
        };
        let map = Box::new(self.map.clone());
        shared.after(delay_us, Event::Map { node, map });
    }

    /// Looks who is alive, and does what is due.
    pub(crate) fn tick(&mut self, nodes: &[Node], shared: &mut Shared) {
        shared.after(TICK_US, Event::ControlTick);
        for node in nodes {
            // What a node missed, it hears again.
            self.tell(node.id, shared);
            let alive =
                node.is_up && !node.paused && !shared.network.uncontrolled.contains(&node.id);
            let seen = self
                .observed
                .entry(node.id)
                .or_insert((alive, shared.now_us));
            if seen.0 != alive {
                *seen = (alive, shared.now_us);
            }
        }
        if shared.now_us < self.stuck_until_us {
            return;
        }
        let observed = self.observed.iter().map(|(node, (alive, since_us))| {
            let for_ms = (shared.now_us - since_us) / 1_000;
            let dead = !alive && for_ms >= self.silence_ms;
            let observed = Observed {
                alive: !dead,
                for_ms,
            };
            (*node, observed)
        });
        for command in due(&self.map, &observed.collect(), &self.patience) {
            self.propose(&command, nodes, shared);
        }
    }
}
