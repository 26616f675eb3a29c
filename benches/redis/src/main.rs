//! A Redis server of this machine that fsyncs its append-only file before it answers, and one stream for each topic.
//!
//! `redis-load SERVER JOB [SECONDS]`, such as `redis-load redis-server '{"publish":{"in_flight":1}}'`: see `bench_drive`.
//! `REDIS_CONNECTIONS=16` spreads what is published over 16 connections, and not one. It matters: Redis takes at most 16 KiB of
//! a connection before it fsyncs, so that few records of one connection share an fsync, however many are in flight.

mod streams;

use std::path::Path;
use std::time::{Duration, Instant};

use bench_drive::tool::{self, Asked};
use bench_drive::{Done, Error, Result, measure, prepare};
use redis::aio::MultiplexedConnection;
use streams::Streams;
use tokio::process::Child;

/// How long the server may take until it answers, and until it has rewritten its file.
const READY: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    tool::run(work)
}

async fn work(asked: Asked) -> Result<Done> {
    let [port] = tool::free_ports(1)?[..] else {
        return Err("there is no free port".into());
    };
    let server = start(&asked, port)?;
    let done = on_server(&asked, port).await;
    // Not killed: a child of its own may be rewriting the append-only file, and ends only with it.
    tool::stop(server).await?;
    done.map_err(|error| with_log(&asked.dir, &error))
}

async fn on_server(asked: &Asked, port: u16) -> Result<Done> {
    let connections = match std::env::var("REDIS_CONNECTIONS") {
        Ok(count) => count.parse()?,
        Err(_) => 1,
    };
    let streams = connected(port, connections).await?;
    let mut admin = streams.admin();
    // What is only put in for a reader need not be durable at once.
    let puts_in = asked.job.stored().is_some();
    if puts_in {
        set_fsync(&mut admin, "everysec").await?;
    }
    prepare(&streams, &asked.job).await?;
    if puts_in {
        set_fsync(&mut admin, "always").await?;
        wait_for_rewrite(&mut admin).await?;
        tool::settle(&asked.dir)?;
    }
    measure(&streams, &asked.job).await
}

fn start(asked: &Asked, port: u16) -> Result<Child> {
    let mut server = tool::server(&asked.server, &asked.dir.join("redis.log"))?;
    server
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", ""])
        .arg("--dir")
        .arg(&asked.dir);
    Ok(server.spawn()?)
}

async fn connected(port: u16, connections: usize) -> Result<Streams> {
    let began = Instant::now();
    loop {
        match Streams::connect(port, connections).await {
            Ok(streams) => return Ok(streams),
            Err(error) if began.elapsed() > READY => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn set_fsync(admin: &mut MultiplexedConnection, when: &str) -> Result<()> {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("appendfsync").arg(when);
    Ok(set.query_async(admin).await?)
}

/// The file is rewritten, by a child of the server, each time that it has doubled. What was put in has made it do so.
async fn wait_for_rewrite(admin: &mut MultiplexedConnection) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < READY {
        let told: String = redis::cmd("INFO")
            .arg("persistence")
            .query_async(admin)
            .await?;
        let rests = |field: &str| told.lines().any(|line| line == format!("{field}:0"));
        if rests("aof_rewrite_in_progress") && rests("aof_rewrite_scheduled") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("Redis still rewrites its file after {READY:?}").into())
}

/// The error, with what the server said last.
fn with_log(dir: &Path, error: &Error) -> Error {
    let log = std::fs::read_to_string(dir.join("redis.log")).unwrap_or_default();
    let last = log.lines().rev().take(4).collect::<Vec<_>>().join(" | ");
    format!("{error}; Redis, latest first: {last}").into()
}
