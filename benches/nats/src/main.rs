//! NATS JetStream servers of this machine, `sync_interval: always`, so that what is acknowledged is on the disks' logs.
//!
//! `nats-load SERVER JOB [SECONDS]`, such as `nats-load nats-server '{"publish":{"in_flight":1}}'`: see `bench_drive`.
//! `NATS_SERVERS=3` starts three servers, and every stream has three replicas. `NATS_SUBJECTS=1` makes each topic a subject of
//! one stream, not a stream.

mod servers;
mod streams;

use bench_drive::tool::{self, Asked};
use bench_drive::{Done, Result, measure, prepare};
use servers::{Servers, Sync};
use streams::{Layout, Streams};

fn main() -> Result<()> {
    tool::run(work)
}

async fn work(asked: Asked) -> Result<Done> {
    let count = match std::env::var("NATS_SERVERS") {
        Ok(count) => count.parse()?,
        Err(_) => 1,
    };
    let layout = match std::env::var("NATS_SUBJECTS").as_deref() {
        Ok("1") => Layout::Subjects,
        _ => Layout::Streams,
    };
    // What is only put in for a reader need not be durable at once: the servers are started anew for the rest.
    let puts_in = asked.job.stored().is_some();
    let sync = if puts_in { Sync::Seldom } else { Sync::Always };
    let mut servers = Servers::start(&asked, count, sync)?;
    let mut streams = Streams::connect(&servers.addresses, count, layout).await?;
    prepare(&streams, &asked.job).await?;
    if puts_in {
        drop(streams);
        servers.stop().await?;
        tool::settle(&asked.dir)?;
        servers = Servers::start(&asked, count, Sync::Always)?;
        streams = Streams::connect(&servers.addresses, count, layout).await?;
        streams.find().await?;
    }
    let done = measure(&streams, &asked.job).await;
    servers.kill().await?;
    done
}
