//! Bindings put and read without pause by this process: how many a second, and how long each put took.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_net::client::{Client, ClientConfig, ClientError, NodeState, WriteOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Result;
use crate::load::{Pace, runtime};
use crate::payload::Payload;

/// A prime step: neighbours in time are no neighbours in the store. `benches/etcd` has the same.
const STEP: u64 = 7_919;

/// How long the others may take to know that a node is away.
const DOWN_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For how long puts are made again that a dead node does not answer.
const AGAIN_FOR: Duration = Duration::from_secs(30);

/// What each request does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// Puts a binding, durable at as many replicas as by default: a majority.
    Put,
    /// Reads one at as many.
    Get,
}

/// How a rate is measured.
#[derive(Clone, Copy, Debug)]
pub struct Rating {
    /// Different keys, no multiple of 7,919; each has a value before the clock runs.
    pub keys: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// How long the load goes on before the clock runs.
    pub warm_up: Duration,
    /// How long it runs.
    pub time: Duration,
}

/// The key of a number.
#[must_use]
pub fn key(number: u64) -> String {
    format!("binding-{number:012}")
}

/// A client, and what runs it.
pub struct Traffic {
    runtime: Runtime,
    client: Client,
    values: Arc<Values>,
}

/// Values without copying: pieces of one buffer.
struct Values {
    pool: Bytes,
    bytes: usize,
}

impl Values {
    fn new(bytes: usize) -> Values {
        // Values overlap, and still nearly all are different.
        let pool = Payload::new(1 << 20).value(0).to_vec();
        Values {
            pool: pool.into(),
            bytes,
        }
    }

    fn value(&self, number: u64) -> Bytes {
        let starts = (self.pool.len() - self.bytes) as u64 + 1;
        let start = (number.wrapping_mul(1_000_003) % starts) as usize;
        self.pool.slice(start..start + self.bytes)
    }
}

impl Traffic {
    /// Connects; values will have so many bytes.
    ///
    /// # Errors
    /// The client's.
    pub fn connect(config: ClientConfig, value_bytes: usize) -> Result<Traffic> {
        let runtime = runtime()?;
        let client = runtime.block_on(Client::connect(config))?;
        Ok(Traffic {
            runtime,
            client,
            values: Arc::new(Values::new(value_bytes)),
        })
    }

    /// The client, and what runs it.
    #[must_use]
    pub fn client(&self) -> (&Runtime, &Client) {
        (&self.runtime, &self.client)
    }

    /// Waits until the map says that a node is away.
    ///
    /// # Errors
    /// It does not within a minute.
    pub fn wait_until_down(&self, name: &str) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < DOWN_WITHIN {
            let view = self.runtime.block_on(self.client.cluster())?;
            let node = view.named(name).ok_or("there is no such node")?;
            if node.state == NodeState::Down {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(format!("{name} is not known to be away after {DOWN_WITHIN:?}").into())
    }

    /// Puts each of these keys once, with `in_flight` requests in flight; again, where a node has died meanwhile.
    ///
    /// # Errors
    /// The first that failed.
    pub fn put_all(&self, numbers: Vec<u64>, in_flight: usize) -> Result<()> {
        let until = Some(numbers.len() as u64);
        let shared = Shared::new(self, Work::Put, Keys::Listed(numbers), until, AGAIN_FOR);
        let lanes = self.lanes(&shared, in_flight, Duration::ZERO);
        self.join(lanes)?;
        shared.check()
    }

    /// Gives every key a value, then puts or reads them all over; requests a second.
    ///
    /// # Errors
    /// The first request that failed, or read another thing than a value of that size.
    pub fn rate(&self, work: Work, rating: &Rating) -> Result<f64> {
        self.put_all((0..rating.keys).collect(), rating.in_flight)?;
        let shared = Shared::new(self, work, Keys::First(rating.keys), None, Duration::ZERO);
        let lanes = self.lanes(&shared, rating.in_flight, Duration::ZERO);
        std::thread::sleep(rating.warm_up);
        let (before, began) = (shared.done.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(rating.time);
        let (after, took) = (shared.done.load(Ordering::Relaxed), began.elapsed());
        shared.stopping.store(true, Ordering::Relaxed);
        self.join(lanes)?;
        shared.check()?;
        Ok((after - before) as f64 / took.as_secs_f64())
    }

    /// Begins to put these keys over and over; again, where a node has died meanwhile.
    #[must_use]
    pub fn start(&self, numbers: Range<u64>, pace: Pace) -> Puts<'_> {
        let keys = Keys::Listed(numbers.collect());
        let shared = Shared::new(self, Work::Put, keys, None, AGAIN_FOR);
        Puts {
            lanes: self.lanes(&shared, pace.in_flight, pace.pause),
            traffic: self,
            shared,
        }
    }

    fn lanes(&self, shared: &Arc<Shared>, in_flight: usize, pause: Duration) -> JoinSet<()> {
        let mut lanes = JoinSet::new();
        let _entered = self.runtime.enter();
        for _ in 0..in_flight {
            lanes.spawn(Arc::clone(shared).lane(pause));
        }
        lanes
    }

    fn join(&self, mut lanes: JoinSet<()>) -> Result<()> {
        self.runtime.block_on(async {
            while let Some(lane) = lanes.join_next().await {
                lane?;
            }
            Ok(())
        })
    }
}

/// Puts that are under way.
pub struct Puts<'a> {
    traffic: &'a Traffic,
    shared: Arc<Shared>,
    lanes: JoinSet<()>,
}

