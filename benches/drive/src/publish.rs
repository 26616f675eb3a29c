//! Records published without pause: lanes, each of which publishes anew when its last request was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::{Done, Error, Publish, Result, System, Values};

/// Records of a request, and requests at a time, where nothing is measured.
const FILL_BATCH: u64 = 256;
const FILL_IN_FLIGHT: usize = 8;
/// Requests at a time that give every topic its first record.
const PRIME_IN_FLIGHT: usize = 256;
/// Longest latency that is told apart, in nanoseconds: ten minutes.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

pub(crate) async fn measure<S: System>(system: &S, job: &Publish) -> Result<Done> {
    // What a topic costs once is paid before the clock runs.
    if job.topics > 1 {
        prime(system, job).await?;
    }
    let lanes = Lanes::start(system, job, 0)?;
    lanes.rate(Duration::from_millis(job.warm_up_ms)).await;
    lanes.forget_latencies();
    let records_per_second = lanes.rate(Duration::from_millis(job.time_ms)).await;
    let took = lanes.latencies();
    lanes.finish().await?;
    Ok(Done::Published {
        records_per_second,
        p50_ms: ms(&took, 0.5),
        p99_ms: ms(&took, 0.99),
    })
}

async fn prime<S: System>(system: &S, job: &Publish) -> Result<()> {
    let one_each = Publish {
        in_flight: PRIME_IN_FLIGHT.min(job.topics),
        batch: 1,
        ..job.clone()
    };
    Lanes::start(system, &one_each, job.topics as u64)?
        .finish_all()
        .await
}

/// Publishes so many records to topic 0.
pub(crate) async fn fill<S: System>(system: &S, records: u64, value_bytes: usize) -> Result<()> {
    let values = Values::new(value_bytes);
    let mut lanes = JoinSet::new();
    for lane in 0..FILL_IN_FLIGHT as u64 {
        let (system, values) = (system.clone(), values.clone());
        lanes.spawn(async move {
            let batches = (0..records / FILL_BATCH).skip(lane as usize);
            for number in batches.step_by(FILL_IN_FLIGHT) {
                let first = number * FILL_BATCH;
                let batch = (first..first + FILL_BATCH).map(|number| values.value(number));
                system.put_in(0, batch.collect()).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    let rest: Vec<_> = (0..records % FILL_BATCH)
        .map(|number| values.value(number))
        .collect();
    if rest.is_empty() {
        return Ok(());
    }
    system.put_in(0, rest).await
}

/// Lanes that publish.
pub(crate) struct Lanes<S> {
    shared: Arc<Shared<S>>,
    lanes: JoinSet<()>,
}

struct Shared<S> {
    system: S,
    values: Values,
    job: Publish,
    /// Requests that were begun.
    next: AtomicU64,
    /// The request at which all ends by itself; 0 where it does not.
    until: u64,
    /// Records that were acknowledged.
    done: AtomicU64,
    /// Nanoseconds of each request. One for all lanes: hundreds of their own would not stay in the cache.
    took: Mutex<Histogram<u64>>,
    stopping: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl<S: System> Lanes<S> {
    /// Begins to publish; ends by itself after `until` requests, unless that is 0.
    pub(crate) fn start(system: &S, job: &Publish, until: u64) -> Result<Lanes<S>> {
        let shared = Arc::new(Shared {
            system: system.clone(),
            values: Values::new(job.value_bytes),
            job: job.clone(),
            next: AtomicU64::new(0),
            until,
            done: AtomicU64::new(0),
            took: Mutex::new(Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let mut lanes = JoinSet::new();
        for _ in 0..job.in_flight.max(1) {
            lanes.spawn(Arc::clone(&shared).publish());
        }
        Ok(Lanes { shared, lanes })
    }

    /// Records acknowledged so far.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Records acknowledged a second, from now on for `time`.
    pub(crate) async fn rate(&self, time: Duration) -> f64 {
        let (before, began) = (self.done(), Instant::now());
        tokio::time::sleep(time).await;
        (self.done() - before) as f64 / began.elapsed().as_secs_f64()
    }

    fn forget_latencies(&self) {
        lock(&self.shared.took).reset();
    }

    fn latencies(&self) -> Histogram<u64> {
        lock(&self.shared.took).clone()
    }

    /// Lets every request end.
    pub(crate) async fn finish(self) -> Result<()> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.finish_all().await
    }

    /// Waits until all have ended by themselves.
    async fn finish_all(mut self) -> Result<()> {
        while let Some(lane) = self.lanes.join_next().await {
            lane?;
        }
        match lock(&self.shared.failure).take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl<S: System> Shared<S> {
    async fn publish(self: Arc<Self>) {
        while !self.stopping.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if self.until > 0 && number >= self.until {
                return;
            }
            let began = Instant::now();
            if let Err(error) = self.request(number).await {
                lock(&self.failure).get_or_insert(error);
                self.stopping.store(true, Ordering::Relaxed);
                return;
            }
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            lock(&self.took).saturating_record(took);
            self.done
                .fetch_add(self.job.batch.max(1) as u64, Ordering::Relaxed);
        }
    }

    async fn request(&self, number: u64) -> Result<()> {
        let topic = (number % self.job.topics.max(1) as u64) as usize;
        if self.job.batch <= 1 {
            return self.system.publish(topic, self.values.value(number)).await;
        }
        let first = number * self.job.batch as u64;
        let values = (first..first + self.job.batch as u64).map(|number| self.values.value(number));
        self.system.publish_batch(topic, values.collect()).await
    }
}

fn ms(took: &Histogram<u64>, part: f64) -> f64 {
    took.value_at_quantile(part) as f64 / 1e6
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
