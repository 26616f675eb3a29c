//! The ledger's promises one by one, as a leader and its clients meet them.

use mesh_ring::command::{Command, ProducerStamp, TopicConfig};
use mesh_ring::ids::{Index, ProducerId, TopicId};
use mesh_ring::ledger::{
    AppendFacts, AppendRefusal, Appended, Decision, Ledger, Moment, REPLAY_ENTRIES_MAX,
    TOPIC_BYTES, TOPICS_BYTES_MAX, TopicRefusal, topics_max,
};
use mesh_ring::limits::PRODUCER_AGE_MS_MAX;
use mesh_ring::name::TopicName;
use mesh_ring::producer::SequenceError;

use crate::store::Store;

const NOW_MS: u64 = 1_700_000_000_000;

/// A leader with its store and its journal.
struct Leader {
    store: Store,
    ledger: Ledger,
    commands: Vec<Command>,
    at: Moment,
}

type Outcome<A, R> = Result<(A, Option<Index>), (R, Option<Index>)>;

impl Leader {
    fn new() -> Self {
        let mut ledger = Ledger::new(Default::default());
        ledger.lead();
        Self {
            store: Store::default(),
            ledger,
            commands: Vec::new(),
            at: Moment {
                now_ms: NOW_MS,
                age_ms: NOW_MS,
            },
        }
    }

    fn with_topic() -> (Self, TopicId) {
        let mut leader = Self::new();
        let topic = leader.create("t").unwrap().0;
        leader.settle();
        (leader, topic)
    }

    /// Proposes what is decided. The answer, and the index that it waits for.
    fn propose<A, R>(&mut self, decision: Decision<A, R>) -> Outcome<A, R> {
        match decision {
            Decision::Propose {
                index,
                command,
                answer,
            } => {
                self.commands.push(command);
                assert_eq!(index.0, self.commands.len() as u64);
                Ok((answer, Some(index)))
            }
            Decision::Answer { answer, after } => Ok((answer, after)),
            Decision::Refuse { refusal, after } => {
                if let Some((index, command)) = self.ledger.confirm() {
                    self.commands.push(command);
                    assert_eq!(index.0, self.commands.len() as u64);
                }
                Err((refusal, after))
            }
        }
    }

    fn create(&mut self, name: &str) -> Outcome<TopicId, TopicRefusal> {
        let name = TopicName::new(name).unwrap();
        let config = TopicConfig::default();
        let decision = self
            .ledger
            .decide_create(&self.store, self.at, &name, config, true);
        let decision = decision.unwrap();
        self.propose(decision)
            .map(|(created, after)| (created.topic, after))
    }

    fn delete(&mut self, topic: TopicId) -> Outcome<(), TopicRefusal> {
        let decision = self.ledger.decide_delete(&self.store, topic).unwrap();
        self.propose(decision)
    }

    fn append(&mut self, facts: AppendFacts) -> Outcome<Appended, AppendRefusal> {
        let decision = self.ledger.decide_append(&self.store, self.at, facts);
        let decision = decision.unwrap();
        self.propose(decision)
    }

    fn settle(&mut self) {
        let upto = self.ledger.last();
        self.store.apply(&self.commands, upto);
        self.ledger.settle(upto);
    }

    /// Loses all that is not settled, and is made leader again.
    fn depose(&mut self) {
        let settled = self.ledger.settled();
        self.ledger.truncate(settled.next());
        self.commands.truncate(settled.0 as usize);
        let barrier = settled.next();
        self.commands.push(Command::Barrier);
        self.ledger
            .follow(&self.store, barrier, &Command::Barrier)
            .unwrap();
        self.settle();
        self.ledger.lead();
    }
}

fn batch(topic: TopicId) -> AppendFacts {
    AppendFacts {
        topic,
        records: 2,
        bytes: 100,
        producer: None,
        expected: None,
        admitted: true,
    }
}

