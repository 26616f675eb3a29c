//! One comparison of two copies of a partition's bindings, both sides of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::ReadError;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::walk::{
    self, Request as Question, Response, Salt, State, Step, Walk, WalkError,
};
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES, Tree};
use mesh_ring::name::BindingKey;
use mesh_ring::tombstone::Stamp;
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Compared;
use super::held::{Held, STATE_BYTES_MAX};
use crate::node::bindings::BINDING_BYTES;
use crate::node::peers::AskError;
use crate::node::requests::{Answers, on_disk};
use crate::node::tombstones::{Stale, stamp_of};
use crate::node::{Shared, reply};
use crate::tasks::blocking;
use crate::wire::frame::FRAME_PREFIX_BYTES;
use crate::wire::proto::{
    BindingsWalked, Error, ErrorCode, Reply, Request, WalkBindings, reply::Kind as Answer,
    request::Kind,
};

/// How long the other side may take for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a comparison begins anew, because fences were raised since the bindings were read, before it is given up.
const RENEWALS_MAX: usize = 5;

/// How soon one begins anew because one side has not heard of the newest map.
const MAP_WAIT: Duration = Duration::from_millis(50);

/// Most bindings that wait for the disk at once, so that clients' writes get their turn in between.
const MERGED_AT_ONCE: usize = 256;

/// Why a comparison ended early. What was merged until then stays merged, and the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum Unfinished {
    /// The other node was not reached, or refused. Try again later.
    #[error(transparent)]
    Peer(#[from] AskError),
    /// The other node says what does not fit. Begin another comparison.
    #[error("the other node's answer makes no sense: {0}")]
    Answer(String),
    /// The bindings of this node cannot be read or written: it says why.
    #[error("{0}")]
    Here(String),
    /// What the other node says was read too long ago. Begin another comparison.
    #[error("{}", .0.message)]
    Stale(Error),
}

impl Unfinished {
    /// Whether another comparison is to begin at once, as what was read is too old, on one side or the other.
    fn stale(&self) -> Option<Stale> {
        match self {
            Unfinished::Peer(AskError::Refused(error)) | Unfinished::Stale(error) => {
                Stale::of(error)
            }
            _ => None,
        }
    }
}

/// What becomes of what the other side has and this one has not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    Taken,
    /// This copy is given up as soon as the other has all of it.
    Left,
}

/// Compares this node's copy with another one's, and brings both to the same.
///
/// # Errors
/// [`Unfinished`]. What was done until then is in the node's counters.
pub(in crate::node) async fn compare(
    shared: &Arc<Shared>,
    id: PartitionId,
    with: NodeId,
) -> Result<Compared, Unfinished> {
    compare_and(shared, id, with, News::Taken).await
}

pub(super) async fn compare_and(
    shared: &Arc<Shared>,
    id: PartitionId,
    with: NodeId,
    news: News,
) -> Result<Compared, Unfinished> {
    shared.repairs.counters.note_comparison();
    let mut comparison = Comparison {
        shared,
        id,
        with,
        news,
        stamp: shared.stamp(id),
        leaves: BTreeSet::new(),
        sum: Compared::default(),
    };
    for _ in 0..RENEWALS_MAX {
        let unfinished = match comparison.run().await {
            Ok(()) => return Ok(comparison.sum),
            Err(unfinished) => unfinished,
        };
        match unfinished.stale() {
            Some(Stale::Fenced(fence)) => {
                shared.give_way(id, fence, with).await;
                shared.catch_up(id, fence).await;
            }
            Some(Stale::OldMap | Stale::NewMap) => tokio::time::sleep(MAP_WAIT).await,
            None => return Err(unfinished),
        }
    }
    comparison.run().await?;
    Ok(comparison.sum)
}

/// A comparison that this node has begun.
struct Comparison<'a> {
    shared: &'a Arc<Shared>,
    id: PartitionId,
    with: NodeId,
    news: News,
    /// The oldest of what is sent: this side's, and those of the answers, as what is sent may be made of both.
    stamp: Stamp,
    /// Leaves that were found to differ.
    leaves: BTreeSet<LeafId>,
    sum: Compared,
}

