//! A round: one replica asks every node, every node answers, the replicas collect.

use std::collections::BTreeSet;

use bytes::Bytes;
use thiserror::Error;

use crate::ids::{NodeId, PartitionId};
use crate::map::{ClusterMap, NodeState};
use crate::merkle::LeafSum;

/// Most tombstones that one round asks about.
pub const COLLECT_KEYS_MAX: usize = 1024;

/// A binding of nothing but tombstones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// Its key.
    pub key: Bytes,
    /// Its digest, see [`binding_digest`](crate::merkle::binding_digest).
    pub digest: LeafSum,
}

/// What a round asks of every node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// The map that says who every node is.
    pub map_version: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The fence that each node raises to before it looks: above that of every node before.
    pub fence: u64,
    /// What is to be forgotten; at most [`COLLECT_KEYS_MAX`].
    pub candidates: Vec<Candidate>,
}

/// What a node has of a candidate's key, in a copy of any kind: also one that it is to drop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holding {
    /// Nothing.
    Nothing,
    /// A binding of this digest.
    Binding(LeafSum),
    /// Something that it cannot read.
    Damaged,
}

/// What a node says to a [`Question`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It has raised its fence, durably, and then looked.
    Looked {
        /// For each candidate in its order: it holds exactly this binding, or nothing of the key.
        clear: Vec<bool>,
    },
    /// The round is void.
    Void(Void),
}

/// Why a node lets no round pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum Void {
    /// It goes by another map: others may have joined, or have become owners.
    #[error("it goes by map {known}")]
    OtherMap {
        /// The version that it goes by.
        known: u64,
    },
    /// Its fence is as high already. Start a new round, above this.
    #[error("its fence is {fence} already")]
    Fenced {
        /// Its fence.
        fence: u64,
    },
    /// It keeps hints for the partition, which may be older than the tombstones.
    #[error("it keeps hints for the partition")]
    Hints,
    /// A copy of the partition is on its way to it, and may be older than the tombstones.
    #[error("a copy of the partition is on its way to it")]
    Arriving,
}

/// Why no round may begin now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum NotNow {
    /// The cluster has fewer partitions.
    #[error("there is no partition {0}")]
    NoPartition(PartitionId),
    /// This node is no replica of it.
    #[error("this node is no replica of partition {0}")]
    NotReplica(PartitionId),
    /// It moves, or its leader has not taken over.
    #[error("partition {0} changes its owners")]
    Moving(PartitionId),
    /// Not every node can be asked.
    #[error("node {0} is away, and may hold what the tombstones delete")]
    Away(NodeId),
    /// There are no candidates, or more than [`COLLECT_KEYS_MAX`].
    #[error("{0} tombstones; a round takes 1 to {COLLECT_KEYS_MAX}")]
    Candidates(usize),
}

/// What came of a round.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// These may be forgotten, by every node that still holds exactly this: at once, later, or never.
    Collect {
        /// Whom to tell: the replicas and learners of the round's map, this node among them.
        nodes: Vec<NodeId>,
        /// What may be forgotten; maybe nothing.
        candidates: Vec<Candidate>,
    },
    /// Nothing may be forgotten.
    Void {
        /// Who said so.
        node: NodeId,
        /// Why.
        cause: Void,
    },
}

/// The first half of an answer: the fence below which this node admits nothing from now on; to be made durable
/// before [`look`]. Its own stamps carry the old fence until it has looked.
///
/// When it looks, whatever was admitted under the old fence must be durable.
///
/// # Errors
/// [`Void`]: answer this, and raise nothing.
pub fn raise(question: &Question, map_version: u64, fence: u64) -> Result<u64, Void> {
    if question.map_version != map_version {
        return Err(Void::OtherMap { known: map_version });
    }
    if question.fence <= fence {
        return Err(Void::Fenced { fence });
    }
    Ok(question.fence)
}

