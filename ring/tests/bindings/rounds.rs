//! Rounds about tombstones: those that a node begins, and those that it is asked in.

use std::collections::BTreeSet;

use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::tombstone::{Answer, Candidate, Question, Round, Verdict, Void, look, raise};

use crate::message::Message;
use crate::node::{Node, Waiting};
use crate::shared::{Breakage, Event, MILLI_US, SECOND_US, Shared};
use crate::store::digest;

/// A round that this node has begun.
pub(crate) struct Rounding {
    id: u64,
    machine: Round,
    since_us: u64,
}

/// How long no round begins: each one makes others send anew what is on its way.
#[derive(Default)]
pub(crate) struct Pause {
    until_us: u64,
    length_us: u64,
}

impl Pause {
    fn grow(&mut self, now_us: u64) {
        self.length_us = (self.length_us * 2).clamp(100 * MILLI_US, 8 * SECOND_US);
        self.until_us = now_us + self.length_us;
    }
}

impl Node {
    pub(crate) fn begin_round(&mut self, partition: PartitionId, shared: &mut Shared) {
        if let Some(rounding) = self.rounds.get(&partition)
            && shared.now_us - rounding.since_us < SECOND_US
        {
            return;
        }
        self.rounds.remove(&partition);
        let pause = self.pauses.entry(partition).or_default();
        if shared.now_us < pause.until_us {
            return;
        }
        let part = self.store.part(partition);
        let fence = part.fence;
        let copy = part.copy.iter().flatten();
        let candidates: Vec<Candidate> = copy
            .filter(|(_, binding)| binding.is_collectable())
            .map(|(key, binding)| Candidate {
                key: key.clone(),
                digest: digest(key, binding),
            })
            .collect();
        if candidates.is_empty() {
            return;
        }
        let members: Vec<NodeId> = self.map.nodes().iter().map(|member| member.id).collect();
        let mut live: BTreeSet<NodeId> = members.into_iter().collect();
        live.retain(|node| shared.seems_live(self.id, *node));
        if shared.is_broken(Breakage::ReplicasAskedAlone) {
            live.extend(self.map.nodes().iter().map(|member| member.id));
        }
        let round = Round::new(
            &self.map,
            self.id,
            |node| live.contains(&node),
            partition,
            fence,
            candidates,
        );
        let Ok(machine) = round else {
            return;
        };
        shared.count("rounds");
        self.pauses
            .entry(partition)
            .or_default()
            .grow(shared.now_us);
        let round = shared.unique();
        let message = Message::Ask {
            round,
            question: machine.question().clone(),
        };
        let homes = self.preference(partition).homes;
        let mut skipped = Vec::new();
        for node in machine.waiting() {
            if shared.is_broken(Breakage::ReplicasAskedAlone) && !homes.contains(node) {
                skipped.push(*node);
            } else {
                shared.send(self.id, *node, &message);
            }
        }
        let clear = vec![true; machine.question().candidates.len()];
        let rounding = Rounding {
            id: round,
            machine,
            since_us: shared.now_us,
        };
        self.rounds.insert(partition, rounding);
        for node in skipped {
            let clear = clear.clone();
            self.answered(node, round, partition, &Answer::Looked { clear }, shared);
        }
    }

    pub(crate) fn answered(
        &mut self,
        from: NodeId,
        round: u64,
        partition: PartitionId,
        answer: &Answer,
        shared: &mut Shared,
    ) {
        let Some(rounding) = self.rounds.get_mut(&partition) else {
            return;
        };
        if rounding.id != round {
            return;
        }
        let Some(verdict) = rounding.machine.answered(from, answer) else {
            return;
        };
        shared.trace(&[9, round], || format!("round {round}: {verdict:?}"));
        self.rounds.remove(&partition);
        match verdict {
            Verdict::Collect { nodes, candidates } if !candidates.is_empty() => {
                shared.count("rounds that collect");
                self.pauses.remove(&partition);
                let message = Message::Collect {
                    partition,
                    candidates,
                };
                for node in nodes {
                    shared.send(self.id, node, &message);
                }
            }
            Verdict::Void {
                cause: Void::Fenced { fence },
                ..
            } => self.learn(partition, fence, shared),
            Verdict::Collect { .. } | Verdict::Void { .. } => {}
        }
    }

    pub(crate) fn asked(
        &mut self,
        from: NodeId,
        round: u64,
        question: Question,
        shared: &mut Shared,
    ) {
        let partition = question.partition;
        let is_home = self.preference(partition).homes.contains(&self.id);
        if shared.is_broken(Breakage::ReplicasAskedAlone) && !is_home {
            let clear = vec![true; question.candidates.len()];
            let answer = Answer::Looked { clear };
            self.answer_round(from, round, partition, answer, shared);
            return;
        }
        let version = self.map.version();
        match raise(&question, version, self.store.part(partition).fence) {
            Err(cause) => {
                if let Void::OtherMap { known } = cause
                    && known > question.map_version
                {
                    shared.send(self.id, from, &Message::Map(Box::new(self.map.clone())));
                }
                let answer = Answer::Void(cause);
                self.answer_round(from, round, partition, answer, shared);
            }
            Ok(fence) => {
                self.store.part(partition).fence = fence;
                if shared.is_broken(Breakage::LookedBeforeSync) {
                    self.look(from, round, &question, shared);
                    self.sync(shared);
                } else {
                    let to = from;
                    let waiting = Waiting::Look {
                        to,
                        round,
                        question,
                    };
                    self.when_synced(waiting, shared);
                }
            }
        }
    }

    pub(crate) fn look(
        &mut self,
        to: NodeId,
        round: u64,
        question: &Question,
        shared: &mut Shared,
    ) {
        let store = match shared.is_broken(Breakage::LookedBeforeSync) {
            true => &self.store,
            false => &self.disk,
        };
        let part = store.parts.get(&question.partition).cloned();
        let part = part.unwrap_or_default();
        let hints = !part.hints.is_empty() && !shared.is_broken(Breakage::HintsNotAsked);
        let version = self.map.version();
        let answer = look(question, version, hints, |key| Ok(part.holding(key)));
        let answer: Result<_, std::convert::Infallible> = answer;
        let Ok(answer) = answer;
        self.answer_round(to, round, question.partition, answer, shared);
    }

    fn answer_round(
        &self,
        to: NodeId,
        round: u64,
        partition: PartitionId,
        answer: Answer,
        shared: &mut Shared,
    ) {
        let message = Message::Answered {
            round,
            partition,
            answer,
        };
        shared.send(self.id, to, &message);
        if shared.is_troubled && shared.chance.one_in(10) {
            // The worst moment: others go by what it has just said.
            let delay_us = shared.chance.below(8 * MILLI_US);
            shared.after(delay_us, Event::Crash(self.id));
        }
    }

    pub(crate) fn collect(
        &mut self,
        partition: PartitionId,
        candidates: &[Candidate],
        shared: &mut Shared,
    ) {
        let Some(copy) = self.store.part(partition).copy_mut() else {
            return;
        };
        for candidate in candidates {
            let Some(held) = copy.get(&candidate.key) else {
                continue;
            };
            if digest(&candidate.key, held) == candidate.digest {
                shared.oracle.collected(held);
                copy.remove(&candidate.key);
                shared.count("collected tombstones");
            }
        }
        self.sync(shared);
    }
}
