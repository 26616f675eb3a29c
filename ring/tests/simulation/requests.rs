//! What clients ask of nodes, and how a node answers.

use mesh_ring::command::{Command, ProducerStamp, TopicConfig};
use mesh_ring::ids::{NodeId, Offset, PartitionId, TopicId};
use mesh_ring::ledger::{AppendFacts, AppendRefusal, Decision, Moment, TopicRefusal};
use mesh_ring::name::{CursorName, TopicName};
use mesh_ring::producer::SequenceError;
use mesh_ring::replica::Role;

use crate::actor::{Actor, Hands, Waiter};
use crate::shared::Breakage;
use crate::store::batch_bytes;

/// Most batches of one answer to a reader.
const READ_BATCHES_MAX: usize = 20;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: usize,
    pub(crate) id: u64,
    pub(crate) partition: PartitionId,
    pub(crate) what: Ask,
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Append {
        topic: TopicId,
        stamp: ProducerStamp,
        value: u64,
        records: u32,
        expected: Option<Offset>,
    },
    Create(String),
    Delete(TopicId),
    Trim(TopicId, Offset),
    Cursor(TopicId, String, Offset),
    Read(TopicId, Offset),
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    NotLeader(Option<NodeId>),
    Busy,
    Appended {
        first: Offset,
        last: Offset,
    },
    WrongOffset,
    Sequence(SequenceError),
    NoTopic,
    /// The topic of that name, made now or earlier.
    Topic(TopicId),
    Done,
    TrimmedTo(Offset),
    BeyondEnd,
    /// What a reader sees: where the topic begins, and batches with their offsets.
    Batches(Offset, Vec<(u64, Offset, Offset)>),
}

pub(crate) fn serve(actor: &mut Actor, request: &Request, at: Moment, hands: &mut Hands<'_>) {
    if let Ask::Read(topic, from) = request.what {
        let answer = read(actor, topic, from, hands);
        return reply(actor, request, answer, hands);
    }
    if !actor.is_leading() {
        let leader = match actor.replica.role() {
            Role::Follower { leader } => leader,
            _ => None,
        };
        return reply(actor, request, Answer::NotLeader(leader), hands);
    }
    match &request.what {
        Ask::Append {
            topic,
            stamp,
            value,
            records,
            expected,
        } => {
            let facts = AppendFacts {
                topic: *topic,
                records: *records,
                bytes: batch_bytes(u64::from(*records)),
                producer: Some(*stamp),
                expected: *expected,
                admitted: !hands.shared.chance.one_in(40),
            };
            let store = &hands.disk.stores[&actor.partition];
            let Ok(decision) = actor.ledger.decide_append(store, at, facts);
            let answer = |(first, last)| Answer::Appended { first, last };
            let decision = map(decision, |a| answer((a.first, a.last)), append_refused);
            carry_out(actor, request, decision, Some(*value), hands);
        }
        Ask::Create(name) => {
            let Ok(name) = TopicName::new(name) else {
                return;
            };
            let config = TopicConfig::default();
            let store = &hands.disk.stores[&actor.partition];
            let Ok(decision) = actor.ledger.decide_create(store, at, &name, config, true);
            let decision = map(decision, |made| Answer::Topic(made.topic), topic_refused);
            carry_out(actor, request, decision, None, hands);
        }
        Ask::Delete(topic) => {
            let store = &hands.disk.stores[&actor.partition];
            let Ok(decision) = actor.ledger.decide_delete(store, *topic);
            let decision = map(decision, |()| Answer::Done, topic_refused);
            carry_out(actor, request, decision, None, hands);
        }
        Ask::Trim(topic, first) => {
            let store = &hands.disk.stores[&actor.partition];
            let Ok(decision) = actor.ledger.decide_trim(store, *topic, *first);
            let decision = map(
                decision,
                |done| Answer::TrimmedTo(done.first),
                topic_refused,
            );
            carry_out(actor, request, decision, None, hands);
        }
        Ask::Cursor(topic, name, next) => {
            let Ok(name) = CursorName::new(name) else {
                return;
            };
            let store = &hands.disk.stores[&actor.partition];
            let Ok(decision) = actor.ledger.decide_cursor(store, *topic, &name, *next);
            let decision = map(decision, |()| Answer::Done, topic_refused);
            carry_out(actor, request, decision, None, hands);
        }
        Ask::Read(..) => {}
    }
}

