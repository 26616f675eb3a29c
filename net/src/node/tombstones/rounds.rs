//! The rounds that this node begins: for each partition of which it is the first home that lives, about tombstones that are
//! old enough.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{OldTombstone, ReadError};
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::binding_digest;
use mesh_ring::name::BindingKey;
use mesh_ring::tombstone::{
    Answer, COLLECT_KEYS_MAX, Candidate, NotNow, Question, Round, Verdict, Void,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::answering::{self, answer_of};
use super::salvaged;
use super::waiting::Outcome;
use crate::node::Shared;
use crate::tasks::blocking;
use crate::wire::proto::{CollectTombstones, Request, reply::Kind as Answered, request::Kind};

/// Most rounds that this node carries on at a time.
const AT_ONCE: usize = 3;

/// About how many bytes one question has at most. It goes over the connections for what is small.
const QUESTION_BYTES_MAX: usize = 16 << 10;

/// Bytes of a tombstone in a question, beside its key.
const TOMBSTONE_BYTES: usize = 48;

/// How often tombstones are looked for: a quarter of the age that they have to have, within these bounds.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);

/// How long all nodes have to answer a round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// Most rounds of one partition in a row, and the pause between them, so that what is on its way gets through.
const IN_A_ROW: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the node's rounds; they end when it stops. `age` is how old a tombstone must be.
pub(in crate::node) fn start(shared: &Arc<Shared>, age: Duration) {
    shared
        .tasks
        .spawn("tombstone rounds", plan(Arc::clone(shared), age));
    shared
        .tasks
        .spawn("salvaged bindings", salvaged::prove(Arc::clone(shared)));
}

async fn plan(shared: Arc<Shared>, age: Duration) {
    let every = (age / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
    let (mut lives, mut maps) = (shared.lives.clone(), shared.control.map());
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut next_look = Instant::now() + every;
    loop {
        tokio::select! {
            changed = lives.changed() => if changed.is_err() { return },
            changed = maps.changed() => if changed.is_err() { return },
            // A point in time, which changes do not put off.
            () = tokio::time::sleep_until(next_look) => {
                next_look = Instant::now() + every;
                if look_after_all(&shared, age, &turns).await.is_none() {
                    return;
                }
                continue;
            }
            () = shared.tasks.stopping() => return,
        }
        lives.mark_unchanged();
        maps.mark_unchanged();
        shared.waiting.end_pauses();
    }
}

/// Begins what there is to do for each partition of which this node is to begin the rounds; `None`: the node stops.
async fn look_after_all(shared: &Arc<Shared>, age: Duration, turns: &Arc<Semaphore>) -> Option<()> {
    let map = shared.map();
    let is_mine = |id: PartitionId| {
        let homes = map.assignment(id).map_or(&[][..], |of| &of.replicas);
        let first = homes.iter().find(|node| shared.is_alive(**node));
        first == Some(&shared.me())
    };
    shared.waiting.leave_others(is_mine);
    for id in map
        .assignments()
        .map(|(id, _)| id)
        .filter(|id| is_mine(*id))
    {
        if !shared.waiting.take_up(id, Instant::now()) {
            continue;
        }
        let turn = tokio::select! {
            turn = Arc::clone(turns).acquire_owned() => turn.ok(),
            () = shared.tasks.stopping() => None,
        };
        let (turn, shared_too) = (turn?, Arc::clone(shared));
        shared.tasks.spawn("tombstone round", async move {
            let shared = shared_too;
            let outcome = tokio::select! {
                outcome = look_after(&shared, id, age) => outcome,
                () = shared.tasks.stopping() => Outcome::None,
            };
            shared.waiting.settle(id, Instant::now(), outcome);
            drop(turn);
        });
    }
    Some(())
}

/// Rounds about a partition's tombstones, one after the other for as long as there are more than one can ask about, until one
/// comes to nothing.
async fn look_after(shared: &Arc<Shared>, id: PartitionId, age: Duration) -> Outcome {
    for _ in 0..IN_A_ROW {
        let shared_too = Arc::clone(shared);
        let found = blocking(move || find(&shared_too, id, age)).await;
        let found = match found {
            Some(Ok(None)) => return Outcome::None,
            Some(Ok(Some(found))) if found.candidates.is_empty() => {
                return Outcome::NotNow(format!("partition {id}: they cannot be read"));
            }
            Some(Ok(Some(found))) => found,
            Some(Err(error)) => return Outcome::NotNow(format!("partition {id}: {error}")),
            None => return Outcome::NotNow(format!("partition {id}: they cannot be looked for")),
        };
        match one_round(shared, id, found.candidates).await {
            Outcome::Collected if found.is_full => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    Outcome::Collected
}

async fn one_round(shared: &Arc<Shared>, id: PartitionId, candidates: Vec<Candidate>) -> Outcome {
    if let Some(void) = answering::obstacle(shared, id) {
        return Outcome::NotNow(because(shared, shared.me(), &void));
    }
    let (map, me) = (shared.map(), shared.me());
    let fence = shared.fences.admits(id);
    let live = |node: NodeId| shared.is_alive(node);
    let round = match Round::new(&map, me, live, id, fence, candidates) {
        Ok(round) => round,
        Err(NotNow::Away(node)) => {
            return Outcome::NotNow(format!("{} is away", name(shared, node)));
        }
        Err(not_now) => return Outcome::NotNow(not_now.to_string()),
    };
    let asked = round.question().candidates.len();
    match ask_all(shared, round).await {
        Ok(Verdict::Collect { nodes, candidates }) if !candidates.is_empty() => {
            tracing::debug!(partition = %id, asked, clear = candidates.len(), "tombstones are forgotten");
            tell_all(shared, id, nodes, candidates).await
        }
        Ok(Verdict::Collect { .. }) => Outcome::Void(format!(
            "partition {id}: copies differ still under the keys that were asked about"
        )),
        Ok(Verdict::Void { node, cause }) => {
            let because = because(shared, node, &cause);
            tracing::debug!(partition = %id, because, "a round about tombstones is void");
            if let Void::Fenced { fence } = cause {
                shared.catch_up(id, fence).await;
            }
            Outcome::Void(because)
        }
        Err(cause) => {
            tracing::debug!(partition = %id, cause, "a round about tombstones was given up");
            Outcome::Void(cause)
        }
    }
}

fn name(shared: &Shared, node: NodeId) -> String {
    let name = shared.names_of(&[node]).pop();
    name.unwrap_or_else(|| node.to_string())
}

fn because(shared: &Shared, node: NodeId, void: &Void) -> String {
    format!("{}: {void}", name(shared, node))
}

/// What a round is to ask about.
struct Found {
    candidates: Vec<Candidate>,
    /// There are more.
    is_full: bool,
}

/// The next tombstones to ask about, if there are any, and notes how many there are. Blocks.
fn find(shared: &Shared, id: PartitionId, age: Duration) -> Result<Option<Found>, ReadError> {
    let engine = &shared.engine;
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let before_ms = engine.now_ms().saturating_sub(age_ms);
    let all = engine.old_tombstones(id, before_ms, None, COLLECT_KEYS_MAX)?;
    let count = all.len() as u64;
    if count == 0 {
        return Ok(None);
    }
    let behind = match shared.waiting.after(id) {
        None => Vec::new(),
        after => engine.old_tombstones(id, before_ms, after.as_ref(), COLLECT_KEYS_MAX)?,
    };
    let next = if behind.is_empty() { all } else { behind };
    let (mut candidates, mut last, mut bytes) = (Vec::new(), None, 0);
    let mut is_full = next.len() == COLLECT_KEYS_MAX;
    for tombstone in next {
        bytes += tombstone.key.len() + TOMBSTONE_BYTES;
        if bytes > QUESTION_BYTES_MAX && last.is_some() {
            is_full = true;
            break;
        }
        candidates.extend(candidate(shared, &tombstone)?);
        last = Some(tombstone);
    }
    shared.waiting.note_found(id, count, last);
    Ok(Some(Found {
        candidates,
        is_full,
    }))
}

/// `None`: it is no tombstone any more, or cannot be read, which repair sees to.
fn candidate(shared: &Shared, of: &OldTombstone) -> Result<Option<Candidate>, ReadError> {
    let Ok(key) = BindingKey::new(&of.key) else {
        return Ok(None);
    };
    let encoded = match shared.engine.binding_encoded(&key) {
        Ok(Some(encoded)) => encoded,
        Ok(None) | Err(ReadError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_tombstone = Binding::decode(&encoded).is_ok_and(|binding| binding.is_collectable());
    Ok(is_tombstone.then(|| Candidate {
        digest: binding_digest(&of.key, &encoded),
        key: Bytes::copy_from_slice(&of.key),
    }))
}

/// Asks every node of the cluster, this one too.
///
/// # Errors
/// Not all have answered: why.
async fn ask_all(shared: &Arc<Shared>, mut round: Round) -> Result<Verdict, String> {
    let deadline = Instant::now() + ROUND_TIMEOUT;
    let nodes = round.waiting().clone();
    let (said, mut heard) = mpsc::channel(nodes.len());
    for node in nodes {
        let (asking, said) = (Arc::clone(shared), said.clone());
        let question = round.question().clone();
        shared.tasks.spawn("tombstone question", async move {
            let answer = tokio::select! {
                answer = ask(&asking, node, question, deadline) => answer,
                () = asking.tasks.stopping() => return,
            };
            // Nobody listens where the round is void already.
            let _ = said.send((node, answer)).await;
        });
    }
    drop(said);
    while let Some((node, answer)) = heard.recv().await {
        let answer = answer.map_err(|cause| format!("{}: {cause}", name(shared, node)))?;
        if let Some(verdict) = round.answered(node, &answer) {
            return Ok(verdict);
        }
    }
    Err("the node is stopping".into())
}

async fn ask(
    shared: &Arc<Shared>,
    node: NodeId,
    question: Question,
    deadline: Instant,
) -> Result<Answer, String> {
    if node == shared.me() {
        let answer = answering::answer(shared, question).await;
        return answer.map_err(|error| error.message);
    }
    let request = Request::new(Kind::AskTombstones(answering::question(&question)));
    let asked = shared.peers.ask_aside(node, &request, deadline).await;
    let mut answers = asked.map_err(|error| error.to_string())?;
    match answers.pop() {
        Some((Answered::Tombstones(said), _)) => answer_of(said),
        _ => None,
    }
    .ok_or_else(|| "an answer that has no meaning here".into())
}

/// Has every copy forget them, this one too. A node that is not reached gives what it has left to the others, and a later round
/// is about that.
async fn tell_all(
    shared: &Arc<Shared>,
    id: PartitionId,
    nodes: Vec<NodeId>,
    candidates: Vec<Candidate>,
) -> Outcome {
    let deadline = Instant::now() + ROUND_TIMEOUT;
    let (told, mut done) = mpsc::channel::<()>(1);
    for node in nodes.into_iter().filter(|node| *node != shared.me()) {
        let (telling, told) = (Arc::clone(shared), told.clone());
        let request = Request::new(Kind::CollectTombstones(CollectTombstones {
            partition: id.0.into(),
            tombstones: answering::tombstones(&candidates),
        }));
        shared.tasks.spawn("tombstones forgotten", async move {
            let asked = tokio::select! {
                asked = telling.peers.ask_aside(node, &request, deadline) => asked,
                () = telling.tasks.stopping() => return,
            };
            if let Err(error) = asked {
                tracing::debug!(partition = %id, %node, %error, "not told which tombstones to forget");
            }
            drop(told);
        });
    }
    drop(told);
    let forgotten = answering::forget(shared, id, candidates).await;
    // Closed when all have answered, or are not waited for any more.
    let _ = done.recv().await;
    match forgotten {
        Ok(()) => Outcome::Collected,
        Err(error) => Outcome::Void(error.message),
    }
}
