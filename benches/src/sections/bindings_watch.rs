//! How soon a watch tells of a change.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_net::client::{Client, WatchEvent, WatchTarget, WriteOptions};
use tokio::sync::mpsc;

use super::Run;
use crate::load::runtime;
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::payload::Payload;
use crate::rounds::{Samples, median, quantile};
use crate::work::RECORD_BYTES;
use crate::{Result, say};

/// Changes of each round.
const CHANGES: u64 = 1_000;
/// Different keys: of many partitions, so that every node coordinates some of the writes.
const KEYS: u64 = 64;
const VALUE_BYTES: usize = 100;
/// The cluster is idle between two changes.
const PAUSE: Duration = Duration::from_millis(5);
/// Events that the watcher may have told of before they are taken note of.
const EVENTS_MAX: usize = 16;
/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(10);

const SEEN: &str = "meshctl, told to a watcher";
const ACKNOWLEDGED: &str = "meshctl, acknowledged to the writer";
const FSYNC: &str = "one fsync of the same disk";

/// Milliseconds of each change of a round.
#[derive(Default)]
struct Times {
    seen: Vec<f64>,
    acknowledged: Vec<f64>,
    fsync: Vec<f64>,
}

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    let dir = run.place.fresh();
    let mesh = Mesh::start(&dir, 3)?;
    let mut times = Vec::new();
    for round in 0..run.few_rounds() {
        let changes = run.sized(CHANGES).max(50);
        let prefix = format!("watched/{round}/");
        let round = runtime()?.block_on(measure(&mesh, &prefix, changes, run.place.path()))?;
        times.push(round);
    }
    drop(mesh);
    run.place.clear(&dir)?;

    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Three nodes and nothing else to do. One of {KEYS} keys of all partitions gets a new value of {VALUE_BYTES} bytes every \
         {} ms or so, at W=2, and a watch of their prefix tells of it: from the call to put until the watch gives the event \
         out. Writer and watcher are clients of their own in one process. The node that serves the watch coordinates a third \
         of the writes; the others send it theirs. After each change 1 KiB is appended to a file on the same disk and synced \
         (`fdatasync`): one fsync. The bar is held against the median of these.",
        PAUSE.as_millis()
    ));
    let allowed = |times: &Times| quantile(&times.fsync, 0.5) + 1.0;
    let of_rounds = |of: &dyn Fn(&Times) -> f64| median(times.iter().map(of).collect());
    let measured = format!(
        "p99 {:.3} ms against {:.3} ms; one fsync {:.3} ms",
        of_rounds(&|times| quantile(&times.seen, 0.99)),
        of_rounds(&allowed),
        of_rounds(&|times| quantile(&times.fsync, 0.5)),
    );
    say(&format!("  watch: {measured}"));
    findings.bar(
        "bindings-watch",
        of_rounds(&|times| quantile(&times.seen, 0.99) / allowed(times)),
        measured,
    );
    for (title, part) in [
        ("idle cluster, one change, median", 0.5),
        ("idle cluster, one change, p99", 0.99),
    ] {
        let samples = |name: &str, of: fn(&Times) -> &Vec<f64>| Samples {
            name: name.to_owned(),
            values: times
                .iter()
                .map(|times| quantile(of(times), part))
                .collect(),
        };
        let samples = [
            samples(SEEN, |times| &times.seen),
            samples(ACKNOWLEDGED, |times| &times.acknowledged),
            samples(FSYNC, |times| &times.fsync),
        ];
        let comparison = Comparison::new(title, "ms", false, FSYNC, &samples)?;
        findings.comparisons.push(comparison);
    }
    Ok(findings)
}

async fn measure(mesh: &Mesh, prefix: &str, changes: u64, dir: &Path) -> Result<Times> {
    let writer = Client::connect(mesh.client_config()?).await?;
    let watcher = Client::connect(mesh.client_config()?).await?;
    let mut watch = watcher.watch(WatchTarget::Prefix(prefix.to_owned().into()));
    let (sender, mut events) = mpsc::channel::<(WatchEvent, Instant)>(EVENTS_MAX);
    let watching = tokio::spawn(async move {
        while let Ok(event) = watch.next().await {
            if sender.send((event, Instant::now())).await.is_err() {
                return;
            }
        }
    });
    let (payload, values) = (Payload::new(RECORD_BYTES), Payload::new(VALUE_BYTES));
    let mut file = File::create(dir.join("one-fsync"))?;
    let mut times = Times::default();
    // The first ones find connections and routes, and give every key a value.
    let warm_up = KEYS;
    for number in 0..warm_up + changes {
        let key = format!("{prefix}{}", number % KEYS);
        let mut value = values.value(number).to_vec();
        value[..8].copy_from_slice(&number.to_be_bytes());
        let began = Instant::now();
        let put = writer.put(key.as_bytes(), value.into(), WriteOptions::default());
        put.await?;
        let acknowledged = began.elapsed();
        let (event, at) = tokio::time::timeout(PATIENCE, events.recv())
            .await?
            .ok_or("the watch has ended")?;
        let told = event.value.as_ref().and_then(|value| value.first_chunk());
        if told != Some(&number.to_be_bytes()) {
            return Err("the watch tells of another change than was made".into());
        }
        let began_sync = Instant::now();
        file.write_all(payload.value(number))?;
        file.sync_data()?;
        let synced = began_sync.elapsed();
        if number >= warm_up {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            times.seen.push(ms(at - began));
            times.acknowledged.push(ms(acknowledged));
            times.fsync.push(ms(synced));
        }
        tokio::time::sleep(PAUSE).await;
    }
    watching.abort();
    watcher.close().await;
    writer.close().await;
    Ok(times)
}
