//! The comparisons of the report, a file each.

mod append;
mod bindings;
mod bindings_hints;
mod bindings_leaves;
mod bindings_repair;
mod bindings_ring;
mod bindings_watch;
mod crash;
mod growth_nodes;
mod growth_size;
mod growth_topics;
mod memory;
mod open;
mod replay;
mod ring_failover;
mod ring_idle;
mod ring_join;
mod ring_lookup;
mod ring_publish;
mod ring_tail;
mod space;
mod topics;
mod versus;
mod wire;

use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::outcome::Findings;
use crate::place::Place;
use crate::stores::{Kind, Store};

/// A part of the report that can be measured by itself.
pub struct Section {
    /// Names it on the command line and its files.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Whether it takes minutes and many GiB, and so runs only when asked for.
    pub is_long: bool,
    /// Does it.
    pub run: fn(&Run<'_>) -> Result<Findings>,
}

/// Every section, in the order of the report.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "append",
        title: "Durable append",
        is_long: false,
        run: append::run,
    },
    Section {
        name: "topics",
        title: "Many topics, many in flight",
        is_long: false,
        run: topics::run,
    },
    Section {
        name: "replay",
        title: "Replay and point reads",
        is_long: false,
        run: replay::run,
    },
    Section {
        name: "bindings",
        title: "Bindings",
        is_long: false,
        run: bindings::run,
    },
    Section {
        name: "open",
        title: "Open after a crash",
        is_long: false,
        run: open::run,
    },
    Section {
        name: "memory",
        title: "Memory with 100,000 topics",
        is_long: false,
        run: memory::run,
    },
    Section {
        name: "wire",
        title: "Over the wire: meshctl and a node",
        is_long: false,
        run: wire::run,
    },
    Section {
        name: "ring-publish",
        title: "Three nodes: durable publish",
        is_long: false,
        run: ring_publish::run,
    },
    Section {
        name: "ring-failover",
        title: "Three nodes: leaders that die and stop",
        is_long: false,
        run: ring_failover::run,
    },
    Section {
        name: "ring-tail",
        title: "Three nodes: a tail from a follower",
        is_long: false,
        run: ring_tail::run,
    },
    Section {
        name: "ring-idle",
        title: "Three nodes: idle",
        is_long: false,
        run: ring_idle::run,
    },
    Section {
        name: "ring-join",
        title: "A fourth node joins",
        is_long: true,
        run: ring_join::run,
    },
    Section {
        name: "ring-lookup",
        title: "Lookup among many nodes",
        is_long: false,
        run: ring_lookup::run,
    },
    Section {
        name: "bindings-ring",
        title: "Three nodes: bindings beside etcd",
        is_long: false,
        run: bindings_ring::run,
    },
    Section {
        name: "bindings-repair",
        title: "Three nodes: copies of bindings compared",
        is_long: false,
        run: bindings_repair::run,
    },
    Section {
        name: "bindings-leaves",
        title: "Merkle upkeep",
        is_long: false,
        run: bindings_leaves::run,
    },
    Section {
        name: "bindings-hints",
        title: "A node returns to its hints",
        is_long: false,
        run: bindings_hints::run,
    },
    Section {
        name: "bindings-watch",
        title: "Three nodes: a change and its watcher",
        is_long: false,
        run: bindings_watch::run,
    },
    Section {
        name: "versus-publish",
        title: "Side by side: durable publish by what is in flight",
        is_long: true,
        run: versus::publish::run,
    },
    Section {
        name: "versus-sizes",
        title: "Side by side: durable publish by size",
        is_long: true,
        run: versus::sizes::run,
    },
    Section {
        name: "versus-topics",
        title: "Side by side: durable publish by topics",
        is_long: true,
        run: versus::topics::run,
    },
    Section {
        name: "versus-replicas",
        title: "Side by side: durable publish with three replicas",
        is_long: true,
        run: versus::replicas::run,
    },
    Section {
        name: "versus-delivered",
        title: "Side by side: publish to delivered",
        is_long: true,
        run: versus::delivered::run,
    },
    Section {
        name: "versus-replay",
        title: "Side by side: replay by one reader and by four",
        is_long: true,
        run: versus::replay::run,
    },
    Section {
        name: "versus-behind",
        title: "Side by side: a reader that catches up",
        is_long: true,
        run: versus::behind::run,
    },
    Section {
        name: "crash",
        title: "Open after kill -9 of a large store",
        is_long: true,
        run: crash::run,
    },
    Section {
        name: "growth-size",
        title: "Cost growth: bytes in a store",
        is_long: true,
        run: growth_size::run,
    },
    Section {
        name: "growth-topics",
        title: "Cost growth: topics",
        is_long: true,
        run: growth_topics::run,
    },
    Section {
        name: "growth-nodes",
        title: "Cost growth: nodes",
        is_long: true,
        run: growth_nodes::run,
    },
    Section {
        name: "space",
        title: "Bytes written to disk",
        is_long: true,
        run: space::run,
    },
];

/// Whether a section puts Meshlog beside whole systems that do the same work.
#[must_use]
pub fn is_versus(section: &Section) -> bool {
    section.name.starts_with("versus-") || section.name == "bindings-ring"
}

/// How a section is to be measured.
pub struct Run<'a> {
    /// Where.
    pub place: &'a Place,
    /// Turns of each contender where a bar depends on it.
    pub rounds: usize,
    /// Time of a turn.
    pub turn: Duration,
    /// Divides sizes, to see quickly that all works.
    pub divisor: u64,
}

impl Run<'_> {
    /// Turns of each contender where no bar depends on it.
    fn few_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// Time of a turn where no bar depends on it.
    fn short_turn(&self) -> Duration {
        self.turn / 2
    }

    /// Whether it is only to be seen that all works.
    fn is_quick(&self) -> bool {
        self.divisor > 1
    }

    /// A size, smaller where the run is to be quick.
    fn sized(&self, size: u64) -> u64 {
        (size / self.divisor).max(1)
    }

    /// Lets `work` have a new store of this kind to itself.
    fn with_new(
        &self,
        kind: Kind,
        topics: usize,
        work: impl FnOnce(&mut dyn Store) -> Result<f64>,
    ) -> Result<f64> {
        let dir = self.place.fresh();
        let mut store = kind.create(&dir, topics)?;
        let figure = work(store.as_mut())?;
        drop(store);
        self.place.clear(&dir)?;
        Ok(figure)
    }

    /// Fills a new store of this kind in `dir`, and closes it when its background work is done.
    fn fill(
        &self,
        kind: Kind,
        dir: &Path,
        fill: impl FnOnce(&mut dyn Store) -> Result<()>,
    ) -> Result<()> {
        let mut store = kind.create(dir, 1)?;
        fill(store.as_mut())?;
        store.close()?;
        self.place.settle()
    }
}