fn of(producer: ProducerId, sequence: u32, topic: TopicId) -> AppendFacts {
    AppendFacts {
        producer: Some(ProducerStamp {
            id: producer,
            epoch: 0,
            sequence,
        }),
        ..batch(topic)
    }
}

fn producer(minted_ms: u64) -> ProducerId {
    ProducerId::new(minted_ms, [7; 10])
}

fn appended(first: u64, duplicate: bool) -> Appended {
    Appended {
        first,
        last: first + 1,
        duplicate,
    }
}

#[test]
fn a_retry_of_an_append_under_way_waits_for_it() {
    let (mut leader, topic) = Leader::with_topic();
    let facts = of(producer(NOW_MS), 0, topic);
    let (first, index) = leader.append(facts).unwrap();
    assert_eq!(first, appended(0, false));
    leader.append(batch(topic)).unwrap();
    assert_eq!(leader.append(facts), Ok((appended(0, true), index)));
    leader.settle();
    assert_eq!(leader.append(facts), Ok((appended(0, true), None)));
}

#[test]
fn a_retry_is_answered_even_where_nothing_new_is_taken() {
    let (mut leader, topic) = Leader::with_topic();
    let facts = of(producer(NOW_MS), 0, topic);
    leader.append(facts).unwrap();
    leader.settle();
    let retry = AppendFacts {
        admitted: false,
        expected: Some(0),
        ..facts
    };
    assert_eq!(leader.append(retry), Ok((appended(0, true), None)));
    let new = AppendFacts {
        admitted: false,
        ..of(producer(NOW_MS), 1, topic)
    };
    assert_eq!(leader.append(new), Err((AppendRefusal::NotAdmitted, None)));
}

#[test]
fn a_truncated_append_leaves_no_trace() {
    let (mut leader, topic) = Leader::with_topic();
    let facts = of(producer(NOW_MS), 0, topic);
    leader.append(facts).unwrap();
    leader.append(of(producer(NOW_MS), 1, topic)).unwrap();
    leader.depose();
    let unknown = AppendRefusal::Sequence(SequenceError::Unknown);
    let refused = leader.append(of(producer(NOW_MS), 1, topic));
    assert_eq!(refused.unwrap_err().0, unknown);
    assert_eq!(leader.append(facts).unwrap().0, appended(0, false));
}

#[test]
fn a_truncated_create_leaves_its_name_free_and_a_truncated_delete_its_topic_alive() {
    let (mut leader, topic) = Leader::with_topic();
    leader.create("u").unwrap();
    leader.delete(topic).unwrap();
    leader.depose();
    assert!(leader.create("u").unwrap().1.is_some());
    assert_eq!(leader.append(batch(topic)).unwrap().0, appended(0, false));
}

#[test]
fn a_create_of_what_is_being_created_waits_for_it_if_it_asks_for_the_same() {
    let mut leader = Leader::new();
    let first = leader.create("t").unwrap();
    assert_eq!(leader.create("t"), Ok(first));
    let name = TopicName::new("t").unwrap();
    let other = TopicConfig {
        retention_bytes: Some(1),
        ..TopicConfig::default()
    };
    let decision = leader
        .ledger
        .decide_create(&leader.store, leader.at, &name, other, true)
        .unwrap();
    let exists = TopicRefusal::Exists(first.0);
    assert_eq!(leader.propose(decision).unwrap_err().0, exists);
    leader.settle();
    assert_eq!(leader.create("t").unwrap_err().0, exists);
}

#[test]
fn a_deletion_under_way_ends_a_topic_and_frees_its_name() {
    let (mut leader, topic) = Leader::with_topic();
    leader.append(batch(topic)).unwrap();
    let deleted = leader.delete(topic).unwrap().1;
    let gone = AppendRefusal::TopicDeleted;
    assert_eq!(leader.append(batch(topic)), Err((gone, deleted)));
    assert_eq!(leader.delete(topic), Ok(((), deleted)));
    let (again, _) = leader.create("t").unwrap();
    assert_ne!(again, topic);
    assert_eq!(leader.append(batch(again)).unwrap().0, appended(0, false));
    leader.settle();
    assert_eq!(leader.append(batch(topic)), Err((gone, None)));
    assert_eq!(leader.delete(topic), Err((TopicRefusal::Unknown, None)));
    assert_eq!(leader.append(batch(again)).unwrap().0, appended(2, false));
}

