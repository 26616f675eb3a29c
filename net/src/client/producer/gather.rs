//! Where publishers leave records and lanes take batches.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use mesh_engine::batch::{BatchBuilder, Compression, Record};
use tokio::{
    sync::{Notify, Semaphore, TryAcquireError, watch},
    time::{Instant, timeout},
};

use super::{completion::Completion, router::Stray, topic::Topic};
use crate::client::ClientError;

/// A gathering batch is closed at this size, in encoded bytes, and the next one begun.
pub(super) const BATCH_BYTES_TARGET: usize = 512 << 10;
/// Bytes that a record is counted for beside key, value and headers.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Topics that a producer keeps state for before it forgets the idle ones.
const TOPICS_MAX: usize = 65_536;

/// The bound on the bytes that all producers of a client hold.
#[derive(Debug)]
pub(crate) struct Inflight {
    permits: Semaphore,
    bytes_max: usize,
    pub(super) timeout: Duration,
    closed: watch::Sender<bool>,
}

impl Inflight {
    pub(crate) fn new(bytes_max: usize, timeout: Duration) -> Self {
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            permits: Semaphore::new(bytes_max),
            bytes_max,
            timeout,
            closed: watch::Sender::new(false),
        }
    }

    pub(crate) fn close(&self) {
        self.permits.close();
        self.closed.send_replace(true);
    }

    fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(super) async fn closed(&self) {
        // The sender lives in self, so that waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Takes `bytes` until they are given back. Returns what was taken: a batch above the bound takes all there is.
    pub(super) async fn acquire(&self, bytes: usize) -> Result<usize, ClientError> {
        let count = bytes.min(self.bytes_max) as u32;
        let permit = match self.permits.try_acquire_many(count) {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(client_closed()),
            Err(TryAcquireError::NoPermits) => {
                match timeout(self.timeout, self.permits.acquire_many(count)).await {
                    Ok(permit) => permit.map_err(|_| client_closed())?,
                    Err(_) => {
                        return Err(ClientError::Unavailable(format!(
                            "not sent within the timeout: {} bytes wait already; not written",
                            self.bytes_max
                        )));
                    }
                }
            }
        };
        permit.forget();
        Ok(count as usize)
    }

    pub(super) fn release(&self, bytes: usize) {
        self.permits.add_permits(bytes);
    }

    /// Whether nobody holds anything.
    pub(super) fn is_idle(&self) -> bool {
        self.permits.available_permits() == self.bytes_max
    }
}

pub(super) fn client_closed() -> ClientError {
    ClientError::Unavailable(
        "the client was closed; what was not acknowledged may be written or not".into(),
    )
}

/// Bytes that a record counts for.
pub(super) fn counted_bytes(record: &Record) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    RECORD_OVERHEAD_BYTES
        + record.key.as_ref().map_or(0, |key| key.len())
        + record.value.len()
        + headers
}

/// A batch that nobody has sent yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) builder: BatchBuilder,
    pub(super) expected: Option<u64>,
    pub(super) completion: Arc<Completion>,
    pub(super) deadline: Instant,
    /// Bytes to give back when it is settled.
    pub(super) counted: usize,
}

/// What waits for one topic.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// The batch that records still go into.
    open: Option<Pending>,
    /// Batches that are closed, the oldest first.
    closed: VecDeque<Pending>,
    /// Whether a lane or the router has been told, and will look.
    queued: bool,
    /// It is to be told from so many gathered bytes on.
    wake_bytes: usize,
    /// The size of the batch before, as a first guess of the next one's.
    capacity: usize,
}

impl Gather {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.closed.is_empty()
    }

    /// The next batch to send: a closed one, or the open one where it has at least `bytes`.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Pending> {
        if let Some(closed) = self.closed.pop_front() {
            return Some(closed);
        }
        if self.open.as_ref()?.builder.encoded_bytes() < bytes {
            return None;
        }
        let open = self.open.take();
        self.capacity = open.as_ref().map_or(0, |open| open.builder.encoded_bytes());
        open
    }

    /// A lane has looked, and asks to be told again from `wake_bytes` on.
    pub(super) fn looked(&mut self, wake_bytes: usize) {
        self.queued = false;
        self.wake_bytes = wake_bytes;
    }

    /// As if somebody had looked, where nothing is there to see.
    pub(super) fn looked_if_empty(&mut self) {
        if self.is_empty() {
            self.looked(0);
        }
    }

    /// Takes out what has waited beyond its deadline.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Pending> {
        let mut expired = Vec::new();
        if self.open.as_ref().is_some_and(|open| open.deadline <= now) {
            self.close_open();
        }
        while self
            .closed
            .front()
            .is_some_and(|batch| batch.deadline <= now)
        {
            expired.extend(self.closed.pop_front());
        }
        expired
    }

    /// Lets no more records into an open batch whose first record came before `before`, so that the last one into it
    /// still has most of its time.
    pub(super) fn close_older(&mut self, before: Instant, timeout: Duration) {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.deadline - timeout < before)
        {
            self.close_open();
        }
    }

    fn close_open(&mut self) {
        self.closed.extend(self.open.take());
    }

    /// Whether somebody must be told of what was added.
    fn must_tell(&mut self) -> bool {
        let open = self
            .open
            .as_ref()
            .map_or(0, |open| open.builder.encoded_bytes());
        let tell = !self.queued
            && (open >= self.wake_bytes
                || (!self.closed.is_empty() && self.wake_bytes < usize::MAX));
        self.queued |= tell;
        tell
    }
}

