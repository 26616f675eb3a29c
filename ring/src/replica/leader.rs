//! Leading: entries out, acknowledgements in, and what they commit.

use std::collections::{BTreeMap, BTreeSet};

use super::core::Core;
use super::effect::{Effect, Report, ResignCause};
use super::fault::Fault;
use super::message::{Entry, Payload, Position, Weigh};
use super::progress::{Progress, Term};
use super::quorum::{Sets, majority_index};
use super::takeover::Takeover;
use crate::ids::{Epoch, Index, NodeId};

/// A leader whose journal holds everything that was committed before its epoch.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Leader {
    pub(super) epoch: Epoch,
    /// The first entry of the epoch.
    pub(super) barrier: Index,
    pub(super) nodes: BTreeMap<NodeId, Progress>,
    /// Everything up to here was committed before the epoch began, by what the promises said.
    inherited: Index,
    /// Members of sets that answered whole at takeover: they count although they are suspect.
    trusted: BTreeSet<NodeId>,
    pub(super) activated: bool,
    /// When the end of takeover was last reported.
    reported_ms: Option<u64>,
    /// Since when something waits to be committed.
    pub(super) waits_ms: Option<u64>,
}

/// An `Acked`, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acked {
    pub(super) boot: u32,
    pub(super) index: Index,
    pub(super) received: Index,
    pub(super) commit: Index,
    pub(super) suspect: bool,
}

impl Leader {
    /// Begins the epoch that was taken over, with its barrier.
    pub(super) fn begin<P: Clone + Weigh>(
        core: &mut Core<P>,
        takeover: &Takeover,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) -> Self {
        let barrier = core.journal.last().index.next();
        let mut leader = Self {
            epoch: takeover.epoch,
            barrier,
            nodes: BTreeMap::new(),
            inherited: takeover.committed(core),
            trusted: takeover.answered_whole(core),
            activated: false,
            reported_ms: None,
            waits_ms: None,
        };
        core.write(
            vec![Entry {
                epoch: takeover.epoch,
                index: barrier,
                payload: Payload::Barrier,
            }],
            out,
        );
        if leader.trusted.contains(&core.me) {
            core.end_suspicion(out);
        }
        leader.meet_nodes(core, Some(takeover), now_ms, out);
        leader.settle(core, now_ms, out);
        leader
    }

