//! Takeover: how a new leader comes to hold everything that was committed.
//!
//! It collects promises from majorities, so that no earlier leader can commit any more, and with them how far everyone
//! is. The journal whose last entry is the latest, by epoch and then by index, holds all that was ever committed: each entry is on a
//! majority that has a member among those who answered, and every later leader had it too before it wrote anything.
//!
//! `doubt`: what is asked of learners where too many of those who vote are suspect.

mod doubt;

use std::collections::{BTreeMap, BTreeSet};

use super::core::Core;
use super::effect::{Effect, Report, ResignCause};
use super::fault::Fault;
use super::journal::well_formed;
use super::message::{Entry, Message, Position, Weigh};
use super::quorum::{Sets, is_majority};
use crate::ids::{Epoch, Index, NodeId};

/// A takeover under way.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Takeover {
    pub(super) epoch: Epoch,
    pub(super) answers: BTreeMap<NodeId, Answer>,
    fetch: Option<Fetch>,
    /// Since when learners are asked, too.
    doubted_ms: Option<u64>,
    /// When something was last asked.
    asked_ms: u64,
    /// When it last came nearer to its end.
    moved_ms: u64,
}

/// What one replica said with its promise.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Answer {
    pub(super) boot: u32,
    pub(super) suspect: bool,
    /// The first entry that it keeps.
    pub(super) first: Index,
    pub(super) last: Position,
    pub(super) commit: Index,
}

/// Learning what the longest journal holds.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Fetch {
    from: NodeId,
    /// Where this replica's journal has to end.
    target: Position,
    /// What was asked for last.
    after: Position,
    /// No replica keeps what is needed.
    forgotten: bool,
}

impl Takeover {
    /// Asks everyone for a promise, this replica first.
    pub(super) fn begin<P: Clone + Weigh>(
        core: &mut Core<P>,
        epoch: Epoch,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) -> Self {
        core.promise(epoch, out);
        let takeover = Self {
            epoch,
            answers: BTreeMap::new(),
            fetch: None,
            doubted_ms: None,
            asked_ms: now_ms,
            moved_ms: now_ms,
        };
        takeover.seal(core, out);
        takeover
    }

    fn seal<P: Clone + Weigh>(&self, core: &Core<P>, out: &mut Vec<Effect<P>>) {
        let Some(config) = &core.config else { return };
        let learners = config.learners.iter().copied();
        let learners = learners.filter(|_| self.doubted_ms.is_some());
        for node in config.voters().chain(learners) {
            if node != core.me && !self.answers.contains_key(&node) {
                core.send(node, Message::Seal { epoch: self.epoch }, out);
            }
        }
    }

    /// This replica's own promise may be durable by now.
    pub(super) fn on_persisted<P: Clone + Weigh>(&mut self, core: &Core<P>) {
        if core.disk.promised() == self.epoch && self.fetch.is_none() {
            self.answers.insert(
                core.me,
                Answer {
                    boot: core.boot,
                    suspect: core.disk.suspect(),
                    first: core.journal.before().index.next(),
                    last: core.journal.last(),
                    commit: core.commit,
                },
            );
        }
    }

    /// A promise. Whoever answers again after a restart may have forgotten something: the later answer counts.
    pub(super) fn on_sealed(&mut self, from: NodeId, answer: Answer) {
        let newer = self
            .answers
            .get(&from)
            .is_none_or(|known| known.boot < answer.boot);
        if newer {
            self.answers.insert(from, answer);
        }
    }

