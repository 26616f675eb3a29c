//! What wakes a task must not be told before what the task then looks at.
//!
//! openraft tells of one change on several channels, and traces in between. A subscriber that stands still there makes the
//! moment between two channels so long that every task that looks at the wrong one does so in time.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_net::node::control::Life;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use crate::cluster::{Cluster, id, propose, revoke};

/// How long a group stands still between two channels: longer than a task needs to wake, shorter than an election.
const PAUSE: Duration = Duration::from_millis(20);

const ROUNDS: u8 = 4;

static PAUSES: AtomicUsize = AtomicUsize::new(0);

struct StandsStill;

/// Whether an event is the one between the channels.
struct IsBetween(bool);

impl Visit for IsBetween {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}").starts_with("report_metrics");
    }
}

impl Subscriber for StandsStill {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        of.is_event() && *of.level() == Level::DEBUG && of.target() == "openraft::core::raft_core"
    }

    fn event(&self, event: &Event<'_>) {
        let mut is_between = IsBetween(false);
        event.record(&mut is_between);
        if is_between.0 {
            PAUSES.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Each round could miss the moment: whichever task openraft wakes last runs behind it on the same thread.
#[test]
fn a_leader_that_is_elected_after_the_last_word_of_gossip_acts_on_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(8)
        .enable_all()
        .on_thread_start(|| {
            let pausing = tracing::dispatcher::set_default(&Dispatch::new(StandsStill));
            // For as long as the thread lives.
            std::mem::forget(pausing);
        })
        .build()
        .unwrap();
    let rounds = runtime.spawn(async {
        let mut cluster = Cluster::found(3).await;
        propose(&cluster.node(1), revoke(1)).await;
        for _ in 0..ROUNDS {
            let leader = cluster.leader().await;
            cluster.hears(leader, Life::Dead);
            cluster.kill(leader).await;
            cluster
                .all_see("the dead one is down", |map| !map.is_live(id(leader)))
                .await;
            cluster.start(leader).await;
            cluster.hears(leader, Life::Alive);
            cluster
                .all_see("it is up again", |map| map.is_live(id(leader)))
                .await;
        }
    });
    runtime.block_on(rounds).unwrap();
    assert_ne!(PAUSES.load(Ordering::Relaxed), 0, "the trace has changed");
}
