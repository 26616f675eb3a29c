//! What a replica has whatever its role is: its journal, its disk, its commit index.

use std::collections::BTreeSet;

use super::config::Config;
use super::disk::Disk;
use super::effect::{Durable, Effect};
use super::fault::Faults;
use super::journal::Journal;
use super::limits::Limits;
use super::message::{Entry, Lane, Message, Position, Weigh};
use crate::ids::{Epoch, Index, NodeId};

/// The part of a replica that outlives its roles.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Core<P> {
    pub(super) me: NodeId,
    pub(super) boot: u32,
    pub(super) limits: Limits,
    pub(super) faults: Faults,
    pub(super) config: Option<Config>,
    /// The highest epoch seen. Nothing of a lower one is answered.
    pub(super) seen: Epoch,
    pub(super) journal: Journal<P>,
    pub(super) disk: Disk,
    pub(super) commit: Index,
    pub(super) applied: Index,
    /// The nodes to which there is no connection.
    pub(super) away: BTreeSet<NodeId>,
}

impl<P: Clone + Weigh> Core<P> {
    pub(super) fn new(me: NodeId, durable: &Durable, limits: Limits) -> Self {
        assert!(durable.boot > 0, "boots are counted from 1");
        assert!(
            durable.commit <= durable.last.index && durable.before.index <= durable.commit,
            "committed up to {}, and the journal goes from {:?} to {:?}",
            durable.commit,
            durable.before,
            durable.last
        );
        Self {
            me,
            boot: durable.boot,
            limits,
            faults: Faults::default(),
            config: None,
            seen: durable.promised.max(durable.last.epoch),
            journal: Journal::new(durable),
            disk: Disk::new(durable),
            commit: durable.commit,
            applied: durable.commit,
            away: BTreeSet::new(),
        }
    }

    pub(super) fn is_away(&self, node: NodeId) -> bool {
        self.away.contains(&node)
    }

    /// Whether the node's vote counts, by the last config.
    pub(super) fn has_vote(&self, node: NodeId) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.voters().any(|voter| voter == node))
    }

    /// Whether this replica is the only one whose vote counts.
    pub(super) fn votes_alone(&self) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.voters().all(|node| node == self.me))
    }

    /// Whether this replica's vote counts in `epoch`; `None` before the map has said so.
    pub(super) fn votes_in(&self, epoch: Epoch) -> Option<bool> {
        let of_epoch = self.config.as_ref()?.epoch == epoch;
        of_epoch.then(|| self.has_vote(self.me))
    }

    /// Whether these entries, which follow one that both have or that lies before this journal, are not those that are
    /// known here to be committed. To a replica that votes that never happens. A learner is not asked by everyone who takes
    /// over, and all who vote may have lost what it knows.
    pub(super) fn contradicts(&self, entries: &[Entry<P>]) -> bool {
        let before = self.journal.before();
        let known = entries
            .iter()
            .take_while(|entry| entry.index <= self.commit);
        known
            .filter(|entry| entry.index >= before.index)
            .any(|entry| !self.journal.holds(entry.position()))
    }

    pub(super) fn send(&self, to: NodeId, message: Message<P>, out: &mut Vec<Effect<P>>) {
        self.send_in(Lane::Live, to, message, out);
    }

    pub(super) fn send_in(
        &self,
        lane: Lane,
        to: NodeId,
        message: Message<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        if !self.is_away(to) {
            out.push(Effect::Send { to, message, lane });
        }
    }

    /// Hands a promise of `epoch` to the disk, unless that was done before.
    pub(super) fn promise(&mut self, epoch: Epoch, out: &mut Vec<Effect<P>>) {
        if self.disk.promising() < epoch {
            self.persist(Some(epoch), false, None, Vec::new(), out);
        }
    }

    /// Hands the end of suspicion to the disk, unless that was done before.
    pub(super) fn end_suspicion(&mut self, out: &mut Vec<Effect<P>>) {
        if self.disk.suspect() && !self.disk.clearing() {
            self.persist(None, true, None, Vec::new(), out);
        }
    }

    /// Writes entries of this replica's own behind its journal.
    pub(super) fn write(&mut self, entries: Vec<Entry<P>>, out: &mut Vec<Effect<P>>) {
        self.journal.append(entries.iter().cloned());
        self.persist(None, false, None, entries, out);
    }

    /// Makes the journal the same as another one whose consecutive `entries` follow `prev`, which must be the same in
    /// both, or lie before what is kept here. What is there already is left alone; what differs is truncated.
    pub(super) fn adopt(
        &mut self,
        mut entries: Vec<Entry<P>>,
        promise: Option<Epoch>,
        out: &mut Vec<Effect<P>>,
    ) {
        let before = self.journal.before();
        let known = entries.iter().take_while(|entry| {
            assert!(
                entry.index != before.index || entry.epoch == before.epoch,
                "another entry than {before:?}, which is committed, at its index: {:?}",
                entry.position()
            );
            entry.index <= before.index || self.journal.holds(entry.position())
        });
        let known = known.count();
        entries.drain(..known);
        let promise = promise.filter(|epoch| *epoch > self.disk.promising());
        let Some(first) = entries.first().map(|entry| entry.index) else {
            if promise.is_some() {
                self.persist(promise, false, None, entries, out);
            }
            return;
        };
        let conflict = self.journal.epoch_at(first).map(|_| first);
        if let Some(from) = conflict {
            assert!(
                from > self.commit,
                "asked to truncate from {from}, and everything up to {} is committed",
                self.commit
            );
            self.journal.truncate(from);
            self.disk.truncate(from);
            out.push(Effect::Truncated(from));
        }
        self.journal.append(entries.iter().cloned());
        self.persist(promise, false, conflict, entries, out);
    }

    fn persist(
        &mut self,
        promise: Option<Epoch>,
        clear: bool,
        truncate: Option<Index>,
        entries: Vec<Entry<P>>,
        out: &mut Vec<Effect<P>>,
    ) {
        let end = self.journal.last().index;
        let ticket = self.disk.issue(promise, clear, end);
        out.push(Effect::Persist {
            ticket,
            promise,
            suspect: clear.then_some(false),
            truncate,
            entries,
        });
    }

    /// Everything up to `index` is known to be committed. What is not durable here has to wait.
    pub(super) fn committed(&mut self, index: Index, out: &mut Vec<Effect<P>>) -> bool {
        let index = index.min(self.disk.durable());
        if index <= self.commit {
            return false;
        }
        assert!(
            index <= self.journal.last().index,
            "committed beyond the end"
        );
        self.commit = index;
        out.push(Effect::Commit(index));
        true
    }

    /// The last entry that is durable.
    pub(super) fn durable_last(&self) -> Position {
        self.journal.position_at(self.disk.durable())
    }

    /// Refuses a message of an epoch that is over.
    pub(super) fn reject(
        &self,
        to: NodeId,
        epoch: Epoch,
        prev: Position,
        out: &mut Vec<Effect<P>>,
    ) {
        let message = Message::Rejected {
            epoch,
            boot: self.boot,
            prev,
            promised: self.seen,
            hint: self.journal.at_most(prev),
        };
        self.send(to, message, out);
    }
}
