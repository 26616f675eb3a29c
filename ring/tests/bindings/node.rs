//! A node: what it does with what arrives. What it coordinates is in `coordinator` and
//! `reads`, what it does by itself in `duties` and `rounds`.

use std::collections::BTreeMap;

use mesh_ring::hlc::Hlc;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::{ClusterMap, NodeState};
use mesh_ring::preference::Preference;
use mesh_ring::quorum::Role;
use mesh_ring::tombstone::{Knowledge, Question, Refusal, Stamp};

use crate::coordinator::Coordinated;
use crate::duties::{Delivery, Handover, Walking};
use crate::message::{Message, NotKept};
use crate::rounds::{Pause, Rounding};
use crate::shared::{Breakage, Event, Shared, short};
use crate::store::Store;

/// What waits for the next sync.
pub(crate) enum Waiting {
    Reply {
        to: NodeId,
        message: Message,
    },
    Look {
        to: NodeId,
        round: u64,
        question: Question,
    },
    /// The own part of a write that this node coordinates.
    Own {
        request: u64,
        role: Role,
    },
    /// A state that was refused is sent again.
    Again {
        request: u64,
        node: NodeId,
        role: Role,
    },
    /// All that `from` has of a partition is here.
    Filled {
        partition: PartitionId,
        from: NodeId,
    },
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) is_up: bool,
    /// Counts its starts: what was scheduled before a crash does not happen after it.
    pub(crate) run: u64,
    /// How far its clock is off, in milliseconds.
    pub(crate) clock_ms: i64,
    pub(crate) map: ClusterMap,
    pub(crate) since: u64,
    pub(crate) store: Store,
    pub(crate) disk: Store,
    pub(crate) waiting: Vec<Waiting>,
    is_syncing: bool,
    pub(crate) counter: u64,
    pub(crate) hlc: Hlc,
    pub(crate) requests: BTreeMap<u64, Coordinated>,
    pub(crate) walks: BTreeMap<PartitionId, Walking>,
    pub(crate) rounds: BTreeMap<PartitionId, Rounding>,
    pub(crate) pauses: BTreeMap<PartitionId, Pause>,
    pub(crate) deliveries: BTreeMap<PartitionId, Delivery>,
    /// Partitions whose copy goes once all homes have what is in it.
    pub(crate) handovers: BTreeMap<PartitionId, Handover>,
    /// Partitions that this node is being filled with.
    pub(crate) fills: BTreeMap<PartitionId, Handover>,
}

impl Node {
    pub(crate) fn new(id: NodeId, map: &ClusterMap) -> Self {
        Self {
            id,
            is_up: false,
            run: 0,
            clock_ms: 0,
            map: map.clone(),
            since: map.version(),
            store: Store::default(),
            disk: Store::default(),
            waiting: Vec::new(),
            is_syncing: false,
            counter: 0,
            hlc: Hlc::default(),
            requests: BTreeMap::new(),
            walks: BTreeMap::new(),
            rounds: BTreeMap::new(),
            pauses: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            handovers: BTreeMap::new(),
            fills: BTreeMap::new(),
        }
    }