/// What the publishers, the router and the lanes of one producer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inflight: Arc<Inflight>,
    compression: Compression,
    pub(super) create: bool,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
    /// Topics that have something to send and are on no lane.
    strays: Mutex<Vec<Stray>>,
    /// Tells the router of strays, and that the last handle is gone.
    pub(super) wake: Notify,
    /// Whether the last publisher's handle is gone.
    pub(super) orphaned: AtomicBool,
}

impl Shared {
    pub(super) fn new(inflight: Arc<Inflight>, compression: Compression, create: bool) -> Self {
        Self {
            inflight,
            compression,
            create,
            topics: RwLock::default(),
            strays: Mutex::default(),
            wake: Notify::new(),
            orphaned: AtomicBool::new(false),
        }
    }

    /// Adds one record to the batch that gathers. Returns its batch and its place there.
    pub(super) fn push(
        &self,
        name: &str,
        record: &Record,
        counted: usize,
    ) -> Result<(Arc<Completion>, u64), ClientError> {
        let topic = self.topic(name)?;
        let mut gather = topic.gather();
        if gather
            .open
            .as_ref()
            .is_some_and(|open| open.builder.encoded_bytes() >= BATCH_BYTES_TARGET)
        {
            gather.close_open();
        }
        let place = match &mut gather.open {
            Some(open) => match open.builder.push(record) {
                Err(full) if full.is_full() => None,
                pushed => {
                    pushed?;
                    open.counted += counted;
                    Some((open.completion.clone(), open.builder.len() as u64 - 1))
                }
            },
            None => None,
        };
        let place = match place {
            Some(place) => place,
            None => {
                let mut builder = BatchBuilder::with_capacity(self.compression, gather.capacity);
                builder.push(record)?;
                gather.close_open();
                let open = gather.open.insert(self.pending(builder, None, counted));
                (open.completion.clone(), 0)
            }
        };
        self.tell(topic.clone(), gather);
        Ok(place)
    }

    /// Adds a batch of its own.
    pub(super) fn push_batch(
        &self,
        name: &str,
        builder: BatchBuilder,
        expected: Option<u64>,
        counted: usize,
    ) -> Result<Arc<Completion>, ClientError> {
        let topic = self.topic(name)?;
        let mut gather = topic.gather();
        let batch = self.pending(builder, expected, counted);
        let completion = batch.completion.clone();
        gather.close_open();
        gather.closed.push_back(batch);
        self.tell(topic.clone(), gather);
        Ok(completion)
    }

    pub(super) fn builder(&self, bytes: usize) -> BatchBuilder {
        BatchBuilder::with_capacity(self.compression, bytes)
    }

    /// Hands a topic to the router.
    pub(super) fn stray(&self, stray: Stray) {
        self.strays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stray);
        self.wake.notify_one();
    }

    /// The topics that the router was handed since it asked last.
    pub(super) fn take_strays(&self) -> Vec<Stray> {
        std::mem::take(&mut *self.strays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every topic that has something.
    pub(super) fn busy(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics
            .values()
            .filter(|topic| !topic.is_idle())
            .cloned()
            .collect()
    }

    fn pending(&self, builder: BatchBuilder, expected: Option<u64>, counted: usize) -> Pending {
        let deadline = Instant::now() + self.inflight.timeout;
        Pending {
            builder,
            expected,
            completion: Arc::default(),
            deadline,
            counted,
        }
    }

    fn tell(&self, topic: Arc<Topic>, mut gather: MutexGuard<'_, Gather>) {
        let tell = gather.must_tell();
        drop(gather);
        if self.inflight.is_closed() {
            // Nobody looks any more.
            topic.fail(&client_closed(), self);
        } else if tell && !topic.lane().is_some_and(|lane| lane.offer(&topic)) {
            self.stray(Stray::new(topic));
        }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>, ClientError> {
        if let Some(topic) = self
            .topics
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Ok(topic.clone());
        }
        mesh_ring::name::TopicName::new(name)?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= TOPICS_MAX {
            // One that comes back gets another producer id, so that its numbers may begin at 0 again.
            topics.retain(|_, topic| Arc::strong_count(topic) > 1 || !topic.is_idle());
        }
        let name: Arc<str> = name.into();
        let topic = topics
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Topic::new(name)));
        Ok(topic.clone())
    }
}
