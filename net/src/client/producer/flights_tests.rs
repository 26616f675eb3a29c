use std::collections::HashMap;

use mesh_engine::batch::{BatchBuilder, BatchHeader, Compression};
use mesh_ring::producer::{ProducerWindow, SequenceError, Verdict};
use proptest::prelude::*;

use super::*;

fn pending(value: &[u8]) -> (Pending, Arc<Completion>) {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push_parts(None, value, &[], 0).unwrap();
    let completion = Arc::<Completion>::default();
    let deadline = Instant::now();
    (
        Pending {
            builder,
            expected: None,
            completion: completion.clone(),
            deadline,
            counted: 1,
        },
        completion,
    )
}

fn stamp(batch: &[u8]) -> ProducerStamp {
    BatchHeader::decode(batch).unwrap().producer.unwrap()
}

fn error(request: u64, code: ErrorCode) -> proto::Appended {
    let error = proto::Error {
        code: code.into(),
        message: "no".into(),
        ..Default::default()
    };
    proto::Appended {
        request,
        error: Some(error),
        ..Default::default()
    }
}

fn written(request: u64, first: u64) -> proto::Appended {
    proto::Appended {
        request,
        first,
        last: first,
        ..Default::default()
    }
}

impl Flights {
    /// What goes out, as the wire keeps it.
    fn resent(&mut self, request: u64) -> Option<Outgoing<Bytes>> {
        self.resend(request).map(|out| Outgoing {
            request: out.request,
            expected: out.expected,
            incarnation: out.incarnation,
            batch: out.batch.clone(),
        })
    }
}

fn start(count: usize) -> (Flights, Vec<Arc<Completion>>, Vec<Outgoing<Bytes>>) {
    let mut flights = Flights::default();
    let mut completions = Vec::new();
    for number in 0..count {
        let (pending, completion) = pending(&[number as u8]);
        flights.number(pending).unwrap();
        completions.push(completion);
    }
    let sent = (0..count as u64)
        .map(|request| flights.resent(request).unwrap())
        .collect();
    (flights, completions, sent)
}

fn synced() -> Arc<[String]> {
    Arc::from(["n1".to_owned()])
}

fn result(completion: &Completion) -> Option<Result<Appended, ClientError>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    completion
        .is_resolved()
        .then(|| runtime.block_on(completion.wait()).clone())
}

#[test]
fn a_lost_connection_sends_the_same_numbers_again_in_order() {
    let (mut flights, _, sent) = start(3);
    flights.answered(written(1, 7), &synced());
    flights.lost("");
    let again: Vec<_> = [3, 4]
        .map(|request| flights.resent(request).unwrap())
        .into();
    assert!(flights.resent(5).is_none());
    assert_eq!(stamp(&again[0].batch), stamp(&sent[0].batch));
    assert_eq!(stamp(&again[1].batch), stamp(&sent[2].batch));
}

#[test]
fn after_a_refusal_the_rest_is_numbered_anew() {
    let (mut flights, completions, sent) = start(3);
    assert_eq!(
        flights
            .answered(error(0, ErrorCode::OffsetMismatch), &synced())
            .released,
        1
    );
    assert!(matches!(
        result(&completions[0]),
        Some(Err(ClientError::Conflict { .. }))
    ));
    flights.answered(error(1, ErrorCode::UnknownProducer), &synced());
    assert!(
        !flights.has_room() && flights.resent(9).is_none(),
        "one is still under way"
    );
    flights.answered(error(2, ErrorCode::SequenceGap), &synced());
    let old = stamp(&sent[0].batch);
    for sequence in 0..2 {
        let again = flights.resent(10 + u64::from(sequence)).unwrap();
        assert_eq!(
            stamp(&again.batch),
            ProducerStamp {
                id: old.id,
                epoch: old.epoch + 1,
                sequence
            }
        );
    }
    flights.answered(written(10, 4), &synced());
    flights.answered(written(11, 5), &synced());
    assert_eq!(result(&completions[2]).unwrap().unwrap().first, 5);
    assert!(flights.is_empty() && flights.has_room());
}

