//! From a request to a journal entry: the ledger decides, the core numbers, whoever asked waits for the commit.

use bytes::Bytes;
use mesh_engine::batch::{BatchError, LeaderStamp, stamp};
use mesh_engine::{AppendError, ReadError, Shortage, TopicError, TopicMeta};
use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, TopicKey};
use mesh_ring::ledger::{AppendFacts, AppendRefusal, Created, Decision, Moment, TopicRefusal};
use mesh_ring::replica::Role;
use tokio::sync::oneshot;

use super::actor::{Actor, Doors};
use super::ask::{AppendAsk, AppendDone, Appended, Change, Changed, Refusal};
use super::pending::{Fate, Waiting};
use crate::node::payload::Payload;

type ChangeDone = oneshot::Sender<Result<Changed, Refusal<TopicError>>>;

/// What the ledger said of a change, with the answer in the caller's words.
type Decided = Result<Decision<Changed, TopicRefusal>, ReadError>;

impl<D: Doors> Actor<D> {
    fn moment(&self) -> Moment {
        Moment {
            now_ms: self.engine.now_ms(),
            age_ms: self.engine.judged_ms(),
        }
    }

    /// Why this replica decides nothing.
    fn refusal<E>(&self) -> Option<Refusal<E>> {
        if let Some(cause) = &self.failed {
            return Some(Refusal::Failed(cause.clone()));
        }
        let leads = matches!(self.replica.role(), Role::Leading(_));
        (!leads).then(|| Refusal::NotLeading)
    }

    pub(super) fn append(&mut self, ask: AppendAsk) {
        if let Some(refusal) = self.refusal() {
            return (ask.done)(Err(refusal));
        }
        let shortage = self.engine.admit().err();
        let facts = AppendFacts {
            topic: ask.topic.id,
            records: ask.header.record_count,
            bytes: ask.batch.len() as u64,
            producer: ask.header.producer,
            expected: ask.expected,
            admitted: shortage.is_none(),
        };
        let at = self.moment();
        let source = self.engine.source(self.id);
        let decision = self.ledger.decide_append(&source, at, facts);
        let epoch = self.replica.epoch();
        match decision {
            Err(error) => {
                self.doors.damaged(&error);
                (ask.done)(Err(Refusal::Decided(AppendError::Read(error))));
            }
            Ok(Decision::Propose {
                index,
                command,
                answer,
            }) => match stamped(ask.batch, &command, epoch) {
                Ok(batch) => {
                    self.enter(index, Payload::new(command, Some(batch)));
                    self.wait(Some(index), appended(answer, epoch, ask.done));
                }
                Err(error) => {
                    self.ledger.withdraw(index);
                    (ask.done)(Err(Refusal::Decided(AppendError::Invalid(error))));
                }
            },
            Ok(Decision::Answer { answer, after }) => {
                self.wait(after, appended(answer, epoch, ask.done));
            }
            Ok(Decision::Refuse { refusal, after }) => {
                let error = of_append(refusal, shortage);
                let done = ask.done;
                self.wait(after, refused(error, done));
            }
        }
    }

    pub(super) fn change(&mut self, change: Change, done: ChangeDone) {
        if let Some(refusal) = self.refusal() {
            let _ = done.send(Err(refusal));
            return;
        }
        let shortage = self.engine.admit().err();
        let name = match &change {
            Change::Create { name, .. } => name.as_str().to_owned(),
            _ => String::new(),
        };
        let decision = match self.decide(change, shortage.is_none()) {
            Ok(decision) => decision,
            Err(error) => {
                self.doors.damaged(&error);
                let _ = done.send(Err(Refusal::Decided(TopicError::Read(error))));
                return;
            }
        };
        // Nobody waits where the caller is gone; the change stays.
        match decision {
            Decision::Propose {
                index,
                command,
                answer,
            } => {
                self.enter(index, Payload::new(command, None));
                self.wait(Some(index), changed(Ok(answer), done));
            }
            Decision::Answer { answer, after } => self.wait(after, changed(Ok(answer), done)),
            Decision::Refuse { refusal, after } => {
                let error = of_topic(refusal, name, shortage);
                self.wait(after, changed(Err(error), done));
            }
        }
    }

