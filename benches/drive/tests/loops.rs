//! The loops, on a system in memory that is right, and on some that are not.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};

use bench_drive::{
    CatchUp, Deliver, Done, Job, Publish, Reader, Replay, Result, System, Visit, measure, prepare,
};
use bytes::Bytes;
use tokio::sync::watch;

/// What a system does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Publishing fails.
    Refuses,
    /// A reader is given values that are cut short.
    Cuts,
    /// A reader is given each record twice.
    Repeats,
}

#[derive(Clone)]
struct Memory {
    fault: Fault,
    topics: Arc<Mutex<Vec<Vec<Bytes>>>>,
    changed: Arc<watch::Sender<()>>,
}

impl Memory {
    fn new(fault: Fault) -> Memory {
        Memory {
            fault,
            topics: Arc::default(),
            changed: Arc::new(watch::Sender::new(())),
        }
    }

    fn lengths(&self) -> Vec<usize> {
        let topics = self.topics.lock().unwrap();
        topics.iter().map(Vec::len).collect()
    }
}

struct MemoryReader {
    system: Memory,
    topic: usize,
    next: usize,
}

impl System for Memory {
    type Reader = MemoryReader;

    async fn make_topics(&self, count: usize) -> Result<()> {
        self.topics.lock().unwrap().resize(count, Vec::new());
        Ok(())
    }

    async fn publish(&self, topic: usize, value: Bytes) -> Result<()> {
        self.publish_batch(topic, vec![value]).await
    }

    async fn publish_batch(&self, topic: usize, values: Vec<Bytes>) -> Result<()> {
        if self.fault == Fault::Refuses {
            return Err("refused".into());
        }
        self.topics.lock().unwrap()[topic].extend(values);
        self.changed.send_replace(());
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn reader(&self) -> Result<MemoryReader> {
        Ok(MemoryReader {
            system: self.clone(),
            topic: 0,
            next: 0,
        })
    }
}

impl Reader for MemoryReader {
    async fn begin(&mut self, topic: usize) -> Result<()> {
        (self.topic, self.next) = (topic, 0);
        Ok(())
    }

    async fn next(&mut self, visit: Visit<'_>) -> Result<()> {
        let mut changes = self.system.changed.subscribe();
        // Readers without a pause would leave no thread to the clock.
        tokio::task::yield_now().await;
        loop {
            let stored = {
                let topics = self.system.topics.lock().unwrap();
                let new = &topics[self.topic][self.next..];
                new.iter().take(1_000).cloned().collect::<Vec<_>>()
            };
            for value in &stored {
                match self.system.fault {
                    Fault::Cuts => visit(&value[1..]),
                    Fault::Repeats => [value; 2].into_iter().for_each(|value| visit(value)),
                    _ => visit(value),
                }
            }
            self.next += stored.len();
            if !stored.is_empty() {
                return Ok(());
            }
            changes.changed().await?;
        }
    }
}

async fn done(system: &Memory, job: &Job) -> Result<Done> {
    prepare(system, job).await?;
    measure(system, job).await
}

fn publishing() -> Publish {
    Publish {
        value_bytes: 100,
        in_flight: 7,
        warm_up_ms: 20,
        time_ms: 50,
        ..Publish::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_counted_and_spread_over_the_topics() {
    let system = Memory::new(Fault::None);
    let job = Job::Publish(Publish {
        topics: 10,
        ..publishing()
    });
    let Done::Published {
        records_per_second,
        p50_ms,
        p99_ms,
    } = done(&system, &job).await.unwrap()
    else {
        panic!("another job was done");
    };
    let lengths = system.lengths();
    let stored: usize = lengths.iter().sum();
    let counted = records_per_second * 0.05;
    assert!(
        counted > 0.0 && counted < stored as f64,
        "{counted} of {stored}"
    );
    assert!(p50_ms > 0.0 && p50_ms <= p99_ms);
    let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
    assert!(*least >= 1 && most - least <= 7, "{lengths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_batches_are_counted_one_by_one() {
    let system = Memory::new(Fault::None);
    let job = Job::Publish(Publish {
        batch: 256,
        in_flight: 1,
        ..publishing()
    });
    done(&system, &job).await.unwrap();
    let stored = system.lengths()[0];
    assert!(stored > 0 && stored.is_multiple_of(256), "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_filled_for_and_read_by_one_and_by_four() {
    let system = Memory::new(Fault::None);
    let job = Job::Replay(Replay {
        value_bytes: 100,
        records: 1_000,
        warm_up_ms: 10,
        time_ms: 50,
        ..Replay::default()
    });
    let figures = done(&system, &job).await.unwrap().figures();
    assert_eq!(system.lengths(), [1_000]);
    assert!(figures.len() == 2 && figures.iter().all(|mib| *mib > 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_delivered_once() {
    let job = Job::Deliver(Deliver {
        value_bytes: 100,
        records: 20,
        pause_ms: 0,
    });
    let figures = done(&Memory::new(Fault::None), &job)
        .await
        .unwrap()
        .figures();
    assert!(figures[0] > 0.0 && figures[0] <= figures[1], "{figures:?}");
    for fault in [Fault::Cuts, Fault::Repeats] {
        let error = done(&Memory::new(fault), &job).await.unwrap_err();
        assert!(
            error.to_string().contains("another record"),
            "{fault:?}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_catches_up() {
    let system = Memory::new(Fault::None);
    let job = Job::CatchUp(CatchUp {
        value_bytes: 100,
        records: 10_000,
        in_flight: 2,
        warm_up_ms: 10,
        time_ms: 50,
        limit_ms: 30_000,
    });
    let Done::CaughtUp {
        mib_per_second,
        alone_per_second,
        is_at_end,
        ..
    } = done(&system, &job).await.unwrap()
    else {
        panic!("another job was done");
    };
    assert!(is_at_end && mib_per_second > 0.0 && alone_per_second > 0.0);
    assert!(system.lengths()[0] > 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told() {
    let publish = Job::Publish(publishing());
    let error = done(&Memory::new(Fault::Refuses), &publish).await;
    assert_eq!(error.unwrap_err().to_string(), "refused");
    let replay = Job::Replay(Replay {
        value_bytes: 100,
        records: 1_000,
        warm_up_ms: 10,
        time_ms: 50,
        ..Replay::default()
    });
    let error = done(&Memory::new(Fault::Cuts), &replay).await.unwrap_err();
    assert!(error.to_string().contains("were read of 1000"), "{error}");
}
