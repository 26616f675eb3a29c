//! A store that is used by itself: a cluster of one replica, in one process, without a network.
//!
//! [`Solo`] drives an [`Engine`] by the rules of `mesh_ring::ledger`, as a leader that nobody follows: an entry is
//! committed when it is durable here. Each start is a new epoch, and begins each partition's with a barrier entry when the
//! partition is first changed.
//!
//! `partition` decides and submits, `house` is what a leader does by the clock.

mod house;
mod partition;

use std::ops::Deref;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use mesh_ring::command::TopicConfig;
use mesh_ring::ids::{Epoch, Offset, PartitionId, TopicKey};
use mesh_ring::ledger::{
    AppendFacts, AppendRefusal, Created, Decision, Ledger, Moment, TopicRefusal,
};
use mesh_ring::name::{CursorName, TopicName};

use crate::batch;
use crate::catalogue::TopicMeta;
use crate::engine::{Answer, Engine};
use crate::error::{AppendError, OpenError, ReadError, Stopped, TopicError};
use crate::options::Options;
use crate::read::undecodable;
use crate::replica::PartitionSource;
use crate::salvage::damage_is_noted;
use crate::space::Shortage;
pub use house::Housekeeping;
use partition::{Failure, Lead};

/// An append, ready to be ordered.
#[derive(Debug, Clone)]
pub struct Append {
    /// The topic.
    pub topic: TopicKey,
    /// A batch as [`crate::batch::BatchBuilder::finish`] makes it.
    pub batch: Vec<u8>,
    /// Refuse unless the topic's next offset is this.
    pub expected: Option<Offset>,
}

/// A durable append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// Epoch in which it was acknowledged.
    pub epoch: Epoch,
    /// Whether it had been appended before, and this is the answer to a retry.
    pub duplicate: bool,
}

/// An open store that orders its topics itself. It reads as the [`Engine`] that it is made of.
pub struct Solo {
    partitions: Box<[Mutex<Option<Lead>>]>,
    engine: Arc<Engine>,
}

impl Deref for Solo {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Solo {
    /// Opens the store in `data`; see [`Engine::open`].
    ///
    /// # Errors
    /// As for [`Engine::open`].
    pub fn open(data: impl AsRef<Path>, options: Options) -> Result<Solo, OpenError> {
        let data = data.as_ref();
        let engine = Engine::open(data, options)?;
        if engine.found_damage().is_some() {
            // Its partitions are marked, and there is nothing else.
            damage_is_noted(data)?;
        }
        Ok(Solo::new(Arc::new(engine)))
    }

    /// Leads every partition of an open store that nobody else drives.
    pub fn new(engine: Arc<Engine>) -> Solo {
        engine.slots().be_alone();
        let partitions = (0..engine.identity().partitions).map(|_| Mutex::default());
        Solo {
            partitions: partitions.collect(),
            engine,
        }
    }

    /// The store that it drives.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Finishes what is queued, checkpoints, and closes as [`Engine::close`] does.
    ///
    /// # Errors
    /// As for [`Engine::close`].
    pub fn close(&self) -> Result<(), Stopped> {
        self.checkpoint_all();
        self.engine.close()
    }

    /// Makes a topic. Two calls at the same time for the same topic get the same answer.
    ///
    /// # Errors
    /// [`TopicError::Exists`], [`TopicError::DiskFull`], or the store stopped.
    pub fn create_topic(
        &self,
        name: &TopicName,
        config: TopicConfig,
    ) -> Result<TopicMeta, TopicError> {
        let partition = self.partition_of(name.as_bytes());
        let space = self.admit();
        let admitted = space.is_ok();
        let made = self.decide(partition, |ledger, source, at| {
            ledger.decide_create(source, at, name, config, admitted)
        });
        let made: Created = made.map_err(|error| refused(error, name.as_str(), space))?;
        Ok(TopicMeta {
            key: TopicKey {
                partition,
                id: made.topic,
            },
            name: name.clone(),
            config: made.config,
            created_ms: made.created_ms,
        })
    }

    /// Removes a topic with its records, cursors and producers. One made again under its name is another topic.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], or the store stopped.
    pub fn delete_topic(&self, topic: TopicKey) -> Result<(), TopicError> {
        self.change(topic, |ledger, source, _| {
            ledger.decide_delete(source, topic.id)
        })
    }

    /// Removes the records before `first` (exclusive) and returns the first offset that remains, which may have been
    /// later already. Disk space comes back when [`Engine::reclaim`] has run.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::BeyondEnd`], or the store stopped.
    pub fn trim(&self, topic: TopicKey, first: Offset) -> Result<Offset, TopicError> {
        let trimmed = self.change(topic, |ledger, source, _| {
            ledger.decide_trim(source, topic.id, first)
        })?;
        Ok(trimmed.first)
    }

