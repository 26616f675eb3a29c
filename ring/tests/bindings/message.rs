//! What nodes say to each other.

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;
use mesh_ring::map::ClusterMap;
use mesh_ring::merkle::walk::{Request, Response};
use mesh_ring::quorum::{Answer, Role};
use mesh_ring::tombstone::{self, Candidate, Question, Refusal, Stamp};

/// Why a node does not keep a write.
#[derive(Clone, Debug)]
pub(crate) enum NotKept {
    Stamp(Refusal),
    NotOwner,
    Full,
}

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Put {
        request: u64,
        partition: PartitionId,
        key: Bytes,
        state: Binding,
        stamp: Stamp,
        role: Role,
    },
    Kept {
        request: u64,
        role: Role,
        result: Result<(), NotKept>,
    },
    Get {
        request: u64,
        partition: PartitionId,
        key: Bytes,
    },
    Got {
        request: u64,
        answer: Option<Answer>,
    },
    Walk {
        walk: u64,
        partition: PartitionId,
        stamp: Stamp,
        request: Request,
    },
    Walked {
        walk: u64,
        partition: PartitionId,
        stamp: Stamp,
        /// None: it was refused.
        response: Option<Response>,
    },
    Ask {
        round: u64,
        question: Question,
    },
    Answered {
        round: u64,
        partition: PartitionId,
        answer: tombstone::Answer,
    },
    Collect {
        partition: PartitionId,
        candidates: Vec<Candidate>,
    },
    Map(Box<ClusterMap>),
}

impl Message {
    /// A number for the hash of the run.
    pub(crate) fn kind(&self) -> u64 {
        match self {
            Self::Put { request, .. } => 100 + request * 16,
            Self::Kept { request, .. } => 101 + request * 16,
            Self::Get { request, .. } => 102 + request * 16,
            Self::Got { request, .. } => 103 + request * 16,
            Self::Walk { walk, .. } => 104 + walk * 16,
            Self::Walked { walk, .. } => 105 + walk * 16,
            Self::Ask { round, .. } => 106 + round * 16,
            Self::Answered { round, .. } => 107 + round * 16,
            Self::Collect { candidates, .. } => 108 + candidates.len() as u64 * 16,
            Self::Map(map) => 109 + map.version() * 16,
        }
    }
}
