//! Puts or linearizable gets on an etcd cluster: three members on this machine, data in the current folder.
//!
//! `etcd-load SERVER put|get [--keys N] [--size BYTES] [--inflight N] [--connections N] [--servers N] [--warm-up-ms N] [--ms N]`
//! writes every key once, goes on for the time of the warm-up, and counts what is answered in the time after it. It prints
//! one JSON object. The keys, their order and the values are those of `mesh-benches` (`traffic`).

mod kv;
mod servers;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench_drive::tool;
use bytes::Bytes;
use kv::Member;
use servers::Servers;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long all may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How long members have to form their cluster and elect its leader.
const START: Duration = Duration::from_secs(60);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Neighbours in time are no neighbours in the store.
const STEP: u64 = 7_919;

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Put,
    Get,
}

struct Options {
    server: String,
    work: Work,
    servers: usize,
    /// To each member.
    connections: usize,
    keys: u64,
    size: usize,
    inflight: usize,
    warm_up: Duration,
    time: Duration,
}

fn parse() -> Result<Options, Failure> {
    let usage = "etcd-load SERVER put|get [--keys N] …";
    let mut args = std::env::args().skip(1);
    let mut options = Options {
        server: args.next().ok_or(usage)?,
        work: match args.next().as_deref() {
            Some("put") => Work::Put,
            Some("get") => Work::Get,
            _ => return Err(usage.into()),
        },
        servers: 3,
        connections: 2,
        keys: 100_000,
        size: 100,
        inflight: 256,
        warm_up: Duration::from_secs(1),
        time: Duration::from_secs(5),
    };
    while let Some(flag) = args.next() {
        let value: u64 = args
            .next()
            .ok_or_else(|| format!("{flag} wants a number"))?
            .parse()?;
        let count = usize::try_from(value)?.max(1);
        match flag.as_str() {
            "--servers" => options.servers = count,
            "--connections" => options.connections = count,
            "--keys" => options.keys = value.max(1),
            "--size" => options.size = count,
            "--inflight" => options.inflight = count,
            "--warm-up-ms" => options.warm_up = Duration::from_millis(value),
            "--ms" => options.time = Duration::from_millis(value),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Failure> {
    tool::become_server()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // Not in a task: servers die with the thread that has started them.
    let measured = runtime.block_on(tool::bounded(LIMIT, work()))?;
    println!("{measured}");
    Ok(())
}

async fn work() -> Result<serde_json::Value, Failure> {
    let options = parse()?;
    let dir = tempfile::tempdir_in(".")?;
    let servers = Servers::start(&options.server, options.servers, dir.path())?;
    let measured = measure(&options, &servers.addresses).await;
    servers.stop().await?;
    measured
}

async fn measure(options: &Options, addresses: &[String]) -> Result<serde_json::Value, Failure> {
    let mut members = Vec::new();
    for _ in 0..options.connections {
        for address in addresses {
            members.push(ready(address).await?);
        }
    }
    let value = bytes_of(options.size);
    let filling = Load::new(&members, &value, options.keys, options.keys);
    filling.run(Work::Put, options.inflight, async {}).await?;

    let load = Load::new(&members, &value, options.keys, u64::MAX);
    let counting = async {
        tokio::time::sleep(options.warm_up).await;
        let (before, began) = (load.done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(options.time).await;
        let (after, took) = (load.done.load(Ordering::Relaxed), began.elapsed());
        load.stopping.store(true, Ordering::Relaxed);
        (after - before, took.as_secs_f64())
    };
    let (count, seconds) = load
        .clone()
        .run(options.work, options.inflight, counting)
        .await?;
    Ok(serde_json::json!({
        "requests": count, "seconds": seconds, "requests_per_second": count as f64 / seconds,
        "keys": options.keys, "size": options.size, "inflight": options.inflight,
        "servers": options.servers, "connections": options.connections,
    }))
}

/// A connection to a member, as soon as that has joined the others and can reach their leader.
async fn ready(address: &str) -> Result<Member, Failure> {
    let deadline = Instant::now() + START;
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .timeout(REQUEST)
        .tcp_nodelay(true);
    let member = Member::new(endpoint.connect_lazy());
    loop {
        match member.get(Bytes::from_static(b"ready")).await {
            Ok(_) => return Ok(member),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("{address} is not ready: {error}").into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Requests without pause, a fixed number of them in flight.
struct Load {
    members: Vec<Member>,
    keys: u64,
    value: Bytes,
    next: AtomicU64,
    done: AtomicU64,
    /// The number at which it ends by itself.
    last: u64,
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Load {
    fn new(members: &[Member], value: &Bytes, keys: u64, last: u64) -> Arc<Self> {
        Arc::new(Self {
            members: members.to_vec(),
            keys,
            value: value.clone(),
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            last,
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Goes on until `meanwhile` has ended it, or every number had its turn.
    async fn run<T>(
        self: Arc<Self>,
        work: Work,
        inflight: usize,
        meanwhile: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut lanes = JoinSet::new();
        for lane in 0..inflight {
            let member = self.members[lane % self.members.len()].clone();
            lanes.spawn(self.clone().lane(work, member));
        }
        let came = meanwhile.await;
        while let Some(lane) = lanes.join_next().await {
            lane?;
        }
        match self
            .failure
            .lock()
            .map_err(|error| error.to_string())?
            .take()
        {
            Some(failure) => Err(failure.into()),
            None => Ok(came),
        }
    }

    async fn lane(self: Arc<Self>, work: Work, member: Member) {
        while !self.stopping.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.last {
                return;
            }
            let key = format!("binding-{:012}", number.wrapping_mul(STEP) % self.keys);
            let answer = match work {
                Work::Put => {
                    let put = member.put(key.into(), self.value.clone());
                    put.await.map_err(|error| error.to_string())
                }
                Work::Get => match member.get(key.into()).await {
                    Ok(Some(value)) if value.len() == self.value.len() => Ok(()),
                    Ok(_) => Err("a key has not the value that was put".to_owned()),
                    Err(error) => Err(error.to_string()),
                },
            };
            if let Err(error) = answer {
                if let Ok(mut failure) = self.failure.lock() {
                    failure.get_or_insert(error);
                }
                self.stopping.store(true, Ordering::Relaxed);
                return;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Bytes that do not compress.
fn bytes_of(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..size)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}
