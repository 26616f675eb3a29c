//! From one role to the next, and each input to the role that it concerns.

use super::{Acked, Answer, Appended, Duty, Follower, Leader, Replica, Takeover};
use super::{Config, Effect, Entry, Message, Position, Report, ResignCause, Weigh};
use crate::ids::{Epoch, Index, NodeId};

impl<P: Clone + Weigh> Replica<P> {
    pub(super) fn on_configure(&mut self, config: Config, now_ms: u64, out: &mut Vec<Effect<P>>) {
        config.check();
        if self.core.config.is_none() && self.core.disk.suspect() {
            self.spent = self.spent.max(config.epoch);
        }
        let known = self.core.config.as_ref();
        if known.is_some_and(|known| known.epoch > config.epoch) {
            return;
        }
        let same = known.filter(|known| known.epoch == config.epoch);
        if let Some(known) = same {
            assert!(
                known.leader == config.leader && same_nodes(&known.replicas, &config.replicas),
                "epoch {} with two leaders or two sets of replicas",
                config.epoch
            );
            if known.is_activated() && !config.is_activated() {
                return;
            }
        }
        let begins = same.is_none() && config.epoch >= self.core.seen;
        self.core.config = Some(config.clone());
        if begins {
            self.enter(&config, now_ms, out);
        } else if let Duty::Leading(leader) = &mut self.duty
            && leader.epoch == config.epoch
        {
            leader.on_configured(&mut self.core, now_ms, out);
        }
    }

    /// Takes up what the map has for this replica in an epoch that it has not heard of from the map.
    fn enter(&mut self, config: &Config, now_ms: u64, out: &mut Vec<Effect<P>>) {
        self.core.seen = config.epoch;
        if config.leader == self.core.me && config.epoch > self.spent {
            let takeover = Takeover::begin(&mut self.core, config.epoch, now_ms, out);
            self.duty = Duty::TakingOver(takeover);
        } else {
            let leader = Some(config.leader).filter(|leader| *leader != self.core.me);
            self.follow(config.epoch, leader);
            self.resign(now_ms, out);
        }
    }

    /// Follows whoever leads in `epoch`, unless it does so already.
    fn follow(&mut self, epoch: Epoch, leader: Option<NodeId>) {
        self.core.seen = self.core.seen.max(epoch);
        match &mut self.duty {
            Duty::Following(follower) if follower.epoch == epoch => {
                follower.leader = follower.leader.or(leader);
            }
            _ => self.duty = Duty::Following(Follower::new(epoch, leader)),
        }
    }

    /// The epoch that the map wants this replica to lead, and that it may not lead.
    pub(super) fn must_resign(&self) -> Option<Epoch> {
        let config = self.core.config.as_ref()?;
        let mine = config.leader == self.core.me && config.epoch == self.core.seen;
        (mine && config.epoch <= self.spent).then_some(config.epoch)
    }

    fn resign(&mut self, now_ms: u64, out: &mut Vec<Effect<P>>) {
        if let Some(epoch) = self.must_resign() {
            self.resigned_ms = now_ms;
            // A suspect leaves it to the others, where there are any: they may know more.
            let can_lead = !self.core.disk.suspect() || self.core.votes_alone();
            out.push(Effect::Report(Report::Resign {
                epoch,
                to: Some(self.core.me).filter(|_| can_lead),
                why: ResignCause::Restarted,
            }));
        }
    }

    pub(super) fn on_message(
        &mut self,
        from: NodeId,
        message: Message<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let epoch = message.epoch();
        match message {
            Message::Seal { .. } => self.on_seal(from, epoch, out),
            Message::Append {
                boot,
                prev,
                entries,
                commit,
                activated,
                answer,
                ..
            } => {
                let append = Appended {
                    boot,
                    prev,
                    entries,
                    commit,
                    activated,
                    answer,
                };
                self.on_append(from, epoch, append, out);
            }
            Message::Fetch { after, .. } => {
                if epoch < self.core.seen {
                    self.core.reject(from, epoch, Position::ZERO, out);
                } else if self.follows(from, epoch) && self.core.disk.promised() == epoch {
                    self.core.on_fetch(from, epoch, after, out);
                }
            }
            Message::Rejected { promised, .. } if promised > epoch => {
                if epoch == self.duty.epoch() && promised > self.core.seen {
                    self.follow(promised, None);
                }
            }
            answer if epoch == self.duty.epoch() => self.on_answer(from, answer, now_ms, out),
            Message::Sealed { .. }
            | Message::Fetched { .. }
            | Message::Diverged { .. }
            | Message::Acked { .. }
            | Message::Rejected { .. } => (),
        }
    }

    /// An answer to this leader, or leader to be, in its epoch.
    fn on_answer(
        &mut self,
        from: NodeId,
        answer: Message<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        let core = &mut self.core;
        match (&mut self.duty, answer) {
            (
                Duty::TakingOver(takeover),
                Message::Sealed {
                    boot,
                    suspect,
                    first,
                    last,
                    commit,
                    ..
                },
            ) => takeover.on_sealed(
                from,
                Answer {
                    boot,
                    suspect,
                    first,
                    last,
                    commit,
                },
            ),
            (
                Duty::TakingOver(takeover),
                Message::Fetched {
                    boot,
                    prev,
                    entries,
                    ..
                },
            ) => takeover.on_fetched(core, (from, boot), prev, entries, now_ms, out),
            (
                Duty::TakingOver(takeover),
                Message::Diverged {
                    boot, after, hint, ..
                },
            ) => takeover.on_diverged(core, (from, boot), after, hint, now_ms, out),
            (
                Duty::Leading(leader),
                Message::Acked {
                    boot,
                    index,
                    received,
                    commit,
                    suspect,
                    ..
                },
            ) => {
                let acked = Acked {
                    boot,
                    index,
                    received,
                    commit,
                    suspect,
                };
                leader.on_acked(core, from, acked, now_ms, out);
            }
            (
                Duty::Leading(leader),
                Message::Rejected {
                    boot, prev, hint, ..
                },
            ) => leader.on_rejected(core, (from, boot), (prev, hint), now_ms, out),
            _ => (),
        }
        self.advance(now_ms, out);
    }