/// The second half: what this node holds, read after its fence was raised, and durable. `hints` says whether it
/// keeps any hint for the partition, for whomever; `map_version` is that of its map still.
///
/// # Errors
/// Those of `holding`.
pub fn look<E>(
    question: &Question,
    map_version: u64,
    hints: bool,
    mut holding: impl FnMut(&[u8]) -> Result<Holding, E>,
) -> Result<Answer, E> {
    if question.map_version != map_version {
        return Ok(Answer::Void(Void::OtherMap { known: map_version }));
    }
    if hints {
        return Ok(Answer::Void(Void::Hints));
    }
    let clear = question.candidates.iter().map(|candidate| {
        Ok(match holding(&candidate.key)? {
            Holding::Nothing => true,
            Holding::Binding(digest) => digest == candidate.digest,
            Holding::Damaged => false,
        })
    });
    let clear = clear.collect::<Result<Vec<bool>, E>>()?;
    Ok(Answer::Looked { clear })
}

/// A round, as the replica sees it that began it. It is given up by dropping it; nothing has happened then.
///
/// Every round raises the fence of all nodes, and makes them send anew what is on its way. After a round that came to
/// nothing, its owner waits twice as long as before the last: rounds without pause would starve the very repairs that
/// the next one needs.
#[derive(Debug)]
pub struct Round {
    question: Question,
    waiting: BTreeSet<NodeId>,
    clear: Vec<bool>,
    collectors: Vec<NodeId>,
}

impl Round {
    /// Begins a round of replica `own`, whose fence is `fence`, about tombstones that are old enough.
    ///
    /// # Errors
    /// [`NotNow`]: why no round can succeed at present.
    pub fn new(
        map: &ClusterMap,
        own: NodeId,
        live: impl Fn(NodeId) -> bool,
        partition: PartitionId,
        fence: u64,
        candidates: Vec<Candidate>,
    ) -> Result<Self, NotNow> {
        let of = map
            .assignment(partition)
            .ok_or(NotNow::NoPartition(partition))?;
        if !of.replicas.contains(&own) {
            return Err(NotNow::NotReplica(partition));
        }
        if of.target.is_some() || !of.is_activated() {
            return Err(NotNow::Moving(partition));
        }
        if candidates.is_empty() || candidates.len() > COLLECT_KEYS_MAX {
            return Err(NotNow::Candidates(candidates.len()));
        }
        let members = map.nodes().iter();
        // One that has never registered holds nothing, and takes nothing that was read before it has.
        let waiting: BTreeSet<NodeId> = members
            .filter(|m| !matches!(m.state, NodeState::Removed | NodeState::Joining))
            .map(|member| member.id)
            .collect();
        if let Some(away) = waiting.iter().find(|node| **node != own && !live(**node)) {
            return Err(NotNow::Away(*away));
        }
        Ok(Self {
            clear: vec![true; candidates.len()],
            collectors: of.replicas.iter().chain(&of.learners).copied().collect(),
            question: Question {
                map_version: map.version(),
                partition,
                fence: fence.saturating_add(1),
                candidates,
            },
            waiting,
        })
    }

    /// What to ask.
    #[must_use]
    pub const fn question(&self) -> &Question {
        &self.question
    }

    /// Who has not answered yet; at the beginning everybody who is to be asked, this node among them.
    #[must_use]
    pub const fn waiting(&self) -> &BTreeSet<NodeId> {
        &self.waiting
    }

    /// A node has answered this round's question. Some verdict ends the round.
    pub fn answered(&mut self, node: NodeId, answer: &Answer) -> Option<Verdict> {
        if !self.waiting.remove(&node) {
            return None;
        }
        match answer {
            Answer::Void(cause) => {
                let cause = *cause;
                Some(Verdict::Void { node, cause })
            }
            Answer::Looked { clear } => {
                for (at, all) in self.clear.iter_mut().enumerate() {
                    *all &= clear.get(at).copied().unwrap_or(false);
                }
                self.waiting.is_empty().then(|| self.collect())
            }
        }
    }

    fn collect(&mut self) -> Verdict {
        let candidates = std::mem::take(&mut self.question.candidates);
        let clear = candidates.into_iter().zip(&self.clear);
        Verdict::Collect {
            nodes: self.collectors.clone(),
            candidates: clear
                .filter(|(_, clear)| **clear)
                .map(|(it, _)| it)
                .collect(),
        }
    }
}