#[test]
fn a_wrong_offset_is_told_when_the_records_that_make_it_wrong_are_committed() {
    let (mut leader, topic) = Leader::with_topic();
    let index = leader.append(batch(topic)).unwrap().1;
    let facts = AppendFacts {
        expected: Some(0),
        ..batch(topic)
    };
    let wrong = AppendRefusal::WrongOffset {
        expected: 0,
        next: 2,
    };
    assert_eq!(leader.append(facts), Err((wrong, index)));
    leader.depose();
    assert_eq!(leader.append(facts).unwrap().0, appended(0, false));
}

#[test]
fn what_a_newer_leader_might_know_better_is_told_when_a_later_entry_commits() {
    let (mut leader, topic) = Leader::with_topic();
    leader.append(of(producer(NOW_MS), 0, topic)).unwrap();
    leader.settle();
    let next = leader.ledger.last().next();
    let beyond = AppendFacts {
        expected: Some(9),
        ..batch(topic)
    };
    let unsure = [beyond, batch(TopicId(99)), of(producer(NOW_MS), 7, topic)];
    for facts in unsure {
        let decision = leader.ledger.decide_append(&leader.store, leader.at, facts);
        let Ok(Decision::Refuse { after, .. }) = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(after, Some(next), "{facts:?}");
    }
    // One barrier for all of them, and none where something else was entered.
    let (index, command) = leader.ledger.confirm().unwrap();
    assert_eq!((index, &command), (next, &Command::Barrier));
    leader.commands.push(command);
    assert_eq!(leader.ledger.confirm(), None);
    assert!(leader.append(beyond).unwrap_err().1 > Some(next));
    let _ = leader
        .ledger
        .decide_append(&leader.store, leader.at, beyond);
    leader.append(batch(topic)).unwrap();
    assert_eq!(leader.ledger.confirm(), None);
}

#[test]
fn an_append_that_is_withdrawn_leaves_no_trace() {
    let (mut leader, topic) = Leader::with_topic();
    leader.append(of(producer(NOW_MS), 0, topic)).unwrap();
    let before = leader.ledger.clone();
    let facts = of(producer(NOW_MS), 1, topic);
    for _ in 0..2 {
        let decision = leader.ledger.decide_append(&leader.store, leader.at, facts);
        let Ok(Decision::Propose { index, .. }) = decision else {
            panic!("{decision:?}");
        };
        leader.ledger.withdraw(index);
        assert_eq!(format!("{:?}", leader.ledger), format!("{before:?}"));
    }
    let (answer, _) = leader.append(facts).unwrap();
    assert_eq!(answer, appended(2, false));
}

#[test]
fn time_never_moves_back_in_a_topic() {
    let (mut leader, topic) = Leader::with_topic();
    leader.append(batch(topic)).unwrap();
    leader.at = Moment {
        now_ms: NOW_MS - 10_000,
        age_ms: 0,
    };
    leader.append(batch(topic)).unwrap();
    leader.settle();
    let decision = leader.ledger.decide_trim(&leader.store, topic, 4).unwrap();
    leader.propose(decision).unwrap();
    leader.settle();
    leader.depose();
    leader.append(batch(topic)).unwrap();
    for command in &leader.commands {
        if let Command::Append { time_ms, .. } | Command::Trim { time_ms, .. } = command {
            assert_eq!(*time_ms, NOW_MS);
        }
    }
}

