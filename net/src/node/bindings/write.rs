//! A write: decided here, durable here and elsewhere at the same time, answered when enough nodes have it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use mesh_engine::{BindingWrite, HintError, Written};
use mesh_ring::binding::Binding;
use mesh_ring::ids::NodeId;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::{Outcome, Role, Write, WriteEffect};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::copying::Copying;
use super::inbox::Inbox;
use super::{DEADLINE, LATE, refused, too_few};
use crate::node::tombstones::Stale;
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

/// What is said of a write.
enum Heard {
    /// What the key is after it. Said first, unless it was refused.
    Decided(Binding, Written),
    /// Whether this node keeps it durably.
    Own(Result<(), Error>),
    /// Whether another node does.
    Other(NodeId, Role, Result<(), Error>),
}

/// Makes a write, and tells `answer` when `need` nodes have it. Returns when all others have it too, or their time is up.
///
/// `answer` is told of an error where it was refused, or too few nodes have it in time: then it may appear all the same.
pub(in crate::node) async fn write(
    shared: &Arc<Shared>,
    preference: Preference,
    need: usize,
    write: BindingWrite,
    room: OwnedSemaphorePermit,
    answer: impl FnOnce(Result<Made, Error>) + Send,
) {
    let mut effects = Vec::new();
    let live = |node: NodeId| shared.is_alive(node);
    let round = match Write::new(&preference, shared.me(), need, live, &mut effects) {
        Ok(round) => round,
        Err(error) => return answer(Err(refused(shared, &preference, error))),
    };
    let own = own_role(&effects, shared.me());
    // Before the write is made over what is held.
    let stamp = shared.stamp(preference.partition);
    let inbox = Arc::new(Inbox::default());
    let key = write.key.clone();
    submit(shared, own, write, room, &inbox);
    let (binding, written) = match inbox.next().await {
        Heard::Decided(binding, written) => (binding, written),
        Heard::Own(Err(error)) => return answer(Err(shared.mended(&key, error))),
        Heard::Own(Ok(())) | Heard::Other(..) => return answer(Err(reply::internal())),
    };
    let writing = Writing {
        shared: Arc::clone(shared),
        copying: Copying {
            shared: Arc::clone(shared),
            partition: preference.partition,
            key,
            binding: binding.encode().into(),
            stamp,
            dot: written.dot,
        },
        written,
        own,
        is_kept: watch::Sender::new(None),
        answer: Some(answer),
        asked: Vec::new(),
        inbox,
    };
    writing.run(round, effects).await;
}

/// As what this node keeps the write.
fn own_role(effects: &[WriteEffect], me: NodeId) -> Role {
    let own = effects.iter().find_map(|effect| match effect {
        WriteEffect::Ask { node, role } if *node == me => Some(*role),
        _ => None,
    });
    own.unwrap_or(Role::Home)
}

