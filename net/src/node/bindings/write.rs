//! A write: decided here, durable here and elsewhere at the same time, answered when enough nodes have it.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_engine::{BindingWrite, HintError, Written};
use mesh_ring::binding::Binding;
use mesh_ring::ids::NodeId;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::{Outcome, Role, Write, WriteEffect};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::copying::Copying;
use super::{DEADLINE, LATE, refused, too_few};
use crate::node::{Shared, reply};
use crate::wire::proto::{Error, ErrorCode};

/// A write that enough nodes have.
pub(in crate::node) struct Made {
    pub(in crate::node) written: Written,
    /// Nodes that have it durably.
    pub(in crate::node) acknowledged: Vec<NodeId>,
    /// Homes that are away, and for which some of them keep it.
    pub(in crate::node) hinted: Vec<NodeId>,
}

/// What came of asking a node.
type Said = (NodeId, Role, Result<(), Error>);

/// Makes a write, and returns when `need` nodes have it. It goes on to the others by itself.
///
/// # Errors
/// It was refused, or too few nodes have it in time: then it may appear all the same.
pub(in crate::node) async fn write(
    shared: &Arc<Shared>,
    preference: Preference,
    need: usize,
    write: BindingWrite,
    room: OwnedSemaphorePermit,
) -> Result<Made, Error> {
    let (answer, answered) = oneshot::channel();
    let task = run(Arc::clone(shared), preference, need, write, room, answer);
    shared.tasks.spawn("binding write", task);
    // A write that was cut off may be on other nodes already: whoever repeats it makes another one, beside it.
    answered.await.unwrap_or_else(|_| Err(cut_off()))
}

fn cut_off() -> Error {
    reply::error(
        ErrorCode::OutcomeUnknown,
        "the node stopped while this was under way: it may have been done; look, or try again",
    )
}

async fn run(
    shared: Arc<Shared>,
    preference: Preference,
    need: usize,
    write: BindingWrite,
    room: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<Made, Error>>,
) {
    let mut effects = Vec::new();
    let live = |node: NodeId| shared.is_alive(node);
    let round = match Write::new(&preference, shared.me(), need, live, &mut effects) {
        Ok(round) => round,
        Err(error) => {
            // Nobody waits any more where the client is gone.
            let _ = answer.send(Err(refused(&shared, &preference, error)));
            return;
        }
    };
    let most = preference.homes.len() + preference.copies.len() + preference.stand_ins.len();
    let (said, heard) = mpsc::channel(most + 1);
    let key = write.key.clone();
    let role = own_role(&effects, shared.me());
    // Before the write is made over what is held.
    let stamp = shared.stamp(preference.partition);
    let (keeping, is_kept) = watch::channel(None);
    let decided = decide(&shared, role, write, room, said.clone(), keeping).await;
    let (binding, written) = match decided {
        Ok(decided) => decided,
        Err(error) => {
            let _ = answer.send(Err(error));
            return;
        }
    };
    let copying = Copying {
        shared: Arc::clone(&shared),
        partition: preference.partition,
        key,
        binding: binding.encode().into(),
        stamp,
        dot: written.dot,
        is_kept,
    };
    let writing = Writing {
        shared,
        copying,
        written,
        answer: Some(answer),
        asked: Vec::new(),
        said,
    };
    writing.run(round, effects, heard).await;
}

/// As what this node keeps the write.
fn own_role(effects: &[WriteEffect], me: NodeId) -> Role {
    let own = effects.iter().find_map(|effect| match effect {
        WriteEffect::Ask { node, role } if *node == me => Some(*role),
        _ => None,
    });
    own.unwrap_or(Role::Home)
}

