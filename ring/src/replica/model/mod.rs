//! The model checker: every schedule of small clusters, within bounds, with the code that runs in production.
//!
//! - `store`, `machine`: a node whose crash loses what was not synced
//! - `network`: messages lost, doubled and overtaken
//! - `world`: all of it together, and the cluster map; `observer`: what must never be seen of it
//! - `exhaustive`: that nothing forbidden can happen; `broken`: that each rule left out is noticed; `random`: long runs

mod broken;
mod exhaustive;
mod machine;
mod network;
mod observer;
mod random;
mod store;
mod world;

use stateright::{Model, Property};

use self::machine::timeless;
use self::observer::Broken;
use self::store::{Batch, Store};
use self::world::{Action, Rules, World};
use super::Limits;

/// What shows that a run is not over before anything happens.
const SUCCESS: &str = "the last leader serves, and everything is committed";

/// Where the exploration of a world begins, and by which rules it goes on.
#[derive(Clone, Debug)]
struct Cluster {
    rules: Rules,
    start: World,
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_none() {
            self.rules.actions(world, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(self.rules.next(world, &action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("what is committed is never lost", |_, world| {
                world.broken != Some(Broken::Lost)
            }),
            Property::<Self>::always("one value for an index", |_, world| {
                world.broken != Some(Broken::TwoValues)
            }),
            Property::<Self>::always("offsets are dense, and read as committed", |_, world| {
                world.broken != Some(Broken::Offsets)
            }),
            Property::<Self>::always("one leader activates an epoch", |_, world| {
                world.broken != Some(Broken::TwoLeaders)
            }),
            Property::<Self>::always("journals match", |_, world| {
                world.broken != Some(Broken::Unmatched)
            }),
            Property::<Self>::always("no assertion fails", |_, world| {
                world.broken != Some(Broken::Assertion)
            }),
            Property::<Self>::sometimes(SUCCESS, |m, world| {
                usize::from(world.epochs) == m.rules.epochs.len()
                    && world.serves()
                    && world.committed_batches() == usize::from(m.rules.proposals)
            }),
        ]
    }
}

/// Three nodes, and the map's epochs: leader and replicas of each. Nothing goes wrong yet.
fn rules(epochs: &[(u8, &[u8])]) -> Rules {
    Rules {
        nodes: 3,
        epochs: epochs
            .iter()
            .map(|(leader, set)| (*leader, set.to_vec()))
            .collect(),
        proposals: 0,
        crashes: 0,
        damages: 0,
        ticks: 0,
        flushes: 0,
        disorder: 0,
        fault: None,
        leave_keys: false,
        limits: timeless(Limits::default()),
    }
}

impl Rules {
    /// Begins with a leader that serves in epoch 1.
    fn with_leader(self) -> Cluster {
        let empty = vec![Store::new(0, 0, &[]); usize::from(self.nodes)];
        let start = self.settle(self.start(empty, 1, 0));
        Cluster { rules: self, start }
    }

    /// Begins after everyone has crashed, with these disks, when the map is in epoch `epoch` and has activated
    /// `activated`.
    fn with_disks(self, epoch: u8, activated: u8, disks: Vec<Store>) -> Cluster {
        let start = self.start(disks, epoch, activated);
        Cluster { rules: self, start }
    }
}

const fn batch(id: u8, first: u8, records: u8) -> Option<Batch> {
    Some(Batch { id, first, records })
}
