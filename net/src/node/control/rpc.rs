//! What members of the group say to each other, byte by byte.
//!
//! A request is `version 1 | kind u8 | length of the JSON u32 BE | JSON | data`, an answer
//! `version 1 | kind u8 | JSON`, where the kind repeats the request's, or is [`FAILED`] with a sentence in place of JSON.
//! Only pieces of a snapshot carry data.

use bytes::{BufMut, Bytes, BytesMut};
use mesh_ring::control::ControlCommand;
use mesh_ring::ids::NodeId;
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::raft::{Answer, Group, LogId, RaftId, SnapshotMeta, Vote};

/// Largest request or answer, in bytes: a founding map of the largest cluster fits.
pub const RPC_BYTES_MAX: usize = 4 << 20;

const VERSION: u8 = 1;
const APPEND: u8 = 1;
const VOTE: u8 = 2;
const SNAPSHOT: u8 = 3;
const PROPOSE: u8 = 4;
const STANDING: u8 = 5;
const STATE: u8 = 6;

/// Kind of an answer that is only a sentence: the request was not understood, or not taken.
const FAILED: u8 = 0;

/// A request.
#[derive(Debug)]
pub(super) enum Request {
    Append(AppendEntriesRequest<Group>),
    Vote(VoteRequest<RaftId>),
    Snapshot(InstallSnapshotRequest<Group>),
    /// A command from a node that does not lead.
    Propose(ControlCommand),
    /// What the node knows of the log; answered with [`Standing`].
    Standing,
    /// All that the node knows to be applied; answered with a [`SnapshotRow`](super::rows::SnapshotRow).
    State,
}

/// What a member knows of the log, asked by a voter that finds no leader.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The highest term that it has voted in, or has an entry of.
    pub(super) term: u64,
    /// Its last entry.
    pub(super) last: Option<LogId>,
    /// The last entry that it has applied, or knows another member to have applied.
    pub(super) applied: Option<LogId>,
    /// Its disk did not come back whole: it may have forgotten votes and entries.
    pub(super) suspect: bool,
}

/// What a node answers to [`Request::Propose`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Proposed {
    /// The group's answer.
    Answered(Answer),
    /// The node asked does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<RaftId>,
    },
    /// It leads, but cannot tell what became of the command.
    Unknown,
}

/// These bytes are not of this protocol, or carry a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct RpcError(pub(super) String);

#[derive(Serialize, Deserialize)]
struct Piece {
    vote: Vote,
    meta: SnapshotMeta,
    offset: u64,
    done: bool,
}

impl Request {
    pub(super) fn encode(self) -> Result<Bytes, RpcError> {
        let (kind, json, data) = match self {
            Request::Append(append) => (APPEND, to_json(&append)?, Vec::new()),
            Request::Vote(vote) => (VOTE, to_json(&vote)?, Vec::new()),
            Request::Propose(command) => (PROPOSE, to_json(&command)?, Vec::new()),
            Request::Standing => (STANDING, Vec::new(), Vec::new()),
            Request::State => (STATE, Vec::new(), Vec::new()),
            Request::Snapshot(request) => {
                let piece = Piece {
                    vote: request.vote,
                    meta: request.meta,
                    offset: request.offset,
                    done: request.done,
                };
                (SNAPSHOT, to_json(&piece)?, request.data)
            }
        };
        let bytes = 6 + json.len() + data.len();
        if bytes > RPC_BYTES_MAX {
            return Err(RpcError(format!(
                "a message of {bytes} bytes is above the limit of {RPC_BYTES_MAX}"
            )));
        }
        let mut request = BytesMut::with_capacity(bytes);
        request.put_u8(VERSION);
        request.put_u8(kind);
        // Within the limit above.
        request.put_u32(json.len() as u32);
        request.extend_from_slice(&json);
        request.extend_from_slice(&data);
        Ok(request.freeze())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Request, RpcError> {
        let (kind, rest) = open(bytes)?;
        let (length, rest) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| RpcError("the message ends in its header".into()))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (json, data) = rest
            .split_at_checked(length)
            .ok_or_else(|| RpcError(format!("the message has no {length} bytes of JSON")))?;
        match kind {
            APPEND => Ok(Request::Append(from_json(json)?)),
            VOTE => Ok(Request::Vote(from_json(json)?)),
            PROPOSE => Ok(Request::Propose(from_json(json)?)),
            STANDING => Ok(Request::Standing),
            STATE => Ok(Request::State),
            SNAPSHOT => {
                let piece: Piece = from_json(json)?;
                Ok(Request::Snapshot(InstallSnapshotRequest {
                    vote: piece.vote,
                    meta: piece.meta,
                    offset: piece.offset,
                    data: data.to_vec(),
                    done: piece.done,
                }))
            }
            kind => Err(RpcError(format!("messages of kind {kind} are unknown"))),
        }
    }

    /// The node that sent it, as far as it says.
    pub(super) fn candidate(&self) -> Option<NodeId> {
        match self {
            Request::Vote(request) => request.vote.leader_id().voted_for().map(|id| id.0),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Request::Append(_) => APPEND,
            Request::Vote(_) => VOTE,
            Request::Snapshot(_) => SNAPSHOT,
            Request::Propose(_) => PROPOSE,
            Request::Standing => STANDING,
            Request::State => STATE,
        }
    }
}