    pub(crate) fn start(&mut self, shared: &mut Shared) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        self.run += 1;
        self.disk.boot += 1;
        self.store = self.disk.clone();
        self.counter = 0;
        shared.running.insert(self.id);
        shared.trace(&[2, short(self.id)], || {
            format!("n{} starts", short(self.id))
        });
        self.follow(shared);
        self.schedule(shared);
    }

    pub(crate) fn crash(&mut self, shared: &mut Shared) {
        if !self.is_up {
            return;
        }
        shared.trace(&[3, short(self.id)], || {
            format!("n{} crashes", short(self.id))
        });
        self.is_up = false;
        self.run += 1;
        self.is_syncing = false;
        self.waiting.clear();
        self.requests.clear();
        self.walks.clear();
        self.rounds.clear();
        self.pauses.clear();
        self.deliveries.clear();
        self.handovers.clear();
        self.fills.clear();
        self.store = self.disk.clone();
        shared.running.remove(&self.id);
    }

    pub(crate) fn now_ms(&self, shared: &Shared) -> u64 {
        // An hour or more is never subtracted from less than a day.
        (shared.now_us / 1_000 + 1_000_000_000).saturating_add_signed(self.clock_ms)
    }

    pub(crate) fn preference(&self, partition: PartitionId) -> Preference {
        Preference::of(&self.map, partition).expect("the map has it")
    }

    /// What is stamped with a fence was read after that fence was raised and looked under.
    pub(crate) fn stamp(&self, partition: PartitionId) -> Stamp {
        Stamp {
            map_version: self.map.version(),
            fence: self.disk.parts.get(&partition).map_or(0, |part| part.fence),
        }
    }

    pub(crate) fn admit(
        &mut self,
        partition: PartitionId,
        stamp: Stamp,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let fence = self.store.part(partition).fence;
        let knowledge = Knowledge {
            map_version: self.map.version(),
            member_since: self.since,
            fence,
        };
        let result = knowledge.admit(stamp);
        if result.is_err() {
            shared.count("refused states");
            if shared.is_broken(Breakage::StampsIgnored) {
                return Ok(());
            }
        }
        result
    }

    /// Another node is at a higher fence.
    pub(crate) fn learn(&mut self, partition: PartitionId, fence: u64, shared: &mut Shared) {
        let part = self.store.part(partition);
        if part.fence < fence {
            part.fence = fence;
            self.sync(shared);
        }
    }

    pub(crate) fn when_synced(&mut self, waiting: Waiting, shared: &mut Shared) {
        self.waiting.push(waiting);
        self.sync(shared);
    }

    pub(crate) fn sync(&mut self, shared: &mut Shared) {
        if !self.is_syncing {
            self.is_syncing = true;
            let delay_us = match shared.chance.below(20) {
                // A disk that is busy.
                0 => shared.chance.between(6_000, 150_000),
                _ => shared.chance.between(200, 6_000),
            };
            let (node, run) = (self.id, self.run);
            shared.after(delay_us, Event::Synced { node, run });
        }
    }

    pub(crate) fn synced(&mut self, shared: &mut Shared) {
        self.is_syncing = false;
        self.disk = self.store.clone();
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Reply { to, message } => shared.send(self.id, to, &message),
                Waiting::Look {
                    to,
                    round,
                    question,
                } => self.look(to, round, &question, shared),
                Waiting::Own { request, role } => self.acknowledged(request, self.id, role, shared),
                Waiting::Again {
                    request,
                    node,
                    role,
                } => self.send_write(request, node, role, shared),
                Waiting::Filled { partition, from } => self.filled(partition, from, shared),
            }
        }
    }

    pub(crate) fn learn_map(&mut self, map: &ClusterMap, shared: &mut Shared) {
        if map.version() > self.map.version() {
            self.map = map.clone();
            self.follow(shared);
        }
    }

    /// Becomes what the map says.
    fn follow(&mut self, shared: &mut Shared) {
        let assignments: Vec<(PartitionId, bool)> = self
            .map
            .assignments()
            .map(|(partition, of)| (partition, of.needs_copy(self.id)))
            .collect();
        for (partition, is_needed) in assignments {
            let was_leaving = self.handovers.contains_key(&partition);
            let part = self.store.part(partition);
            let has_copy = part.copy.is_some();
            if is_needed {
                if was_leaving {
                    shared.count("owners that return");
                    self.handovers.remove(&partition);
                    if shared.is_broken(Breakage::OldCopyWiped) {
                        part.drop_copy();
                    }
                }
                part.begin_copy();
            } else if has_copy {
                if shared.is_broken(Breakage::OldCopyDropped) {
                    part.drop_copy();
                } else {
                    self.handovers.entry(partition).or_default();
                }
            }
        }
        self.rounds.clear();
        self.sync(shared);
    }

    pub(crate) fn receive(&mut self, from: NodeId, message: Message, shared: &mut Shared) {
        if self.map.is_removed(from) {
            return;
        }
        match message {
            Message::Put {
                request,
                partition,
                key,
                state,
                stamp,
                role,
            } => {
                let result = self.keep(partition, &key, &state, stamp, role, shared);
                if let Err(NotKept::Stamp(Refusal::OldMap { .. })) | Err(NotKept::NotOwner) = result
                {
                    shared.send(self.id, from, &Message::Map(Box::new(self.map.clone())));
                }
                let message = Message::Kept {
                    request,
                    role,
                    result,
                };
                self.when_synced(Waiting::Reply { to: from, message }, shared);
            }
            Message::Kept {
                request,
                role,
                result,
            } => self.kept(request, from, role, result, shared),
            Message::Get {
                request,
                partition,
                key,
            } => {
                let answer = self.get(partition, &key);
                shared.send(self.id, from, &Message::Got { request, answer });
            }
            Message::Got { request, answer } => self.got(request, from, answer, shared),
            Message::Walk {
                walk,
                partition,
                stamp,
                request,
            } => self.answer_walk(from, walk, partition, stamp, &request, shared),
            Message::Walked {
                walk,
                partition,
                stamp,
                response,
            } => self.walked(from, walk, partition, stamp, response, shared),
            Message::Ask { round, question } => self.asked(from, round, question, shared),
            Message::Answered {
                round,
                partition,
                answer,
            } => self.answered(from, round, partition, &answer, shared),
            Message::Collect {
                partition,
                candidates,
            } => self.collect(partition, &candidates, shared),
            Message::Map(map) => self.learn_map(&map, shared),
        }
    }

    /// Whether a crash would take something from it.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_up && self.is_syncing
    }

    /// Whether it has nothing any more that others might need.
    pub(crate) fn is_empty(&self) -> bool {
        let mut parts = self.disk.parts.values();
        parts.all(|part| part.copy.is_none() && part.hints.is_empty())
    }

    pub(crate) fn is_removed(&self, map: &ClusterMap) -> bool {
        let member = map.node(self.id);
        member.is_none_or(|member| member.state == NodeState::Removed)
    }
}