fn append_refused(refusal: AppendRefusal) -> Answer {
    match refusal {
        AppendRefusal::TopicDeleted => Answer::NoTopic,
        AppendRefusal::WrongOffset { .. } => Answer::WrongOffset,
        AppendRefusal::Sequence(error) => Answer::Sequence(error),
        AppendRefusal::NotAdmitted => Answer::Busy,
    }
}

fn topic_refused(refusal: TopicRefusal) -> Answer {
    match refusal {
        TopicRefusal::Exists(topic) => Answer::Topic(topic),
        TopicRefusal::Unknown => Answer::NoTopic,
        TopicRefusal::BeyondEnd { .. } => Answer::BeyondEnd,
        TopicRefusal::NotAdmitted => Answer::Busy,
        TopicRefusal::Missing { offset } => panic!("the log lacks offset {offset}"),
    }
}

fn map<A, R>(
    decision: Decision<A, R>,
    answered: impl FnOnce(A) -> Answer,
    refused: impl FnOnce(R) -> Answer,
) -> Decision<Answer, Answer> {
    match decision {
        Decision::Propose {
            index,
            command,
            answer,
        } => Decision::Propose {
            index,
            command,
            answer: answered(answer),
        },
        Decision::Answer { answer, after } => Decision::Answer {
            answer: answered(answer),
            after,
        },
        Decision::Refuse { refusal, after } => Decision::Refuse {
            refusal: refused(refusal),
            after,
        },
    }
}

fn carry_out(
    actor: &mut Actor,
    request: &Request,
    decision: Decision<Answer, Answer>,
    value: Option<u64>,
    hands: &mut Hands<'_>,
) {
    let (client, id) = (request.client, request.id);
    let wait = |actor: &mut Actor, index, answer| {
        let waiter = Waiter { client, id, answer };
        actor.waiting.entry(index).or_default().push(waiter);
    };
    match decision {
        Decision::Propose {
            index,
            command,
            answer,
        } => {
            wait(actor, index, answer);
            actor.propose(index, command, value, hands);
        }
        Decision::Answer { answer, after }
        | Decision::Refuse {
            refusal: answer,
            after,
        } => {
            if let Some((index, barrier)) = actor.ledger.confirm() {
                actor.propose(index, barrier, None, hands);
            }
            match after.filter(|after| *after > actor.replica.commit()) {
                Some(index) => wait(actor, index, answer),
                None => reply(actor, request, answer, hands),
            }
        }
    }
}

fn reply(actor: &Actor, request: &Request, answer: Answer, hands: &mut Hands<'_>) {
    let waiter = Waiter {
        client: request.client,
        id: request.id,
        answer,
    };
    actor.answer(waiter, hands);
}

fn read(actor: &Actor, topic: TopicId, from: Offset, hands: &Hands<'_>) -> Answer {
    let store = actor.store(hands);
    let Some(of) = store.topics.get(&topic) else {
        // Its id is the index of its creation: this replica may not have come so far.
        return if topic.0 > actor.applied.0 {
            Answer::Busy
        } else {
            Answer::NoTopic
        };
    };
    let upto = if hands.shared.is_broken(Breakage::UncommittedShown) {
        actor.replica.last().index
    } else {
        // Not all that is committed: a batch that came without its records would be a gap until that is applied.
        actor.applied
    };
    let mut batches = Vec::new();
    if from >= of.first {
        let visible = store.visible(topic, from, upto);
        let visible = visible.iter().take(READ_BATCHES_MAX);
        batches.extend(visible.map(|batch| (batch.value, batch.first, batch.last)));
    }
    Answer::Batches(of.first, batches)
}

/// Now and then a leader forgets a producer, sooner than a real one would.
pub(crate) fn keep_house(actor: &mut Actor, at: Moment, hands: &mut Hands<'_>) {
    if !actor.is_leading() || !hands.shared.chance.one_in(60) {
        return;
    }
    let keys: Vec<_> = actor.store(hands).windows.keys().copied().collect();
    let Some((topic, producer)) = hands.shared.chance.pick(&keys) else {
        return;
    };
    let before_ms = at.now_ms - hands.shared.chance.below(20_000);
    let store = &hands.disk.stores[&actor.partition];
    let decision = actor
        .ledger
        .decide_expire(store, topic, producer, before_ms);
    if let Ok(Decision::Propose { index, command, .. }) = decision {
        let is_expiry = matches!(command, Command::ExpireProducer { .. });
        assert!(is_expiry, "{command:?}");
        actor.propose(index, command, None, hands);
    }
}
