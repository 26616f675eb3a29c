//! The control plane as one register: the map changes by `control::apply`, and everyone hears of it sooner or later.

use std::collections::BTreeMap;

use mesh_ring::control::{ControlCommand, Observed, Patience, apply, due};
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;

use crate::node::Node;
use crate::shared::{Event, MILLI_US, Shared};

const TICK_US: u64 = 100 * MILLI_US;

pub(crate) struct Control {
    pub(crate) map: ClusterMap,
    /// Since when each node looks as it does, in microseconds.
    observed: BTreeMap<NodeId, (bool, u64)>,
    patience: Patience,
}

impl Control {
    pub(crate) fn new(map: ClusterMap, shared: &mut Shared) -> Self {
        shared.after(TICK_US, Event::ControlTick);
        Self {
            map,
            observed: BTreeMap::new(),
            patience: Patience {
                dead_after_ms: shared.chance.between(600, 6_000),
                settled_after_ms: 1_000,
                leaders_at_once: 2,
            },
        }
    }

    pub(crate) fn propose(
        &mut self,
        command: &ControlCommand,
        nodes: &[Node],
        shared: &mut Shared,
    ) {
        let before = self.map.version();
        let outcome = apply(&mut self.map, command);
        if self.map.version() == before {
            return;
        }
        shared.trace(&[40, self.map.version()], || {
            format!(
                "control: {command:?}: {outcome:?} {:?}",
                self.map.partitions()
            )
        });
        assert_eq!(self.map.check(), Ok(()));
        for node in nodes {
            self.tell(node.id, shared);
        }
    }

    fn tell(&self, node: NodeId, shared: &mut Shared) {
        if shared.network.uncontrolled.contains(&node) || shared.chance.one_in(20) {
            return;
        }
        let delay_us = match shared.chance.below(10) {
            0 => shared.chance.between(50, 600) * MILLI_US,
            _ => shared.chance.between(1, 20) * MILLI_US,
        };
        let map = Box::new(self.map.clone());
        shared.after(delay_us, Event::Map { node, map });
    }

    /// Looks who is alive, and does what is due.
    pub(crate) fn tick(&mut self, nodes: &[Node], shared: &mut Shared) {
        shared.after(TICK_US, Event::ControlTick);
        for node in nodes {
            // What a node missed, it hears again.
            if node.map.version() < self.map.version() {
                self.tell(node.id, shared);
            }
            let is_alive = node.is_up && !shared.network.uncontrolled.contains(&node.id);
            let seen = self.observed.entry(node.id);
            let seen = seen.or_insert((is_alive, shared.now_us));
            if seen.0 != is_alive {
                *seen = (is_alive, shared.now_us);
            }
        }
        for command in std::mem::take(&mut shared.proposals) {
            self.propose(&command, nodes, shared);
        }
        let observed = self.observed.iter().map(|(node, (is_alive, since_us))| {
            let for_ms = (shared.now_us - since_us) / 1_000;
            let alive = *is_alive || for_ms < 400;
            (*node, Observed { alive, for_ms })
        });
        for command in due(&self.map, &observed.collect(), &self.patience) {
            self.propose(&command, nodes, shared);
        }
    }
}
