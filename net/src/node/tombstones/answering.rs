//! What this node says in a round, and what it forgets when a round is over.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::{Engine, ReadError};
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{LeafSum, binding_digest};
use mesh_ring::name::BindingKey;
use mesh_ring::tombstone::{Answer, COLLECT_KEYS_MAX, Candidate, Holding, Question, Void, look};
use tokio::sync::oneshot;

use crate::node::requests::access::only_nodes;
use crate::node::requests::{Answers, Caller, on_disk, plain};
use crate::node::{Shared, reply};
use crate::wire::proto::{
    AskTombstones, CollectTombstones, Done, Error, Tombstone, TombstonesAre, VoidRound, reply::Kind,
};

/// Answers another node's round.
pub(in crate::node) async fn ask(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: AskTombstones,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let question = Question {
        map_version: asked.map_version,
        partition: partition(asked.partition)?,
        fence: asked.fence,
        candidates: candidates(asked.tombstones)?,
    };
    let answer = answer(shared, question).await?;
    Ok(plain(Kind::Tombstones(answer.into())))
}

/// Raises this node's fence, and then looks what it holds.
///
/// # Errors
/// The store cannot be read, or has stopped: the round comes to nothing.
pub(super) async fn answer(shared: &Arc<Shared>, question: Question) -> Result<Answer, Error> {
    let id = question.partition;
    // Raising a fence makes others send anew what is on its way: not where it is known to be in vain.
    if let Some(void) = obstacle(shared, id) {
        return Ok(Answer::Void(void));
    }
    let looking = match shared.fences.begin_look(&question, shared.map().version()) {
        Ok(looking) => looking,
        Err(void) => return Ok(Answer::Void(void)),
    };
    if !shared.keep_fence(id).await {
        return Err(reply::internal());
    }
    // What was admitted under the fence before is in the store's queue, and on the disk when this has gone through it.
    forget(shared, id, Vec::new()).await?;
    if shared.partitions.arriving(id).is_some() {
        return Ok(Answer::Void(Void::Arriving));
    }
    let fence = question.fence;
    let answer = on_disk(shared, move |shared| {
        // Before the copy: a hint is removed when it is in there.
        let hints = shared.engine.oldest_hint_ms(id).is_some();
        let held = |key: &[u8]| holding(&shared.engine, key);
        let answer = look(&question, shared.map().version(), hints, held);
        let answer = answer.map_err(|error| reply::of_read(&error))?;
        // Whoever joins by a newer map is not asked, and takes what was read by that: nothing that was read before this.
        let known = shared.map().version();
        drop(looking);
        Ok(match known == question.map_version {
            true => answer,
            false => Answer::Void(Void::OtherMap { known }),
        })
    })
    .await?;
    // What was looked at is on the disk before it: a disk that has this row is no older.
    let is_void = matches!(answer, Answer::Void(_));
    if !is_void && !shared.keep_look(id, fence).await {
        return Err(reply::internal());
    }
    Ok(answer)
}

/// What lets no round pass here, as far as that can be told before a fence is raised.
pub(super) fn obstacle(shared: &Shared, id: PartitionId) -> Option<Void> {
    // What of a suspect copy may stay is not known yet.
    if shared.partitions.arriving(id).is_some() || shared.fences.suspect(id).is_some() {
        return Some(Void::Arriving);
    }
    let hints = shared.engine.oldest_hint_ms(id);
    hints.map(|_| Void::Hints)
}

fn holding(engine: &Engine, key: &[u8]) -> Result<Holding, ReadError> {
    // Nobody can hold anything under what is no key.
    let Ok(name) = BindingKey::new(key) else {
        return Ok(Holding::Damaged);
    };
    Ok(match engine.binding_encoded(&name) {
        Ok(None) => Holding::Nothing,
        Ok(Some(encoded)) => Holding::Binding(binding_digest(key, &encoded)),
        Err(ReadError::Damaged(_)) => Holding::Damaged,
        Err(error) => return Err(error),
    })
}

/// A round is over: forgets what still is as it was asked about.
pub(in crate::node) async fn collect(
    shared: &Arc<Shared>,
    caller: &Caller,
    told: CollectTombstones,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let id = partition(told.partition)?;
    forget(shared, id, candidates(told.tombstones)?).await?;
    Ok(plain(Kind::Done(Done {})))
}

/// Forgets tombstones that still are as they were. What was given to the store before is durable when it returns.
///
/// # Errors
/// The store cannot be read, or has stopped.
pub(super) async fn forget(
    shared: &Shared,
    id: PartitionId,
    candidates: Vec<Candidate>,
) -> Result<(), Error> {
    let (answer, collected) = oneshot::channel();
    let bindings = candidates
        .into_iter()
        .map(|candidate| (candidate.key.to_vec(), candidate.digest));
    shared
        .engine
        .submit_collect(id, bindings.collect(), move |result| {
            let _ = answer.send(result);
        });
    let collected = collected.await.map_err(|_| reply::internal())?;
    let count = collected.map_err(|error| reply::of_binding(&error))?;
    shared.waiting.note_forgotten(count);
    Ok(())
}

