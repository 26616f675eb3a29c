//! The measured loops: each takes an open store, works for a while, and returns its figure.

use std::time::{Duration, Instant};

use crate::Result;
use crate::payload::Payload;
use crate::rounds::median;
use crate::stores::{Meshlog, Store};

/// Bytes of each record's value.
pub const RECORD_BYTES: usize = 1 << 10;

/// Records appended in one go, one batch in flight.
#[derive(Clone, Copy, Debug)]
pub struct Appending {
    /// Records of each batch.
    pub batch: usize,
    /// Topics that get a batch in turn.
    pub topics: usize,
}

/// Appends batches one after the other for `time`; returns records a second.
///
/// # Errors
/// The store's.
pub fn append_rate(
    store: &mut dyn Store,
    payload: &Payload,
    work: Appending,
    time: Duration,
) -> Result<f64> {
    let (started, mut batches) = (Instant::now(), 0);
    while started.elapsed() < time {
        append_one(store, payload, work, batches)?;
        batches += 1;
    }
    Ok((batches * work.batch as u64) as f64 / started.elapsed().as_secs_f64())
}

/// Appends batch number `number` of the work.
///
/// # Errors
/// The store's.
pub fn append_one(
    store: &mut dyn Store,
    payload: &Payload,
    work: Appending,
    number: u64,
) -> Result<()> {
    store.append(
        number as usize % work.topics,
        &payload.values(number * work.batch as u64, work.batch),
    )
}

/// Appends records one after the other for `time`; returns the median time of one, in milliseconds.
///
/// # Errors
/// The store's.
pub fn append_latency(store: &mut dyn Store, payload: &Payload, time: Duration) -> Result<f64> {
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let began = Instant::now();
        append_one(
            store,
            payload,
            Appending {
                batch: 1,
                topics: 1,
            },
            took.len() as u64,
        )?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(took))
}

/// Appends batches with `in_flight` of them waiting for the disk, for `time`; returns records a second.
///
/// # Errors
/// The engine's.
pub fn in_flight_rate(
    store: &Meshlog,
    payload: &Payload,
    work: Appending,
    in_flight: usize,
    time: Duration,
) -> Result<f64> {
    let (started, mut batches) = (Instant::now(), 0);
    let mut flight = store.in_flight(in_flight);
    while started.elapsed() < time {
        let values = payload.values(batches * work.batch as u64, work.batch);
        flight.append(batches as usize % work.topics, &values)?;
        batches += 1;
    }
    flight.finish()?;
    Ok((batches * work.batch as u64) as f64 / started.elapsed().as_secs_f64())
}

/// Appends `records` records to topic 0, `batch` at a time.
///
/// # Errors
/// The store's.
pub fn fill(store: &mut dyn Store, payload: &Payload, records: u64, batch: usize) -> Result<()> {
    for number in 0..records / batch as u64 {
        append_one(store, payload, Appending { batch, topics: 1 }, number)?;
    }
    Ok(())
}

/// Reads `records` records of topic 0 from the first to the last; returns records a second.
///
/// # Errors
/// The store's; it gave back another number of bytes than was put in.
pub fn replay_rate(store: &mut dyn Store, records: u64) -> Result<f64> {
    let (started, mut found, mut bytes, mut mixed) = (Instant::now(), 0, 0, 0_u8);
    store.replay(0, &mut |value| {
        found += 1;
        bytes += value.len() as u64;
        mixed ^= value[value.len() / 2];
    })?;
    std::hint::black_box(mixed);
    let seconds = started.elapsed().as_secs_f64();
    if (found, bytes) != (records, records * RECORD_BYTES as u64) {
        return Err(
            format!("put in {records} records, but read {found} with {bytes} bytes").into(),
        );
    }
    Ok(records as f64 / seconds)
}

/// Reads single records of topic 0 at offsets all over its first `records`, for `time`; returns reads a second.
///
/// # Errors
/// The store's.
pub fn read_rate(store: &mut dyn Store, records: u64, time: Duration) -> Result<f64> {
    let (started, mut reads, mut bytes, mut random) = (Instant::now(), 0_u64, 0, 1);
    while started.elapsed() < time {
        let offset = crate::payload::mix(&mut random) % records;
        store.read(0, offset, &mut |value| bytes += value.len())?;
        reads += 1;
    }
    std::hint::black_box(bytes);
    Ok(reads as f64 / started.elapsed().as_secs_f64())
}

/// The key of a binding.
#[must_use]
pub fn key(number: u64) -> [u8; 16] {
    // Spread, so that neighbours in time are no neighbours in the store.
    let spread = crate::payload::mix(&mut number.clone());
    let mut key = *b"user:\0\0\0\0\0\0\0\0\0\0\0";
    key[5..13].copy_from_slice(&spread.to_be_bytes());
    key
}

/// Writes bindings among `keys` keys, `together` at a time, for `time`; returns writes a second.
///
/// # Errors
/// The store's.
pub fn put_rate(
    store: &mut dyn Store,
    payload: &Payload,
    keys: u64,
    together: u64,
    time: Duration,
) -> Result<f64> {
    let (started, mut puts) = (Instant::now(), 0);
    while started.elapsed() < time {
        put_some(store, payload, keys, puts, together)?;
        puts += together;
    }
    Ok(puts as f64 / started.elapsed().as_secs_f64())
}

/// Writes the bindings number `first` to `first + together - 1`, which wait for the disk together.
///
/// # Errors
/// The store's.
pub fn put_some(
    store: &mut dyn Store,
    payload: &Payload,
    keys: u64,
    first: u64,
    together: u64,
) -> Result<()> {
    let names: Vec<_> = (first..first + together)
        .map(|number| key(number % keys))
        .collect();
    let pairs: Vec<(&[u8], &[u8])> = (first..)
        .zip(&names)
        .map(|(number, name)| (&name[..], payload.value(number)))
        .collect();
    store.put(&pairs)
}

/// Writes every one of `keys` keys once, 256 at a time.
///
/// # Errors
/// The store's.
pub fn put_all(store: &mut dyn Store, payload: &Payload, keys: u64) -> Result<()> {
    for first in (0..keys).step_by(256) {
        put_some(store, payload, keys, first, 256.min(keys - first))?;
    }
    Ok(())
}

/// Writes bindings among `keys` keys with `in_flight` waiting for the disk, for `time`; returns writes a second.
///
/// # Errors
/// The engine's.
pub fn put_in_flight_rate(
    store: &Meshlog,
    payload: &Payload,
    keys: u64,
    in_flight: usize,
    time: Duration,
) -> Result<f64> {
    let (started, mut puts) = (Instant::now(), 0);
    let mut flight = store.in_flight(in_flight);
    while started.elapsed() < time {
        flight.put(&key(puts % keys), payload.value(puts))?;
        puts += 1;
    }
    flight.finish()?;
    Ok(puts as f64 / started.elapsed().as_secs_f64())
}

/// Reads bindings among `keys` keys for `time`; returns reads a second.
///
/// # Errors
/// The store's.
pub fn get_rate(store: &mut dyn Store, keys: u64, time: Duration) -> Result<f64> {
    let (started, mut reads, mut bytes, mut random) = (Instant::now(), 0_u64, 0, 1);
    while started.elapsed() < time {
        store.get(
            &key(crate::payload::mix(&mut random) % keys),
            &mut |value| bytes += value.len(),
        )?;
        reads += 1;
    }
    std::hint::black_box(bytes);
    Ok(reads as f64 / started.elapsed().as_secs_f64())
}
