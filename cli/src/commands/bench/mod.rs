//! `meshctl bench`: load from one client, and what it measured.

mod bindings;
mod load;
mod topics;

use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde_json::json;

use self::load::Load;
use crate::error::Failure;
use crate::session::Session;
use crate::units::{grouped, parse_bytes};

/// Measure a cluster with load from this client
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl bench publish
  meshctl bench publish --batch 256 --records 1000000
  meshctl bench publish --inflight 1 --records 5000
  meshctl bench replay --records 1000000
  meshctl bench get --output json

Publish with --batch 1 sends records one by one and lets the client coalesce what is in flight; every
acknowledged record is durable. Replay publishes first, and measures reading it back. Values do not compress.
Topics made here are deleted at the end; keys (bench:…) expire after an hour.")]
pub(crate) struct Args {
    /// What to do
    #[arg(value_enum)]
    work: Work,
    /// How many records or keys [default: 1,000,000 for publish and replay, 100,000 for put and get]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Bytes of each value, such as 100 or 4KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "1KiB")]
    size: u64,
    /// Records that may wait for their acknowledgement at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    inflight: u64,
    /// Records a request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Topics to spread the records over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    topics: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    Publish,
    Replay,
    Put,
    Get,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Replay => "replay",
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// What a run came to.
struct Measured {
    records: u64,
    bytes: u64,
    took: Duration,
    /// Nanoseconds of each request.
    latency: Histogram<u64>,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let records = args.records.unwrap_or(match args.work {
        Work::Publish | Work::Replay => 1_000_000,
        Work::Put | Work::Get => 100_000,
    });
    let size = usize::try_from(args.size).unwrap_or(usize::MAX);
    let limit = match args.work {
        Work::Publish | Work::Replay => mesh_ring::limits::RECORD_BYTES_MAX,
        Work::Put | Work::Get => mesh_ring::limits::BINDING_VALUE_BYTES_MAX,
    };
    if size > limit {
        return Err(Failure::usage(format!(
            "--size {size} is over the limit of {limit} bytes a value"
        )));
    }
    let client = session.connect().await?;
    let load = Load::new(records, size, args.inflight, args.batch, session);
    let measured = match args.work {
        Work::Publish => topics::publish(&client, &load, args.topics).await?,
        Work::Replay => topics::replay(&client, &load, args.topics).await?,
        Work::Put => bindings::put(&client, &load).await?,
        Work::Get => bindings::get(&client, &load).await?,
    };
    client.close().await;
    print(args, &measured, session)
}

fn print(args: &Args, measured: &Measured, session: &mut Session) -> Result<(), Failure> {
    let seconds = measured.took.as_secs_f64().max(1e-9);
    let rate = measured.records as f64 / seconds;
    let mib = measured.bytes as f64 / (1 << 20) as f64 / seconds;
    let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    let latency = &measured.latency;
    let (p50, p99, p999, max) = (
        ms(latency.value_at_quantile(0.5)),
        ms(latency.value_at_quantile(0.99)),
        ms(latency.value_at_quantile(0.999)),
        ms(latency.max()),
    );
    if session.out.is_json() {
        return session.out.json(&json!({
            "work": args.work.name(),
            "records": measured.records,
            "size": args.size,
            "inflight": args.inflight,
            "batch": args.batch,
            "topics": args.topics,
            "seconds": seconds,
            "records_per_second": rate,
            "mib_per_second": mib,
            "latency_ms": {"p50": p50, "p99": p99, "p999": p999, "max": max},
        }));
    }
    session.out.line(format!(
        "{}: {} records of {} bytes in {seconds:.2} s: {} records/s, {mib:.1} MiB/s",
        args.work.name(),
        grouped(measured.records),
        args.size,
        grouped(rate as u64),
    ))?;
    session.out.line(format!(
        "latency of a request: p50 {p50:.3} ms, p99 {p99:.3} ms, p999 {p999:.3} ms, max {max:.3} ms"
    ))
}
