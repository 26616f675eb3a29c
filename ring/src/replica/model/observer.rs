//! An observer who sees everything: what was committed, by whom, and what was in every journal.

use std::sync::Arc;

use super::super::{Entry, Payload};
use super::machine::{Machine, Outcome};
use super::store::{Batch, Store};
use super::world::{Rules, World};

/// What must never happen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Broken {
    /// A leader took over without an entry that had been committed.
    Lost,
    /// Two values were committed at one index.
    TwoValues,
    /// A batch was committed at an offset where none belongs, or a reader gets another one than was committed.
    Offsets,
    /// Two leaders of one epoch.
    TwoLeaders,
    /// Two journals agree on an entry and differ before it.
    Unmatched,
    /// An assertion of the core failed.
    Assertion,
}

impl Rules {
    /// Compares what a machine did with all that was seen before.
    pub(super) fn observe(
        &self,
        world: &mut World,
        at: usize,
        outcome: &Outcome,
    ) -> Option<Broken> {
        let machine = Arc::clone(&world.machines[at].1);
        if !offsets_are_right(&machine, &world.committed) {
            return Some(Broken::Offsets);
        }
        if !outcome.wrote && !outcome.committed && outcome.activated.is_none() {
            return None;
        }
        let view = machine.view(self.leave_keys);
        if let Some(epoch) = outcome.activated {
            let (leader, _) = &self.epochs[usize::try_from(epoch.0).ok()? - 1];
            if *leader != machine.me {
                return Some(Broken::TwoLeaders);
            }
            // A leader that was superseded long ago may be late with its report.
            let count = world
                .committed
                .partition_point(|entry| entry.epoch <= epoch);
            if !view.journal.starts_with(&world.committed[..count]) {
                return Some(Broken::Lost);
            }
        }
        if outcome.committed {
            let known = world.committed.len();
            let upto = usize::try_from(machine.replica.commit().0).ok()?;
            let mine = view.journal.get(..upto).unwrap_or_default();
            if mine.len() < upto || mine.iter().zip(world.committed.iter()).any(|(a, b)| a != b) {
                return Some(Broken::TwoValues);
            }
            if upto > known {
                Arc::make_mut(&mut world.committed).extend_from_slice(&mine[known..]);
            }
        }
        if !offsets_are_right(&machine, &world.committed) {
            return Some(Broken::Offsets);
        }
        if !outcome.wrote {
            return None;
        }
        for (_, other) in &world.machines {
            if !matches(&view, &other.view(self.leave_keys)) {
                return Some(Broken::Unmatched);
            }
        }
        None
    }
}

/// Whether what was committed has dense offsets, and a reader of this machine gets each batch of it that is visible.
fn offsets_are_right(machine: &Machine, committed: &[Entry<Batch>]) -> bool {
    let mut next = 0;
    for entry in committed {
        let Payload::Command(batch) = &entry.payload else {
            continue;
        };
        if batch.first != next {
            return false;
        }
        next = batch.last() + 1;
        let visible = entry.index <= machine.replica.commit();
        if visible && machine.store.read(batch.first) != Some(*batch) {
            return false;
        }
    }
    true
}

fn matches(one: &Store, other: &Store) -> bool {
    let both = one.journal.len().min(other.journal.len());
    let same_epoch = |at: &usize| one.journal[*at].epoch == other.journal[*at].epoch;
    (0..both)
        .rev()
        .find(same_epoch)
        .is_none_or(|at| one.journal[..=at] == other.journal[..=at])
}