    /// Remembers, durably, the next offset that the reader `name` wants.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::BeyondEnd`], or the store stopped.
    pub fn commit_cursor(
        &self,
        topic: TopicKey,
        name: &CursorName,
        next: Offset,
    ) -> Result<(), TopicError> {
        self.change(topic, |ledger, source, _| {
            ledger.decide_cursor(source, topic.id, name, next)
        })
    }

    /// Appends a batch and returns when it is durable.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let (sender, receiver) = sync_channel(1);
        self.submit_append(append, move |result| {
            let _ = sender.send(result);
        });
        Answer::of(receiver).wait()
    }

    /// Queues a batch; `done` is called, on the writer's thread, when it is durable or refused. It must not block.
    ///
    /// Appends to one topic are ordered as they were submitted. The call itself checks the batch and blocks only while
    /// more than [`crate::QUEUE_BYTES_MAX`] wait for the disk; it may call `done` itself.
    pub fn submit_append(
        &self,
        append: Append,
        done: impl FnOnce(Result<Appended, AppendError>) + Send + 'static,
    ) {
        let header = match batch::validate(&append.batch) {
            Ok(header) => header,
            Err(error) => return done(Err(AppendError::Invalid(error))),
        };
        let Append {
            topic,
            batch,
            expected,
        } = append;
        self.queue().wait_for_room(batch.len());
        let space = self.admit();
        let facts = AppendFacts {
            topic: topic.id,
            records: header.record_count,
            bytes: batch.len() as u64,
            producer: header.producer,
            expected,
            admitted: space.is_ok(),
        };
        self.submit(
            topic.partition,
            Some(batch),
            |ledger, source, at| ledger.decide_append(source, at, facts),
            move |epoch, result| done(appended(epoch, result, space)),
        );
    }

    /// Changes a topic and waits until that is durable.
    fn change<A: Send + 'static>(
        &self,
        topic: TopicKey,
        decide: impl FnOnce(
            &mut Ledger,
            &PartitionSource<'_>,
            Moment,
        ) -> Result<Decision<A, TopicRefusal>, ReadError>,
    ) -> Result<A, TopicError> {
        let answer = self.decide(topic.partition, decide);
        answer.map_err(|error| refused(error, "", Ok(())))
    }

    fn decide<A: Send + 'static, R: Send + 'static>(
        &self,
        partition: PartitionId,
        decide: impl FnOnce(
            &mut Ledger,
            &PartitionSource<'_>,
            Moment,
        ) -> Result<Decision<A, R>, ReadError>,
    ) -> Result<A, Failure<R>> {
        let (sender, receiver) = sync_channel(1);
        self.submit(partition, None, decide, move |_, result| {
            let _ = sender.send(result);
        });
        Answer::of(receiver).wait()
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        // The engine closes when it is dropped; what is lost without this is only the time of the next start.
        self.checkpoint_all();
    }
}

fn appended(
    epoch: Epoch,
    result: Result<mesh_ring::ledger::Appended, Failure<AppendRefusal>>,
    space: Result<(), Shortage>,
) -> Result<Appended, AppendError> {
    match result {
        Ok(appended) => Ok(Appended {
            first: appended.first,
            last: appended.last,
            epoch,
            duplicate: appended.duplicate,
        }),
        Err(Failure::Read(error)) => Err(AppendError::Read(error)),
        Err(Failure::Batch(error)) => Err(AppendError::Invalid(error)),
        Err(Failure::Stopped(stopped)) => Err(AppendError::Stopped(stopped)),
        Err(Failure::Refused(refusal)) => Err(match refusal {
            AppendRefusal::TopicDeleted => AppendError::TopicDeleted,
            AppendRefusal::WrongOffset { expected, next } => {
                AppendError::WrongOffset { expected, next }
            }
            AppendRefusal::Sequence(error) => AppendError::Sequence(error),
            AppendRefusal::NotAdmitted => {
                let (free, reserve) = shortage(space);
                AppendError::DiskFull { free, reserve }
            }
        }),
    }
}

fn refused(error: Failure<TopicRefusal>, name: &str, space: Result<(), Shortage>) -> TopicError {
    match error {
        Failure::Read(error) => TopicError::Read(error),
        Failure::Batch(error) => TopicError::Read(undecodable("a batch", &error)),
        Failure::Stopped(stopped) => TopicError::Stopped(stopped),
        Failure::Refused(refusal) => match refusal {
            TopicRefusal::Exists(_) => TopicError::Exists(name.to_owned()),
            TopicRefusal::Unknown => TopicError::Unknown,
            TopicRefusal::BeyondEnd { offset, next } => TopicError::BeyondEnd { offset, next },
            TopicRefusal::Missing { .. } => {
                TopicError::Read(undecodable("the log of a topic", &"a batch is missing"))
            }
            TopicRefusal::NotAdmitted => {
                let (free, reserve) = shortage(space);
                TopicError::DiskFull { free, reserve }
            }
        },
    }
}

fn shortage(space: Result<(), Shortage>) -> (u64, u64) {
    space
        .err()
        .map_or((0, 0), |shortage| (shortage.free, shortage.reserve))
}