/// Has the engine decide the write over what it holds. It becomes durable while others are sent it.
fn submit(
    shared: &Shared,
    own: Role,
    write: BindingWrite,
    room: OwnedSemaphorePermit,
    inbox: &Arc<Inbox<Heard>>,
) {
    let (decided, kept) = (Arc::clone(inbox), Arc::clone(inbox));
    let early = move |binding: &Binding, written: &Written| {
        decided.tell(Heard::Decided(binding.clone(), written.clone()));
    };
    match own {
        Role::StandIn { home } => {
            shared
                .engine
                .submit_hinted_write(home, write, early, move |result| {
                    drop(room);
                    kept.tell(Heard::Own(
                        result.map(|_| ()).map_err(|error| of_hint(&error)),
                    ));
                });
        }
        Role::Home | Role::Copy => shared
            .engine
            .submit_write_early(write, early, move |result| {
                drop(room);
                let result = result.map(|_| ());
                kept.tell(Heard::Own(
                    result.map_err(|error| reply::of_binding(&error)),
                ));
            }),
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
struct Writing<A> {
    shared: Arc<Shared>,
    copying: Copying,
    written: Written,
    /// As what this node keeps it.
    own: Role,
    /// Whether it does, once that is known.
    is_kept: watch::Sender<Option<bool>>,
    /// Until the client has its answer.
    answer: Option<A>,
    /// Whom it was sent to, and since when no answer has come.
    asked: Vec<(NodeId, Role)>,
    inbox: Arc<Inbox<Heard>>,
}

impl<A: FnOnce(Result<Made, Error>) + Send> Writing<A> {
    async fn run(mut self, mut round: Write, mut effects: Vec<WriteEffect>) {
        let deadline = Instant::now() + DEADLINE;
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        let mut timer = pin!(sleep_until(Instant::now() + LATE));
        let mut stopping = pin!(shared.tasks.stopping());
        loop {
            for effect in effects.drain(..) {
                self.perform(effect, deadline);
            }
            if round.is_settled() {
                return;
            }
            tokio::select! {
                heard = inbox.next() => self.hear(heard, deadline, &mut round, &mut effects),
                () = timer.as_mut() => {
                    if Instant::now() >= deadline {
                        break;
                    }
                    for (node, role) in self.asked.clone() {
                        round.late(node, role, &mut effects);
                    }
                    timer.as_mut().reset(deadline.min(Instant::now() + LATE));
                }
                () = stopping.as_mut() => break,
            }
        }
        round.deadline(&mut effects);
        for effect in effects {
            self.perform(effect, deadline);
        }
    }

    fn hear(
        &mut self,
        heard: Heard,
        deadline: Instant,
        round: &mut Write,
        effects: &mut Vec<WriteEffect>,
    ) {
        let (node, role, result) = match heard {
            Heard::Other(node, role, result) => (node, role, result),
            Heard::Own(result) => {
                self.is_kept.send_replace(Some(result.is_ok()));
                (self.shared.me(), self.own, result)
            }
            // It is said once.
            Heard::Decided(..) => return,
        };
        if let Err(error) = &result
            && let Some(stale) = Stale::of(error)
        {
            return self.send_anew(node, role, stale, error.clone(), deadline);
        }
        self.asked.retain(|asked| *asked != (node, role));
        match result {
            Ok(()) => round.acknowledged(node, role, effects),
            Err(error) => {
                tracing::debug!(%node, ?role, message = error.message, "a node did not take a binding");
                round.failed(node, role, effects);
            }
        }
    }

    fn perform(&mut self, effect: WriteEffect, deadline: Instant) {
        match effect {
            WriteEffect::Ask { node, role } => {
                self.asked.push((node, role));
                // What this node keeps it was asked once, and before all others: it is where the write was decided.
                if node != self.shared.me() {
                    let inbox = Arc::clone(&self.inbox);
                    self.copying.send(node, role, deadline, move |result| {
                        inbox.tell(Heard::Other(node, role, result));
                    });
                }
            }
            WriteEffect::Done(outcome) => {
                if let Some(answer) = self.answer.take() {
                    answer(self.made(outcome));
                }
            }
        }
    }

    fn send_anew(&self, node: NodeId, role: Role, stale: Stale, refused: Error, deadline: Instant) {
        let (copying, inbox) = (self.copying.clone(), Arc::clone(&self.inbox));
        let is_kept = self.is_kept.subscribe();
        self.shared.tasks.spawn("binding copy", async move {
            let renewed = timeout_at(deadline, copying.renew(stale, is_kept)).await;
            match renewed.ok().flatten() {
                Some(copying) => copying.send(node, role, deadline, move |result| {
                    inbox.tell(Heard::Other(node, role, result));
                }),
                // What cannot be renewed is not stale any more: it is refused.
                None => inbox.tell(Heard::Other(node, role, Err(given_up(&refused)))),
            }
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

/// A copy that was refused as stale, and is not sent again.
fn given_up(refused: &Error) -> Error {
    reply::error(ErrorCode::Unavailable, refused.message.clone())
}
