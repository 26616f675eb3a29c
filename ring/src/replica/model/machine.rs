//! One node of the model: a replica, its disk, and what is on its way there.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::super::fault::Fault;
use super::super::{Effect, Input, Limits, Replica, Report, Role};
use super::network::Envelope;
use super::store::{Batch, Store, Write};
use super::world::node;
use crate::ids::{Epoch, Index};

/// What the rest of the world learns of a step.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) sent: Vec<Arc<Envelope>>,
    /// Something else than before is on its way to the disk.
    pub(super) wrote: bool,
    pub(super) activated: Option<Epoch>,
    pub(super) caught_up: bool,
    pub(super) committed: bool,
    pub(super) truncated: bool,
    pub(super) panicked: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Machine {
    pub(super) me: u8,
    pub(super) replica: Replica<Batch>,
    pub(super) store: Store,
    pub(super) pending: VecDeque<Write>,
    /// The version of the map that it knows.
    pub(super) version: u8,
    pub(super) epochs: u8,
}

/// All time stands still in the model: whatever may happen after a time may happen at once.
const NOW_MS: u64 = 0;

/// Limits without which nothing would be resent while time stands still.
pub(super) fn timeless(limits: Limits) -> Limits {
    Limits {
        resend_ms: 0,
        resign_after_ms: u64::MAX,
        report_again_ms: 0,
        ..limits
    }
}

impl Machine {
    pub(super) fn new(me: u8, store: Store, limits: Limits, fault: Option<Fault>) -> Self {
        let mut replica = Replica::new(node(me), &store.durable(), limits);
        replica.core.faults.broken = fault;
        Self {
            me,
            replica,
            store,
            pending: VecDeque::new(),
            version: 0,
            epochs: 0,
        }
    }

    /// Everything that was not synced is lost.
    pub(super) fn crash(&self) -> Self {
        let mut store = self.store.clone();
        store.boot += 1;
        let core = &self.replica.core;
        Self::new(self.me, store, core.limits.clone(), core.faults.broken)
    }

    pub(super) fn digest(&self) -> u64 {
        digest(self)
    }

    /// The journal as the replica sees it: with all that is on its way to the disk.
    pub(super) fn view(&self, leave_keys: bool) -> Store {
        let mut view = self.store.clone();
        for write in &self.pending {
            view.apply(write, leave_keys);
        }
        view
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.replica.role(), Role::Leading(_))
    }

    /// Whether a flush would say anything.
    pub(super) fn flushes(&self) -> bool {
        let mut out = Vec::new();
        self.replica.clone().flush(NOW_MS, &mut out);
        !out.is_empty()
    }

    pub(super) fn step(&mut self, input: Input<Batch>) -> Outcome {
        self.run(|replica, out| {
            replica.step(NOW_MS, input, out);
        })
    }

    pub(super) fn propose(&mut self, batch: Batch) -> Outcome {
        self.run(|replica, out| {
            replica.propose(NOW_MS, vec![batch], out).unwrap();
        })
    }

    /// The caller has no more input at hand.
    pub(super) fn flush(&mut self) -> Outcome {
        self.run(|replica, out| replica.flush(NOW_MS, out))
    }

    /// The oldest write on its way is durable.
    pub(super) fn persist(&mut self, leave_keys: bool) -> Outcome {
        let write = self.pending.pop_front().unwrap();
        self.store.apply(&write, leave_keys);
        self.step(Input::Persisted(write.ticket))
    }

    fn run(&mut self, act: impl FnOnce(&mut Replica<Batch>, &mut Vec<Effect<Batch>>)) -> Outcome {
        let mut outcome = Outcome::default();
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut out = Vec::new();
            act(&mut self.replica, &mut out);
            while !out.is_empty() {
                let mut more = Vec::new();
                for effect in out {
                    self.carry_out(effect, &mut more, &mut outcome);
                }
                out = more;
            }
        }));
        outcome.panicked |= done.is_err();
        outcome
    }

    fn carry_out(
        &mut self,
        effect: Effect<Batch>,
        more: &mut Vec<Effect<Batch>>,
        outcome: &mut Outcome,
    ) {
        match effect {
            Effect::Persist { .. } => {
                outcome.wrote = true;
                self.pending
                    .extend(Write::new(effect, self.replica.commit()));
            }
            Effect::Send { to, message, .. } => {
                outcome
                    .sent
                    .push(Arc::new(Envelope::new(self.me, to.0[0], message)));
            }
            Effect::Read {
                to, epoch, from, ..
            } => {
                let entries = self.store.entries_from(from);
                let input = if entries.is_empty() {
                    Input::ReadFailed { to, epoch }
                } else {
                    Input::Read { to, epoch, entries }
                };
                self.replica.step(NOW_MS, input, more);
            }
            Effect::Commit(index) => {
                outcome.committed = true;
                assert!(
                    index <= Index(self.store.journal.len() as u64),
                    "committed, not durable"
                );
                self.replica.step(NOW_MS, Input::Applied(index), more);
            }
            Effect::Report(Report::Activated(epoch)) => outcome.activated = Some(epoch),
            Effect::Report(Report::CaughtUp { .. }) => outcome.caught_up = true,
            Effect::Truncated(_) => outcome.truncated = true,
            Effect::Report(Report::Resign { .. }) | Effect::Role(_) | Effect::Behind { .. } => (),
        }
    }
}

/// A number for a value, the same in every run. Quick, and mixed well enough for some millions of values.
pub(super) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = Digest(0x8ebc_6af0_9c88_c6e3);
    value.hash(&mut hasher);
    hasher.finish()
}

struct Digest(u64);

impl Digest {
    const fn add(&mut self, word: u64) {
        let mixed = (self.0 ^ word) as u128 * 0x9e37_79b9_7f4a_7c15;
        self.0 = ((mixed >> 64) as u64 ^ mixed as u64).wrapping_add(0xe703_7ed1_a0b4_28db);
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.add(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }
    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = Self(self.0);
        last.add(0xa076_1d64_78bd_642f);
        last.0
    }
}