    /// Starts to send to whoever is in the map now, and stops for whoever no longer is.
    fn meet_nodes<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        takeover: Option<&Takeover>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let Some(config) = &core.config else { return };
        let term = self.term(now_ms);
        let wanted = |node: &NodeId| {
            let mut voters = config.voters();
            *node != core.me && (voters.any(|v| v == *node) || config.learners.contains(node))
        };
        self.nodes.retain(|node, _| wanted(node));
        let everyone = config.voters().chain(config.learners.iter().copied());
        for node in everyone.filter(wanted) {
            self.nodes.entry(node).or_insert_with(|| {
                if let Some(takeover) = takeover {
                    let answer = takeover.answers.get(&node);
                    let known = answer.map_or((0, false), |answer| (answer.boot, answer.suspect));
                    return Progress::new(known, self.barrier, now_ms);
                }
                let next = core.journal.last().index.next();
                let mut progress = Progress::new((0, false), next, now_ms);
                progress.probe_again(core, node, term, out);
                progress
            });
        }
    }

    /// The map says something new about this epoch.
    pub(super) fn on_configured<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        self.activated = core
            .config
            .as_ref()
            .is_some_and(super::Config::is_activated);
        if self.activated {
            core.end_suspicion(out);
        }
        self.meet_nodes(core, None, now_ms, out);
        let learners = core
            .config
            .iter()
            .flat_map(|config| config.learners.clone());
        for node in learners.collect::<Vec<_>>() {
            self.report_caught_up(core, node, true, out);
        }
        self.settle(core, now_ms, out);
    }

    /// Whether it may serve: it has taken over, applied what it took over, and the map knows.
    pub(super) fn serves<P>(&self, core: &Core<P>) -> bool {
        self.activated && core.commit >= self.barrier && core.applied >= self.barrier
    }

    /// Appends commands.
    pub(super) fn propose<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        commands: Vec<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) -> Index {
        let first = core.journal.last().index.next();
        let entry = |(index, command)| Entry {
            epoch: self.epoch,
            index: Index(index),
            payload: Payload::Command(command),
        };
        let entries: Vec<_> = (first.0..).zip(commands).map(entry).collect();
        if !entries.is_empty() {
            core.write(entries, out);
            self.settle(core, now_ms, out);
        }
        first
    }

    /// A node acknowledged.
    pub(super) fn on_acked<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        from: NodeId,
        acked: Acked,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let last = core.journal.last().index;
        let Some(progress) = self.nodes.get_mut(&from) else {
            return;
        };
        if acked.index > last
            || acked.received > last
            || !progress.is_of_this_boot(acked.boot, acked.suspect)
        {
            return;
        }
        progress.suspect &= acked.suspect;
        progress.on_acked(acked.index, acked.received, acked.commit, now_ms);
        self.report_caught_up(core, from, false, out);
        self.settle(core, now_ms, out);
    }

    /// A node refused a message because of its `prev`.
    pub(super) fn on_rejected<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        (from, boot): (NodeId, u32),
        (prev, hint): (Position, Position),
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let term = self.term(now_ms);
        if let Some(progress) = self.nodes.get_mut(&from) {
            // Of a new start, only an acknowledgement tells whether the disk came back whole.
            if progress.is_of_this_boot(boot, true) {
                progress.on_rejected(core, (from, prev, hint), term, out);
            }
        }
    }

    /// Entries for a node that lags have been read.
    pub(super) fn on_read<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        to: NodeId,
        entries: Vec<Entry<P>>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let term = self.term(now_ms);
        if let Some(progress) = self.nodes.get_mut(&to) {
            progress.on_read(core, to, entries, term, out);
        }
    }

    /// Entries for a node that lags could not be read.
    pub(super) fn on_read_failed(&mut self, to: NodeId) {
        if let Some(progress) = self.nodes.get_mut(&to) {
            progress.on_read_failed();
        }
    }

    /// The connection to a node is back.
    pub(super) fn on_connected<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        node: NodeId,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let term = self.term(now_ms);
        if let Some(progress) = self.nodes.get_mut(&node) {
            progress.reconnected(core, node, term, out);
        }
    }

    /// Asks again for answers that are late, reports again, and resigns if nothing helps.
    pub(super) fn on_tick<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let term = self.term(now_ms);
        let limits = &core.limits;
        for (node, progress) in &mut self.nodes {
            if progress.is_outstanding(core, *node, self.activated)
                && progress.is_late(now_ms, limits.resend_ms)
            {
                progress.probe_again(core, *node, term, out);
            }
        }
        let report_ms = self.reported_ms.filter(|_| !self.activated);
        if report_ms.is_some_and(|at| now_ms.saturating_sub(at) >= limits.report_again_ms) {
            self.report_activated(now_ms, out);
        }
        if self
            .waits_ms
            .is_some_and(|at| now_ms.saturating_sub(at) >= limits.resign_after_ms)
        {
            self.waits_ms = Some(now_ms);
            out.push(Effect::Report(Report::Resign {
                epoch: self.epoch,
                to: None,
                why: ResignCause::NoMajority,
            }));
        }
    }

    fn report_activated<P>(&mut self, now_ms: u64, out: &mut Vec<Effect<P>>) {
        self.reported_ms = Some(now_ms);
        out.push(Effect::Report(Report::Activated(self.epoch)));
    }

    /// Commits what may be, and sends what there is room for.
    pub(super) fn settle<P: Clone + Weigh>(
        &mut self,
        core: &mut Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let index = self.committed(core);
        let moved = core.committed(index, out);
        let waits = core.commit < core.journal.last().index;
        if moved || !waits || self.waits_ms.is_none() {
            self.waits_ms = waits.then_some(now_ms);
        }
        let done = core.commit >= self.barrier && core.applied >= self.barrier
            || core.faults.has(Fault::EarlyActivation);
        if done && !self.activated && self.reported_ms.is_none() {
            self.report_activated(now_ms, out);
        }
        let term = self.term(now_ms);
        for (node, progress) in &mut self.nodes {
            progress.pump(core, *node, term, out);
        }
        self.let_go(core);
    }

    /// How far everything is committed, whether or not it is durable here.
    fn committed<P: Clone + Weigh>(&self, core: &Core<P>) -> Index {
        let Some(config) = &core.config else {
            return core.commit;
        };
        let held = |node: NodeId| {
            let (held, suspect) = match self.nodes.get(&node) {
                Some(progress) => (progress.matched, progress.suspect),
                None if node == core.me => (core.disk.durable(), core.disk.suspect()),
                None => return Index(0),
            };
            let trusted = self.trusted.contains(&node) || core.faults.has(Fault::SuspectsCount);
            if suspect && !trusted { Index(0) } else { held }
        };
        let sets = Sets::to_commit(config, &core.faults);
        let agreed = sets
            .iter()
            .map(|set| majority_index(set, held))
            .min()
            .unwrap_or_default();
        // An older epoch's entry on a majority may still lose to a journal that ends in a later epoch.
        if agreed >= self.barrier || core.faults.has(Fault::OlderEpochAlone) {
            agreed.max(self.inherited)
        } else {
            self.inherited
        }
    }

    /// Keeps in memory what a follower at hand still lacks, within the limit.
    fn let_go<P: Clone + Weigh>(&self, core: &mut Core<P>) {
        let durable = core.disk.durable();
        let lacking = self
            .nodes
            .iter()
            .filter(|(node, progress)| !progress.behind && !core.away.contains(node))
            .map(|(_, progress)| progress.matched)
            .min();
        core.journal
            .drop_recent(lacking.unwrap_or(durable).min(durable));
        let bytes = core.limits.recent_bytes;
        core.journal.shrink_recent(durable, bytes);
    }

    /// Tells followers how far everything is committed, where no entries went out that did.
    pub(super) fn flush<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let term = self.term(now_ms);
        for (node, progress) in &mut self.nodes {
            progress.tell_commit(core, *node, term, out);
        }
    }

    const fn term(&self, now_ms: u64) -> Term {
        Term {
            epoch: self.epoch,
            activated: self.activated,
            now_ms,
        }
    }
}