    /// Goes on as far as the answers allow. True: the journal holds all that was committed, and is this leader's to
    /// write to.
    pub(super) fn advance<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) -> bool {
        if let Some(fetch) = &self.fetch {
            return core.journal.last() == fetch.target;
        }
        if !self.has_promises(core) || !self.has_heard_learners(core, now_ms, out) {
            return false;
        }
        // A learner whose journal is being replaced has no vote that would have to be heeded, and nothing to give.
        let heeded = |(node, answer): &(&NodeId, &Answer)| {
            answer.first <= answer.last.index || core.has_vote(**node)
        };
        let heeded = self.answers.iter().filter(heeded);
        let Some(target) = heeded.map(|(_, answer)| answer.last).max() else {
            return false;
        };
        if core.journal.last() >= target {
            return true;
        }
        self.fetch_from_next(core, target, now_ms, out);
        false
    }

    /// Majorities of all sets have promised, without those whose disks may have forgotten; or a set has answered whole.
    fn has_promises<P: Clone + Weigh>(&self, core: &Core<P>) -> bool {
        self.answers.contains_key(&core.me)
            && self.every_set(core, |set| {
                self.is_vouched_for(core, set) || self.is_complete(set)
            })
    }

    fn every_set<P: Clone + Weigh>(
        &self,
        core: &Core<P>,
        is_so: impl Fn(&[NodeId]) -> bool,
    ) -> bool {
        let Some(config) = &core.config else {
            return false;
        };
        core.faults.has(Fault::NoSeal) || Sets::to_seal(config, &core.faults).iter().all(is_so)
    }

    /// Whether a majority of the set has answered that is not suspect.
    fn is_vouched_for<P>(&self, core: &Core<P>, set: &[NodeId]) -> bool {
        is_majority(set, |node| {
            let answer = self.answers.get(&node);
            answer.is_some_and(|answer| !answer.suspect || core.faults.has(Fault::SuspectsCount))
        })
    }

    /// The highest commit index that anyone spoke of whose journal is in this one: a voter, or the source.
    pub(super) fn committed<P: Clone + Weigh>(&self, core: &Core<P>) -> Index {
        let source = self.fetch.as_ref().map(|fetch| fetch.from);
        let counts = |node| source == Some(node) || core.has_vote(node);
        let commits = self.answers.iter().filter(|(node, _)| counts(**node));
        let commits = commits.map(|(_, answer)| answer.commit);
        commits.max().unwrap_or_default()
    }

    /// The members of sets that have answered whole.
    pub(super) fn answered_whole<P: Clone + Weigh>(&self, core: &Core<P>) -> BTreeSet<NodeId> {
        let Some(config) = &core.config else {
            return BTreeSet::new();
        };
        let sets = Sets::to_seal(config, &core.faults);
        let whole = sets.iter().filter(|set| self.is_complete(set));
        whole.flatten().copied().collect()
    }

    /// Whether everyone of the set has answered, so that nobody has to be doubted: nobody knows more.
    fn is_complete(&self, set: &[NodeId]) -> bool {
        set.iter().all(|node| self.answers.contains_key(node))
    }

    /// Asks the next of those who hold everything up to `target`.
    fn fetch_from_next<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        target: Position,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let current = self.fetch.as_ref().map(|fetch| fetch.from);
        let sources = || {
            let holders = self.answers.iter();
            holders
                .filter(|(node, answer)| answer.last == target && **node != core.me)
                .map(|(node, _)| *node)
                .filter(|node| !core.is_away(*node))
        };
        let next = sources()
            .find(|node| current.is_some_and(|current| *node > current))
            .or_else(|| sources().next());
        let Some(from) = next.or(current) else { return };
        let fetch = Fetch {
            from,
            target,
            after: core.journal.last(),
            forgotten: false,
        };
        self.ask(core, fetch, now_ms, out);
    }

    fn ask<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        fetch: Fetch,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let message = Message::Fetch {
            epoch: self.epoch,
            after: fetch.after,
        };
        core.send(fetch.from, message, out);
        self.asked_ms = now_ms;
        self.fetch = Some(fetch);
    }

    /// The source's disk is the one that it spoke of when it promised. Otherwise everyone is asked again.
    fn is_same_source<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        from: NodeId,
        boot: u32,
        out: &mut Vec<Effect<P>>,
    ) -> bool {
        let is_source = self.fetch.as_ref().is_some_and(|fetch| fetch.from == from);
        let known = self.answers.get(&from).map(|answer| answer.boot);
        if is_source && known.is_some_and(|known| known < boot) {
            self.answers.remove(&from);
            self.answers.remove(&core.me);
            self.fetch = None;
            self.seal(core, out);
            self.on_persisted(core);
            return false;
        }
        is_source && known == Some(boot)
    }

    /// Entries of the source.
    pub(super) fn on_fetched<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        (from, boot): (NodeId, u32),
        prev: Position,
        entries: Vec<Entry<P>>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        if !self.is_same_source(core, from, boot, out) || !well_formed(prev, &entries, self.epoch) {
            return;
        }
        let Some(fetch) = self.fetch.clone() else {
            return;
        };
        if prev != fetch.after || !core.journal.holds(prev) || entries.is_empty() {
            return;
        }
        let after = entries.last().map_or(prev, Entry::position);
        core.adopt(entries, None, out);
        core.journal.drop_recent(core.disk.durable());
        self.moved_ms = now_ms;
        if after < fetch.target {
            self.ask(core, Fetch { after, ..fetch }, now_ms, out);
        }
    }

    /// The source does not have what was asked for: both step back.
    pub(super) fn on_diverged<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        (from, boot): (NodeId, u32),
        after: Position,
        hint: Position,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        if !self.is_same_source(core, from, boot, out) {
            return;
        }
        let Some(mut fetch) = self.fetch.clone() else {
            return;
        };
        if after != fetch.after || fetch.forgotten {
            return;
        }
        let earlier = core.journal.at_most(hint);
        let is_above = |a: Position, b: Position| a.index > b.index || a.epoch > b.epoch;
        if is_above(hint, after) || is_above(earlier, hint) {
            fetch.forgotten = true;
            self.moved_ms = now_ms;
            self.resign(Some(from), ResignCause::SourceForgot, out);
            self.fetch = Some(fetch);
        } else {
            fetch.after = earlier;
            self.ask(core, fetch, now_ms, out);
        }
    }

    fn resign<P>(&self, to: Option<NodeId>, why: ResignCause, out: &mut Vec<Effect<P>>) {
        let epoch = self.epoch;
        out.push(Effect::Report(Report::Resign { epoch, to, why }));
    }

    /// Asks again for what has not come, and gives up after a time.
    pub(super) fn on_tick<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        if now_ms.saturating_sub(self.moved_ms) >= core.limits.resign_after_ms {
            self.give_up_learner(core, now_ms);
        }
        let forgotten = self.fetch.as_ref().filter(|fetch| fetch.forgotten);
        if now_ms.saturating_sub(self.moved_ms) >= core.limits.resign_after_ms {
            self.moved_ms = now_ms;
            let (to, why) = match forgotten {
                Some(fetch) => (Some(fetch.from), ResignCause::SourceForgot),
                None => (None, ResignCause::NoMajority),
            };
            self.resign(to, why, out);
        }
        if forgotten.is_some() || now_ms.saturating_sub(self.asked_ms) < core.limits.resend_ms {
            return;
        }
        self.asked_ms = now_ms;
        match &self.fetch {
            Some(fetch) => {
                let target = fetch.target;
                self.fetch_from_next(core, target, now_ms, out);
            }
            None => self.seal(core, out),
        }
    }

    /// The connection to a node is back: it may have missed what was asked.
    pub(super) fn on_connected<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        node: NodeId,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        match self.fetch.clone() {
            Some(fetch) if fetch.from == node && !fetch.forgotten => {
                self.ask(core, fetch, now_ms, out);
            }
            Some(_) => (),
            None => self.seal(core, out),
        }
    }
}
