//! How far one other replica is, and what is on its way to it: a window that is refilled as acknowledgements come, and
//! a probe where they do not.

use std::collections::VecDeque;

use super::core::Core;
use super::effect::Effect;
use super::message::{Entry, Lane, Message, Position, Weigh};
use crate::ids::{Epoch, Index, NodeId};

/// A leader's view of one other node.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Progress {
    /// The start of the node that the rest of this speaks of; 0 if it has never been heard of.
    boot: u32,
    pub(super) suspect: bool,
    /// The node has everything up to here durably, the same as this leader.
    pub(super) matched: Index,
    /// The node knows that everything up to here is committed.
    known_commit: Index,
    /// What it has been told of that.
    told_commit: Index,
    /// The next entry to send.
    next: Index,
    /// Messages with entries that are not acknowledged.
    window: VecDeque<Shipped>,
    window_entries: usize,
    window_bytes: usize,
    /// The lane of what is in the window, which later entries must not overtake.
    lane: Lane,
    /// The `prev` of an empty message that has to be answered before anything else is sent.
    probe: Option<Position>,
    /// Entries are being read from the disk for it.
    reading: bool,
    /// Its journal ends before this one begins.
    pub(super) behind: bool,
    /// That it has caught up was reported.
    pub(super) caught_up: bool,
    /// When something was last sent or answered.
    moved_ms: u64,
}

/// The entries of one message.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Shipped {
    last: Index,
    entries: usize,
    bytes: usize,
}

/// What a leader says with every message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) epoch: Epoch,
    pub(super) activated: bool,
    pub(super) now_ms: u64,
}

impl Progress {
    /// A node that is taken to have everything before `next`, until it says otherwise.
    pub(super) const fn new((boot, suspect): (u32, bool), next: Index, now_ms: u64) -> Self {
        Self {
            boot,
            suspect,
            matched: Index(0),
            known_commit: Index(0),
            told_commit: Index(0),
            next,
            window: VecDeque::new(),
            window_entries: 0,
            window_bytes: 0,
            lane: Lane::Live,
            probe: None,
            reading: false,
            behind: false,
            caught_up: false,
            moved_ms: now_ms,
        }
    }

    /// Whether the node speaks of its disk as it is since its last start. With a new start, nothing said before counts.
    pub(super) fn is_of_this_boot(&mut self, boot: u32, suspect: bool) -> bool {
        if boot > self.boot {
            self.boot = boot;
            self.suspect = suspect;
            self.matched = Index(0);
            self.known_commit = Index(0);
            self.caught_up = false;
        }
        boot == self.boot
    }

    /// The node acknowledged up to `index`, and has received up to `received`.
    pub(super) fn on_acked(&mut self, index: Index, received: Index, commit: Index, now_ms: u64) {
        let moved = index > self.matched || commit > self.known_commit;
        self.matched = self.matched.max(index);
        self.known_commit = self.known_commit.max(commit);
        self.behind = false;
        if moved || self.probe.is_some() {
            self.moved_ms = now_ms;
        }
        if self.probe.take().is_some() {
            self.clear_window();
            self.next = received.max(self.matched).next();
        }
        self.next = self.next.max(self.matched.next());
        while let Some(front) = self.window.front() {
            if front.last > self.matched {
                break;
            }
            self.window_entries -= front.entries;
            self.window_bytes -= front.bytes;
            self.window.pop_front();
        }
    }

    fn clear_window(&mut self) {
        self.window.clear();
        self.window_entries = 0;
        self.window_bytes = 0;
    }

