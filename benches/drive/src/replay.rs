//! A topic read from its first record to its last, over and over, by so many readers at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{Done, Reader, Replay, Result, System};

const MIB: f64 = (1 << 20) as f64;

pub(crate) async fn measure<S: System>(system: &S, job: &Replay) -> Result<Done> {
    let mut mib_per_second = Vec::new();
    for readers in &job.readers {
        mib_per_second.push(rate(system, job, *readers).await?);
    }
    Ok(Done::Replayed { mib_per_second })
}

/// What readers share.
struct Shared {
    /// Bytes of values that were read.
    bytes: AtomicU64,
    stopping: AtomicBool,
}

async fn rate<S: System>(system: &S, job: &Replay, readers: usize) -> Result<f64> {
    let shared = Arc::new(Shared {
        bytes: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
    });
    let mut reading = JoinSet::new();
    for _ in 0..readers {
        let mut reader = system.reader().await?;
        let (shared, job) = (Arc::clone(&shared), job.clone());
        reading.spawn(async move {
            while !shared.stopping.load(Ordering::Relaxed) {
                pass(&mut reader, &job, &shared).await?;
            }
            Ok::<_, crate::Error>(())
        });
    }
    tokio::time::sleep(Duration::from_millis(job.warm_up_ms)).await;
    let (before, began) = (shared.bytes.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_millis(job.time_ms)).await;
    let (after, took) = (shared.bytes.load(Ordering::Relaxed), began.elapsed());
    shared.stopping.store(true, Ordering::Relaxed);
    while let Some(reader) = reading.join_next().await {
        reader??;
    }
    Ok((after - before) as f64 / MIB / took.as_secs_f64())
}

/// Reads the topic to its end, or until nobody wants more.
async fn pass<R: Reader>(reader: &mut R, job: &Replay, shared: &Shared) -> Result<()> {
    let (mut found, mut bytes, mut mixed) = (0, 0, 0_u8);
    reader.begin(0).await?;
    while found < job.records && !shared.stopping.load(Ordering::Relaxed) {
        let before = bytes;
        reader
            .next(&mut |value| {
                found += 1;
                bytes += value.len() as u64;
                mixed ^= value[value.len() / 2];
            })
            .await?;
        shared.bytes.fetch_add(bytes - before, Ordering::Relaxed);
    }
    std::hint::black_box(mixed);
    if found > job.records || bytes != found * job.value_bytes as u64 {
        let records = job.records;
        return Err(format!("{found} records of {bytes} bytes were read of {records}").into());
    }
    Ok(())
}
