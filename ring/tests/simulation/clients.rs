//! Clients: idempotent producers that send again until they know, readers, and those who make and remove topics.

use std::collections::BTreeMap;

use mesh_ring::command::ProducerStamp;
use mesh_ring::ids::{NodeId, Offset, PartitionId, ProducerId, TopicId};
use mesh_ring::producer::SequenceError;

use crate::node::START_MS;
use crate::oracle::Acked;
use crate::requests::{Answer, Ask, Request};
use crate::shared::{Event, Shared};

/// After this time without an answer a client asks again, in microseconds.
const PATIENCE_US: u64 = 400_000;

/// Most batches of one producer on their way.
const FLIGHTS_MAX: usize = 4;

pub(crate) struct Client {
    id: usize,
    slots: Vec<Slot>,
    /// Every request that was made: the slot, and what was asked.
    asked: BTreeMap<u64, (usize, Ask)>,
    next_id: u64,
    /// Nothing new is begun.
    pub(crate) finishes: bool,
}

/// What a client does with one name.
struct Slot {
    partition: PartitionId,
    name: String,
    topic: Option<TopicId>,
    producer: ProducerId,
    epoch: u32,
    sequence: u32,
    flights: BTreeMap<u32, Flight>,
    node: NodeId,
    /// The end of what was acknowledged to this client.
    known_end: Offset,
    read_from: Offset,
    busy_until_us: u64,
}

struct Flight {
    value: u64,
    records: u32,
    expected: Option<Offset>,
    again_us: u64,
}

impl Client {
    pub(crate) fn new(id: usize, names: &[(PartitionId, String)], nodes: &[NodeId]) -> Self {
        let slots = names
            .iter()
            .enumerate()
            .map(|(at, (partition, name))| Slot {
                partition: *partition,
                name: name.clone(),
                topic: None,
                producer: producer(START_MS, id, at as u64),
                epoch: 0,
                sequence: 0,
                flights: BTreeMap::new(),
                node: nodes[(id + at) % nodes.len()],
                known_end: 0,
                read_from: 0,
                busy_until_us: 0,
            });
        Self {
            id,
            slots: slots.collect(),
            asked: BTreeMap::new(),
            next_id: 0,
            finishes: false,
        }
    }

