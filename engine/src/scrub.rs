//! The scrub: reads everything that is stored, hashes it again, and reports what does not match.
//!
//! Merkle trees find where replicas differ; they cannot see rot under an unchanged leaf. This can.

use std::collections::HashMap;
use std::ops::ControlFlow;

use mesh_ring::binding::Binding;
use mesh_ring::ids::{PartitionId, TopicId, TopicKey};
use mesh_ring::merkle::{LeafId, LeafSum, binding_digest, leaf_of};

use crate::error::{Damage, ReadError};
use crate::keys::{self, family, prefix_end};
use crate::read;
use crate::store::Store;

/// What a scrub has read and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Record batches read.
    pub batches: u64,
    /// Bindings read.
    pub bindings: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What does not read back as it was written.
    pub damages: Vec<Damage>,
}

/// Most damages that one report lists; a disk that lost more is lost.
const DAMAGES_MAX: usize = 1_000;

/// Asked after each step with the bytes it read; tells whether to go on. The place to throttle.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Reads every batch and binding of every partition.
pub(crate) fn scrub(store: &Store, partitions: u16, pace: Pace<'_>) -> ScrubReport {
    let mut report = ScrubReport::default();
    for partition in (0..partitions).map(PartitionId) {
        if scrub_log(store, partition, &mut report, pace).is_break()
            || scrub_bindings(store, partition, &mut report, pace).is_break()
            || report.damages.len() >= DAMAGES_MAX
        {
            break;
        }
    }
    report
}

fn scrub_log(
    store: &Store,
    partition: PartitionId,
    report: &mut ScrubReport,
    pace: Pace<'_>,
) -> ControlFlow<()> {
    let mut from = partition.0.to_be_bytes().to_vec();
    // Damage inside a table file ends an iteration; the next one starts behind the topic that it happened in.
    loop {
        let mut iterator = store.iterate(family::LOG, &partition.0.to_be_bytes());
        iterator.seek(&from);
        let mut last_seen = None;
        while let Some((key, batch)) = iterator.item() {
            let Some((topic, offset)) = keys::parse_log_key(key) else {
                report
                    .damages
                    .push(unreadable(store, None, key, "a key of a wrong length"));
                iterator.next();
                continue;
            };
            if let Err(ReadError::Damaged(damage)) = read::checked(store, topic, key, batch) {
                report.damages.push(damage);
            }
            last_seen = Some((topic, offset));
            report.batches += 1;
            report.bytes += batch.len() as u64;
            pace(batch.len() as u64)?;
            iterator.next();
        }
        let Err(error) = iterator.status() else {
            return ControlFlow::Continue(());
        };
        let topic = last_seen
            .map(|(topic, _)| topic)
            .or_else(|| keys::parse_log_key(&padded(&from)).map(|(t, _)| t));
        let at = last_seen.map_or_else(
            || from.clone(),
            |(topic, offset)| keys::log_key(topic, offset + 1).to_vec(),
        );
        report
            .damages
            .push(unreadable(store, topic, &at, error.as_ref()));
        let Some(topic) = topic.filter(|_| report.damages.len() < DAMAGES_MAX) else {
            return ControlFlow::Continue(());
        };
        from = keys::topic_prefix(TopicKey {
            id: TopicId(topic.id.0 + 1),
            ..topic
        })
        .to_vec();
    }
}

fn scrub_bindings(
    store: &Store,
    partition: PartitionId,
    report: &mut ScrubReport,
    pace: Pace<'_>,
) -> ControlFlow<()> {
    // A snapshot, so that leaves are compared with the bindings they were made of.
    let snapshot = store.db().snapshot();
    let bounds = |options: &mut rocksdb::ReadOptions| {
        let prefix = partition.0.to_be_bytes();
        options.set_iterate_lower_bound(prefix);
        if let Some(end) = prefix_end(&prefix) {
            options.set_iterate_upper_bound(end);
        }
    };
    let mut sums: HashMap<LeafId, LeafSum> = HashMap::new();
    let mut options = rocksdb::ReadOptions::default();
    bounds(&mut options);
    let mut iterator = snapshot.raw_iterator_cf_opt(store.family(family::BINDINGS), options);
    iterator.seek_to_first();
    while let Some((stored_key, value)) = iterator.item() {
        let key = stored_key.get(2..).unwrap_or_default();
        if let Err(error) = Binding::decode(value) {
            let what = format!("binding {}", key.escape_ascii());
            report.damages.push(damage(
                store,
                what,
                family::BINDINGS,
                stored_key,
                &error.to_string(),
            ));
        }
        let sum = sums.entry(leaf_of(key)).or_default();
        *sum = sum.add(binding_digest(key, value));
        report.bindings += 1;
        report.bytes += value.len() as u64;
        pace(value.len() as u64)?;
        iterator.next();
    }
    if let Err(error) = iterator.status() {
        let what = format!("bindings of partition {partition}");
        report.damages.push(damage(
            store,
            what,
            family::BINDINGS,
            &partition.0.to_be_bytes(),
            error.as_ref(),
        ));
        return ControlFlow::Continue(());
    }
    let mut options = rocksdb::ReadOptions::default();
    bounds(&mut options);
    let mut leaves = snapshot.raw_iterator_cf_opt(store.family(family::MERKLE), options);
    leaves.seek_to_first();
    let mut stored: HashMap<LeafId, LeafSum> = HashMap::new();
    while let Some((key, value)) = leaves.item() {
        if let (Ok([_, _, high, low]), Ok(sum)) =
            (<[u8; 4]>::try_from(key), <[u8; 32]>::try_from(value))
        {
            stored.insert(
                LeafId(u16::from_be_bytes([high, low])),
                LeafSum::from_bytes(sum),
            );
        }
        leaves.next();
    }
    sums.retain(|_, sum| *sum != LeafSum::default());
    let mut differing: Vec<LeafId> = sums
        .keys()
        .chain(stored.keys())
        .copied()
        .filter(|leaf| sums.get(leaf) != stored.get(leaf))
        .collect();
    differing.sort_unstable();
    differing.dedup();
    for leaf in differing {
        let what = format!("Merkle leaf {} of partition {partition}", leaf.0);
        let key = keys::merkle_key(partition, leaf);
        report.damages.push(damage(
            store,
            what,
            family::MERKLE,
            &key,
            "it is not the sum of the bindings under it",
        ));
    }
    ControlFlow::Continue(())
}

fn unreadable(store: &Store, topic: Option<TopicKey>, key: &[u8], detail: &str) -> Damage {
    let offset = keys::parse_log_key(key).map(|(_, offset)| offset);
    let what = match (topic, offset) {
        (Some(topic), Some(offset)) => format!("topic {topic} at or after offset {offset}"),
        (Some(topic), None) => format!("topic {topic}"),
        _ => "the log".to_owned(),
    };
    Damage {
        topic,
        offset,
        ..damage(store, what, family::LOG, key, detail)
    }
}

fn damage(store: &Store, what: String, name: &str, key: &[u8], detail: &str) -> Damage {
    Damage {
        what,
        topic: None,
        offset: None,
        files: store.files_of(name, key),
        detail: detail.to_owned(),
    }
}

/// A log key made of the beginning of one.
fn padded(from: &[u8]) -> [u8; 18] {
    let mut key = [0; 18];
    key[..from.len().min(18)].copy_from_slice(&from[..from.len().min(18)]);
    key
}