impl Comparison<'_> {
    async fn run(&mut self) -> Result<(), Unfinished> {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(|error| Unfinished::Here(error.to_string()))?;
        // Before anything is read.
        self.stamp = self.shared.stamp(self.id);
        let held = Held::new(self.shared, self.id);
        let (mut walk, mut held) = here(move || {
            let tree = held.tree()?;
            Ok::<_, ReadError>((Walk::new(tree, Salt(salt)), held))
        })
        .await?;
        loop {
            let step;
            (walk, held, step) = here(move || {
                let step = walk.next(&mut held)?;
                Ok::<_, WalkError<ReadError>>((walk, held, step))
            })
            .await?;
            let Step::Send(question) = step else { break };
            let (response, theirs) = self.ask(&question).await?;
            self.stamp = self.stamp.oldest(theirs);
            let news;
            (walk, held, news) = here(move || {
                let news = walk.answered(response, &mut held)?;
                Ok::<_, WalkError<ReadError>>((walk, held, news))
            })
            .await?;
            self.take(news, theirs).await?;
        }
        match held.too_long {
            None => Ok(()),
            Some(bytes) => Err(Unfinished::Here(format!(
                "a binding of {bytes} bytes is too long for a message of at most {STATE_BYTES_MAX}: write it anew with its context, so that it has fewer siblings"
            ))),
        }
    }

    async fn ask(&mut self, question: &Question) -> Result<(Response, Stamp), Unfinished> {
        let request = Request::new(Kind::WalkBindings(WalkBindings {
            partition: self.id.0.into(),
            stamp: Some(self.stamp.into()),
        }));
        let body = Bytes::from(question.encode());
        let mut part = Compared {
            bytes: (FRAME_PREFIX_BYTES + request.encoded_len() + body.len()) as u64,
            ..Compared::default()
        };
        let deadline = Instant::now() + STEP_TIMEOUT;
        let mut answers = self
            .shared
            .peers
            .ask(self.with, &request, body, deadline)
            .await?;
        let Some((Answer::BindingsWalked(walked), body)) = answers.pop() else {
            return Err(Unfinished::Answer("an answer of another kind".into()));
        };
        part.damaged = walked.healed.into();
        let stamp = stamp_of(walked.stamp).map_err(|error| Unfinished::Answer(error.message))?;
        match question {
            Question::Pages { pages, .. } => {
                let leaves = pages.iter().map(|page| page.from.leaf);
                part.leaves = leaves.filter(|leaf| self.leaves.insert(*leaf)).count() as u64;
            }
            Question::States(states) => part.sent = states.len() as u64,
            Question::Root { .. } | Question::Children { .. } => {}
        }
        let answer = Reply {
            kind: Some(Answer::BindingsWalked(walked)),
        };
        part.bytes += (FRAME_PREFIX_BYTES + answer.encoded_len() + body.len()) as u64;
        self.note(part);
        self.shared.transfers.spend(part.bytes as usize).await;
        let response = Response::decode(&body);
        let response = response.map_err(|error| Unfinished::Answer(error.to_string()))?;
        Ok((response, stamp))
    }

    async fn take(&mut self, news: Vec<State>, stamp: Stamp) -> Result<(), Unfinished> {
        if self.news == News::Left || news.is_empty() {
            return Ok(());
        }
        let received = news.len() as u64;
        self.shared.reach_map(self.with, stamp).await;
        let merged = merge(self.shared, self.id, (self.with, stamp), news).await;
        let damaged = merged.map_err(|error| match Stale::of(&error) {
            Some(_) => Unfinished::Stale(error),
            None => Unfinished::Here(error.message),
        })?;
        self.note(Compared {
            received,
            damaged: damaged.into(),
            ..Compared::default()
        });
        Ok(())
    }

    fn note(&mut self, part: Compared) {
        self.sum += part;
        self.shared.repairs.counters.note(part);
    }
}

