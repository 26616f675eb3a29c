//! A topic read from its first record to its last, by one reader and by four.

use bench_drive::{Job, Replay};

use super::{NATS, OURS, Peers, Picked, REDIS, ROUNDS_MAX, Run, Shown, bar_against, ms, show};
use crate::Result;
use crate::bulk::{self, Path};
use crate::node::Cluster;
use crate::outcome::Findings;
use crate::payload::Payload;
use crate::rounds::{Contender, alternate_several};
use crate::stores::Kind;
use crate::work::{RECORD_BYTES, fill, replay_rate};

/// Records of the topic: 512 MiB.
const RECORDS: u64 = 1 << 19;
/// Bytes that quinn moves in each of its turns.
const BULK_BYTES: u64 = 1 << 30;
const BATCH: u64 = 256;

const BULK: &str = "quinn bulk, its own datagram size";
const TUNED: &str = "quinn bulk, our datagram size";
const BARE: &str = "bare RocksDB iterator, no network";

/// MiB/s of one reader and of four.
const BOTH: Picked = &[0, 1];

pub(in crate::sections) fn run(run: &Run<'_>) -> Result<Findings> {
    let records = run.sized(RECORDS).next_multiple_of(BATCH);
    run.place.need(4 * records * RECORD_BYTES as u64)?;
    let mut findings = Findings::default();
    let peers = Peers::find(&mut findings)?;
    findings.notes.push(format!(
        "{records} records of 1 KiB in one topic, put in 256 at a time before the clock runs, by peers without an fsync each. \
         Every reader has a connection of its own and reads all of them over and over; their values are counted. Redis is \
         read with `XREAD COUNT 1000`, NATS with ordered push consumers. The limits: the same bytes on one QUIC stream a \
         reader and no protocol above, with quinn's own datagrams of 1,452 bytes and with those that Meshlog finds on a \
         loopback; and a RocksDB iterator within one process. The page cache holds the files."
    ));
    let job = Job::Replay(Replay {
        records,
        warm_up_ms: ms(run) / 3,
        time_ms: ms(run),
        ..Replay::default()
    });
    let dir = run.place.fresh();
    let cluster = Cluster::init(&dir)?;
    let mut contenders = peers.with_ours(run, &job, BOTH);
    for (name, path) in [(BULK, Path::AsQuinnComes), (TUNED, Path::AsMeshlogHasIt)] {
        let cluster = &cluster;
        contenders.push(Contender::of_several(name, move || {
            let bytes = run.sized(BULK_BYTES);
            Ok(vec![
                moved(cluster, path, bytes, 1)?,
                moved(cluster, path, bytes / 4, 4)?,
            ])
        }));
    }
    contenders.push(Contender::new(BARE, || bare(run, records)));
    let rounds = run.rounds.min(ROUNDS_MAX);
    let all = alternate_several(
        "replay",
        rounds,
        &["one reader", "four readers"],
        contenders,
    )?;
    run.place.clear(&dir)?;
    bar_against(&mut findings, "versus-replay", &all[0], OURS, BULK, "MiB/s")?;
    let shown = ["one reader", "four readers, together"].map(|title| Shown {
        title,
        unit: "MiB/s",
        more_is_better: true,
    });
    show(&mut findings, &all, &shown, &[BULK, REDIS, NATS])?;
    Ok(findings)
}

fn moved(cluster: &Cluster, path: Path, bytes: u64, readers: usize) -> Result<f64> {
    let (node, client) = (cluster.node_identity(), cluster.client_identity());
    bulk::rate(&node, &client, path, bytes, readers)
}

fn bare(run: &Run<'_>, records: u64) -> Result<f64> {
    let payload = Payload::new(RECORD_BYTES);
    run.with_new(Kind::RocksDb, 1, |store| {
        fill(store, &payload, records, BATCH as usize)?;
        replay_rate(store, records)?;
        let mib = replay_rate(store, records)? * RECORD_BYTES as f64 / f64::from(1 << 20);
        Ok(mib)
    })
}
