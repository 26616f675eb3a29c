//! What keeping Merkle leaves and their index costs a put: the same puts into a store that keeps them and one that does not,
//! in turns, so that both meet the same disk. Processor time is told as well: other work on the machine changes it least.
//!
//! `cargo run --release -p mesh-engine --example leaf_upkeep [ROUNDS [KEYS]]`, in a directory on the disk to be measured.

#![allow(clippy::print_stdout, reason = "it is what the example is for")]

use std::error::Error;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_engine::{BindingWrite, Engine, Identity, Options, prepare};
use mesh_ring::ids::{ClusterId, NodeId};
use mesh_ring::name::BindingKey;

const IN_FLIGHT: usize = 256;
const VALUE_BYTES: usize = 100;
const TURN: Duration = Duration::from_millis(1_500);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let keys: u64 = arguments.next().map_or(Ok(100_000), |n| n.parse())?;
    let place = tempfile::tempdir_in(".")?;
    let with = open(&place.path().join("with"), true)?;
    let without = open(&place.path().join("without"), false)?;
    for kind in ["new keys and old", "old keys"] {
        let (mut ratios, mut extra) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who begins changes, as the disk may tire.
            let (kept, bare) = if round % 2 == 0 {
                let kept = put_for_a_turn(&with, keys, round)?;
                (kept, put_for_a_turn(&without, keys, round)?)
            } else {
                let bare = put_for_a_turn(&without, keys, round)?;
                (put_for_a_turn(&with, keys, round)?, bare)
            };
            println!(
                "{kind}: {:.0} puts/s of {:.1} us with leaves, {:.0} of {:.1} us without",
                kept.a_second, kept.processor_us, bare.a_second, bare.processor_us
            );
            ratios.push(kept.a_second / bare.a_second);
            extra.push(kept.processor_us - bare.processor_us);
        }
        ratios.sort_by(f64::total_cmp);
        extra.sort_by(f64::total_cmp);
        println!(
            "{kind}: a put takes {:.1} us of processor time more (median)",
            extra[extra.len() / 2]
        );
        if let (Some(least), Some(median), Some(most)) =
            (ratios.first(), ratios.get(ratios.len() / 2), ratios.last())
        {
            println!(
                "{kind}: upkeep takes {:.1} % of put throughput (median of {rounds}; {:.1} to {:.1})",
                100.0 * (1.0 - median),
                100.0 * (1.0 - most),
                100.0 * (1.0 - least)
            );
        }
    }
    Ok(())
}

fn open(data: &Path, with_leaves: bool) -> Result<Engine, Box<dyn Error>> {
    let identity = Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId([2; 16]),
        name: "n1".into(),
        partitions: 64,
    };
    prepare(data, &identity)?;
    let options = Options {
        with_leaves,
        ..Options::default()
    };
    Ok(Engine::open(data, options)?)
}

/// What a turn came to.
struct Turn {
    a_second: f64,
    /// Processor time of a put, in microseconds, that of all threads.
    processor_us: f64,
}

/// Puts for the length of a turn, with [`IN_FLIGHT`] of them waiting for the disk.
fn put_for_a_turn(engine: &Engine, keys: u64, round: usize) -> Result<Turn, Box<dyn Error>> {
    let before_us = processor_us();
    let (sender, answers) = sync_channel(IN_FLIGHT);
    let began = Instant::now();
    let (mut sent, mut answered, mut state) = (0_u64, 0_u64, round as u64 + 1);
    while began.elapsed() < TURN {
        if sent - answered >= IN_FLIGHT as u64 {
            answers.recv()??;
            answered += 1;
        }
        // The numbers of a small generator: the same for both stores.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let key = format!("user/{:012}", (state >> 33) % keys);
        let write = BindingWrite {
            key: BindingKey::new(key.as_bytes())?,
            value: Some(Bytes::from(vec![sent as u8; VALUE_BYTES])),
            context: None,
            expires_ms: None,
        };
        let sender = sender.clone();
        engine.submit_write(write, move |result| {
            let _ = sender.send(result.map(drop));
        });
        sent += 1;
    }
    while answered < sent {
        answers.recv()??;
        answered += 1;
    }
    Ok(Turn {
        a_second: answered as f64 / began.elapsed().as_secs_f64(),
        processor_us: (processor_us() - before_us) / answered as f64,
    })
}

fn processor_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
