//! The append stream: batches in, in order; acknowledgements out, many to a frame.

mod answers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_engine::batch::validate;
use mesh_engine::{AppendError, TopicConfig, TopicError};
use mesh_ring::ids::{Epoch, TopicKey};
use mesh_ring::name::TopicName;
use quinn::RecvStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

use self::answers::{Answer, Outbox, refused, write_answers};
use super::connection::Stream;
use super::partition::{AppendAsk, Ask, Change, Changed, Partition, Refusal};
use super::requests::access::{allow, topic_name};
use super::requests::topics::find;
use super::{Shared, reply};
use crate::identity::{Access, Peer, Scope};
use crate::wire::frame::{FrameError, FrameReader};
use crate::wire::proto::{self, AppendOpen, Error, ErrorCode};

/// Most batches of one stream that are not answered yet; the next is not read before.
const STREAM_BATCHES_MAX: usize = 4_096;

/// Bytes of batches that are handed to partitions before other tasks have their turn.
const BYTES_AT_ONCE: usize = 256 << 10;

/// Longest name of a writer, in bytes.
const WRITER_BYTES_MAX: usize = 64;

/// Memory that a batch holds in the engine's queue beside its bytes, as the engine counts it, with a margin.
const BATCH_OVERHEAD_BYTES: usize = 1_024;

/// Which stream each producer sends on.
///
/// A producer that lost its connection sends what was not answered again on a new stream. What the old one still holds
/// must not come after that: renumbered in between, a batch could take the place of another.
#[derive(Debug, Default)]
pub(super) struct Producers {
    current: Mutex<HashMap<Bytes, Arc<Mutex<bool>>>>,
}

/// A producer's hold on its newest stream.
struct Claim {
    shared: Arc<Shared>,
    writer: Bytes,
    /// Whether no newer stream has taken over.
    is_current: Arc<Mutex<bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claim {
    /// When this returns, the producer's older stream hands nothing more to the engine.
    fn new(shared: &Arc<Shared>, writer: Bytes) -> Claim {
        let is_current = Arc::new(Mutex::new(true));
        let older = lock(&shared.producers.current).insert(writer.clone(), Arc::clone(&is_current));
        if let Some(older) = older {
            *lock(&older) = false;
        }
        Claim {
            shared: Arc::clone(shared),
            writer,
            is_current,
        }
    }

    /// Does `work` unless a newer stream has taken over, which cannot happen meanwhile.
    fn while_current(&self, work: impl FnOnce()) -> bool {
        let is_current = lock(&self.is_current);
        if *is_current {
            work();
        }
        *is_current
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut current = lock(&self.shared.producers.current);
        if current
            .get(&self.writer)
            .is_some_and(|newest| Arc::ptr_eq(newest, &self.is_current))
        {
            current.remove(&self.writer);
        }
    }
}

/// Serves an append stream until the client ends it or the node stops; what was accepted is answered either way.
pub(super) async fn serve(shared: Arc<Shared>, stream: Stream, open: &AppendOpen) {
    if open.writer.len() > WRITER_BYTES_MAX {
        return stream
            .refuse(reply::malformed(format!(
                "a writer's name of over {WRITER_BYTES_MAX} bytes"
            )))
            .await;
    }
    let Stream {
        peer,
        reader,
        writer,
        intake,
        ..
    } = stream;
    let outbox = Arc::new(Outbox::new(&shared));
    // One client cannot cut another's stream off by using its name.
    let writer_name = [peer.name.as_bytes(), b"/", &open.writer].concat();
    let claim = Claim::new(&shared, writer_name.into());
    let taking = Intake {
        shared: &shared,
        peer: &peer,
        claim,
        outbox: &outbox,
        intake: &intake,
    };
    tokio::join!(taking.run(reader), write_answers(&outbox, writer));
}

struct Intake<'a> {
    shared: &'a Arc<Shared>,
    peer: &'a Peer,
    claim: Claim,
    outbox: &'a Arc<Outbox>,
    /// The connection's bound on bodies that the engine has not taken.
    intake: &'a Arc<Semaphore>,
}

/// A batch as it came.
struct Arrived {
    append: proto::Append,
    batch: Vec<u8>,
    /// The connection's permit for its bytes; those that were read ahead need none.
    _admitted: Option<OwnedSemaphorePermit>,
}

