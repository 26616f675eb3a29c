//! The append stream: batches in, in order; acknowledgements out, many to a frame.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_engine::batch::validate;
use mesh_engine::{AppendError, TopicConfig, TopicError};
use mesh_ring::ids::TopicKey;
use mesh_ring::name::TopicName;
use prost::Message;
use quinn::RecvStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

use super::connection::Stream;
use super::partition::{AppendAsk, Appended, Ask, Change, Changed, Partition, Refusal};
use super::requests::access::topic_name;
use super::requests::topics::find;
use super::{Shared, reply};
use crate::identity::{Access, Peer};
use crate::wire::FRAME_HEADER_BYTES_MAX;
use crate::wire::frame::{FrameReader, FrameWriter};
use crate::wire::proto::{self, AppendOpen, Appends, Error, ErrorCode};

/// Most batches of one stream that are not answered yet; the next is not read before.
pub(super) const STREAM_BATCHES_MAX: usize = 4_096;

/// Longest name of a writer, in bytes.
const WRITER_BYTES_MAX: usize = 64;

/// Memory that a batch holds in the engine's queue beside its bytes, as the engine counts it, with a margin.
const BATCH_OVERHEAD_BYTES: usize = 1_024;

/// What an answer takes in its frame's header beside itself: its tag and its length, in bytes.
const ANSWER_FIELD_BYTES: usize = 8;

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

/// Answers that wait to be written, and whether more will come.
#[derive(Default)]
struct Outbox {
    state: Mutex<OutboxState>,
    changed: Notify,
}

