//! A read: of all homes that live, answered when enough have; what is stale is repaired afterwards.

use std::sync::Arc;

use mesh_ring::binding::Binding;
use mesh_ring::ids::NodeId;
use mesh_ring::name::BindingKey;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::{Answer, Read, ReadEffect, ReadOutcome, Repair, Role};
use mesh_ring::tombstone::Stamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{DEADLINE, LATE, exchange, refused, too_few};
use crate::node::tombstones::Stale;
use crate::node::{Shared, reply};
use crate::wire::proto::Error;

type Said = (NodeId, Result<(Binding, Stamp), Error>);

/// What `need` nodes hold of the key, together.
///
/// # Errors
/// Too few have answered in time, or a copy cannot be read.
pub(in crate::node) async fn read(
    shared: &Arc<Shared>,
    preference: Preference,
    need: usize,
    key: BindingKey,
) -> Result<Binding, Error> {
    let (answer, answered) = oneshot::channel();
    let reading = run(Arc::clone(shared), preference, need, key, answer);
    shared.tasks.spawn("binding read", reading);
    answered.await.unwrap_or_else(|_| Err(reply::stopping()))
}

async fn run(
    shared: Arc<Shared>,
    preference: Preference,
    need: usize,
    key: BindingKey,
    answer: oneshot::Sender<Result<Binding, Error>>,
) {
    let mut effects = Vec::new();
    let live = |node: NodeId| shared.is_alive(node);
    let was_away = |node: NodeId| shared.bindings.away.was(node);
    let me = shared.me();
    let mut round = match Read::new(&preference, me, need, live, was_away, &mut effects) {
        Ok(round) => round,
        Err(error) => {
            let _ = answer.send(Err(refused(&shared, &preference, error)));
            return;
        }
    };
    let most = preference.homes.len() + preference.stand_ins.len();
    let (said, mut heard) = mpsc::channel(most + 1);
    let deadline = Instant::now() + DEADLINE;
    let mut late_at = Instant::now() + LATE;
    let mut reading = Reading {
        shared,
        preference,
        key,
        answer: Some(answer),
        asked: Vec::new(),
        said,
        deadline,
    };
    loop {
        for effect in std::mem::take(&mut effects) {
            reading.perform(effect);
        }
        if round.is_settled() {
            return;
        }
        tokio::select! {
            Some((node, result)) = heard.recv() => {
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
            () = sleep_until(late_at) => {
                for node in reading.asked.clone() {
                    round.late(node, &mut effects);
                }
                late_at = Instant::now() + LATE;
            }
            () = sleep_until(deadline) => round.deadline(&mut effects),
            () = reading.shared.tasks.stopping() => return,
        }
    }
}

struct Reading {
    shared: Arc<Shared>,
    preference: Preference,
    key: BindingKey,
    answer: Option<oneshot::Sender<Result<Binding, Error>>>,
    asked: Vec<NodeId>,
    said: mpsc::Sender<Said>,
    deadline: Instant,
}

impl Reading {
    fn perform(&mut self, effect: ReadEffect) {
        match effect {
            ReadEffect::Ask(node) => self.ask(node),
            ReadEffect::Done(outcome) => {
                if let Some(answer) = self.answer.take() {
                    // Nobody waits any more where the client is gone.
                    let _ = answer.send(match outcome {
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
        let (shared, said) = (Arc::clone(&self.shared), self.said.clone());
        let (key, deadline) = (self.key.clone(), self.deadline);
        let is_home = self.preference.homes.contains(&node);
        self.shared.tasks.spawn("binding read", async move {
            let result = if node == shared.me() {
                let stamp = shared.stamp(shared.engine.partition_of(key.as_bytes()));
                let known = exchange::known(&shared, key).await;
                known.map(|binding| (binding, stamp))
            } else {
                exchange::ask(&shared, node, &key, is_home, deadline).await
            };
            let _ = said.send((node, result)).await;
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
                exchange::send(&shared, node, Role::Home, &key, body, stamp, deadline).await
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
