//! Reads of a log from its files.

use bytes::Bytes;
use mesh_engine::batch::{BatchHeader, records, verify_stored};
use mesh_ring::ids::TopicKey;

use super::engine::{RECORD_BYTES, Stage, TOGETHER, append_group, hold};
use crate::Result;
use crate::counts::measured;
use crate::payload::mix;
use crate::stores::READ_BYTES;

pub(super) fn log() -> Result<u64> {
    const BATCHES: u64 = 32;
    let (stage, topic) = batches(BATCHES)?;
    read_all(&stage, topic)?;
    measured(&mut || {
        let read = read_all(&stage, topic)?;
        expect(read.len() as u64, BATCHES)
    })?;
    Ok(BATCHES)
}

pub(super) fn decode() -> Result<u64> {
    const BATCHES: u64 = 16;
    let (stage, topic) = batches(BATCHES)?;
    let stored = read_all(&stage, topic)?;
    measured(&mut || {
        let mut bytes = 0;
        for batch in &stored {
            verify_stored(batch)?;
            for record in records(batch)? {
                let (_, record) = record?;
                bytes += std::hint::black_box(record).value.len();
            }
        }
        expect(bytes as u64, BATCHES * (TOGETHER * RECORD_BYTES) as u64)
    })?;
    Ok(BATCHES)
}

pub(super) fn point() -> Result<u64> {
    const GROUPS: u64 = 8;
    const READS: u64 = 1024;
    let stage = Stage::new(RECORD_BYTES)?;
    let (topic, hold) = (stage.topic(0)?, hold()?);
    let records = GROUPS * TOGETHER as u64;
    for first in (0..records).step_by(TOGETHER) {
        append_group(&stage, &[topic], &hold, first)?;
    }
    let stage = stage.reopened()?;
    let read = |offset: u64| read_one(&stage, topic, offset);
    (0..records).try_for_each(read)?;
    let mut random = 1;
    measured(&mut || (0..READS).try_for_each(|_| read(mix(&mut random) % records)))?;
    Ok(READS)
}

/// A topic of so many batches, in files.
fn batches(count: u64) -> Result<(Stage, TopicKey)> {
    let stage = Stage::new(RECORD_BYTES)?;
    let topic = stage.topic(0)?;
    for number in 0..count {
        stage.append(topic, number * TOGETHER as u64, TOGETHER)?;
    }
    Ok((stage.reopened()?, topic))
}

fn read_all(stage: &Stage, topic: TopicKey) -> Result<Vec<Bytes>> {
    let (mut read, mut next) = (Vec::new(), 0);
    loop {
        let batches = stage.engine.read(topic, next, READ_BYTES)?;
        let Some(last) = batches.last() else {
            return Ok(read);
        };
        next = BatchHeader::decode(last)?.next_offset();
        read.extend(batches);
    }
}

fn read_one(stage: &Stage, topic: TopicKey, offset: u64) -> Result<()> {
    let batches = stage.engine.read(topic, offset, 1)?;
    let batch = batches.first().ok_or("a record is missing")?;
    let (at, record) = records(batch)?.next().ok_or("a batch is empty")??;
    expect(at, offset)?;
    std::hint::black_box(record);
    Ok(())
}

fn expect(found: u64, wanted: u64) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{found} was read in place of {wanted}").into())
    }
}
