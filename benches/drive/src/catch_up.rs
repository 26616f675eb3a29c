//! A reader that begins far behind writers that go on: how fast it catches up, and what that does to them.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::publish::Lanes;
use crate::{CatchUp, Done, Publish, Reader, Result, System};

const MIB: f64 = (1 << 20) as f64;

pub(crate) async fn measure<S: System>(system: &S, job: &CatchUp) -> Result<Done> {
    let writing = Publish {
        value_bytes: job.value_bytes,
        in_flight: job.in_flight,
        ..Publish::default()
    };
    let mut reader = system.reader().await?;
    let lanes = Lanes::start(system, &writing, 0)?;
    lanes.rate(Duration::from_millis(job.warm_up_ms)).await;
    let alone_per_second = lanes.rate(Duration::from_millis(job.time_ms)).await;

    let (before, began) = (lanes.done(), Instant::now());
    let limit = Duration::from_millis(job.limit_ms);
    let (mut found, mut bytes, mut is_at_end) = (0, 0, false);
    reader.begin(0).await?;
    // Where it is at what was acknowledged, it is as far as any reader could be.
    while !is_at_end && began.elapsed() < limit {
        let mut count = |value: &[u8]| {
            found += 1;
            bytes += value.len() as u64;
        };
        let left = limit.saturating_sub(began.elapsed());
        match timeout(left, reader.next(&mut count)).await {
            Ok(read) => read?,
            Err(_) => break,
        }
        is_at_end = found >= job.records + lanes.done();
    }
    let seconds = began.elapsed().as_secs_f64();
    let meanwhile_per_second = (lanes.done() - before) as f64 / seconds;
    lanes.finish().await?;
    if bytes != found * job.value_bytes as u64 {
        return Err(format!("{found} records of {bytes} bytes were read").into());
    }
    Ok(Done::CaughtUp {
        mib_per_second: bytes as f64 / MIB / seconds,
        alone_per_second,
        meanwhile_per_second,
        is_at_end,
    })
}
