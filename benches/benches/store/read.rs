//! Reading back: a sequential read that decodes every record, and single records by offset.

use criterion::{BenchmarkId, Criterion, Throughput};
use mesh_benches::payload::{Payload, mix};
use mesh_benches::place::Place;
use mesh_benches::stores::{Kind, Store};
use mesh_benches::work::{RECORD_BYTES, fill, replay_rate};

/// 128 MiB: short enough for ten samples of each store. The report replays 1 GiB.
const RECORDS: u64 = 128 << 10;

/// Every record of a store that was filled 256 a batch, closed and opened again.
pub(crate) fn replay(criterion: &mut Criterion) {
    let place = Place::new().unwrap();
    let mut group = crate::disk_group(criterion, "replay: 128 MiB of 1 KiB records");
    group.throughput(Throughput::Elements(RECORDS));
    for kind in Kind::ALL {
        let dir = place.fresh();
        let mut store = filled(&place, kind, &dir, 256);
        group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
            bencher.iter(|| replay_rate(store.as_mut(), RECORDS).unwrap());
        });
        drop(store);
        place.clear(&dir).unwrap();
    }
    group.finish();
}

/// One record anywhere. Meshlog reads and checks the whole batch that holds it.
pub(crate) fn point(criterion: &mut Criterion) {
    let place = Place::new().unwrap();
    let mut group = criterion.benchmark_group("point read by offset");
    let contenders = [
        (Kind::Meshlog, 1),
        (Kind::Meshlog, 16),
        (Kind::Meshlog, 256),
    ];
    for (kind, batch) in contenders
        .into_iter()
        .chain(Kind::ALL[1..].iter().map(|kind| (*kind, 256)))
    {
        let dir = place.fresh();
        let mut store = filled(&place, kind, &dir, batch);
        let name = match kind {
            Kind::Meshlog => format!("Meshlog, batches of {batch}"),
            _ => kind.name().to_owned(),
        };
        let mut random = 1;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let mut bytes = 0;
                store
                    .read(0, mix(&mut random) % RECORDS, &mut |value| {
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

fn filled(place: &Place, kind: Kind, dir: &std::path::Path, batch: usize) -> Box<dyn Store> {
    let payload = Payload::new(RECORD_BYTES);
    let mut store = kind.create(dir, 1).unwrap();
    fill(store.as_mut(), &payload, RECORDS, batch).unwrap();
    store.close().unwrap();
    place.settle().unwrap();
    kind.open(dir, 1).unwrap()
}
