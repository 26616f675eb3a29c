//! Hints and disks: power that fails, and bytes that flip.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use mesh_engine::{Engine, HintStats, Options, ReadError};
use mesh_ring::ids::PartitionId;

use crate::support::damage::{data_bytes, files, flip};
use crate::support::{Bench, newest_log, noise, written_bytes};
use crate::{HOME, all, assert_counted, keep};

#[test]
fn a_power_loss_takes_no_hint_that_was_acknowledged_and_brings_none_back() {
    let rounds = 24;
    let bench = Bench::new();
    // No marker within the test: each round knows what the log was when it was acknowledged.
    let options = Options {
        marker_after: std::time::Duration::from_secs(600),
        ..bench.options()
    };
    let engine = Engine::open(bench.data(), options).unwrap();
    for round in 0..rounds {
        keep(&engine, HOME, round, 200 + round as usize * 30).unwrap();
        if round % 3 == 2 {
            let first = &engine.hints(HOME, None, 1).unwrap()[0];
            let removed = engine.remove_hints(HOME, first.partition, vec![first.sequence]);
            assert_eq!(removed.unwrap(), 1);
        }
        let acknowledged = all(&engine, HOME);
        let safe_bytes = written_bytes(&newest_log(&bench.data()));
        let interrupted = keep(&engine, HOME, 1_000 + round, 300);
        interrupted.unwrap();
        let data = bench.crashed_copy(&format!("round{round}"));
        lose(&newest_log(&data), safe_bytes, round);
        let reopened = bench.open_engine_at(&data);
        let found = all(&reopened, HOME);
        for hint in &acknowledged {
            assert!(found.contains(hint), "round {round}: {hint:?} is gone");
        }
        assert!(found.len() <= acknowledged.len() + 1, "round {round}");
        assert_counted(&reopened, &[HOME]);
        drop(reopened);
        std::fs::remove_dir_all(data).unwrap();
    }
}

/// Cuts what lies behind `safe_bytes` somewhere, or garbles it.
fn lose(log: &Path, safe_bytes: u64, round: u64) {
    let beyond = written_bytes(log) - safe_bytes;
    let mut file = OpenOptions::new().write(true).open(log).unwrap();
    assert!(beyond > 0);
    if round.is_multiple_of(2) {
        file.set_len(safe_bytes + round * 13 % beyond).unwrap();
    } else {
        file.seek(SeekFrom::Start(safe_bytes)).unwrap();
        file.write_all(&noise(round, beyond as usize)).unwrap();
    }
}

#[test]
fn a_damaged_hint_is_told_of_never_served_and_never_dropped() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    (0..400).for_each(|n| keep(&engine, HOME, n, 60).unwrap());
    let whole = all(&engine, HOME);
    engine.close().unwrap();
    drop(engine);
    let mut told = 0;
    for table in files(&bench.data(), "sst") {
        let data = bench.crashed_copy("flip");
        let copy = data.join("db").join(table.file_name().unwrap());
        flip(&copy, data_bytes(&table));
        if let Ok(engine) = Engine::open(&data, bench.options()) {
            let before: HintStats = engine.hint_stats()[&HOME];
            let mut after = None;
            let mut served = Vec::new();
            loop {
                match engine.hints(HOME, after, 2_000) {
                    Ok(hints) => {
                        let Some(last) = hints.last() else { break };
                        after = Some((last.partition, last.sequence));
                        served.extend(hints);
                    }
                    Err(error) => {
                        assert!(matches!(error, ReadError::Damaged(_)), "{error}");
                        told += 1;
                        after = match after {
                            None => Some((PartitionId(0), u64::MAX)),
                            Some((PartitionId(passed), u64::MAX)) => {
                                Some((PartitionId(passed + 1), u64::MAX))
                            }
                            Some((partition, _)) => Some((partition, u64::MAX)),
                        };
                    }
                }
            }
            assert!(served.iter().all(|hint| whole.contains(hint)));
            for hint in &whole {
                let _ = engine.remove_hints(HOME, hint.partition, vec![hint.sequence]);
            }
            let left = engine.hint_stats().get(&HOME).map_or(0, |held| held.count);
            assert!(left < before.count);
            let readable = 400 - left;
            assert!(served.is_empty() || readable > 0);
            told += u32::from(left > 0);
        }
        std::fs::remove_dir_all(data).unwrap();
    }
    assert!(told >= 2, "no table of hints was damaged");
}