fn partition(number: u32) -> Result<PartitionId, Error> {
    let number = u16::try_from(number);
    number.map(PartitionId).map_err(reply::malformed)
}

fn candidates(tombstones: Vec<Tombstone>) -> Result<Vec<Candidate>, Error> {
    if tombstones.len() > COLLECT_KEYS_MAX {
        return Err(reply::malformed(format!(
            "{} tombstones in a round, the most is {COLLECT_KEYS_MAX}",
            tombstones.len()
        )));
    }
    let candidate = |tombstone: Tombstone| {
        let digest = tombstone.digest.as_ref().try_into();
        let digest = digest.map_err(|_| reply::malformed("a digest has 32 bytes"))?;
        Ok(Candidate {
            // Not a part of the whole message.
            key: Bytes::copy_from_slice(&tombstone.key),
            digest: LeafSum::from_bytes(digest),
        })
    };
    tombstones.into_iter().map(candidate).collect()
}

pub(super) fn tombstones(candidates: &[Candidate]) -> Vec<Tombstone> {
    let tombstone = |candidate: &Candidate| Tombstone {
        key: candidate.key.clone(),
        digest: Bytes::copy_from_slice(&candidate.digest.to_bytes()),
    };
    candidates.iter().map(tombstone).collect()
}

pub(super) fn question(question: &Question) -> AskTombstones {
    AskTombstones {
        partition: question.partition.0.into(),
        map_version: question.map_version,
        fence: question.fence,
        tombstones: tombstones(&question.candidates),
    }
}

impl From<Answer> for TombstonesAre {
    fn from(answer: Answer) -> TombstonesAre {
        let void = match answer {
            Answer::Looked { clear } => {
                return TombstonesAre {
                    clear,
                    void_round: None,
                };
            }
            Answer::Void(void) => void,
        };
        let mut why = VoidRound::default();
        match void {
            Void::OtherMap { known } => why.map_version = Some(known),
            Void::Fenced { fence } => why.fence = Some(fence),
            Void::Hints => why.hints = true,
            Void::Arriving => why.arriving = true,
        }
        TombstonesAre {
            clear: Vec::new(),
            void_round: Some(why),
        }
    }
}

/// What another node says; `None`: something that has no meaning here.
pub(super) fn answer_of(said: TombstonesAre) -> Option<Answer> {
    let void = match said.void_round {
        None => return Some(Answer::Looked { clear: said.clear }),
        Some(VoidRound {
            map_version: Some(known),
            ..
        }) => Void::OtherMap { known },
        Some(VoidRound {
            fence: Some(fence), ..
        }) => Void::Fenced { fence },
        Some(VoidRound { hints: true, .. }) => Void::Hints,
        Some(VoidRound { arriving: true, .. }) => Void::Arriving,
        Some(_) => return None,
    };
    Some(Answer::Void(void))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_said_travels_whole() {
        let asked = Question {
            map_version: 3,
            partition: PartitionId(258),
            fence: 9,
            candidates: vec![Candidate {
                key: Bytes::from_static(b"key"),
                digest: LeafSum::from_bytes([7; 32]),
            }],
        };
        let sent = question(&asked);
        assert_eq!((sent.partition, sent.map_version, sent.fence), (258, 3, 9));
        assert_eq!(candidates(sent.tombstones), Ok(asked.candidates));
        let looked = Answer::Looked {
            clear: vec![true, false],
        };
        let voids = [
            Void::OtherMap { known: 0 },
            Void::Fenced { fence: 4 },
            Void::Hints,
            Void::Arriving,
        ];
        for answer in voids.map(Answer::Void).into_iter().chain([looked]) {
            assert_eq!(answer_of(answer.clone().into()), Some(answer));
        }
        let nothing = TombstonesAre {
            clear: vec![],
            void_round: Some(VoidRound::default()),
        };
        assert_eq!(answer_of(nothing), None);
    }

    #[test]
    fn a_round_is_bounded() {
        let one = Tombstone {
            key: Bytes::from_static(b"key"),
            digest: Bytes::from_static(&[7; 32]),
        };
        assert!(candidates(vec![one.clone(); COLLECT_KEYS_MAX]).is_ok());
        assert!(candidates(vec![one.clone(); COLLECT_KEYS_MAX + 1]).is_err());
        let digest = Bytes::from_static(&[7; 31]);
        assert!(candidates(vec![Tombstone { digest, ..one }]).is_err());
    }
}