/// The answer to a request of this kind.
pub(super) fn answer<T: Serialize>(kind: u8, answer: &T) -> Bytes {
    match to_json(answer) {
        Ok(json) => framed(kind, &json),
        Err(RpcError(sentence)) => failure(&sentence),
    }
}

/// The answer to a request that was not taken.
pub(super) fn failure(sentence: &str) -> Bytes {
    framed(FAILED, sentence.as_bytes())
}

/// Reads the answer to a request of this kind.
pub(super) fn read_answer<T: DeserializeOwned>(kind: u8, bytes: &[u8]) -> Result<T, RpcError> {
    match open(bytes)? {
        (found, json) if found == kind => from_json(json),
        (FAILED, sentence) => Err(RpcError(String::from_utf8_lossy(sentence).into_owned())),
        (found, _) => Err(RpcError(format!(
            "answer {found} to a message of kind {kind}"
        ))),
    }
}

fn framed(kind: u8, body: &[u8]) -> Bytes {
    [&[VERSION, kind], body].concat().into()
}

fn open(bytes: &[u8]) -> Result<(u8, &[u8]), RpcError> {
    match bytes {
        _ if bytes.len() > RPC_BYTES_MAX => Err(RpcError(format!(
            "a message of {} bytes is above the limit of {RPC_BYTES_MAX}",
            bytes.len()
        ))),
        [VERSION, kind, rest @ ..] => Ok((*kind, rest)),
        [version, ..] => Err(RpcError(format!(
            "messages of version {version} are unknown; this node speaks {VERSION}"
        ))),
        [] => Err(RpcError("the message is empty".into())),
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, RpcError> {
    serde_json::to_vec(value).map_err(|error| RpcError(error.to_string()))
}

fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, RpcError> {
    serde_json::from_slice(json).map_err(|error| RpcError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece() -> InstallSnapshotRequest<Group> {
        InstallSnapshotRequest {
            vote: Vote::new(2, RaftId(NodeId([1; 16]))),
            meta: SnapshotMeta::default(),
            offset: 7,
            data: vec![0, 255, 1],
            done: true,
        }
    }

    #[test]
    fn a_request_is_these_bytes() {
        let vote = Request::Vote(VoteRequest::new(
            Vote::new(2, RaftId(NodeId([1; 16]))),
            None,
        ));
        assert_eq!(vote.candidate(), Some(NodeId([1; 16])));
        let json = br#"{"vote":{"leader_id":{"term":2,"node_id":"01010101010101010101010101010101"},"committed":false},"last_log_id":null}"#;
        let mut expected = vec![1, 2, 0, 0, 0, json.len() as u8];
        expected.extend_from_slice(json);
        assert_eq!(vote.encode().unwrap(), expected);
    }

    #[test]
    fn a_piece_of_a_snapshot_carries_its_bytes_as_they_are() {
        let bytes = Request::Snapshot(piece()).encode().unwrap();
        assert!(bytes.ends_with(&[0, 255, 1]));
        match Request::decode(&bytes).unwrap() {
            Request::Snapshot(read) => assert_eq!(read, piece()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_these_bytes() {
        let bytes = answer(PROPOSE, &Proposed::NotLeader { leader: None });
        assert_eq!(&bytes[..], b"\x01\x04{\"NotLeader\":{\"leader\":null}}");
        assert!(matches!(
            read_answer(PROPOSE, &bytes),
            Ok(Proposed::NotLeader { leader: None })
        ));
        assert!(read_answer::<Proposed>(VOTE, &bytes).is_err());
        assert_eq!(
            read_answer::<Proposed>(PROPOSE, &failure("no")).unwrap_err(),
            RpcError("no".into())
        );
    }

    #[test]
    fn questions_are_these_bytes() {
        assert_eq!(Request::Standing.encode().unwrap(), &[1, 5, 0, 0, 0, 0][..]);
        assert_eq!(Request::State.encode().unwrap(), &[1, 6, 0, 0, 0, 0][..]);
        let standing = Standing {
            term: 7,
            last: None,
            applied: None,
            suspect: true,
        };
        let bytes = answer(STANDING, &standing);
        assert_eq!(
            &bytes[..],
            b"\x01\x05{\"term\":7,\"last\":null,\"applied\":null,\"suspect\":true}"
        );
        assert_eq!(read_answer::<Standing>(STANDING, &bytes), Ok(standing));
        for question in [Request::Standing, Request::State] {
            let (kind, bytes) = (question.kind(), question.encode().unwrap());
            assert_eq!(Request::decode(&bytes).unwrap().kind(), kind);
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let mut large = piece();
        large.data = vec![0; RPC_BYTES_MAX];
        assert!(Request::Snapshot(large).encode().is_err());
        assert!(Request::decode(&vec![1; RPC_BYTES_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..64), kind in 0u8..8) {
            let _ = Request::decode(&bytes);
            let framed = [&[VERSION, kind][..], &bytes].concat();
            let _ = Request::decode(&framed);
            let _ = read_answer::<Proposed>(kind, &framed);
        }
    }
}