#[test]
fn a_trim_may_reach_into_what_is_being_appended() {
    let (mut leader, topic) = Leader::with_topic();
    for _ in 0..3 {
        leader.append(batch(topic)).unwrap();
    }
    for (first, position) in [(1, 0), (3, 100), (4, 200), (6, 300)] {
        let decision = leader.ledger.decide_trim(&leader.store, topic, first);
        let (trimmed, _) = leader.propose(decision.unwrap()).unwrap();
        assert_eq!(trimmed.first, first);
        let expected = Command::Trim {
            topic,
            first,
            position,
            time_ms: NOW_MS,
        };
        assert_eq!(leader.commands.last(), Some(&expected));
    }
    let decision = leader.ledger.decide_trim(&leader.store, topic, 7).unwrap();
    let (refusal, _) = leader.propose(decision).unwrap_err();
    assert_eq!(refusal, TopicRefusal::BeyondEnd { offset: 7, next: 6 });
}

#[test]
fn a_forgotten_producer_is_not_taken_for_a_new_one_by_a_leader_whose_clock_is_behind() {
    let (mut leader, topic) = Leader::with_topic();
    // Minted by a client whose clock is ahead, so that age alone would not tell.
    let who = producer(NOW_MS + PRODUCER_AGE_MS_MAX / 2);
    leader.append(of(who, 0, topic)).unwrap();
    let decision = leader
        .ledger
        .decide_expire(&leader.store, topic, who, NOW_MS + 1)
        .unwrap();
    let expired = leader.propose(decision).unwrap().1;
    let unknown = AppendRefusal::Sequence(SequenceError::Unknown);
    let other = producer(NOW_MS + 1);
    for late in [who, other] {
        let refused = leader.append(of(late, 0, topic));
        assert_eq!(refused, Err((unknown, expired)));
    }
    leader.settle();
    let checkpoint = leader.ledger.checkpoint().unwrap();
    leader.store.save(checkpoint);

    leader.ledger = Ledger::new(leader.store.checkpointed);
    leader.ledger.lead();
    leader.at.now_ms = NOW_MS - 1;
    let refused = leader.append(of(who, 0, topic));
    assert_eq!(refused, Err((unknown, None)));
}

#[test]
fn a_checkpoint_under_way_is_not_forgotten_when_what_followed_is_truncated() {
    let (mut leader, topic) = Leader::with_topic();
    let who = producer(NOW_MS);
    leader.append(of(who, 0, topic)).unwrap();
    leader.settle();
    let checkpoint = leader.ledger.checkpoint().unwrap();
    leader.append(of(who, 1, topic)).unwrap();
    leader.depose();
    // The store has not written it yet.
    assert_eq!(
        leader.append(of(who, 0, topic)),
        Ok((appended(0, true), None))
    );
    leader.store.save(checkpoint);
    leader.ledger.checkpoint_done();
    assert_eq!(
        leader.append(of(who, 0, topic)),
        Ok((appended(0, true), None))
    );
}

#[test]
fn a_checkpoint_that_was_written_after_a_deletion_is_mended_by_the_next() {
    let (mut leader, topic) = Leader::with_topic();
    leader.append(of(producer(NOW_MS), 0, topic)).unwrap();
    leader.settle();
    let checkpoint = leader.ledger.checkpoint().unwrap();
    leader.delete(topic).unwrap();
    leader.settle();
    leader.store.save(checkpoint);
    leader.ledger.checkpoint_done();
    let checkpoint = leader.ledger.checkpoint().unwrap();
    assert_eq!(checkpoint.deleted, [topic]);
    leader.store.save(checkpoint);
    assert!(leader.store.windows.is_empty());
}

#[test]
fn a_checkpoint_is_due_after_many_entries_and_holds_only_what_is_settled() {
    let (mut leader, topic) = Leader::with_topic();
    assert!(!leader.ledger.checkpoint_due());
    let who = producer(NOW_MS);
    for sequence in 0..REPLAY_ENTRIES_MAX as u32 {
        leader.append(of(who, sequence, topic)).unwrap();
    }
    assert!(!leader.ledger.checkpoint_due(), "nothing is settled");
    leader.settle();
    assert!(leader.ledger.checkpoint_due());
    leader
        .append(of(who, REPLAY_ENTRIES_MAX as u32, topic))
        .unwrap();
    let checkpoint = leader.ledger.checkpoint().unwrap();
    assert_eq!(checkpoint.upto, leader.ledger.settled());
    let saved = checkpoint.windows[0].window.clone().unwrap();
    assert_eq!(saved.window.last_offset(), Some(2 * REPLAY_ENTRIES_MAX - 1));
    assert!(!leader.ledger.checkpoint_due(), "one is under way");
    assert_eq!(leader.ledger.checkpoint(), None);
}