    /// Whether everything is answered that must be.
    pub(crate) fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| slot.flights.is_empty())
    }

    /// What it waits for, for people.
    pub(crate) fn waits(&self) -> String {
        let slots = self.slots.iter().filter(|slot| !slot.flights.is_empty());
        let of = |slot: &Slot| {
            let sequences: Vec<u32> = slot.flights.keys().copied().collect();
            format!("{} {:?} {sequences:?}", slot.name, slot.topic)
        };
        slots.map(of).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn step(&mut self, nodes: &[NodeId], shared: &mut Shared) {
        for at in 0..self.slots.len() {
            self.step_slot(at, nodes, shared);
        }
        let delay_us = shared.chance.between(10_000, 60_000);
        shared.after(delay_us, Event::Client(self.id));
    }

    fn step_slot(&mut self, at: usize, nodes: &[NodeId], shared: &mut Shared) {
        let slot = &mut self.slots[at];
        let now_us = shared.now_us;
        let Some(topic) = slot.topic else {
            if !self.finishes && slot.busy_until_us <= now_us {
                slot.busy_until_us = now_us + PATIENCE_US;
                let ask = Ask::Create(slot.name.clone());
                self.ask(at, ask, nodes, shared);
            }
            return;
        };
        let due: Vec<u32> = slot
            .flights
            .iter()
            .filter(|(_, flight)| flight.again_us <= now_us)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in due {
            if shared.chance.one_in(8)
                && let Some(node) = shared.chance.pick(nodes)
            {
                self.slots[at].node = node;
            }
            self.send_flight(at, topic, sequence, nodes, shared);
        }
        if self.finishes {
            return;
        }
        let slot = &mut self.slots[at];
        // What follows a conditional append depends on its outcome.
        let waits = slot
            .flights
            .values()
            .any(|flight| flight.expected.is_some());
        if !waits && slot.flights.len() < FLIGHTS_MAX && !shared.chance.one_in(3) {
            let conditional = slot.flights.is_empty() && shared.chance.one_in(4);
            let sequence = slot.sequence;
            slot.sequence += 1;
            let flight = Flight {
                value: shared.chance.next(),
                records: shared.chance.between(1, 4) as u32,
                expected: conditional.then_some(slot.known_end),
                again_us: 0,
            };
            slot.flights.insert(sequence, flight);
            self.send_flight(at, topic, sequence, nodes, shared);
        }
        self.do_something_else(at, topic, nodes, shared);
    }

    fn do_something_else(
        &mut self,
        at: usize,
        topic: TopicId,
        nodes: &[NodeId],
        shared: &mut Shared,
    ) {
        let slot = &mut self.slots[at];
        let place = (slot.partition, topic);
        let ask = match shared.chance.below(300) {
            0 => {
                shared.oracle.delete_asked.insert(place);
                Ask::Delete(topic)
            }
            1..6 => {
                let first = shared.chance.between(0, slot.known_end);
                let asked = shared.oracle.trim_asked.entry(place).or_default();
                *asked = (*asked).max(first);
                Ask::Trim(topic, first)
            }
            6..20 => {
                let next = shared.chance.between(0, slot.known_end);
                let name = self.cursor_name(at);
                let asked = shared
                    .oracle
                    .cursor_asked
                    .entry((place.0, topic, name.clone()));
                asked.or_default().insert(next);
                Ask::Cursor(topic, name, next)
            }
            20..100 => Ask::Read(topic, slot.read_from),
            100 => {
                // It starts anew, and does not know what became of what is under way.
                slot.epoch += 1;
                slot.sequence = 0;
                slot.flights.clear();
                return;
            }
            _ => return,
        };
        self.ask(at, ask, nodes, shared);
    }

    fn cursor_name(&self, at: usize) -> String {
        format!("c{}-{at}", self.id)
    }

    fn send_flight(
        &mut self,
        at: usize,
        topic: TopicId,
        sequence: u32,
        nodes: &[NodeId],
        shared: &mut Shared,
    ) {
        let slot = &mut self.slots[at];
        let Some(flight) = slot.flights.get_mut(&sequence) else {
            return;
        };
        flight.again_us = shared.now_us + PATIENCE_US;
        let ask = Ask::Append {
            topic,
            stamp: ProducerStamp {
                id: slot.producer,
                epoch: slot.epoch,
                sequence,
            },
            value: flight.value,
            records: flight.records,
            expected: flight.expected,
        };
        self.ask(at, ask, nodes, shared);
    }

    fn ask(&mut self, at: usize, ask: Ask, nodes: &[NodeId], shared: &mut Shared) {
        self.next_id += 1;
        let slot = &self.slots[at];
        let request = Request {
            client: self.id,
            id: self.next_id,
            partition: slot.partition,
            what: ask.clone(),
        };
        let to = match &ask {
            Ask::Read(..) => shared.chance.pick(nodes).unwrap_or(slot.node),
            _ => slot.node,
        };
        self.asked.insert(self.next_id, (at, ask));
        shared.trace(&[20, self.id as u64, self.next_id], || {
            format!(
                "client {} asks n{}: {:?}",
                request.client, to.0[15], request
            )
        });
        // Clients reach every node, but what they say may be lost, late or doubled.
        shared.send(to, to, || Event::Request {
            to,
            request: request.clone(),
        });
    }

    pub(crate) fn answered(
        &mut self,
        id: u64,
        answer: Answer,
        nodes: &[NodeId],
        shared: &mut Shared,
    ) {
        shared.trace(&[21, self.id as u64, id], || {
            format!("client {} hears of {id}: {answer:?}", self.id)
        });
        let Some((at, ask)) = self.asked.get(&id).cloned() else {
            return;
        };
        if let Answer::NotLeader(leader) = answer {
            let random = shared.chance.pick(nodes);
            let slot = &mut self.slots[at];
            slot.node = leader.or(random).unwrap_or(slot.node);
            self.hurry(at, &ask, shared.now_us + 20_000);
            return;
        }
        match ask {
            Ask::Append { .. } => self.append_answered(at, &ask, &answer, shared),
            Ask::Create(_) => {
                if let Answer::Topic(topic) = answer {
                    let slot = &mut self.slots[at];
                    let place = (slot.partition, topic);
                    shared.oracle.created.insert(place, slot.name.clone());
                    if slot.topic.is_none() {
                        let now_ms = START_MS + shared.now_us / 1_000;
                        let producer = producer(now_ms, self.id, shared.chance.next());
                        slot.begin(topic, producer);
                    }
                }
            }
            Ask::Delete(topic) => {
                if matches!(answer, Answer::Done) {
                    shared.count("deleted topics");
                    let place = (self.slots[at].partition, topic);
                    shared.oracle.deleted.insert(place);
                }
            }
            Ask::Trim(topic, asked) => {
                if let Answer::TrimmedTo(first) = answer {
                    assert!(first >= asked, "trimmed to {first}, not to {asked}");
                    let place = (self.slots[at].partition, topic);
                    let known = shared.oracle.trimmed.entry(place).or_default();
                    *known = (*known).max(first);
                }
            }
            Ask::Cursor(topic, name, _) => {
                if matches!(answer, Answer::Done) {
                    let place = (self.slots[at].partition, topic, name);
                    shared.oracle.cursors.insert(place);
                }
            }
            Ask::Read(topic, from) => {
                let place = (self.slots[at].partition, topic);
                if matches!(answer, Answer::NoTopic) {
                    assert!(
                        shared.oracle.delete_asked.contains(&place),
                        "a reader is told that {place:?} is gone, and nobody deleted it"
                    );
                }
                if let Answer::Batches(first, batches) = answer {
                    shared.count("reads");
                    shared.oracle.read(place, from, first, &batches);
                    let slot = &mut self.slots[at];
                    if slot.topic == Some(topic) && slot.read_from == from {
                        let end = batches.last().map_or(from, |(.., last)| last + 1);
                        slot.read_from = end.max(first);
                    }
                }
            }
        }
    }

    /// What was refused without a reason that stays is asked again soon.
    fn hurry(&mut self, at: usize, ask: &Ask, again_us: u64) {
        if let Ask::Append { stamp, value, .. } = ask
            && let Some(flight) = self.slots[at].flights.get_mut(&stamp.sequence)
            && flight.value == *value
        {
            flight.again_us = flight.again_us.min(again_us);
        }
    }

    fn append_answered(&mut self, at: usize, ask: &Ask, answer: &Answer, shared: &mut Shared) {
        let Ask::Append {
            topic,
            stamp,
            value,
            ..
        } = *ask
        else {
            return;
        };
        let slot = &mut self.slots[at];
        let place = (slot.partition, topic);
        let flight = slot.flights.get(&stamp.sequence);
        let is_current = (slot.topic, slot.producer, slot.epoch)
            == (Some(topic), stamp.id, stamp.epoch)
            && flight.is_some_and(|flight| flight.value == value);
        match *answer {
            Answer::Appended { first, last } => {
                let at = Acked {
                    partition: slot.partition,
                    topic,
                    first,
                    last,
                };
                // A number whose batch was refused went to another one, and so may the answer.
                if !shared.oracle.was_refused(value) {
                    shared.oracle.acknowledged(value, at);
                }
                if is_current {
                    slot.known_end = slot.known_end.max(last + 1);
                    slot.flights.remove(&stamp.sequence);
                }
            }
            Answer::WrongOffset if is_current => {
                shared.count("refused conditions");
                shared.oracle.refused(value);
                slot.flights.remove(&stamp.sequence);
                slot.sequence = stamp.sequence;
                slot.known_end += 1;
            }
            Answer::NoTopic => {
                assert!(
                    shared.oracle.delete_asked.contains(&place),
                    "topic {place:?} is gone, and nobody deleted it"
                );
                if slot.topic == Some(topic) {
                    slot.topic = None;
                    slot.flights.clear();
                }
            }
            Answer::Sequence(SequenceError::Unknown) if is_current => {
                shared.count("forgotten producers");
                // It was forgotten; it goes on under another id and gives up what is under way.
                let now_ms = START_MS + shared.now_us / 1_000;
                slot.producer = producer(now_ms, self.id, shared.chance.next());
                slot.epoch = 0;
                slot.sequence = 0;
                slot.flights.clear();
            }
            Answer::Sequence(SequenceError::Gap { .. }) | Answer::Busy => {
                let again_us = shared.now_us + 30_000;
                self.hurry(at, ask, again_us);
            }
            _ => {}
        }
    }
}

impl Slot {
    /// It may be one with which it was done already, so that all numbers begin anew.
    fn begin(&mut self, topic: TopicId, producer: ProducerId) {
        self.topic = Some(topic);
        self.producer = producer;
        self.epoch = 0;
        self.sequence = 0;
        self.flights.clear();
        self.known_end = 0;
        self.read_from = 0;
    }
}

fn producer(minted_ms: u64, client: usize, luck: u64) -> ProducerId {
    let mut random = [0; 10];
    random[0] = client as u8;
    random[2..].copy_from_slice(&luck.to_be_bytes());
    ProducerId::new(minted_ms, random)
}
