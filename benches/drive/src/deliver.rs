//! One record at a time, and how soon a reader has it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::{Deliver, Done, Reader, Result, System, Values};

/// Records that the reader may have told of before they are taken note of.
const DELIVERED_MAX: usize = 16;
/// Longest wait for a record.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn measure<S: System>(system: &S, job: &Deliver) -> Result<Done> {
    let mut reader = system.reader().await?;
    reader.begin(0).await?;
    let (sender, mut delivered) = mpsc::channel(DELIVERED_MAX);
    let reading = tokio::spawn(async move {
        loop {
            let mut values = Vec::new();
            let came = reader
                .next(&mut |value| values.push((Instant::now(), Bytes::copy_from_slice(value))))
                .await;
            let came = came.map(|()| values);
            let is_over = came.is_err();
            if sender.send(came).await.is_err() || is_over {
                return;
            }
        }
    });
    let values = Values::new(job.value_bytes);
    // The first ones find connections and routes.
    let warm_up = job.records / 10 + 1;
    let mut took = Vec::new();
    for number in 0..warm_up + job.records {
        let value = values.value(number);
        let began = Instant::now();
        system.publish(0, value.clone()).await?;
        let mut came = Vec::new();
        while came.is_empty() {
            let more = timeout(PATIENCE, delivered.recv())
                .await
                .map_err(|_| format!("record {number} is not delivered after {PATIENCE:?}"))?;
            came = more.ok_or("the reader has ended")??;
        }
        match &came[..] {
            [(at, found)] if *found == value => {
                if number >= warm_up {
                    took.push((*at - began).as_secs_f64() * 1e3);
                }
            }
            _ => return Err("the reader was given another record than was published".into()),
        }
        sleep(Duration::from_millis(job.pause_ms)).await;
    }
    reading.abort();
    took.sort_by(f64::total_cmp);
    Ok(Done::Delivered {
        p50_ms: quantile(&took, 0.5),
        p99_ms: quantile(&took, 0.99),
    })
}

/// The value that this part of all is not above, of sorted ones. Zero where there is none.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}