    fn decide(&mut self, change: Change, admitted: bool) -> Decided {
        let at = self.moment();
        let partition = self.id;
        let source = self.engine.source(partition);
        let ledger = &mut self.ledger;
        Ok(match change {
            Change::Create { name, config } => ledger
                .decide_create(&source, at, &name, config, admitted)?
                .map(|created| Changed::Created(meta(partition, name, created))),
            Change::Delete { topic } => ledger
                .decide_delete(&source, topic.id)?
                .map(|()| Changed::Done),
            Change::Trim { topic, first } => ledger
                .decide_trim(&source, topic.id, first)?
                .map(|trimmed| Changed::Trimmed(trimmed.first)),
            Change::CommitCursor { topic, name, next } => ledger
                .decide_cursor(&source, topic.id, &name, next)?
                .map(|()| Changed::Done),
            Change::Expire {
                topic,
                producer,
                before_ms,
            } => ledger
                .decide_expire(&source, topic.id, producer, before_ms)?
                .map(|_| Changed::Done),
        })
    }

    /// Keeps what the ledger has entered at `index`, to be proposed with everything else of this round.
    pub(super) fn enter(&mut self, index: Index, payload: Payload) {
        self.known = index;
        self.proposals.push(payload);
    }

    /// Answers when the entry `after` is applied; at once where there is none to wait for.
    fn wait(&mut self, after: Option<Index>, waiting: Waiting) {
        match after {
            Some(index) => self.pending.wait(index, waiting),
            None => {
                waiting(Fate::Settled(
                    self.replica.synced(self.replica.commit()).into(),
                ));
            }
        }
    }
}

fn appended(answer: mesh_ring::ledger::Appended, epoch: Epoch, done: AppendDone) -> Waiting {
    Box::new(move |fate| {
        done(match fate {
            Fate::Settled(synced) => Ok(Appended {
                first: answer.first,
                last: answer.last,
                epoch,
                duplicate: answer.duplicate,
                synced,
            }),
            Fate::Lost => Err(Refusal::Unknown),
        });
    })
}

fn refused(error: AppendError, done: AppendDone) -> Waiting {
    Box::new(move |fate| {
        done(Err(match fate {
            Fate::Settled(_) => Refusal::Decided(error),
            Fate::Lost => Refusal::Unknown,
        }));
    })
}

fn changed(answer: Result<Changed, TopicError>, done: ChangeDone) -> Waiting {
    Box::new(move |fate| {
        let _ = done.send(match (fate, answer) {
            (Fate::Lost, _) => Err(Refusal::Unknown),
            (Fate::Settled(_), answer) => answer.map_err(Refusal::Decided),
        });
    })
}

/// Writes where the batch goes into its second header.
fn stamped(mut batch: Vec<u8>, command: &Command, epoch: Epoch) -> Result<Bytes, BatchError> {
    let Command::Append {
        first,
        position,
        time_ms,
        ..
    } = command
    else {
        // The ledger answers an append with an append.
        unreachable!("an append became {command:?}");
    };
    let leader = LeaderStamp {
        base_offset: *first,
        base_position: position - batch.len() as u64,
        epoch,
        append_time_ms: *time_ms,
    };
    stamp(&mut batch, leader)?;
    Ok(batch.into())
}

fn meta(
    partition: mesh_ring::ids::PartitionId,
    name: mesh_ring::name::TopicName,
    created: Created,
) -> TopicMeta {
    TopicMeta {
        key: TopicKey {
            partition,
            id: created.topic,
        },
        name,
        config: created.config,
        created_ms: created.created_ms,
    }
}

/// What is said where the shortage has gone between the decision and the answer.
const NO_SHORTAGE: Shortage = Shortage {
    free: 0,
    reserve: 0,
};

fn of_append(refusal: AppendRefusal, shortage: Option<Shortage>) -> AppendError {
    match refusal {
        AppendRefusal::TopicDeleted => AppendError::TopicDeleted,
        AppendRefusal::WrongOffset { expected, next } => {
            AppendError::WrongOffset { expected, next }
        }
        AppendRefusal::Sequence(error) => AppendError::Sequence(error),
        AppendRefusal::NotAdmitted => {
            let Shortage { free, reserve } = shortage.unwrap_or(NO_SHORTAGE);
            AppendError::DiskFull { free, reserve }
        }
    }
}

fn of_topic(refusal: TopicRefusal, name: String, shortage: Option<Shortage>) -> TopicError {
    match refusal {
        TopicRefusal::Exists(_) => TopicError::Exists(name),
        TopicRefusal::Unknown => TopicError::Unknown,
        TopicRefusal::BeyondEnd { offset, next } => TopicError::BeyondEnd { offset, next },
        TopicRefusal::Missing { .. } => TopicError::Read(ReadError::Store(
            "a batch of the topic is missing: the scrub says which".into(),
        )),
        TopicRefusal::NotAdmitted => {
            let Shortage { free, reserve } = shortage.unwrap_or(NO_SHORTAGE);
            TopicError::DiskFull { free, reserve }
        }
    }
}