#[test]
fn a_forgotten_retry_is_not_sent_a_third_time() {
    let (mut flights, completions, _) = start(2);
    flights.answered(written(0, 0), &synced());
    flights.lost("");
    flights.resent(5).unwrap();
    flights.answered(error(5, ErrorCode::UnknownProducer), &synced());
    assert!(matches!(
        result(&completions[1]),
        Some(Err(ClientError::Unavailable(_)))
    ));
    assert!(flights.is_empty());
}

#[test]
fn a_producer_refused_from_the_start_is_told_so() {
    let (mut flights, completions, _) = start(1);
    flights.answered(error(0, ErrorCode::UnknownProducer), &synced());
    assert!(matches!(
        result(&completions[0]),
        Some(Err(ClientError::Failed(_)))
    ));
}

#[test]
fn what_expired_keeps_its_place() {
    let (mut flights, completions, sent) = start(2);
    flights.expire(Instant::now());
    assert!(matches!(
        result(&completions[0]),
        Some(Err(ClientError::Unavailable(_)))
    ));
    flights.lost("");
    assert_eq!(
        stamp(&flights.resent(7).unwrap().batch),
        stamp(&sent[0].batch)
    );
    assert_eq!(flights.answered(written(7, 0), &synced()).released, 1);
}

/// A topic as a node keeps it, with refusals and losses at will.
#[derive(Default)]
struct Node {
    windows: HashMap<ProducerId, ProducerWindow>,
    log: Vec<u8>,
}