    /// The node does not have `prev`; its last entry that may be shared is `hint`.
    pub(super) fn on_rejected<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        (to, prev, hint): (NodeId, Position, Position),
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        let expected = match self.probe {
            Some(probe) => prev == probe,
            None => prev.index >= self.matched && prev.index < self.next,
        };
        if !expected {
            return;
        }
        let mut shared = core.journal.at_most(hint);
        if shared.index > hint.index || shared.epoch > hint.epoch {
            // Where the two part is no longer kept here.
            self.mark_behind(to, out);
            return;
        }
        if shared.index < self.matched {
            shared = core.journal.position_at(self.matched);
        }
        self.probe_at(core, to, shared, term, out);
    }

    fn mark_behind<P>(&mut self, node: NodeId, out: &mut Vec<Effect<P>>) {
        if !self.behind {
            self.behind = true;
            self.probe = None;
            self.clear_window();
            out.push(Effect::Behind { node });
        }
    }

    /// Asks whether the node has `prev`; until it answers, nothing else is sent.
    fn probe_at<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        prev: Position,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        self.clear_window();
        self.next = prev.index.next();
        self.probe = Some(prev);
        self.moved_ms = term.now_ms;
        self.say(core, to, (prev, Vec::new(), Lane::Live), true, term, out);
    }

    /// Starts again at what is certain: the node may have missed what was sent.
    pub(super) fn probe_again<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        let unanswered = self.window.front();
        let start = match (self.probe, unanswered) {
            (Some(probe), _) => probe.index,
            (None, Some(front)) => Index(front.last.0 - front.entries as u64),
            (None, None) => Index(self.next.0 - 1),
        };
        let start = if self.matched > Index(0) {
            self.matched
        } else {
            start
        };
        if start < core.journal.before().index {
            self.mark_behind(to, out);
        } else {
            self.probe_at(core, to, core.journal.position_at(start), term, out);
        }
    }

    /// Sends what the window has room for.
    pub(super) fn pump<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        while !self.reading && self.is_open(core, to) && self.next <= core.journal.last().index {
            let (bytes, count) = self.room(core);
            if count == 0 {
                break;
            }
            if self.next <= core.journal.before().index {
                self.mark_behind(to, out);
                break;
            }
            let bytes = bytes.min(core.limits.message_bytes);
            let Some(entries) = core.journal.recent_from(self.next, bytes, count) else {
                self.reading = true;
                out.push(Effect::Read {
                    to,
                    epoch: term.epoch,
                    from: self.next,
                    bytes,
                });
                break;
            };
            let lane = if self.window.is_empty() {
                Lane::Live
            } else {
                self.lane
            };
            self.ship(core, to, (entries, lane), term, out);
        }
    }

    /// Entries from the disk are there. Whatever else than what is wanted now is as good as nothing: the next tick tries
    /// again.
    pub(super) fn on_read<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        entries: Vec<Entry<P>>,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        self.reading = false;
        let entries = core.journal.still_here(entries);
        let wanted = entries
            .first()
            .is_some_and(|entry| entry.index == self.next);
        if wanted && self.is_open(core, to) {
            self.ship(core, to, (entries, Lane::CatchUp), term, out);
            self.pump(core, to, term, out);
        }
    }

    /// Entries could not be read from the disk. The next tick tries again.
    pub(super) const fn on_read_failed(&mut self) {
        self.reading = false;
    }

    /// Says how far everything is committed, if the node has not been told.
    pub(super) fn tell_commit<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        // It must not overtake entries in the other lane either.
        let lane_is_free = self.window.is_empty() || self.lane == Lane::Live;
        let news = self.told_commit < core.commit && self.next > core.commit;
        if news && lane_is_free && self.is_open(core, to) {
            let prev = core.journal.position_at(Index(self.next.0 - 1));
            self.say(core, to, (prev, Vec::new(), Lane::Live), false, term, out);
        }
    }

    fn is_open<P: Clone + Weigh>(&self, core: &Core<P>, to: NodeId) -> bool {
        self.probe.is_none() && !self.behind && !core.is_away(to)
    }

    /// Bytes and entries that may be sent now. While nothing is under way one entry may be, however large.
    fn room<P: Clone + Weigh>(&self, core: &Core<P>) -> (usize, usize) {
        let bytes = core.limits.window_bytes.saturating_sub(self.window_bytes);
        let entries = core
            .limits
            .window_entries
            .saturating_sub(self.window_entries);
        if self.window.is_empty() {
            (bytes, entries.max(1))
        } else if bytes == 0 {
            (0, 0)
        } else {
            (bytes, entries)
        }
    }

    fn ship<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        (entries, lane): (Vec<Entry<P>>, Lane),
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        if self.window.is_empty() {
            self.moved_ms = term.now_ms;
        }
        let prev = core.journal.position_at(Index(self.next.0 - 1));
        let last = Index(prev.index.0 + entries.len() as u64);
        let bytes = entries.iter().map(Weigh::bytes).sum();
        self.window_entries += entries.len();
        self.window_bytes += bytes;
        self.window.push_back(Shipped {
            last,
            entries: entries.len(),
            bytes,
        });
        self.next = last.next();
        self.lane = lane;
        self.say(core, to, (prev, entries, lane), false, term, out);
    }

    fn say<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        (prev, entries, lane): (Position, Vec<Entry<P>>, Lane),
        answer: bool,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        if self.told_commit < core.commit && self.window.is_empty() {
            self.moved_ms = term.now_ms;
        }
        self.told_commit = core.commit;
        let message = Message::Append {
            epoch: term.epoch,
            boot: self.boot,
            prev,
            entries,
            commit: core.commit,
            activated: term.activated,
            answer,
        };
        core.send_in(lane, to, message, out);
    }

    /// Whether an answer is due: entries, a commit index, or the end of suspicion.
    pub(super) fn is_outstanding<P: Clone + Weigh>(
        &self,
        core: &Core<P>,
        node: NodeId,
        activated: bool,
    ) -> bool {
        let waits = self.probe.is_some()
            || self.matched < core.journal.last().index
            || self.known_commit < core.commit
            || self.suspect && activated;
        waits && !self.behind && !core.is_away(node)
    }

    /// Whether what was sent has waited too long for an answer.
    pub(super) const fn is_late(&self, now_ms: u64, resend_ms: u64) -> bool {
        now_ms.saturating_sub(self.moved_ms) >= resend_ms
    }

    /// The connection is back, or the node was given what it lacked: then only the node knows how far it is.
    pub(super) fn reconnected<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        to: NodeId,
        term: Term,
        out: &mut Vec<Effect<P>>,
    ) {
        if self.behind {
            self.behind = false;
            self.probe_at(core, to, core.journal.last(), term, out);
        } else {
            self.probe_again(core, to, term, out);
        }
    }

    /// Whether everything is on its way, or has arrived, of what was written.
    pub(super) const fn keeps_up(&self, last: Index, window_entries: usize) -> bool {
        let lag = last.0.saturating_sub(self.matched.0);
        !self.reading && !self.behind && self.probe.is_none() && lag <= window_entries as u64
    }
}
