//! Keeps a fixed number of requests in flight, and times each.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use mesh_net::client::ClientError;
use tokio::task::JoinSet;

use super::Measured;
use crate::error::Failure;
use crate::payload::Payloads;
use crate::session::Session;

/// Part of a run that is done beforehand and not measured, and the most of it.
const WARM_UP_PART: u64 = 20;
const WARM_UP_RECORDS_MAX: u64 = 20_000;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// What is to be sent.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) records: u64,
    pub(super) batch: u64,
    pub(super) payloads: Payloads,
    size: usize,
    workers: u64,
    shows_progress: bool,
}

/// One request: numbers of its records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// What the workers of one run share. One histogram for all: hundreds of their own would not stay in the cache.
struct Shared {
    sent: AtomicU64,
    latency: Mutex<Histogram<u64>>,
    progress: ProgressBar,
}

impl Shared {
    fn latency(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    pub(super) fn new(
        records: u64,
        size: usize,
        inflight: u64,
        batch: u64,
        session: &Session,
    ) -> Self {
        Self {
            records,
            batch,
            payloads: Payloads::new(size),
            size,
            workers: (inflight / batch).max(1),
            shows_progress: !session.out.is_quiet() && io::stderr().is_terminal(),
        }
    }

    /// Requests at a time.
    pub(super) fn requests(&self) -> u64 {
        self.workers
    }

    /// The same load with other numbers of records.
    pub(super) fn of(&self, records: u64, batch: u64, workers: u64) -> Self {
        Self {
            records,
            batch,
            workers,
            ..self.clone()
        }
    }

    /// Sends a small part first, then everything, and measures the latter.
    pub(super) async fn measure<F, C>(&self, call: F) -> Result<Measured, Failure>
    where
        F: Fn(Ticket) -> C + Clone + Send + 'static,
        C: Future<Output = Result<(), ClientError>> + Send,
    {
        let warm_up = (self.records / WARM_UP_PART).clamp(1, WARM_UP_RECORDS_MAX);
        self.of(warm_up, self.batch, self.workers)
            .send(call.clone(), "warm-up")
            .await?;
        self.send(call, "measuring").await
    }

    /// Sends every record once. The first error ends it.
    pub(super) async fn send<F, C>(&self, call: F, title: &'static str) -> Result<Measured, Failure>
    where
        F: Fn(Ticket) -> C + Clone + Send + 'static,
        C: Future<Output = Result<(), ClientError>> + Send,
    {
        let shared = Arc::new(Shared {
            sent: AtomicU64::new(0),
            latency: Mutex::new(histogram()?),
            progress: self.progress(title),
        });
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            let (load, shared, call) = (self.clone(), shared.clone(), call.clone());
            workers.spawn(async move { load.work(&shared, call).await });
        }
        while let Some(worker) = workers.join_next().await {
            worker.map_err(|e| Failure::failed(format!("a worker ended early: {e}")))??;
        }
        let took = began.elapsed();
        shared.progress.finish_and_clear();
        let latency = shared.latency().clone();
        Ok(Measured {
            records: self.records,
            bytes: self.records * self.size as u64,
            took,
            latency,
        })
    }

    /// One request after the other, until every record has been taken.
    async fn work<F, C>(&self, shared: &Shared, call: F) -> Result<(), Failure>
    where
        F: Fn(Ticket) -> C,
        C: Future<Output = Result<(), ClientError>>,
    {
        loop {
            let first = shared.sent.fetch_add(self.batch, Ordering::Relaxed);
            if first >= self.records {
                return Ok(());
            }
            let count = self.batch.min(self.records - first);
            let began = Instant::now();
            call(Ticket { first, count }).await?;
            note(&mut shared.latency(), began);
            shared.progress.inc(count);
        }
    }

    pub(super) fn progress(&self, title: &'static str) -> ProgressBar {
        if !self.shows_progress {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(self.records).with_message(title);
        match ProgressStyle::with_template(
            "{msg:10} {bar:40} {human_pos}/{human_len} {per_sec} eta {eta}",
        ) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)
        .map_err(|e| Failure::failed(format!("cannot measure latencies: {e}")))
}

/// Counts the time since `began`; what is beyond the scale counts as its end.
pub(super) fn note(latency: &mut Histogram<u64>, began: Instant) {
    latency.saturating_record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
}
