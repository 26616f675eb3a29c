//! Decisions, without a disk or a network.

mod journal;
mod tree;

pub(super) use journal::replica_turn;
pub(super) use tree::{merkle_walk, version_merge};

use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::preference::Preference;
use mesh_ring::quorum::{Answer, Outcome, Read, ReadEffect, ReadOutcome, Role, Write, WriteEffect};
use mesh_ring::tombstone::Stamp;

use crate::Result;
use crate::counts::measured;

const DECISIONS: u64 = 2048;

const fn node(of: u8) -> NodeId {
    NodeId([of; 16])
}

/// Three homes of five nodes.
fn preference() -> Preference {
    Preference {
        map_version: 7,
        partition: PartitionId(3),
        homes: (1..=3).map(node).collect(),
        copies: Vec::new(),
        stand_ins: (4..=5).map(node).collect(),
    }
}

pub(super) fn quorum_write() -> Result<u64> {
    let preference = preference();
    measured(&mut || {
        for _ in 0..DECISIONS {
            let mut out = Vec::new();
            let mut write = Write::new(&preference, node(1), 2, |_| true, &mut out)?;
            for home in &preference.homes {
                write.acknowledged(*home, Role::Home, &mut out);
            }
            let is_written =
                |effect: &WriteEffect| matches!(effect, WriteEffect::Done(Outcome::Written { .. }));
            expect(write.is_settled() && out.iter().any(is_written))?;
        }
        Ok(())
    })?;
    Ok(DECISIONS)
}

pub(super) fn quorum_read() -> Result<u64> {
    let preference = preference();
    let answer = Answer {
        binding: tree::binding(1, 100),
        stamp: Stamp {
            map_version: 7,
            fence: 0,
        },
    };
    measured(&mut || {
        for _ in 0..DECISIONS {
            let mut out = Vec::new();
            let mut read = Read::new(&preference, node(1), 2, |_| true, |_| false, &mut out)?;
            for home in &preference.homes {
                read.answered(*home, answer.clone(), &mut out);
            }
            let is_read = |effect: &ReadEffect| match effect {
                ReadEffect::Done(ReadOutcome::Read { binding, .. }) => {
                    *binding != Binding::default()
                }
                _ => false,
            };
            expect(out.iter().any(is_read))?;
        }
        Ok(())
    })?;
    Ok(DECISIONS)
}

fn expect(holds: bool) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err("a decision is not what it should be".into())
    }
}