impl Intake<'_> {
    async fn run(self, mut reader: FrameReader<RecvStream>) {
        let mut at_once = 0;
        let ended = loop {
            let arrived = match self.next(&mut reader).await {
                Ok(arrived) => arrived,
                Err(ended) => break ended,
            };
            // Partitions take many batches up together where they find many; but others are to have their turn.
            at_once += arrived.batch.len();
            if at_once > BYTES_AT_ONCE {
                at_once = 0;
                yield_now().await;
            }
            self.outbox.begin().await;
            if !self.take(arrived).await {
                break Some(superseded());
            }
        };
        // A client that goes on sending is told to stop.
        reader.stop(super::close::STOPPING);
        self.outbox.end(ended);
    }

    /// The next batch. `Err`: there is none, with the error to pass on or without.
    async fn next(&self, reader: &mut FrameReader<RecvStream>) -> Result<Arrived, Option<Error>> {
        let of = |error: FrameError| error.is_malformed().then(|| reply::malformed(error));
        if let Some((append, batch)) = reader.read_ahead().map_err(of)? {
            return Ok(Arrived {
                append,
                batch,
                _admitted: None,
            });
        }
        let frame = tokio::select! {
            () = self.shared.tasks.stopping() => return Err(Some(reply::stopping())),
            frame = reader.header::<proto::Append>() => frame,
        };
        let (append, length) = frame.map_err(of)?.ok_or(None)?;
        let admitted = Stream::admit(self.intake, length).await.ok_or(None)?;
        Ok(Arrived {
            append,
            batch: reader.body_vec(length).await.map_err(of)?,
            _admitted: Some(admitted),
        })
    }

    /// Hands one batch to its partition. `false`: the producer has a newer stream.
    async fn take(&self, arrived: Arrived) -> bool {
        let request = arrived.append.request;
        let ready = match self.prepare(arrived).await {
            Ok(ready) => ready,
            Err(error) => {
                self.outbox.answer(Answer::refused(request, error));
                return true;
            }
        };
        let Ready {
            partition,
            mut ask,
            name,
            room,
        } = ready;
        let seat = match partition.try_reserve() {
            Some(seat) => Some(seat),
            None => partition.reserve().await,
        };
        let Some(seat) = seat else {
            let error = self.shared.not_leader(partition.id);
            self.outbox.answer(Answer::refused(request, error));
            return true;
        };
        let outbox = Arc::clone(self.outbox);
        let topic = ask.topic;
        ask.done = Box::new(move |result| {
            // Now, and not when the answer is written: a client that does not read would hold up everybody else.
            drop(room);
            if let Err(Refusal::Decided(AppendError::TopicDeleted)) = &result {
                outbox.shared.names.forget(&name);
            }
            outbox.answer(Answer {
                request,
                topic: Some(topic),
                result: result.map_err(|refusal| refused(&outbox.shared, topic, refusal)),
            });
        });
        let mut ask = Some(Ask::Append(ask));
        let is_current = self.claim.while_current(|| {
            if let Some(ask) = ask.take() {
                seat.send(ask);
            }
        });
        if ask.is_some() {
            self.outbox.withdraw();
        }
        is_current
    }

    /// Checks a batch and finds where it goes. Waits for room.
    async fn prepare(&self, arrived: Arrived) -> Result<Ready, Error> {
        let Arrived { append, batch, .. } = arrived;
        // A name that was looked up before is valid, and its partition is known.
        let known = self.shared.names.get(&append.topic);
        match known {
            Some(_) => allow(
                self.peer,
                Access::Write,
                Scope::Topic,
                append.topic.as_bytes(),
            )?,
            None => drop(topic_name(self.peer, Access::Write, &append.topic)?),
        }
        let map = self.shared.map();
        let id = known.map_or_else(
            || map.partition(append.topic.as_bytes()),
            |(topic, _)| topic.partition,
        );
        let led = self.shared.partitions.get(id);
        let led = led.and_then(|partition| Some((partition.leads_in()?, partition)));
        // Before a name is looked up: what another leader does to it counts from its epoch on.
        let (epoch, partition) = led.ok_or_else(|| self.shared.not_leader(id))?;
        if let Some(shortage) = self.shared.shortage_by(&map, id) {
            return Err(shortage);
        }
        drop(map);
        let header =
            validate(&batch).map_err(|error| reply::of_append(&AppendError::Invalid(error)))?;
        let topic = match known {
            Some((topic, of)) if of == epoch => topic,
            _ => {
                let name = topic_name(self.peer, Access::Write, &append.topic)?;
                self.look_up(&partition, epoch, &name, append.create)
                    .await?
            }
        };
        if append
            .incarnation
            .is_some_and(|wanted| wanted != topic.into())
        {
            return Err(reply::of_append(&AppendError::TopicDeleted));
        }
        let room = self
            .shared
            .room(batch.len() + BATCH_OVERHEAD_BYTES)
            .await
            .ok_or_else(reply::stopping)?;
        Ok(Ready {
            partition,
            ask: AppendAsk {
                topic,
                header,
                batch,
                expected: append.expected_offset,
                done: Box::new(|_| {}),
            },
            name: append.topic,
            room,
        })
    }

    /// Asks the disk, and remembers for this epoch.
    async fn look_up(
        &self,
        partition: &Partition,
        epoch: Epoch,
        name: &TopicName,
        create: bool,
    ) -> Result<TopicKey, Error> {
        let found = match find(self.shared, name).await {
            Err(error) if create && error.code() == ErrorCode::TopicNotFound => {
                self.create(partition, name).await?
            }
            found => found?.key,
        };
        self.shared.names.insert(name.as_str(), found, epoch);
        Ok(found)
    }

    async fn create(&self, partition: &Partition, name: &TopicName) -> Result<TopicKey, Error> {
        let change = Change::Create {
            name: name.clone(),
            config: TopicConfig::default(),
        };
        match self.shared.change(partition, change).await {
            Ok(Changed::Created(meta)) => Ok(meta.key),
            Ok(_) => Err(reply::internal()),
            // Another client was faster.
            Err(Refusal::Decided(TopicError::Exists(_))) => Ok(find(self.shared, name).await?.key),
            Err(refusal) => Err(self.shared.of_change(partition.id, refusal)),
        }
    }
}

/// A batch that may go.
struct Ready {
    partition: Partition,
    ask: AppendAsk,
    name: String,
    room: OwnedSemaphorePermit,
}

fn superseded() -> Error {
    reply::error(ErrorCode::Stopping, "this producer sends on a newer stream")
}
