//! The task of a watch: it covers what is watched with streams, takes in what they say, and covers anew what a node cannot
//! or may not serve any more.

mod answers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mesh_ring::ids::PartitionId;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::cover::{self, Share, WatchMap};
use super::inquiry::Found;
use super::seen::{Seen, Verdict};
use super::stream::{self, End, Said};
use super::{WatchEvent, WatchTarget};
use crate::client::ClientError;
use crate::client::links::Links;
use crate::tasks::TaskSet;
use crate::wire::proto;

/// Messages of nodes that wait to be taken in: each is a frame of about a mebibyte or less.
const SAID_MAX: usize = 4;
/// How long a node that has failed is asked after all others.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// The pause before a second attempt in a row, doubled each time up to [`PAUSE_MAX`]. The first is made at once.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long nodes are not chosen by a map that is known to be old, while a newer one is asked for.
const NEWER_MAP_WAIT: Duration = Duration::from_secs(1);
/// Keys of which a majority is asked at a time.
const INQUIRIES_MAX: usize = 16;

/// Nobody listens to the watch any more, or this was its last word.
struct Over;

/// Follows what is watched and tells of it, until nobody listens any more or it cannot be done.
pub(super) async fn follow(
    links: Arc<Links>,
    tasks: TaskSet,
    target: WatchTarget,
    events: mpsc::Sender<Result<WatchEvent, ClientError>>,
) {
    let (said_to, said) = mpsc::channel(SAID_MAX);
    let (found_to, found) = mpsc::channel(INQUIRIES_MAX);
    let mut follower = Follower {
        give_up_at: Some(Instant::now() + links.timeout),
        links,
        tasks,
        target,
        events,
        said: said_to,
        found: found_to,
        map: None,
        map_asked: None,
        map_wanted: 0,
        seen: Seen::default(),
        streams: BTreeMap::new(),
        next_stream: 0,
        uncovered: BTreeSet::new(),
        begun: BTreeSet::new(),
        failed: HashMap::new(),
        failures: 0,
        try_at: Instant::now(),
        trouble: None,
        doubtful: BTreeSet::new(),
        asked: BTreeSet::new(),
    };
    // It has said its last word.
    let Over = follower.run(said, found).await;
}

struct Follower {
    links: Arc<Links>,
    tasks: TaskSet,
    target: WatchTarget,
    events: mpsc::Sender<Result<WatchEvent, ClientError>>,
    said: mpsc::Sender<(u64, Said)>,
    found: mpsc::Sender<Found>,
    map: Option<WatchMap>,
    /// Since when an answer about the map is awaited.
    map_asked: Option<Instant>,
    /// A node has spoken of a map of this version.
    map_wanted: u64,
    seen: Seen,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    /// Partitions of which no stream tells.
    uncovered: BTreeSet<PartitionId>,
    /// Those of which one has told, ever.
    begun: BTreeSet<PartitionId>,
    /// Until when it gives up where it has not begun everywhere; `None`: it has, and never does.
    give_up_at: Option<Instant>,
    failed: HashMap<Arc<str>, Instant>,
    /// Failures in a row.
    failures: u32,
    /// When what is not covered is tried again.
    try_at: Instant,
    trouble: Option<ClientError>,
    /// Keys of which a value was seen and a node says that there is nothing, and those of them that are asked for.
    doubtful: BTreeSet<Bytes>,
    asked: BTreeSet<Bytes>,
}

/// A stream at one node.
struct Stream {
    address: Arc<str>,
    partitions: BTreeSet<PartitionId>,
    /// The keys that were seen before a snapshot that is under way, and have not come in it.
    missing: BTreeSet<Bytes>,
}

impl Follower {
    async fn run(
        &mut self,
        mut said: mpsc::Receiver<(u64, Said)>,
        mut found: mpsc::Receiver<Found>,
    ) -> Over {
        self.ask_map();
        loop {
            self.cover();
            self.inquire();
            let try_at = self.try_at;
            let waits = self.is_to_cover();
            let give_up_at = self.give_up_at;
            let step = select! {
                Some((number, said)) = said.recv() => self.hear(number, said).await,
                Some(found) = found.recv() => self.find(found).await,
                () = sleep_until(try_at), if waits => Ok(()),
                () = give_up(give_up_at) => {
                    let late = || ClientError::Unavailable("watch: no answer within the timeout".into());
                    let error = self.trouble.take().unwrap_or_else(late);
                    self.fail(error).await
                }
                () = self.events.closed() => Err(Over),
            };
            if let Err(over) = step {
                return over;
            }
        }
    }

    fn is_to_cover(&self) -> bool {
        !self.uncovered.is_empty() && self.map.is_some()
    }

    async fn tell(&mut self, event: WatchEvent) -> Result<(), Over> {
        self.events.send(Ok(event)).await.map_err(|_| Over)
    }

    async fn fail(&mut self, error: ClientError) -> Result<(), Over> {
        // Whoever has stopped listening needs no reason.
        let _ = self.events.send(Err(error)).await;
        Err(Over)
    }

