//! The scrub: reads everything that is stored, hashes it again, and reports what does not match.
//!
//! Merkle trees find where replicas differ; they cannot see rot under an unchanged leaf. This can. Blocks that are in
//! the cache were checked when they came into it and are not read again; damaged filters are not looked for, since
//! RocksDB does without them.
//!
//! `walk` reads the keys of a span and goes on behind what it cannot read, `gap` finds where that is, `values` knows
//! what every value should look like, `leaves` compares bindings with their Merkle leaves.

pub(crate) mod gap;
mod leaves;
mod values;
mod walk;

use std::collections::HashSet;
use std::ops::ControlFlow;

use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::LeafId;

use crate::error::{Damage, ReadError};
use crate::keys::{self, family};
use crate::leaves::Leaves;
use crate::read;
use crate::store::Store;
pub(crate) use gap::Gap;
pub(crate) use values::check as check_value;
use walk::Span;

/// What a scrub has read and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Record batches read.
    pub batches: u64,
    /// Bindings read.
    pub bindings: u64,
    /// Values read of every other kind: journal entries, topics, producers, cursors, due times, leaves, identity.
    pub others: u64,
    /// Bytes read, keys and values.
    pub bytes: u64,
    /// What does not read back as it was written, each damaged place once; at most 1 000.
    pub damages: Vec<Damage>,
    /// Damages beyond those that are listed.
    pub unlisted: u64,
    /// Merkle leaves to be summed anew, see [`crate::Engine::recount_leaf`]: some of their bindings cannot be read, or they are
    /// not the sum of those.
    pub leaves: Vec<(PartitionId, LeafId)>,
}

/// Most damages that one report lists; a disk that lost more is lost.
const DAMAGES_MAX: usize = 1_000;

/// Asked after each step with the bytes it read; tells whether to go on. The place to throttle.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Reads every family of every partition, whatever is damaged elsewhere.
pub(crate) fn scrub(
    store: &Store,
    leaves: &Leaves,
    partitions: u16,
    pace: Pace<'_>,
) -> ScrubReport {
    let mut scrub = Scrub {
        leaves,
        findings: Findings {
            store,
            report: ScrubReport::default(),
            errors: HashSet::new(),
        },
        pace,
    };
    // Where the caller wants no more, the report says what was read until then.
    let _ = scrub.everything(partitions);
    scrub.findings.report
}

/// A scrub under way.
struct Scrub<'a> {
    leaves: &'a Leaves,
    findings: Findings<'a>,
    pace: Pace<'a>,
}

impl Scrub<'_> {
    fn everything(&mut self, partitions: u16) -> ControlFlow<()> {
        for name in [
            family::META,
            family::EXPIRY,
            family::HINTS,
            family::REPLICAS,
            family::CONTROL,
        ] {
            self.values(&Span::of_family(name))?;
        }
        self.values(&Span::of_changes())?;
        for partition in (0..partitions).map(PartitionId) {
            for name in [
                family::JOURNAL,
                family::TOPICS,
                family::PRODUCERS,
                family::CURSORS,
            ] {
                self.values(&Span::of_partition(name, partition))?;
            }
            self.bindings(partition)?;
            self.log(partition)?;
        }
        ControlFlow::Continue(())
    }

    fn values(&mut self, span: &Span) -> ControlFlow<()> {
        self.walk(span, &mut |findings, key, value| {
            findings.report.others += 1;
            if let Err(detail) = values::check(span.family, key, value) {
                findings.value_damaged(span.family, key, detail);
            }
        })?;
        ControlFlow::Continue(())
    }

    fn log(&mut self, partition: PartitionId) -> ControlFlow<()> {
        let span = Span::of_partition(family::LOG, partition);
        self.walk(&span, &mut |findings, key, batch| {
            findings.report.batches += 1;
            let Some((topic, _)) = keys::parse_log_key(key) else {
                findings.value_damaged(family::LOG, key, values::WRONG_KEY.to_owned());
                return;
            };
            if let Err(ReadError::Damaged(damage)) =
                read::checked(findings.store, topic, key, batch)
            {
                findings.push(damage);
            }
        })?;
        ControlFlow::Continue(())
    }
}

/// What was found so far.
struct Findings<'a> {
    store: &'a Store,
    report: ScrubReport,
    /// What RocksDB said of blocks and files, so that each is reported once however many spans meet it.
    errors: HashSet<String>,
}

impl Findings<'_> {
    fn push(&mut self, damage: Damage) {
        if self.report.damages.len() < DAMAGES_MAX {
            self.report.damages.push(damage);
        } else {
            self.report.unlisted += 1;
        }
    }

    /// The value at `key` can be read, but is not what was written.
    fn value_damaged(&mut self, name: &str, key: &[u8], detail: String) {
        let place = values::place(name, key);
        self.push(Damage {
            what: place.what,
            topic: place.topic,
            offset: place.offset,
            files: self.store.files_of(name, key),
            detail,
        });
    }
}