    /// Whether `node` is the leader that this replica follows in `epoch`.
    fn follows(&self, node: NodeId, epoch: Epoch) -> bool {
        match &self.duty {
            Duty::Following(follower) => {
                follower.epoch == epoch && follower.leader.is_none_or(|leader| leader == node)
            }
            Duty::TakingOver(_) | Duty::Leading(_) => false,
        }
    }

    /// Turns to `from` as the leader of `epoch`, unless that epoch is over, or led by another.
    fn turn_to(&mut self, from: NodeId, epoch: Epoch) -> bool {
        let config = self.core.config.as_ref();
        let another = config.is_some_and(|config| config.epoch == epoch && config.leader != from);
        if another {
            return false;
        }
        if epoch > self.duty.epoch() {
            self.follow(epoch, Some(from));
        }
        self.follows(from, epoch)
    }

    fn on_seal(&mut self, from: NodeId, epoch: Epoch, out: &mut Vec<Effect<P>>) {
        if epoch < self.core.seen {
            self.core.reject(from, epoch, Position::ZERO, out);
            return;
        }
        if !self.turn_to(from, epoch) {
            return;
        }
        self.follow(epoch, Some(from));
        if self.has_begun() {
            return;
        }
        self.core.promise(epoch, out);
        if self.core.disk.is_quiet() {
            self.core.answer_seal(from, epoch, out);
        } else {
            self.sealing = Some((self.core.disk.issued(), from, epoch));
        }
    }

    /// Whether the leader that this replica follows has done with its takeover, so that it needs no promise any more.
    fn has_begun(&self) -> bool {
        match &self.duty {
            Duty::Following(follower) => follower.has_heard(),
            Duty::TakingOver(_) | Duty::Leading(_) => false,
        }
    }

    fn on_append(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        append: Appended<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        if epoch < self.core.seen {
            self.core.reject(from, epoch, append.prev, out);
            return;
        }
        if !self.turn_to(from, epoch) {
            return;
        }
        if let Duty::Following(follower) = &mut self.duty {
            follower.on_append(&mut self.core, from, append, out);
            follower.settle(&mut self.core, out);
        }
    }

    pub(super) fn on_persisted(&mut self, ticket: u64, now_ms: u64, out: &mut Vec<Effect<P>>) {
        self.core.disk.persisted(ticket);
        if let Some((_, to, epoch)) = self.sealing.take_if(|(wanted, ..)| *wanted <= ticket)
            && epoch == self.core.seen
            && !self.has_begun()
        {
            self.core.answer_seal(to, epoch, out);
        }
        match &mut self.duty {
            Duty::Following(follower) => follower.settle(&mut self.core, out),
            Duty::TakingOver(takeover) => {
                self.core.journal.drop_recent(self.core.disk.durable());
                takeover.on_persisted(&self.core);
            }
            Duty::Leading(leader) => leader.settle(&mut self.core, now_ms, out),
        }
        self.advance(now_ms, out);
    }

    /// From takeover to leading, as soon as everything is there.
    fn advance(&mut self, now_ms: u64, out: &mut Vec<Effect<P>>) {
        if let Duty::TakingOver(takeover) = &mut self.duty
            && takeover.advance(&self.core, now_ms, out)
        {
            let leader = Leader::begin(&mut self.core, takeover, now_ms, out);
            self.duty = Duty::Leading(leader);
        }
    }

    pub(super) fn on_read(
        &mut self,
        to: NodeId,
        epoch: Epoch,
        entries: Vec<Entry<P>>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) {
        if self.follows(to, epoch) {
            self.core.send_fetched(to, epoch, entries, out);
        } else if let Duty::Leading(leader) = &mut self.duty
            && leader.epoch == epoch
        {
            leader.on_read(&mut self.core, to, entries, now_ms, out);
        }
    }

    pub(super) fn on_applied(&mut self, index: Index, now_ms: u64, out: &mut Vec<Effect<P>>) {
        assert!(
            index <= self.core.commit,
            "{index} was applied before it was committed"
        );
        self.core.applied = self.core.applied.max(index);
        if let Duty::Leading(leader) = &mut self.duty {
            leader.settle(&mut self.core, now_ms, out);
        }
    }

    pub(super) fn on_connected(&mut self, node: NodeId, now_ms: u64, out: &mut Vec<Effect<P>>) {
        self.core.away.remove(&node);
        match &mut self.duty {
            Duty::Following(_) => (),
            Duty::TakingOver(takeover) => takeover.on_connected(&self.core, node, now_ms, out),
            Duty::Leading(leader) => leader.on_connected(&self.core, node, now_ms, out),
        }
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, out: &mut Vec<Effect<P>>) {
        match &mut self.duty {
            Duty::Following(_) => {
                let waited = now_ms.saturating_sub(self.resigned_ms);
                if waited >= self.core.limits.report_again_ms {
                    self.resign(now_ms, out);
                }
            }
            Duty::TakingOver(takeover) => {
                takeover.on_tick(&self.core, now_ms, out);
                self.advance(now_ms, out);
            }
            Duty::Leading(leader) => leader.on_tick(&self.core, now_ms, out),
        }
    }
}

/// Whether both name the same nodes; their order is a matter of preference, and may change within an epoch.
fn same_nodes(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}
