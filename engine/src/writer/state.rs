//! What the writer remembers between groups: what makes dots and timestamps unique.

use std::collections::HashMap;

use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::quorum::{self, actor};
use mesh_ring::version::Dot;

use super::Run;
use super::group::Group;
use crate::error::ReadError;
use crate::hints::HintCounts;
use crate::keys::{self, family, meta};
use crate::names::Generation;

/// How far ahead of the last timestamp the durable bound is set, in milliseconds.
const CLOCK_AHEAD_MS: u64 = 1_000;

/// Bits of a hint's sequence that count within one run; the boot count is above them, so that no number comes twice.
const HINT_COUNTER_BITS: u32 = 40;

pub(super) struct State {
    pub(super) partition_count: u16,
    node: NodeId,
    boot: u32,
    starts: u32,
    counter: u64,
    hlc: Hlc,
    clock_bound: Hlc,
    /// What is kept of hints, as the groups staged so far leave it.
    pub(super) hints: HintCounts,
    pub(super) hint_bytes_max: u64,
    hint_counter: u64,
    /// Those that were looked at; at most one for each partition.
    generations: HashMap<PartitionId, Generation>,
}

impl State {
    pub(super) fn new(run: Run) -> State {
        State {
            partition_count: run.partitions,
            node: run.node,
            boot: run.boot,
            starts: run.starts,
            counter: 0,
            hlc: run.clock_bound,
            clock_bound: run.clock_bound,
            hints: run.hints,
            hint_bytes_max: run.hint_bytes_max,
            hint_counter: 0,
            generations: HashMap::new(),
        }
    }

    /// A dot that no other write, of this run or an earlier one, has: under a new name where this node may have forgotten
    /// what it wrote under the last one.
    pub(super) fn mint(
        &mut self,
        group: &mut Group<'_>,
        partition: PartitionId,
    ) -> Result<Dot, ReadError> {
        let mut generation = self.generation(group, partition)?;
        if generation.forgot {
            generation = Generation {
                forgotten: generation.forgotten + 1,
                forgot: false,
            };
            self.set_generation(group, partition, generation);
        }
        self.counter += 1;
        Ok(Dot {
            node: actor(
                self.node,
                quorum::Generation {
                    starts: self.starts,
                    forgotten: generation.forgotten,
                },
            ),
            boot: self.boot,
            counter: self.counter,
        })
    }

    /// Notes that this node may have forgotten what it wrote of a partition.
    pub(super) fn forget(
        &mut self,
        group: &mut Group<'_>,
        partition: PartitionId,
    ) -> Result<(), ReadError> {
        let generation = self.generation(group, partition)?;
        if !generation.forgot {
            let forgot = Generation {
                forgot: true,
                ..generation
            };
            self.set_generation(group, partition, forgot);
        }
        Ok(())
    }

    fn generation(
        &mut self,
        group: &Group<'_>,
        partition: PartitionId,
    ) -> Result<Generation, ReadError> {
        match self.generations.get(&partition) {
            Some(generation) => Ok(*generation),
            None => {
                let generation = Generation::load(group.store, partition)?;
                self.generations.insert(partition, generation);
                Ok(generation)
            }
        }
    }

    fn set_generation(
        &mut self,
        group: &mut Group<'_>,
        partition: PartitionId,
        generation: Generation,
    ) {
        let key = keys::generation_key(partition);
        group.put(family::META, key, generation.encode());
        self.generations.insert(partition, generation);
    }

    /// The sequence of a new hint: above those of all earlier ones, of any run.
    pub(super) fn next_hint(&mut self) -> u64 {
        self.hint_counter += 1;
        u64::from(self.boot) << HINT_COUNTER_BITS | self.hint_counter
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
