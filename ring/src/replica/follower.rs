//! Following: promises, the leader's entries, and what is acknowledged.

use super::core::Core;
use super::effect::Effect;
use super::fault::Fault;
use super::journal::well_formed;
use super::message::{Entry, Lane, Message, Position, Weigh};
use crate::ids::{Epoch, Index, NodeId};

/// What a replica that follows knows of its leader, in one epoch.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Follower {
    pub(super) epoch: Epoch,
    pub(super) leader: Option<NodeId>,
    /// The journal is the same as the leader's up to here: messages of this epoch have proven it. A leader of one epoch
    /// never truncates, so what was once proven stays so.
    proven: Index,
    /// The leader has said that everything up to here is committed.
    told: Index,
    /// The last index that needs no acknowledgement unless one is asked for.
    acked: Index,
    /// The leader waits for an answer that cannot be given before a promise is durable.
    owes: bool,
    /// The leader is activated and has, knowing this start of the node, proven the journal to hold all it had committed.
    caught_up: bool,
}

/// An `Append`, taken apart.
pub(super) struct Appended<P> {
    pub(super) boot: u32,
    pub(super) prev: Position,
    pub(super) entries: Vec<Entry<P>>,
    pub(super) commit: Index,
    pub(super) activated: bool,
    pub(super) answer: bool,
}

impl Follower {
    pub(super) const fn new(epoch: Epoch, leader: Option<NodeId>) -> Self {
        Self {
            epoch,
            leader,
            proven: Index(0),
            told: Index(0),
            acked: Index(0),
            owes: false,
            caught_up: false,
        }
    }

    /// Whether the leader has sent entries of this epoch's journal, or probed for them.
    pub(super) const fn has_heard(&self) -> bool {
        self.proven.0 > 0
    }

    /// Takes in what the leader of this epoch sent.
    pub(super) fn on_append<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        from: NodeId,
        append: Appended<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        let Appended { prev, entries, .. } = append;
        if !well_formed(prev, &entries, self.epoch) {
            return;
        }
        self.leader = Some(from);
        // What lies before the journal was committed, so it is the same in the journal of every later leader.
        if prev.index >= core.journal.before().index && !core.journal.holds(prev) {
            core.reject(from, self.epoch, prev, out);
            return;
        }
        if core.contradicts(&entries) {
            match core.votes_in(self.epoch) {
                // It was asked before that leader began: going on breaks an invariant, and `adopt` says so.
                Some(true) => {}
                Some(false) => {
                    out.push(Effect::Behind { node: core.me });
                    return;
                }
                // The map will tell.
                None => return,
            }
        }
        let end = Index(prev.index.0 + entries.len() as u64);
        let news = !entries.is_empty();
        core.adopt(entries, Some(self.epoch), out);
        self.proven = self.proven.max(end);
        let commit = if core.faults.has(Fault::CommitNotClamped) {
            append.commit.min(core.journal.last().index)
        } else {
            append.commit.min(self.proven)
        };
        self.told = self.told.max(commit);
        self.caught_up |=
            append.activated && append.boot == core.boot && self.proven >= append.commit;
        self.owes |= append.answer || news && core.disk.durable() >= end;
        // What was durable before is worth no message of its own.
        self.acked = self.acked.max(self.proven.min(core.disk.durable()));
        self.settle(core, out);
    }

    /// Commits and acknowledges what may be by now.
    pub(super) fn settle<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        core.committed(self.told, out);
        core.journal.drop_recent(core.disk.durable());
        if self.caught_up {
            core.end_suspicion(out);
        }
        let Some(leader) = self.leader else { return };
        let held = self.proven.min(core.disk.durable());
        if core.disk.promised() < self.epoch || !self.owes && held <= self.acked {
            return;
        }
        self.acked = self.acked.max(held);
        self.owes = false;
        let message = Message::Acked {
            epoch: self.epoch,
            boot: core.boot,
            index: held,
            received: self.proven,
            commit: core.commit,
            suspect: core.disk.suspect(),
        };
        core.send(leader, message, out);
    }
}

impl<P: Clone + Weigh> Core<P> {
    /// Says to the leader to be of `epoch`, which has been promised durably, how far this replica is.
    pub(super) fn answer_seal(&self, to: NodeId, epoch: Epoch, out: &mut Vec<Effect<P>>) {
        let message = Message::Sealed {
            epoch,
            boot: self.boot,
            suspect: self.disk.suspect(),
            first: self.journal.before().index.next(),
            last: self.durable_last(),
            commit: self.commit,
        };
        self.send(to, message, out);
    }

    /// Sends the leader to be of `epoch` what follows `after`, or says where to ask instead.
    pub(super) fn on_fetch(
        &self,
        to: NodeId,
        epoch: Epoch,
        after: Position,
        out: &mut Vec<Effect<P>>,
    ) {
        if !self.journal.holds(after) {
            let message = Message::Diverged {
                epoch,
                boot: self.boot,
                after,
                hint: self.journal.at_most(after),
            };
            self.send(to, message, out);
            return;
        }
        if after == self.journal.last() {
            return;
        }
        let from = after.index.next();
        let bytes = self.limits.message_bytes;
        match self.journal.recent_from(from, bytes, usize::MAX) {
            Some(entries) => self.send_fetched(to, epoch, entries, out),
            None => out.push(Effect::Read {
                to,
                epoch,
                from,
                bytes,
            }),
        }
    }

    /// Sends on what was read for the leader to be of `epoch`.
    pub(super) fn send_fetched(
        &self,
        to: NodeId,
        epoch: Epoch,
        entries: Vec<Entry<P>>,
        out: &mut Vec<Effect<P>>,
    ) {
        let entries = self.journal.still_here(entries);
        let Some(first) = entries.first() else { return };
        let message = Message::Fetched {
            epoch,
            boot: self.boot,
            prev: self.journal.position_at(Index(first.index.0 - 1)),
            entries,
        };
        self.send_in(Lane::CatchUp, to, message, out);
    }
}