/// Answers one step of another node's comparison.
///
/// It may be any node of the cluster: one that keeps the partition no longer hands its copy over by a comparison, too.
///
/// # Errors
/// This node keeps no copy that is whole, knows only an older map, or cannot read or write its bindings.
pub(in crate::node) async fn answer(
    shared: &Arc<Shared>,
    from: NodeId,
    asked: WalkBindings,
    body: &Bytes,
) -> Result<Answers, Error> {
    let id = u16::try_from(asked.partition)
        .map(PartitionId)
        .map_err(reply::malformed)?;
    let theirs = stamp_of(asked.stamp)?;
    shared.reach_map(from, theirs).await;
    // Where it is stale the comparison is to begin anew: better at its first step than when bindings come.
    shared.admit(id, from, theirs, || ())?;
    let map = shared.map();
    let mine = map.assignment(id);
    if mine.is_none_or(|assignment| !assignment.needs_copy(shared.me())) {
        return Err(shared.not_replica(id));
    }
    if shared.partitions.get(id).is_none() {
        return Err(reply::error(
            ErrorCode::Unavailable,
            format!("this node's copy of partition {id} is on its way, or cannot be opened"),
        ));
    }
    let question = Question::decode(body).map_err(reply::malformed)?;
    shared.give_way(id, theirs.fence, from).await;
    // What is said here would be refused there, and this node may never have a reason to ask.
    shared.catch_up(id, theirs.fence).await;
    let stamp = Some(shared.stamp(id).into());
    let mut healed = 0;
    let response = match question {
        Question::States(states) => {
            let received = states.len() as u64;
            healed = merge(shared, id, (from, theirs), states).await?;
            shared.repairs.counters.note(Compared {
                received,
                damaged: healed.into(),
                ..Compared::default()
            });
            Response::Merged
        }
        question => {
            on_disk(shared, move |shared| {
                look(shared, id, from, &question).map_err(|error| reply::of_read(&error))
            })
            .await?
        }
    };
    let walked = BindingsWalked { healed, stamp };
    Ok(vec![(
        Answer::BindingsWalked(walked),
        response.encode().into(),
    )])
}

fn look(
    shared: &Shared,
    id: PartitionId,
    from: NodeId,
    question: &Question,
) -> Result<Response, ReadError> {
    let trees = &shared.repairs.trees;
    let mut held = Held::new(shared, id);
    let (salt, kept) = match question {
        Question::Root { salt, .. } => (*salt, None),
        Question::Children { salt, .. } => (*salt, trees.get((id, from), *salt)),
        Question::Pages { .. } | Question::States(_) => {
            // No tree is looked at.
            let none = Tree::of(&[LeafSum::ZERO; MERKLE_LEAVES as usize]);
            return walk::answer(question, &none, &mut held);
        }
    };
    let tree = match kept {
        Some(tree) => tree,
        None => Arc::new(held.tree()?),
    };
    let response = walk::answer(question, &tree, &mut held)?;
    if response != Response::Same {
        trees.keep((id, from), salt, tree);
    }
    Ok(response)
}

/// Takes bindings of a partition in that a node has sent under a stamp; how many of them took the place of one that could not
/// be read. All are durable when it returns.
async fn merge(
    shared: &Arc<Shared>,
    id: PartitionId,
    (from, stamp): (NodeId, Stamp),
    states: Vec<State>,
) -> Result<u32, Error> {
    let mut healed = 0;
    for some in states.chunks(MERGED_AT_ONCE) {
        let bytes = some.iter().map(|state| state.binding.len() + BINDING_BYTES);
        let room = shared.room(bytes.sum()).await;
        let _room = room.ok_or_else(reply::stopping)?;
        let mut bindings = Vec::with_capacity(some.len());
        for State { key, binding } in some {
            let key = BindingKey::new(key).map_err(reply::malformed)?;
            if shared.engine.partition_of(key.as_bytes()) != id {
                return Err(reply::malformed("a key of another partition"));
            }
            let theirs = Binding::decode(binding).map_err(reply::malformed)?;
            bindings.push((key, theirs));
        }
        let submit = |(key, theirs): (BindingKey, Binding)| {
            let (sender, merged) = oneshot::channel();
            let of = key.clone();
            shared.engine.submit_heal(key, theirs, move |result| {
                // Nobody waits where the walk was given up; the binding stays.
                let _ = sender.send(result);
            });
            (of, merged)
        };
        let merges: Vec<_> = shared.admit(id, from, stamp, || {
            bindings.into_iter().map(submit).collect()
        })?;
        for (key, merged) in merges {
            let merged = merged.await.map_err(|_| reply::internal())?;
            if merged.map_err(|error| reply::of_binding(&error))? {
                healed += 1;
                tracing::warn!(partition = %id, key = %key.as_bytes().escape_ascii(), "a binding that could not be read was replaced by another node's copy");
            }
        }
    }
    Ok(healed)
}

/// Runs what waits for the disk where that holds up no task.
async fn here<T: Send + 'static, E: ToString + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Unfinished> {
    let done = blocking(work).await;
    let done = done.ok_or_else(|| Unfinished::Here("the node is ending".into()))?;
    done.map_err(|error| Unfinished::Here(error.to_string()))
}