impl Puts<'_> {
    /// Milliseconds that puts took which were answered in this time.
    #[must_use]
    pub fn latencies(&self, from: Instant, until: Instant) -> Vec<f64> {
        let took = self.shared.took();
        let within = took.iter().filter(|(at, _)| (from..until).contains(at));
        within.map(|(_, took)| took.as_secs_f64() * 1e3).collect()
    }

    /// Whether all goes well.
    ///
    /// # Errors
    /// What a put failed with.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Lets every put end.
    ///
    /// # Errors
    /// What one failed with.
    pub fn finish(self) -> Result<()> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.traffic.join(self.lanes)?;
        self.shared.check()
    }
}

/// Which keys have their turn.
enum Keys {
    /// So many, from the first one on, in an order that jumps about.
    First(u64),
    /// These, in their order.
    Listed(Vec<u64>),
}

impl Keys {
    fn at(&self, turn: u64) -> u64 {
        match self {
            Keys::First(count) => turn.wrapping_mul(STEP) % count,
            Keys::Listed(numbers) => numbers[(turn % numbers.len() as u64) as usize],
        }
    }
}

struct Shared {
    client: Client,
    work: Work,
    keys: Keys,
    values: Arc<Values>,
    next: AtomicU64,
    /// The turn at which all ends by itself.
    until: Option<u64>,
    /// For how long a request is made again that no node answers.
    again_for: Duration,
    done: AtomicU64,
    /// When each paced put was answered, and how long it took.
    took: Mutex<Vec<(Instant, Duration)>>,
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Shared {
    fn new(
        traffic: &Traffic,
        work: Work,
        keys: Keys,
        until: Option<u64>,
        again_for: Duration,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            client: traffic.client.clone(),
            work,
            keys,
            values: Arc::clone(&traffic.values),
            next: AtomicU64::new(0),
            until,
            again_for,
            done: AtomicU64::new(0),
            took: Mutex::default(),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
        })
    }

    async fn lane(self: Arc<Self>, pause: Duration) {
        while !self.stopping.load(Ordering::Relaxed) {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            if self.until.is_some_and(|until| turn >= until) {
                return;
            }
            let began = Instant::now();
            let mut answer = self.request(turn).await;
            while matches!(answer, Err(ClientError::Unavailable(_)))
                && began.elapsed() < self.again_for
            {
                tokio::time::sleep(LOOK_EVERY).await;
                answer = self.request(turn).await;
            }
            if let Err(error) = answer {
                lock(&self.failure).get_or_insert(error.to_string());
                self.stopping.store(true, Ordering::Relaxed);
                return;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            if !pause.is_zero() {
                let at = Instant::now();
                self.took().push((at, at - began));
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn request(&self, turn: u64) -> std::result::Result<(), ClientError> {
        let key = key(self.keys.at(turn));
        let key = key.as_bytes();
        match self.work {
            Work::Put => {
                let value = self.values.value(turn);
                let put = self.client.put(key, value, WriteOptions::default());
                put.await.map(drop)
            }
            Work::Get => {
                let got = self.client.get(key, None).await?;
                let values = got.map(|got| got.values).unwrap_or_default();
                match &values[..] {
                    [one] if one.value.len() == self.values.bytes => Ok(()),
                    _ => Err(ClientError::Invalid(
                        "a key has not the value that was put".to_owned(),
                    )),
                }
            }
        }
    }

    fn took(&self) -> MutexGuard<'_, Vec<(Instant, Duration)>> {
        lock(&self.took)
    }

    fn check(&self) -> Result<()> {
        match &*lock(&self.failure) {
            None => Ok(()),
            Some(error) => Err(format!("the load: {error}").into()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_key_has_its_turn() {
        for keys in [1_562, 100_000] {
            let turns: HashSet<u64> = (0..keys).map(|turn| Keys::First(keys).at(turn)).collect();
            assert_eq!(turns.len() as u64, keys);
        }
        let listed = Keys::Listed(vec![5, 9]);
        assert_eq!([0, 1, 2].map(|turn| listed.at(turn)), [5, 9, 5]);
    }

    #[test]
    fn values_have_their_size_and_differ() {
        let values = Values::new(100);
        let different: HashSet<Bytes> = (0..1_000).map(|number| values.value(number)).collect();
        assert!(different.len() > 990);
        assert!(different.iter().all(|value| value.len() == 100));
    }
}
