//! What a node does by the clock: retention, expiry, space, scrub.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_engine::{Engine, Stopped};
use mesh_ring::control::ControlCommand;
use mesh_ring::limits::PRODUCER_AGE_MS_MAX;
use tokio::time::MissedTickBehavior;

use super::Shared;
use super::partition::{Change, Partition};
use crate::tasks::blocking;

/// How often retention and expiry are looked at.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(5);

/// How soon other nodes are asked again what time it is, where too few of them have answered.
const CLOCKS_AGAIN: Duration = Duration::from_millis(500);

/// How often the free space is looked at.
const RESERVE_EVERY: Duration = Duration::from_secs(1);

/// How long after its start a node first reads everything again, and how long after each end it does so once more.
const SCRUB_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// Starts the node's upkeep; it ends when the node stops.
pub(super) fn start(shared: &Arc<Shared>, scrub_bytes_per_second: u64) {
    shared
        .tasks
        .spawn("housekeeping", keep_house(Arc::clone(shared)));
    shared
        .tasks
        .spawn("reserve", mind_the_reserve(Arc::clone(shared)));
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
        // What is ended by its age is gone everywhere: not by a clock that may be wrong.
        let is_time_known = shared.compare_clocks().await;
        if !is_time_known {
            ticks.reset_after(CLOCKS_AGAIN);
        }
        let engine = Arc::clone(&shared.engine);
        let pass = blocking(move || keep_store(&engine, is_time_known));
        let (now_ms, forget) = match pass.await {
            Some(Ok(Some(pass))) => pass,
            // The store has stopped, and so will the node.
            Some(Err(_)) => return,
            // Or it panicked, which is logged; the next pass may do.
            Some(Ok(None)) | None => continue,
        };
        for partition in shared.partitions.running() {
            if partition.leads() {
                tidy(&shared, &partition, now_ms, forget).await;
            }
        }
    }
}

/// One pass over the store of this node. Blocks. Returns the time by which ages are judged, and the one before which producers
/// are forgotten, in the pass of an hour that does that; `None` where it is not known what time it is.
///
/// # Errors
/// The store has stopped.
fn keep_store(engine: &Engine, is_time_known: bool) -> Result<Option<(u64, Option<u64>)>, Stopped> {
    let now_ms = is_time_known.then(|| engine.judge_ages()).transpose()?;
    let swept = now_ms.map_or(0, |now_ms| engine.sweep_bindings(now_ms));
    let reclaimed = engine.reclaim(false);
    if swept > 0 || reclaimed.moved {
        tracing::debug!(swept, ?reclaimed, "kept house");
    }
    Ok(now_ms.map(|now_ms| {
        let hour = engine.is_producers_hour(now_ms);
        let forget = hour.then(|| now_ms.saturating_sub(PRODUCER_AGE_MS_MAX));
        (now_ms, forget)
    }))
}

/// Proposes what is due in a partition that this node leads: the leader alone ends anything, by the journal, so that
/// replicas never differ.
async fn tidy(shared: &Arc<Shared>, partition: &Partition, now_ms: u64, forget: Option<u64>) {
    let (engine, id) = (Arc::clone(&shared.engine), partition.id);
    let map = shared.map();
    let replicas = map
        .assignment(id)
        .map(|assignment| assignment.replicas.clone());
    let age_ms = shared.age_bound(&replicas.unwrap_or_default(), now_ms);
    let due = blocking(move || {
        let mut changes: Vec<Change> = engine
            .retention_due(id, age_ms)
            .into_iter()
            .map(|(topic, first)| Change::Trim { topic, first })
            .collect();
        if let Some(before_ms) = forget {
            let before_ms = before_ms.min(age_ms.saturating_sub(PRODUCER_AGE_MS_MAX));
            let producers = engine.producers_due(id, before_ms).into_iter();
            changes.extend(producers.map(|(topic, producer)| Change::Expire {
                topic,
                producer,
                before_ms,
            }));
        }
        changes
    });
    for change in due.await.unwrap_or_default() {
        if shared.change(partition, change).await.is_err() {
            // Another leader, or this one later, does it.
            return;
        }
    }
}

/// Tells the cluster map whether this node has room: while it has none, others lead what they can lead.
async fn mind_the_reserve(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(RESERVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            _ = ticks.tick() => {}
        }
        let full = shared.engine.admit().is_err();
        let known = shared.map().node(shared.me()).map(|member| member.full);
        if known.is_none_or(|known| known == full) {
            continue;
        }
        if full {
            tracing::warn!("the disk's reserve is reached: leadership goes to other replicas");
        } else {
            tracing::info!("the disk has room again");
        }
        let command = ControlCommand::Room {
            node: shared.me(),
            full,
        };
        // It is said again where it was not heard.
        if let Err(error) = shared.propose(command).await {
            tracing::debug!(%error, "the map was not told of the disk's room");
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
        shared.note_damages(&report.damages);
        tokio::select! {
            () = shared.mend(report.leaves) => {}
            () = shared.tasks.stopping() => return,
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
