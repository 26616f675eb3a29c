//! Opening a copy of a live directory: what a machine that died finds.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use mesh_benches::payload::Payload;
use mesh_benches::place::{Place, copy_dir};
use mesh_benches::stores::Kind;
use mesh_benches::work::{RECORD_BYTES, fill};

/// 96 MiB: some of it in files, the rest in the log that is to be replayed.
const RECORDS: u64 = 96 << 10;

pub(crate) fn after_a_crash(criterion: &mut Criterion) {
    let (place, payload) = (Place::new().unwrap(), Payload::new(RECORD_BYTES));
    let mut group = crate::disk_group(criterion, "open after a crash: 96 MiB");
    for kind in Kind::ALL {
        let (live, image) = (place.fresh(), place.fresh());
        let mut store = kind.create(&live, 1).unwrap();
        fill(store.as_mut(), &payload, RECORDS, 256).unwrap();
        copy_dir(&live, &image).unwrap();
        drop(store);
        group.bench_function(BenchmarkId::from_parameter(kind.name()), |bencher| {
            bencher.iter_custom(|opens| {
                let mut took = Duration::ZERO;
                for _ in 0..opens {
                    let dir = place.fresh();
                    copy_dir(&image, &dir).unwrap();
                    place.settle().unwrap();
                    let began = Instant::now();
                    let store = kind.open(&dir, 1).unwrap();
                    took += began.elapsed();
                    drop(store);
                    place.clear(&dir).unwrap();
                }
                took
            });
        });
        place.clear(&live).unwrap();
        place.clear(&image).unwrap();
    }
    group.finish();
}
