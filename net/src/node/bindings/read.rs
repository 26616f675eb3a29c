//! A read: of all homes that live, answered when enough have; what is stale is repaired afterwards.

use std::pin::pin;
use std::sync::Arc;

use mesh_ring::binding::Binding;
use mesh_ring::ids::NodeId;
use mesh_ring::name::BindingKey;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::{Answer, Read, ReadEffect, ReadOutcome, Repair, Role};
use mesh_ring::tombstone::Stamp;
use tokio::time::{Instant, sleep_until};

use super::inbox::Inbox;
use super::{DEADLINE, LATE, exchange, refused, too_few};
use crate::node::Shared;
use crate::node::tombstones::Stale;
use crate::wire::proto::Error;

/// What is said of a read: what a node holds.
type Heard = (NodeId, Result<(Binding, Stamp), Error>);

/// Reads what nodes hold of the key, and tells `answer` what `need` of them hold together. Returns when all have answered, or
/// their time is up, and what is stale is on its way to be repaired.
///
/// `answer` is told of an error where too few have answered in time, or a copy cannot be read.
pub(in crate::node) async fn read(
    shared: &Arc<Shared>,
    preference: Preference,
    need: usize,
    key: BindingKey,
    answer: impl FnOnce(Result<Binding, Error>) + Send,
) {
    let mut effects = Vec::new();
    let live = |node: NodeId| shared.is_alive(node);
    let was_away = |node: NodeId| shared.bindings.away.was(node);
    let me = shared.me();
    let mut round = match Read::new(&preference, me, need, live, was_away, &mut effects) {
        Ok(round) => round,
        Err(error) => return answer(Err(refused(shared, &preference, error))),
    };
    let deadline = Instant::now() + DEADLINE;
    let inbox = Arc::new(Inbox::default());
    let mut reading = Reading {
        shared: Arc::clone(shared),
        preference,
        key,
        answer: Some(answer),
        asked: Vec::new(),
        inbox: Arc::clone(&inbox),
        deadline,
    };
    let mut timer = pin!(sleep_until(Instant::now() + LATE));
    let mut stopping = pin!(shared.tasks.stopping());
    loop {
        for effect in effects.drain(..) {
            reading.perform(effect);
        }
        if round.is_settled() {
            return;
        }
        tokio::select! {
            (node, result) = inbox.next() => {
                reading.asked.retain(|asked| *asked != node);
                match result {
                    Ok((binding, stamp)) => {
                        round.answered(node, Answer { binding, stamp }, &mut effects);
                    }
                    Err(error) => {
                        tracing::debug!(%node, message = error.message, "a node did not read a binding");
                        round.failed(node, &mut effects);
                    }
                }
            }
            () = timer.as_mut() => {
                if Instant::now() >= deadline {
                    round.deadline(&mut effects);
                } else {
                    for node in reading.asked.clone() {
                        round.late(node, &mut effects);
                    }
                }
                timer.as_mut().reset(deadline.max(Instant::now()).min(Instant::now() + LATE));
            }
            () = stopping.as_mut() => return,
        }
    }
}

struct Reading<A> {
    shared: Arc<Shared>,
    preference: Preference,
    key: BindingKey,
    answer: Option<A>,
    asked: Vec<NodeId>,
    inbox: Arc<Inbox<Heard>>,
    deadline: Instant,
}

impl<A: FnOnce(Result<Binding, Error>) + Send> Reading<A> {
    fn perform(&mut self, effect: ReadEffect) {
        match effect {
            ReadEffect::Ask(node) => self.ask(node),
            ReadEffect::Done(outcome) => {
                if let Some(answer) = self.answer.take() {
                    answer(match outcome {
                        ReadOutcome::Read { binding, .. } => Ok(binding),
                        ReadOutcome::TooFew { need, have } => Err(too_few(need, have)),
                    });
                }
            }
            ReadEffect::Repair(repair) => self.repair(repair),
        }
    }

    fn ask(&mut self, node: NodeId) {
        self.asked.push(node);
        let inbox = Arc::clone(&self.inbox);
        let done = move |result| inbox.tell((node, result));
        if node != self.shared.me() {
            let is_home = self.preference.homes.contains(&node);
            return exchange::ask(&self.shared, node, &self.key, is_home, self.deadline, done);
        }
        let stamp = self.shared.stamp(self.preference.partition);
        if let Some(known) = exchange::known_at_hand(&self.shared, &self.key) {
            return done(known.map(|binding| (binding, stamp)));
        }
        let (shared, key) = (Arc::clone(&self.shared), self.key.clone());
        self.shared.tasks.spawn("binding read", async move {
            let known = exchange::known(&shared, key).await;
            done(known.map(|binding| (binding, stamp)));
        });
    }

    /// Brings a stale home up to date, in the background. What does not arrive is left to the next repair.
    fn repair(&self, repair: Repair) {
        self.shared.bindings.note_repair();
        let (shared, key) = (Arc::clone(&self.shared), self.key.clone());
        let id = self.preference.partition;
        self.shared.tasks.spawn("read repair", async move {
            let Repair {
                node,
                binding,
                stamp,
            } = repair;
            let deadline = Instant::now() + DEADLINE;
            let stored = if node == shared.me() {
                exchange::merge(&shared, node, stamp, key, binding).await
            } else {
                let body = binding.encode().into();
                exchange::send(&shared, node, Role::Home, (&key, stamp), body, deadline).await
            };
            if let Err(error) = stored {
                tracing::debug!(%node, message = error.message, "a stale copy was not repaired");
                // What was read is too old to be sent again; what is read next is not.
                if let Some(Stale::Fenced(fence)) = Stale::of(&error) {
                    shared.catch_up(id, fence).await;
                }
            }
        });
    }
}
