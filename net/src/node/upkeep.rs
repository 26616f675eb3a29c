//! What a node does by the clock: retention, expiry, space, scrub.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::Shared;
use crate::tasks::blocking;

/// How often retention and expiry are looked at.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(5);

/// How long after its start a node first reads everything again, and how long after each end it does so once more.
const SCRUB_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// Starts the node's upkeep; it ends when the node stops.
pub(super) fn start(shared: &Arc<Shared>, scrub_bytes_per_second: u64) {
    shared
        .tasks
        .spawn("housekeeping", keep_house(Arc::clone(shared)));
    if scrub_bytes_per_second > 0 {
        shared
            .tasks
            .spawn("scrub", scrub(Arc::clone(shared), scrub_bytes_per_second));
    }
}

async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            _ = ticks.tick() => {}
        }
        let engine = Arc::clone(&shared.engine);
        let pass = blocking(move || {
            engine
                .keep_house()
                .map(|done| (done, engine.reclaim(false)))
        });
        match pass.await {
            Some(Ok((done, reclaimed))) => {
                if done.trimmed + done.swept + done.producers > 0 || reclaimed.moved {
                    tracing::debug!(?done, ?reclaimed, "kept house");
                }
            }
            Some(Err(_)) | None => return,
        }
    }
}

async fn scrub(shared: Arc<Shared>, bytes_per_second: u64) {
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            () = tokio::time::sleep(SCRUB_EVERY) => {}
        }
        let (engine, tasks) = (Arc::clone(&shared.engine), shared.tasks.clone());
        let pass = blocking(move || {
            let mut throttle = Throttle::new(bytes_per_second);
            engine.scrub(&mut |bytes| {
                throttle.spend(bytes);
                if tasks.is_stopping() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        let Some(report) = pass.await else { return };
        for damage in &report.damages {
            tracing::error!(%damage, "the scrub found damage");
        }
        tracing::info!(
            batches = report.batches,
            bindings = report.bindings,
            bytes = report.bytes,
            damages = report.damages.len(),
            "scrubbed"
        );
    }
}

/// Keeps a thread's reading below a rate.
struct Throttle {
    bytes_per_second: u64,
    began: Instant,
    spent: u64,
}

impl Throttle {
    fn new(bytes_per_second: u64) -> Throttle {
        Throttle {
            bytes_per_second,
            began: Instant::now(),
            spent: 0,
        }
    }

    fn spend(&mut self, bytes: u64) {
        self.spent += bytes;
        let due = Duration::from_secs_f64(self.spent as f64 / self.bytes_per_second as f64);
        let ahead = due.saturating_sub(self.began.elapsed());
        // Short naps would cost more than they save, long ones would hold up a stop.
        if ahead > Duration::from_millis(20) {
            std::thread::sleep(ahead.min(Duration::from_millis(200)));
        }
    }
}