#[derive(Default)]
struct OutboxState {
    ready: Vec<(proto::Appended, OwnedSemaphorePermit)>,
    in_flight: usize,
    /// Reading has ended, with an error to pass on or without.
    ended: Option<Option<Error>>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        lock(&self.state)
    }

    fn begin(&self) {
        self.lock().in_flight += 1;
    }

    fn answer(&self, answer: proto::Appended, place: OwnedSemaphorePermit) {
        let mut state = self.lock();
        state.in_flight -= 1;
        state.ready.push((answer, place));
        drop(state);
        self.changed.notify_one();
    }

    fn end(&self, error: Option<Error>) {
        self.lock().ended = Some(error);
        self.changed.notify_one();
    }

    /// All answers that are ready, at least one; `Err` once there will be none, with the error that ended it all.
    async fn take(&self) -> Result<Vec<(proto::Appended, OwnedSemaphorePermit)>, Option<Error>> {
        loop {
            {
                let mut state = self.lock();
                if !state.ready.is_empty() {
                    return Ok(std::mem::take(&mut state.ready));
                }
                if let (Some(ended), 0) = (&state.ended, state.in_flight) {
                    return Err(ended.clone());
                }
            }
            self.changed.notified().await;
            // Partitions that the same fsync has woken answer first, and their answers share a frame.
            yield_now().await;
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
    let outbox = Arc::new(Outbox::default());
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

async fn write_answers(outbox: &Outbox, mut writer: FrameWriter) {
    let ended = loop {
        match outbox.take().await {
            Ok(ready) => {
                let (answers, places): (Vec<_>, Vec<_>) = ready.into_iter().unzip();
                for appended in fitting(answers) {
                    // Where the stream is lost, the answers are too; what was accepted is still written and counted.
                    let _ = writer
                        .header(&Appends {
                            appended,
                            ..Appends::default()
                        })
                        .await;
                }
                drop(places);
            }
            Err(ended) => break ended,
        }
    };
    if let Some(error) = ended {
        let fatal = Appends {
            fatal: Some(error),
            ..Appends::default()
        };
        let _ = writer.header(&fatal).await;
    }
    writer.finish();
    writer.delivered().await;
}

/// Splits answers so that each part fits one frame's header.
fn fitting(answers: Vec<proto::Appended>) -> Vec<Vec<proto::Appended>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for answer in answers {
        let more = answer.encoded_len() + ANSWER_FIELD_BYTES;
        if bytes + more > FRAME_HEADER_BYTES_MAX {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(part) = parts.last_mut() {
            part.push(answer);
        }
    }
    parts
}

struct Intake<'a> {
    shared: &'a Arc<Shared>,
    peer: &'a Peer,
    claim: Claim,
    outbox: &'a Arc<Outbox>,
    /// The connection's bound on bodies that the engine has not taken.
    intake: &'a Arc<Semaphore>,
}

impl Intake<'_> {
    async fn run(self, mut reader: FrameReader<RecvStream>) {
        let places = Arc::new(Semaphore::new(STREAM_BATCHES_MAX));
        let ended = loop {
            let frame = tokio::select! {
                () = self.shared.tasks.stopping() => break Some(reply::stopping()),
                frame = reader.header::<proto::Append>() => frame,
            };
            let (append, length) = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => break None,
                Err(error) if error.is_malformed() => break Some(reply::malformed(error)),
                Err(_) => break None,
            };
            let Some(_admitted) = Stream::admit(self.intake, length).await else {
                break None;
            };
            let batch = match reader.body_vec(length).await {
                Ok(batch) => batch,
                Err(error) if error.is_malformed() => break Some(reply::malformed(error)),
                Err(_) => break None,
            };
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break None;
            };
            if !self.take(append, batch, place).await {
                break Some(superseded());
            }
        };
        // A client that goes on sending is told to stop.
        reader.stop(super::close::STOPPING);
        self.outbox.end(ended);
    }

    /// Hands one batch to its partition. `false`: the producer has a newer stream.
    async fn take(
        &self,
        append: proto::Append,
        batch: Vec<u8>,
        place: OwnedSemaphorePermit,
    ) -> bool {
        self.outbox.begin();
        let request = append.request;
        let ready = match self.prepare(append, batch).await {
            Ok(ready) => ready,
            Err(error) => {
                self.outbox.answer(refused(request, error), place);
                return true;
            }
        };
        let Ready {
            partition,
            mut ask,
            name,
            room,
        } = ready;
        let Some(seat) = partition.reserve().await else {
            let error = self.shared.not_leader(partition.id);
            self.outbox.answer(refused(request, error), place);
            return true;
        };
        let (outbox, shared) = (Arc::clone(self.outbox), Arc::clone(self.shared));
        let topic = ask.topic;
        ask.done = Box::new(move |result| {
            drop(room);
            if let Err(Refusal::Decided(AppendError::TopicDeleted)) = &result {
                shared.names.forget(&name);
            }
            outbox.answer(answer(&shared, request, topic, result), place);
        });
        let mut ask = Some(Ask::Append(ask));
        let is_current = self.claim.while_current(|| {
            if let Some(ask) = ask.take() {
                seat.send(ask);
            }
        });
        if ask.is_some() {
            self.outbox.lock().in_flight -= 1;
        }
        is_current
    }

    /// Checks a batch and finds where it goes. Waits for room.
    async fn prepare(&self, append: proto::Append, batch: Vec<u8>) -> Result<Ready, Error> {
        let name = topic_name(self.peer, Access::Write, &append.topic)?;
        let id = self.shared.map().partition(name.as_bytes());
        let partition = self
            .shared
            .partitions
            .get(id)
            .filter(Partition::leads)
            .ok_or_else(|| self.shared.not_leader(id))?;
        if let Some(shortage) = self.shared.shortage(id) {
            return Err(shortage);
        }
        let header =
            validate(&batch).map_err(|error| reply::of_append(&AppendError::Invalid(error)))?;
        let topic = self.topic(&partition, &name, append.create).await?;
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

    async fn topic(
        &self,
        partition: &Partition,
        name: &TopicName,
        create: bool,
    ) -> Result<TopicKey, Error> {
        // Before the name is looked up: what another leader does to it counts from its epoch on.
        let epoch = partition.epoch();
        if let Some(topic) = self.shared.names.get(name.as_str(), epoch) {
            return Ok(topic);
        }
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

fn answer(
    shared: &Shared,
    request: u64,
    topic: TopicKey,
    result: Result<Appended, Refusal<AppendError>>,
) -> proto::Appended {
    match result {
        Ok(appended) => proto::Appended {
            request,
            error: None,
            first: appended.first,
            last: appended.last,
            epoch: appended.epoch.0,
            synced: shared.names_of(&appended.synced),
            duplicate: appended.duplicate,
            topic: Some(topic.into()),
        },
        Err(refusal) => refused(
            request,
            match refusal {
                Refusal::Decided(error) => reply::of_append(&error),
                Refusal::NotLeading => shared.not_leader(topic.partition),
                Refusal::TooFew => shared.leaderless(topic.partition),
                Refusal::Unknown => shared.uncommitted(topic.partition),
                Refusal::Failed(cause) => reply::partition_failed(topic.partition, &cause),
            },
        ),
    }
}

fn refused(request: u64, error: Error) -> proto::Appended {
    proto::Appended {
        request,
        error: Some(error),
        ..proto::Appended::default()
    }
}

fn superseded() -> Error {
    reply::error(ErrorCode::Stopping, "this producer sends on a newer stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_answers_are_split_so_that_each_part_fits_a_frame() {
        let refusal = || refused(7, reply::invalid("x".repeat(300)));
        let parts = fitting((0..STREAM_BATCHES_MAX).map(|_| refusal()).collect());
        assert!(parts.len() > 1);
        assert_eq!(
            parts.iter().map(Vec::len).sum::<usize>(),
            STREAM_BATCHES_MAX
        );
        for appended in parts {
            let frame = Appends {
                appended,
                ..Appends::default()
            };
            assert!(frame.encoded_len() <= FRAME_HEADER_BYTES_MAX);
        }
        assert_eq!(fitting(vec![refusal()]).len(), 1);
    }
}
