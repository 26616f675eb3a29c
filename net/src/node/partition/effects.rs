//! What the core wants done: carried out, with what follows from it.

use std::sync::Arc;

use mesh_engine::{JournalEntry, Persist, ReadError};
use mesh_ring::command::Command;
use mesh_ring::ids::{Index, NodeId};
use mesh_ring::replica::{self, Effect, Entry, Input, Role};

use super::PartitionRole;
use super::actor::{Actor, Doors};
use super::pending::Fate;
use crate::node::payload::Payload;

impl<D: Doors> Actor<D> {
    /// Carries out every effect, and those that follow from them.
    pub(super) fn carry_out(&mut self) {
        loop {
            for effect in std::mem::take(&mut self.effects) {
                self.perform(effect);
            }
            let applied = self.completions.applied_upto();
            if applied > self.applied {
                self.settle(applied);
            }
            if self.effects.is_empty() {
                return;
            }
        }
    }

    fn perform(&mut self, effect: Effect<Payload>) {
        match effect {
            Effect::Persist {
                ticket,
                promise,
                suspect,
                truncate,
                entries,
            } => {
                self.persist(
                    ticket,
                    Persist {
                        partition: self.id,
                        promise,
                        suspect,
                        truncate,
                        entries: entries.iter().map(journal_entry).collect(),
                    },
                );
            }
            Effect::Send { to, message, lane } => self.doors.send(to, self.id, message, lane),
            Effect::Read {
                to,
                epoch,
                from,
                bytes,
            } => self.doors.read(self.id, to, epoch, from, bytes),
            Effect::Commit(upto) => self.commit(upto),
            Effect::Truncated(from) => {
                tracing::info!(partition = %self.id, %from, "cut off entries that were never committed")
            }
            Effect::Role(role) => self.change_role(role),
            Effect::Report(report) => self.doors.report(self.id, report),
            Effect::Behind { node } => self.doors.rebuild(self.id, self.replica.epoch(), node),
        }
    }

    fn persist(&mut self, ticket: u64, persist: Persist) {
        if let Err(error) = self.follow(&persist) {
            self.fail(&error);
        }
        if let Some(permit) = self.admitting.take() {
            self.admitted.push_back((ticket, permit));
        }
        let completions = Arc::clone(&self.completions);
        self.engine
            .submit_persist(persist, move |result| completions.persisted(ticket, result));
    }

    /// Lets the ledger know what the journal becomes; the leader's own decisions it knows already.
    fn follow(&mut self, persist: &Persist) -> Result<(), ReadError> {
        if self.failed.is_some() {
            // It cannot be told what it missed; the journal goes on without it.
            return Ok(());
        }
        if let Some(from) = persist.truncate {
            self.ledger.truncate(from);
            self.known = self.known.min(Index(from.0 - 1));
        }
        let source = self.engine.source(self.id);
        for entry in &persist.entries {
            if entry.index > self.known {
                self.ledger.follow(&source, entry.index, &entry.command)?;
                self.known = entry.index;
            }
        }
        Ok(())
    }

    fn commit(&mut self, upto: Index) {
        let completions = Arc::clone(&self.completions);
        self.engine.submit_commit(self.id, upto, move |result| {
            completions.applied(upto, result)
        });
    }

    /// Everything up to here is applied.
    fn settle(&mut self, upto: Index) {
        self.applied = upto;
        if self.failed.is_none() {
            self.ledger.settle(upto);
        }
        self.step(Input::Applied(upto));
        self.answer(upto);
        if self.ledger.checkpoint_due() {
            self.checkpoint();
        }
    }

    pub(super) fn checkpoint(&mut self) {
        if let Some(checkpoint) = self.ledger.checkpoint() {
            let completions = Arc::clone(&self.completions);
            let done = move |result| completions.checkpointed(result);
            self.engine.submit_checkpoint(self.id, checkpoint, done);
        }
    }

    /// Answers everyone whose entry is applied.
    fn answer(&mut self, upto: Index) {
        let Some(first) = self.pending.first().filter(|first| *first <= upto) else {
            return;
        };
        // Whoever has an entry has those before it: where as many have the last as have the first, they have all.
        let synced: Arc<[NodeId]> = self.replica.synced(upto).into();
        let is_same = self.replica.synced(first).len() == synced.len();
        for (index, waiting) in self.pending.due(upto) {
            waiting(Fate::Settled(if is_same {
                Arc::clone(&synced)
            } else {
                self.replica.synced(index).into()
            }));
        }
    }

    fn change_role(&mut self, role: Role) {
        match role {
            // Another replica can decide: with the next tick it is asked for.
            Role::Leading(_) if self.failed.is_some() => self.resigned = None,
            Role::Leading(_) => self.ledger.lead(),
            Role::Follower { .. } | Role::TakingOver(_) => self.lose_waiting(),
        }
        let leader = self.replica.leader();
        let (role, epoch) = (PartitionRole::from(role), self.replica.epoch());
        tracing::debug!(partition = %self.id, ?role, %epoch, "role");
        self.status.send_modify(|status| {
            status.role = role;
            status.epoch = epoch;
            status.leader = leader;
        });
    }
}

fn journal_entry(entry: &Entry<Payload>) -> JournalEntry {
    let (command, batch) = match &entry.payload {
        replica::Payload::Barrier => (Command::Barrier, None),
        replica::Payload::Command(payload) => (payload.command().clone(), payload.batch().cloned()),
    };
    JournalEntry {
        index: entry.index,
        epoch: entry.epoch,
        command,
        batch,
    }
}
