//! Where a producer's topics go: finds each one's leader and puts it on the lane to that node; again when it was sent away
//! or its lane has ended. Also the one who watches the time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    gather::{Shared, client_closed},
    lane::{Lane, Road},
    topic::Topic,
};
use crate::{client::ClientError, tasks::TaskSet};

/// The pause before a topic is sent to a node again that did not take it, doubled each time up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(320);
/// How often in a row a topic goes at once where a node says that its leader is: two nodes may each name the other.
const HINTS_MAX: u32 = 3;
/// How long the router waits for the cluster map while other topics wait for it.
const MAP_TIMEOUT: Duration = Duration::from_secs(1);

/// A topic that is on no lane.
#[derive(Debug)]
pub(super) struct Stray {
    topic: Arc<Topic>,
    /// The node that did not serve, and when.
    from: Option<(Arc<str>, Instant)>,
    /// Whether that node could not be asked any more.
    is_lost: bool,
    /// Where that node says that the leader is.
    leader: Option<Arc<str>>,
}

impl Stray {
    /// It has something to send, for the first time or after a while.
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        Self {
            topic,
            from: None,
            is_lost: false,
            leader: None,
        }
    }

    /// The node at `from` does not lead it.
    pub(super) fn sent_away(topic: Arc<Topic>, from: Arc<str>, leader: Option<String>) -> Self {
        let leader = leader.map(Arc::from).filter(|leader| *leader != from);
        Self {
            leader,
            from: Some((from, Instant::now())),
            ..Self::new(topic)
        }
    }

    /// The lane to `from` has ended.
    pub(super) fn lost(topic: Arc<Topic>, from: Arc<str>) -> Self {
        Self {
            from: Some((from, Instant::now())),
            is_lost: true,
            ..Self::new(topic)
        }
    }

    /// When it is to be placed.
    fn due(&self) -> Instant {
        let now = Instant::now();
        if self.from.is_none() {
            return now;
        }
        let bounces = self.topic.bounces.fetch_add(1, Ordering::Relaxed);
        if self.leader.is_some() && bounces < HINTS_MAX {
            return now;
        }
        now + (PAUSE_MIN * (1 << bounces.min(5))).min(PAUSE_MAX)
    }
}

/// Routes for one producer until it has nothing left and no handle, or the client is closed.
pub(super) async fn run(road: Arc<Road>, tasks: TaskSet) {
    let router = Router {
        road: road.clone(),
        tasks,
        lanes: Mutex::default(),
    };
    select! {
        () = router.route() => {}
        () = watch_deadlines(&road.shared) => {}
        () = road.shared.inflight.closed() => {
            for topic in road.shared.busy() {
                topic.fail(&client_closed(), &road.shared);
            }
        }
    }
}

struct Router {
    road: Arc<Road>,
    tasks: TaskSet,
    /// The lane to each node that was needed so far.
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
}

impl Router {
    async fn route(&self) {
        let shared = &self.road.shared;
        let mut waiting: Vec<(Instant, Stray)> = Vec::new();
        loop {
            let strays = shared.take_strays();
            waiting.extend(strays.into_iter().map(|stray| (stray.due(), stray)));
            if shared.orphaned.load(Ordering::Acquire) {
                self.nudge_lanes();
                if waiting.is_empty() && shared.busy().is_empty() {
                    return;
                }
            }
            let now = Instant::now();
            let due: Vec<Stray> = waiting
                .extract_if(.., |(due, _)| *due <= now)
                .map(|(_, stray)| stray)
                .collect();
            if !due.is_empty() {
                self.place(due).await;
                continue;
            }
            let next = waiting.iter().map(|(due, _)| *due).min();
            select! {
                () = shared.wake.notified() => {}
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    /// Puts each topic on the lane to its leader. Those whose leader is not known come back.
    async fn place(&self, strays: Vec<Stray>) {
        let routes = self.road.links.routes();
        let mut unknown = Vec::new();
        for mut stray in strays {
            let named = stray.leader.take();
            let known = || routes.leader(stray.topic.name.as_bytes());
            match named.or_else(|| stray.from.is_none().then(known)?.cloned()) {
                Some(leader) => self.assign(stray.topic, leader),
                None => unknown.push(stray),
            }
        }
        if unknown.is_empty() {
            return;
        }
        if let Err(error) = self.ask_map(&unknown).await
            && !matches!(error, ClientError::Unavailable(_))
        {
            for stray in unknown {
                stray.topic.fail(&error, &self.road.shared);
            }
            return;
        }
        let routes = self.road.links.routes();
        for stray in unknown {
            let name = stray.topic.name.as_bytes();
            // Where nobody leads, a node that holds the topic can at least say why.
            let any = || {
                let replicas = routes.replicas(name).into_iter().cloned();
                let links = self.road.links.by_connected(replicas);
                links.first().map(|link| link.address().clone())
            };
            match routes.leader(name).cloned().or_else(any) {
                Some(leader) => self.assign(stray.topic, leader),
                None => {
                    let from = stray.from.map_or_else(|| Arc::from(""), |(from, _)| from);
                    self.road.shared.stray(Stray::lost(stray.topic, from));
                }
            }
        }
    }

    /// Asks who leads now.
    async fn ask_map(&self, unknown: &[Stray]) -> Result<(), ClientError> {
        let deadline = Instant::now() + MAP_TIMEOUT;
        let since = unknown.iter().filter_map(|stray| stray.from.as_ref());
        let Some(since) = since.map(|(_, at)| *at).max() else {
            return self.road.links.learn(deadline).await;
        };
        let lost = unknown.iter().find(|stray| stray.is_lost);
        let besides = lost.and_then(|stray| stray.from.as_ref());
        self.road
            .links
            .refresh(besides.map(|(from, _)| from), Some(since), deadline)
            .await
    }

    fn assign(&self, topic: Arc<Topic>, leader: Arc<str>) {
        // It may have been handed over twice.
        if topic.lane().is_some_and(|lane| lane.offer(&topic)) {
            return;
        }
        let lane = self.lane(leader);
        topic.set_lane(&topic.flights(), Some(lane.clone()));
        if !lane.offer(&topic) {
            self.road.shared.stray(Stray::new(topic));
        }
    }

    /// The open lane to a node, begun where there is none.
    fn lane(&self, address: Arc<str>) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| lane.is_open());
        let begin = || {
            let lane = Arc::new(Lane::new(address.clone()));
            self.tasks
                .spawn("append lane", lane.clone().run(self.road.clone()));
            lane
        };
        lanes.entry(address.clone()).or_insert_with(begin).clone()
    }

    fn nudge_lanes(&self) {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.values().for_each(|lane| lane.nudge());
    }
}

/// Never ends; tells publishers whose time is up.
async fn watch_deadlines(shared: &Shared) {
    let timeout = shared.inflight.timeout;
    let slack = (timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(250));
    let mut ticks = interval(slack);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        if shared.inflight.is_idle() {
            continue;
        }
        for topic in shared.busy() {
            let trouble = {
                let mut flights = topic.flights();
                flights.expire(now);
                flights.trouble()
            };
            let mut gather = topic.gather();
            gather.close_older(now - slack, timeout);
            for pending in gather.expire(now) {
                pending
                    .completion
                    .resolve(Err(ClientError::Unavailable(format!(
                        "not sent within the timeout{trouble}; the record was not written"
                    ))));
                shared.inflight.release(pending.counted);
            }
        }
    }
}