impl Node {
    fn append(&mut self, out: &Outgoing<Bytes>, refuse: bool) -> proto::Appended {
        let stamp = stamp(&out.batch);
        let window = self.windows.entry(stamp.id).or_default();
        match window.check(stamp.epoch, stamp.sequence) {
            Ok(Verdict::Duplicate { first, .. }) => written(out.request, first),
            Ok(Verdict::Next) if refuse => error(out.request, ErrorCode::NoSpace),
            Ok(Verdict::Next) => {
                let offset = self.log.len() as u64;
                self.log.push(out.batch[out.batch.len() - 2]);
                window.record(stamp.epoch, stamp.sequence, offset, offset);
                written(out.request, offset)
            }
            Err(SequenceError::Gap { .. }) => error(out.request, ErrorCode::SequenceGap),
            Err(SequenceError::Fenced { .. }) => error(out.request, ErrorCode::Fenced),
            Err(SequenceError::Unknown) => error(out.request, ErrorCode::UnknownProducer),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    Send,
    Process {
        refuse: bool,
    },
    Answer,
    Lose,
    /// Another node leads. The one before may take what still comes into the journal, and deny it.
    Move {
        denies: bool,
    },
}

/// One topic, its producer, and the two nodes that may lead it and share its log.
#[derive(Default)]
struct Course {
    flights: Flights,
    node: Node,
    completions: Vec<Arc<Completion>>,
    request: u64,
    wire: VecDeque<Outgoing<Bytes>>,
    back: VecDeque<proto::Appended>,
    leader: usize,
    /// The node that the batches go to.
    lane: usize,
    /// The node that does not lead any more takes what comes, until the one that does has taken something.
    denies: bool,
}

impl Course {
    fn step(&mut self, step: Step) {
        match step {
            Step::Publish if self.flights.has_room() && self.completions.len() < 250 => {
                let (pending, completion) = pending(&[self.completions.len() as u8]);
                self.flights.number(pending).unwrap();
                self.completions.push(completion);
            }
            Step::Publish => {}
            Step::Send => {
                if let Some(out) = self.flights.resent(self.request) {
                    self.request += 1;
                    self.wire.push_back(out);
                }
            }
            Step::Process { refuse } => {
                if let Some(out) = self.wire.pop_front() {
                    let answer = self.process(&out, refuse);
                    self.back.push_back(answer);
                }
            }
            Step::Answer => {
                if let Some(answer) = self.back.pop_front() {
                    self.flights.answered(answer, &synced());
                }
                if self.flights.take_adrift().is_some() {
                    assert!(self.wire.is_empty() && self.back.is_empty());
                    self.lane = self.leader;
                }
            }
            Step::Lose => {
                // The node has taken in some of what was on the wire; no answer arrives.
                self.wire.clear();
                self.back.clear();
                self.flights.lost("lost");
                self.lane = self.leader;
            }
            Step::Move { denies } => {
                self.leader = 1 - self.leader;
                self.denies = denies;
            }
        }
    }

    fn process(&mut self, out: &Outgoing<Bytes>, refuse: bool) -> proto::Appended {
        if self.lane == self.leader {
            self.denies = false;
            return self.node.append(out, refuse);
        }
        if self.denies {
            self.node.append(out, false);
        }
        error(out.request, ErrorCode::NotLeader)
    }
}

#[test]
fn where_a_leader_denies_what_it_took_it_is_there_once() {
    let mut course = Course::default();
    for step in [
        Step::Publish,
        Step::Publish,
        Step::Send,
        Step::Send,
        Step::Move { denies: true },
        Step::Process { refuse: false },
        Step::Process { refuse: false },
        Step::Answer,
        Step::Send,
    ] {
        course.step(step);
    }
    assert!(course.wire.is_empty(), "one is still under way");
    assert_eq!(course.lane, 0);
    course.step(Step::Answer);
    assert_eq!(course.lane, 1);
    for step in [Step::Send, Step::Process { refuse: false }, Step::Answer].repeat(2) {
        course.step(step);
    }
    assert_eq!(course.node.log, [0, 1]);
    assert_eq!(result(&course.completions[1]).unwrap().unwrap().first, 1);
}

#[test]
fn one_that_came_too_early_waits_for_the_one_before() {
    let (mut flights, completions, sent) = start(2);
    // Both were denied by a node that leads again when the second one comes.
    flights.answered(error(1, ErrorCode::SequenceGap), &synced());
    assert!(flights.resent(5).is_none() && !flights.has_room());
    flights.answered(error(0, ErrorCode::NotLeader), &synced());
    assert_eq!(flights.take_adrift(), Some(None));
    for (at, before) in sent.iter().enumerate() {
        let again = flights.resent(10 + at as u64).unwrap();
        assert_eq!(stamp(&again.batch), stamp(&before.batch));
    }
    flights.answered(written(10, 0), &synced());
    flights.answered(written(11, 1), &synced());
    assert!(
        completions
            .iter()
            .all(|completion| completion.is_resolved())
    );
}

#[test]
fn the_reason_for_waiting_is_told_at_the_deadline() {
    let (mut flights, completions, _) = start(1);
    flights.answered(error(0, ErrorCode::NotEnoughReplicas), &synced());
    flights.expire(Instant::now());
    match result(&completions[0]) {
        Some(Err(ClientError::Unavailable(message))) => {
            assert!(message.contains("timeout: no; the record may"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Whatever is refused and lost, and whoever leads: acknowledged means there once, at that offset; refused means not
    /// there; and the order of what is there is the order of publishing.
    #[test]
    fn each_batch_is_there_once_or_refused(steps in prop::collection::vec(prop_oneof![
        6 => Just(Step::Publish),
        8 => Just(Step::Send),
        8 => Just(Step::Process { refuse: false }),
        2 => Just(Step::Process { refuse: true }),
        8 => Just(Step::Answer),
        1 => Just(Step::Lose),
        2 => any::<bool>().prop_map(|denies| Step::Move { denies }),
    ], 1..200)) {
        let mut course = Course::default();
        steps.into_iter().for_each(|step| course.step(step));
        for _ in 0..80 {
            for step in [Step::Send, Step::Process { refuse: false }, Step::Answer] {
                course.step(step);
            }
        }
        let node = course.node;
        prop_assert!(course.flights.is_empty());
        prop_assert!(node.log.is_sorted(), "out of order: {:?}", node.log);
        for (number, completion) in course.completions.iter().enumerate() {
            let copies = node.log.iter().filter(|value| **value == number as u8).count();
            match result(completion).unwrap() {
                Ok(appended) => {
                    prop_assert_eq!(copies, 1);
                    prop_assert_eq!(node.log[appended.first as usize], number as u8);
                }
                Err(_) => prop_assert_eq!(copies, 0),
            }
        }
    }
}
