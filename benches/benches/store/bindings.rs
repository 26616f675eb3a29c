//! Bindings: put with one and with 256 waiting for the disk, get, and the Merkle leaf that each put keeps true.

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use mesh_benches::payload::{Payload, mix};
use mesh_benches::place::Place;
use mesh_benches::stores::{Kind, Meshlog};
use mesh_benches::work::{RECORD_BYTES, key, put_all, put_some};
use mesh_ring::merkle::{LeafSum, binding_digest};

const KEYS: u64 = 100_000;

/// Values of 1 KiB. The peers commit as many puts at a time as Meshlog has in flight.
pub(crate) fn put(criterion: &mut Criterion) {
    let (place, payload) = (Place::new().unwrap(), Payload::new(RECORD_BYTES));
    for together in [1, 256] {
        let mut group = crate::disk_group(criterion, &format!("binding put: {together} in flight"));
        group.throughput(Throughput::Elements(together));
        for kind in &Kind::ALL[1..] {
            let dir = place.fresh();
            let mut store = kind.create(&dir, 1).unwrap();
            let mut first = 0;
            group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
                bencher.iter(|| {
                    put_some(store.as_mut(), &payload, KEYS, first, together).unwrap();
                    first += together;
                });
            });
            drop(store);
            place.clear(&dir).unwrap();
        }
        group.throughput(Throughput::Elements(1));
        put_meshlog(&mut group, &place, &payload, together as usize);
        group.finish();
    }
}

fn put_meshlog(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    place: &Place,
    payload: &Payload,
    in_flight: usize,
) {
    let dir = place.fresh();
    let store = Meshlog::create(&dir, 0).unwrap();
    let mut number = 0;
    group.bench_function(
        BenchmarkId::from_parameter(Kind::Meshlog.name()),
        |bencher| {
            bencher.iter_custom(|puts| {
                let began = Instant::now();
                let mut flight = store.in_flight(in_flight);
                for _ in 0..puts {
                    flight
                        .put(&key(number % KEYS), payload.value(number))
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
}

/// A value anywhere among 100,000 keys.
pub(crate) fn get(criterion: &mut Criterion) {
    let (place, payload) = (Place::new().unwrap(), Payload::new(RECORD_BYTES));
    let mut group = criterion.benchmark_group("binding get");
    for kind in Kind::ALL {
        let dir = place.fresh();
        let mut store = kind.create(&dir, 1).unwrap();
        put_all(store.as_mut(), &payload, KEYS).unwrap();
        store.close().unwrap();
        let mut store = kind.open(&dir, 1).unwrap();
        let mut random = 1;
        group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
            bencher.iter(|| {
                let mut bytes = 0;
                store
                    .get(&key(mix(&mut random) % KEYS), &mut |value| {
                        bytes += value.len()
                    })
                    .unwrap();
                bytes
            });
        });
        drop(store);
        place.clear(&dir).unwrap();
    }
    group.finish();
}

/// The old version's digest out, the new one's in; beside it the two hashes alone.
pub(crate) fn merkle_leaf(criterion: &mut Criterion) {
    let payload = Payload::new(RECORD_BYTES);
    let (old, new, key) = (payload.value(1), payload.value(2), key(1));
    let mut group = criterion.benchmark_group("merkle leaf update");
    let mut sum = LeafSum::ZERO;
    group.bench_function("Meshlog", |bencher| {
        bencher.iter(|| {
            sum = sum
                .sub(binding_digest(&key, old))
                .add(binding_digest(&key, new));
            sum
        });
    });
    group.bench_function("blake3 of the bytes alone", |bencher| {
        bencher.iter(|| (blake3::hash(old), blake3::hash(new)));
    });
    group.finish();
}