/// Has the engine decide the write over what it holds. It becomes durable while others are sent it; `said` is told, and
/// `keeping` whether this node keeps it.
async fn decide(
    shared: &Arc<Shared>,
    role: Role,
    write: BindingWrite,
    room: OwnedSemaphorePermit,
    said: mpsc::Sender<Said>,
    keeping: watch::Sender<Option<bool>>,
) -> Result<(Binding, Written), Error> {
    let (sender, decided) = oneshot::channel();
    let (failed, failure) = oneshot::channel();
    let (me, key) = (shared.me(), write.key.clone());
    let tell = move |result: Result<(), Error>| {
        drop(room);
        keeping.send_replace(Some(result.is_ok()));
        if let Err(error) = &result {
            // Nobody listens where it was decided before.
            let _ = failed.send(error.clone());
        }
        // There is a place for every node that is asked.
        let _ = said.try_send((me, role, result));
    };
    let early = move |binding: &Binding, written: &Written| {
        let _ = sender.send((binding.clone(), written.clone()));
    };
    match role {
        Role::StandIn { home } => {
            shared
                .engine
                .submit_hinted_write(home, write, early, move |result| {
                    tell(result.map(|_| ()).map_err(|error| of_hint(&error)));
                });
        }
        Role::Home | Role::Copy => shared
            .engine
            .submit_write_early(write, early, move |result| {
                tell(
                    result
                        .map(|_| ())
                        .map_err(|error| reply::of_binding(&error)),
                );
            }),
    }
    match decided.await {
        Ok(decided) => Ok(decided),
        Err(_) => {
            let error = failure.await.unwrap_or_else(|_| reply::internal());
            Err(shared.mended(&key, error))
        }
    }
}

/// A hint that was not kept, in the words of the wire.
pub(super) fn of_hint(reason: &HintError) -> Error {
    let message = reason.to_string();
    match reason {
        HintError::Refused(error) => reply::of_binding(error),
        HintError::Full { .. } | HintError::DiskFull { .. } => {
            reply::error(ErrorCode::NoSpace, message)
        }
        HintError::Read(error) => reply::of_read(error),
        HintError::Stopped(_) => reply::error(ErrorCode::Stopped, message),
    }
}

/// A write on its way to the nodes that are to have it.
struct Writing {
    shared: Arc<Shared>,
    copying: Copying,
    written: Written,
    /// Until the client has its answer.
    answer: Option<oneshot::Sender<Result<Made, Error>>>,
    /// Whom it was sent to, and since when no answer has come.
    asked: Vec<(NodeId, Role)>,
    said: mpsc::Sender<Said>,
}

impl Writing {
    async fn run(
        mut self,
        mut round: Write,
        mut effects: Vec<WriteEffect>,
        mut heard: mpsc::Receiver<Said>,
    ) {
        let deadline = Instant::now() + DEADLINE;
        let mut late_at = Instant::now() + LATE;
        loop {
            for effect in std::mem::take(&mut effects) {
                self.perform(effect, deadline);
            }
            if round.is_settled() {
                return;
            }
            tokio::select! {
                Some((node, role, result)) = heard.recv() => {
                    self.asked.retain(|asked| *asked != (node, role));
                    match result {
                        Ok(()) => round.acknowledged(node, role, &mut effects),
                        Err(error) => {
                            tracing::debug!(%node, ?role, message = error.message, "a node did not take a binding");
                            round.failed(node, role, &mut effects);
                        }
                    }
                }
                () = sleep_until(late_at) => {
                    for (node, role) in self.asked.clone() {
                        round.late(node, role, &mut effects);
                    }
                    late_at = Instant::now() + LATE;
                }
                () = sleep_until(deadline) => break,
                () = self.shared.tasks.stopping() => break,
            }
        }
        round.deadline(&mut effects);
        for effect in effects {
            self.perform(effect, deadline);
        }
    }

    fn perform(&mut self, effect: WriteEffect, deadline: Instant) {
        match effect {
            WriteEffect::Ask { node, role } => {
                self.asked.push((node, role));
                // What this node keeps it was asked once, and before all others: it is where the write was decided.
                if node != self.shared.me() {
                    self.send(node, role, deadline);
                }
            }
            WriteEffect::Done(outcome) => {
                if let Some(answer) = self.answer.take() {
                    let _ = answer.send(self.made(outcome));
                }
            }
        }
    }

    fn send(&self, node: NodeId, role: Role, deadline: Instant) {
        let (copying, said) = (self.copying.clone(), self.said.clone());
        self.shared.tasks.spawn("binding copy", async move {
            let result = copying.send(node, role, deadline).await;
            // Nobody listens once the round is over.
            let _ = said.send((node, role, result)).await;
        });
    }

    fn made(&self, outcome: Outcome) -> Result<Made, Error> {
        match outcome {
            Outcome::Written {
                acknowledged,
                hinted,
            } => {
                let homes: BTreeSet<NodeId> = hinted.into_iter().map(|(_, home)| home).collect();
                Ok(Made {
                    written: self.written.clone(),
                    acknowledged,
                    hinted: homes.into_iter().collect(),
                })
            }
            Outcome::TooFew { need, have } => Err(too_few(need, have)),
        }
    }
}
