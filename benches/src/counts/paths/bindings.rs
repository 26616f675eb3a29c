//! Bindings in an engine that is alone.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::BindingWrite;
use mesh_ring::name::BindingKey;

use super::engine::{Stage, TOGETHER, hold};
use crate::Result;
use crate::counts::measured;
use crate::payload::mix;
use crate::work::key;

const VALUE_BYTES: usize = 100;
const KEYS: u64 = 4096;
const NOW_MS: u64 = 1_700_000_000_000;

pub(super) fn put() -> Result<u64> {
    const GROUPS: u64 = 8;
    let stage = filled()?;
    let hold = hold()?;
    let put = |group: u64| put_group(&stage, &hold, KEYS + group * TOGETHER as u64);
    put(0)?;
    measured(&mut || (1..=GROUPS).try_for_each(put))?;
    Ok(GROUPS * TOGETHER as u64)
}

pub(super) fn get() -> Result<u64> {
    const GETS: u64 = 4096;
    let stage = filled()?.reopened()?;
    let mut random = 1;
    let mut get = |number: u64| get_one(&stage, number);
    // The cache has every block after this.
    (0..KEYS).try_for_each(&mut get)?;
    measured(&mut || (0..GETS).try_for_each(|_| get(mix(&mut random) % KEYS)))?;
    Ok(GETS)
}

/// Every key has a value.
fn filled() -> Result<Stage> {
    let stage = Stage::new(VALUE_BYTES)?;
    let hold = hold()?;
    for first in (0..KEYS).step_by(TOGETHER) {
        put_group(&stage, &hold, first)?;
    }
    Ok(stage)
}

fn put_group(stage: &Stage, hold: &BindingWrite, first: u64) -> Result<()> {
    stage.grouped(hold, |group| {
        for number in first..first + TOGETHER as u64 {
            let group = Arc::clone(group);
            let value = stage.payload.value(number);
            let write = BindingWrite {
                key: BindingKey::new(&key(number % KEYS))?,
                value: Some(Bytes::copy_from_slice(value)),
                context: None,
                expires_ms: None,
            };
            stage
                .engine
                .submit_write(write, move |result| group.done(result.is_ok()));
        }
        Ok(())
    })
}

fn get_one(stage: &Stage, number: u64) -> Result<()> {
    let binding = stage.engine.binding(&BindingKey::new(&key(number))?)?;
    let binding = binding.ok_or("a key has no binding")?;
    let version = binding.newest_live(NOW_MS);
    std::hint::black_box(version.ok_or("a key has no value")?);
    Ok(())
}
