//! What the writer remembers between groups: what makes dots and timestamps unique.

use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use mesh_ring::version::Dot;

use super::Run;
use super::group::Group;
use crate::keys::{family, meta};

/// How far ahead of the last timestamp the durable bound is set, in milliseconds.
const CLOCK_AHEAD_MS: u64 = 1_000;

pub(super) struct State {
    pub(super) partition_count: u16,
    node: NodeId,
    boot: u32,
    counter: u64,
    hlc: Hlc,
    clock_bound: Hlc,
}

impl State {
    pub(super) fn new(run: Run) -> State {
        State {
            partition_count: run.partitions,
            node: run.node,
            boot: run.boot,
            counter: 0,
            hlc: run.clock_bound,
            clock_bound: run.clock_bound,
        }
    }

    /// A dot that no other write, of this run or an earlier one, has.
    pub(super) fn mint(&mut self) -> Dot {
        self.counter += 1;
        Dot {
            node: self.node,
            boot: self.boot,
            counter: self.counter,
        }
    }

    /// A timestamp above all that this node gave out, whatever the physical clock does.
    pub(super) fn tick(&mut self, now_ms: u64) -> Hlc {
        self.hlc = self.hlc.next(now_ms);
        self.hlc
    }

    /// Lets this node's time follow that of another node: what is written here later is later.
    pub(super) fn observe(&mut self, seen: Hlc, now_ms: u64) {
        if seen > self.hlc {
            self.hlc = self.hlc.observe(seen, now_ms);
        }
    }

    /// Makes durable, with the group, that no timestamp above the bound was given out.
    pub(super) fn bound_clock(&mut self, group: &mut Group<'_>) {
        if self.hlc > self.clock_bound {
            self.clock_bound = self
                .hlc
                .next(self.hlc.millis().saturating_add(CLOCK_AHEAD_MS));
            group.put(family::META, meta::CLOCK, self.clock_bound.0.to_be_bytes());
        }
    }
}
