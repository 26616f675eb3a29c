//! Durable appends of 1, 16 and 256 records of 1 KiB, to 1 and to 1,000 topics.

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use mesh_benches::payload::Payload;
use mesh_benches::place::Place;
use mesh_benches::stores::{Kind, Meshlog};
use mesh_benches::work::{Appending, RECORD_BYTES, append_one};

const IN_FLIGHT: usize = 256;

fn works() -> impl Iterator<Item = Appending> {
    [1, 1000]
        .into_iter()
        .flat_map(|topics| [1, 16, 256].map(|batch| Appending { batch, topics }))
}

fn name(work: Appending) -> String {
    let topics = if work.topics == 1 {
        "1 topic"
    } else {
        "1000 topics"
    };
    format!("{} x 1 KiB, {topics}", work.batch)
}

/// Each batch is durable before the next is handed over.
pub(crate) fn one_in_flight(criterion: &mut Criterion) {
    let (place, payload) = (Place::new().unwrap(), Payload::new(RECORD_BYTES));
    for work in works() {
        let mut group =
            crate::disk_group(criterion, &format!("append, one in flight: {}", name(work)));
        group.throughput(Throughput::Elements(work.batch as u64));
        for kind in Kind::ALL {
            let dir = place.fresh();
            let mut store = kind.create(&dir, work.topics).unwrap();
            let mut number = 0;
            group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
                bencher.iter(|| {
                    append_one(store.as_mut(), &payload, work, number).unwrap();
                    number += 1;
                });
            });
            drop(store);
            place.clear(&dir).unwrap();
        }
        group.finish();
    }
}

/// The engine with 256 batches waiting for the disk; beside it RocksDB committing as many records as make a good group.
pub(crate) fn many_in_flight(criterion: &mut Criterion) {
    let (place, payload) = (Place::new().unwrap(), Payload::new(RECORD_BYTES));
    for work in works() {
        let mut group =
            crate::disk_group(criterion, &format!("append, 256 in flight: {}", name(work)));
        group.throughput(Throughput::Elements(work.batch as u64));
        let dir = place.fresh();
        let store = Meshlog::create(&dir, work.topics).unwrap();
        let mut number = 0_u64;
        group.bench_function(
            BenchmarkId::from_parameter(Kind::Meshlog.name()),
            |bencher| {
                bencher.iter_custom(|batches| {
                    let began = Instant::now();
                    let mut flight = store.in_flight(IN_FLIGHT);
                    for _ in 0..batches {
                        let values = payload.values(number * work.batch as u64, work.batch);
                        flight
                            .append(number as usize % work.topics, &values)
                            .unwrap();
                        number += 1;
                    }
                    flight.finish().unwrap();
                    began.elapsed()
                });
            },
        );
        drop(store);
        place.clear(&dir).unwrap();
        group.finish();
    }
    let mut group = crate::disk_group(criterion, "append, 256 in flight: one commit of 256");
    group.throughput(Throughput::Elements(256));
    for kind in &Kind::ALL[1..] {
        let dir = place.fresh();
        let mut store = kind.create(&dir, 1).unwrap();
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
            bencher.iter(|| {
                append_one(
                    store.as_mut(),
                    &payload,
                    Appending {
                        batch: IN_FLIGHT,
                        topics: 1,
                    },
                    number,
                )
                .unwrap();
                number += 1;
            });
        });
        drop(store);
        place.clear(&dir).unwrap();
    }
    group.finish();
}