/// Appends to each of the topics, one after the other; returns how many of them were read from the store for that.
fn appends_to_each(leader: &mut Leader, topics: &[TopicId], first: u64) -> usize {
    let before = leader.store.tails_read.get();
    for topic in topics {
        let (answer, _) = leader.append(batch(*topic)).unwrap();
        assert_eq!(answer, appended(first, false), "{topic:?}");
        leader.settle();
    }
    leader.store.tails_read.get() - before
}

#[test]
fn idle_topics_that_were_not_used_lately_are_forgotten_and_read_again() {
    let mut leader = Leader::new();
    leader.ledger = leader.ledger.remembering(100);
    let topics: Vec<TopicId> = (0..1_000)
        .map(|n| leader.create(&format!("t{n}")).unwrap().0)
        .collect();
    leader.settle();
    appends_to_each(&mut leader, &topics, 0);
    assert_eq!(appends_to_each(&mut leader, &topics, 2), topics.len());
}

#[test]
fn topics_that_are_in_use_are_not_read_again_while_others_come_and_go() {
    let mut leader = Leader::new();
    leader.ledger = leader.ledger.remembering(100);
    let topics: Vec<TopicId> = (0..1_000)
        .map(|n| leader.create(&format!("t{n}")).unwrap().0)
        .collect();
    leader.settle();
    leader.depose();
    let (busy, rare) = topics.split_at(20);
    appends_to_each(&mut leader, busy, 0);
    for (round, rare) in (1..).zip(rare.chunks(10)) {
        assert_eq!(appends_to_each(&mut leader, busy, 2 * round), 0);
        assert_eq!(appends_to_each(&mut leader, rare, 0), 10);
    }
}

#[test]
fn as_many_topics_as_there_is_room_for_are_read_once() {
    let mut leader = Leader::new();
    leader.ledger = leader.ledger.remembering(1_001);
    let topics: Vec<TopicId> = (0..1_000)
        .map(|n| leader.create(&format!("t{n}")).unwrap().0)
        .collect();
    leader.settle();
    leader.depose();
    assert_eq!(appends_to_each(&mut leader, &topics, 0), topics.len());
    for round in 1..4 {
        assert_eq!(appends_to_each(&mut leader, &topics, 2 * round), 0);
    }
}

#[test]
fn a_node_remembers_a_million_topics_within_its_bound() {
    for partitions in [1, 16, 64, 1_024, u16::MAX] {
        let all = topics_max(partitions) * usize::from(partitions);
        assert!(all * TOPIC_BYTES <= TOPICS_BYTES_MAX, "{partitions}");
        // Names do not spread evenly: a tenth more than their share has room.
        assert!(
            partitions > 1_024 || all >= 1_100_000,
            "{partitions}: {all}"
        );
    }
    assert!(topics_max(0) > 0);
}

#[test]
#[should_panic(expected = "committed and stays")]
fn what_is_settled_is_never_truncated() {
    let (mut leader, _) = Leader::with_topic();
    let settled = leader.ledger.settled();
    leader.ledger.truncate(settled);
}

#[test]
#[should_panic(expected = "only a leader decides")]
fn a_follower_decides_nothing() {
    let (mut leader, topic) = Leader::with_topic();
    let index = leader.ledger.last().next();
    leader
        .ledger
        .follow(&leader.store, index, &Command::Barrier)
        .unwrap();
    let _ = leader.append(batch(topic));
}