    /// Opens streams for what no stream tells of, where it is time to.
    fn cover(&mut self) {
        let now = Instant::now();
        let Some(map) = &self.map else { return };
        let newer_comes = self.map_wanted > map.version
            && self
                .map_asked
                .is_some_and(|asked| now < asked + NEWER_MAP_WAIT);
        if self.uncovered.is_empty() || now < self.try_at {
            return;
        }
        if newer_comes {
            self.try_at = now + PAUSE_MIN;
            return;
        }
        self.failed.retain(|_, at| now < *at + FAILED_FOR);
        let uncovered = std::mem::take(&mut self.uncovered);
        let shares = map.shares(uncovered.clone(), |address| {
            self.failed.contains_key(address)
        });
        let version = map.version;
        self.uncovered = uncovered;
        for share in shares {
            self.open(share, version);
        }
        if !self.uncovered.is_empty() {
            // The map names nobody who has them.
            self.failures += 1;
            self.pause();
            self.ask_map();
        }
    }

    fn open(&mut self, share: Share, map_version: u64) {
        let number = self.next_stream;
        self.next_stream += 1;
        let open = cover::open(&self.target, &share, map_version);
        let link = self.links.link(&share.address);
        let stream = stream::run(self.links.clone(), link, open, number, self.said.clone());
        self.tasks.spawn("watch stream", stream);
        self.uncovered
            .retain(|partition| !share.partitions.contains(partition));
        self.streams.insert(
            number,
            Stream {
                address: share.address,
                partitions: share.partitions,
                missing: BTreeSet::new(),
            },
        );
    }

    /// Sets when to try again: at once after one failure, later after several.
    fn pause(&mut self) {
        let pause = match self.failures {
            0 | 1 => Duration::ZERO,
            more => PAUSE_MIN
                .saturating_mul(1 << (more - 2).min(10))
                .min(PAUSE_MAX),
        };
        self.try_at = Instant::now() + pause;
    }

    async fn hear(&mut self, number: u64, said: Said) -> Result<(), Over> {
        if !self.streams.contains_key(&number) {
            return Ok(());
        }
        match said {
            Said::SnapshotBegin(version) => {
                self.begin_snapshot(number);
                self.want_map(version);
            }
            Said::States(states) => {
                for state in states {
                    if let Some(stream) = self.streams.get_mut(&number) {
                        stream.missing.remove(&state.key);
                    }
                    if state.held.is_some() {
                        self.doubtful.remove(&state.key);
                        self.asked.remove(&state.key);
                    }
                    let key = state.key.clone();
                    let verdict = self.seen.take(state, now_ms());
                    self.judge(key, verdict).await?;
                }
            }
            Said::SnapshotEnd => self.end_snapshot(number).await?,
            Said::Moved(moved) => self.leave(number, &moved),
            Said::Ended(End::Final(error)) => return self.fail(error).await,
            Said::Ended(End::Passing(error) | End::Lost(error)) => self.lose(number, error),
        }
        Ok(())
    }

    async fn judge(&mut self, key: Bytes, verdict: Verdict) -> Result<(), Over> {
        match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Event(event) => self.tell(event).await,
            Verdict::Doubtful => {
                self.doubtful.insert(key);
                Ok(())
            }
        }
    }

    fn begin_snapshot(&mut self, number: u64) {
        let (Some(map), Some(stream)) = (&self.map, self.streams.get_mut(&number)) else {
            return;
        };
        let covered = self.seen.keys();
        let covered = covered.filter(|key| stream.partitions.contains(&map.partition(key)));
        stream.missing = covered.cloned().collect();
        self.begun.extend(&stream.partitions);
        if self.begun.len() == map.partitions_of(&self.target).len() {
            self.give_up_at = None;
        }
    }

    async fn end_snapshot(&mut self, number: u64) -> Result<(), Over> {
        let (Some(map), Some(stream)) = (&self.map, self.streams.get_mut(&number)) else {
            return Ok(());
        };
        let mut missing = std::mem::take(&mut stream.missing);
        missing.retain(|key| stream.partitions.contains(&map.partition(key)));
        self.failed.remove(&stream.address);
        self.failures = 0;
        for key in missing {
            let verdict = self.seen.absent(&key, false, now_ms());
            self.judge(key, verdict).await?;
        }
        Ok(())
    }

    /// Owners have changed: some of them may be served elsewhere from now on.
    fn leave(&mut self, number: u64, moved: &proto::Moved) {
        let left = moved.left.iter();
        let left = left.filter_map(|id| u16::try_from(*id).ok().map(PartitionId));
        if let Some(stream) = self.streams.get_mut(&number) {
            for id in left {
                if stream.partitions.remove(&id) {
                    self.uncovered.insert(id);
                }
            }
        }
        self.want_map(moved.map_version);
    }

    /// A stream has ended: what it told of is covered anew, best elsewhere.
    fn lose(&mut self, number: u64, error: ClientError) {
        let Some(stream) = self.streams.remove(&number) else {
            return;
        };
        tracing::debug!(node = &*stream.address, %error, "a watch goes on elsewhere");
        // One that has given everything away has not failed.
        if !stream.partitions.is_empty() {
            self.failed.insert(stream.address, Instant::now());
            self.uncovered.extend(stream.partitions);
            self.failures += 1;
            self.pause();
            self.trouble = Some(error);
            self.ask_map();
        }
    }
}

async fn give_up(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
