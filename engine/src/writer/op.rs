//! What the writer can be asked, and what each weighs.

use bytes::Bytes;
use mesh_ring::ids::{NodeId, Offset, PartitionId, TopicKey};
use mesh_ring::merkle::LeafId;

use super::{BindingMerge, BindingWrite, CollectOp, Decided, Done, Written};
use crate::blocks::{HealOp, Healed};
use crate::error::{BindingError, HealError, HintError, Stopped, TopicError};
use crate::hints::{HintOp, SettleOp};
use crate::replica::{CheckpointOp, CommitOp, PersistOp};
use crate::rows::RowChange;
use crate::transfer::ReplaceOp;

/// What the writer can be asked.
pub(crate) enum Op {
    /// Entries and promises of a replica.
    Persist(Box<PersistOp>),
    /// Entries that are committed.
    Commit(Box<CommitOp>),
    Checkpoint(Box<CheckpointOp>),
    /// All rows of a partition, or some of a copy of it.
    Replace(Box<ReplaceOp>),
    /// A write, and whom to tell of it as soon as it is decided.
    Write(BindingWrite, Option<Decided>, Done<Written, BindingError>),
    Merge(BindingMerge, Done<(), BindingError>),
    /// As a merge; a copy here that cannot be read is replaced.
    Heal(BindingMerge, Done<bool, BindingError>),
    Collect(Box<CollectOp>, Done<u64, BindingError>),
    /// A leaf whose sum is not that of the bindings under it.
    Recount(PartitionId, LeafId, Done<u64, BindingError>),
    WipeBindings(PartitionId, Done<(), BindingError>),
    /// A binding whose time has come, as of `now_ms`: its values expire.
    Sweep {
        now_ms: u64,
        due_ms: u64,
        partition: PartitionId,
        key: Vec<u8>,
        done: Done<bool, BindingError>,
    },
    Hint(Box<HintOp>, Done<(), HintError>),
    /// A write that is made here for a target that is away.
    HintedWrite(
        NodeId,
        BindingWrite,
        Option<Decided>,
        Done<Written, HintError>,
    ),
    /// Hints that were delivered, or that go to another node.
    SettleHints(Box<SettleOp>, Done<u64, HintError>),
    /// Batches of another replica, where this one's cannot be read.
    HealBlock(Box<HealOp>, Done<Healed, HealError>),
    /// Rows of the control plane, all or none.
    Rows {
        changes: Vec<RowChange>,
        done: Done<(), Stopped>,
    },
    /// Ages are judged by this time from now on, also after a restart.
    JudgeAges {
        now_ms: u64,
        done: Done<(), TopicError>,
    },
    /// The space of these topics' garbage was given back, up to what their garbage keys said then.
    Reclaimed {
        topics: Vec<(TopicKey, Offset)>,
        done: Done<(), TopicError>,
    },
}

impl Op {
    /// About what the op adds to a WriteBatch, in bytes.
    pub(super) fn staged_bytes(&self) -> usize {
        const KEYS_BYTES: usize = 160;
        match self {
            Op::Persist(op) => op.bytes(),
            Op::Replace(op) => op.bytes(),
            Op::Write(write, ..) => write.value.as_ref().map_or(0, Bytes::len) + 2 * KEYS_BYTES,
            Op::Merge(merge, _) | Op::Heal(merge, _) => merge.bytes + 2 * KEYS_BYTES,
            Op::Collect(op, _) => op.bindings.len() * 2 * KEYS_BYTES,
            Op::Hint(hint, _) => hint.bytes + 2 * KEYS_BYTES,
            Op::HintedWrite(_, write, ..) => {
                write.value.as_ref().map_or(0, Bytes::len) + 2 * KEYS_BYTES
            }
            Op::SettleHints(op, _) => op.sequences.len() * KEYS_BYTES,
            Op::HealBlock(op, _) => op.bytes() + op.batches.len() * KEYS_BYTES,
            Op::Rows { changes, .. } => changes.iter().map(RowChange::bytes).sum(),
            _ => KEYS_BYTES,
        }
    }

    /// Tells whoever asked that the store stopped.
    pub(crate) fn refuse(self, stopped: &Stopped) {
        match self {
            Op::Persist(op) => (op.done)(Err(stopped.clone())),
            Op::Commit(op) => (op.done)(Err(stopped.clone())),
            Op::Checkpoint(op) => (op.done)(Err(stopped.clone())),
            Op::Replace(op) => (op.done)(Err(stopped.clone())),
            Op::Rows { done, .. } => done(Err(stopped.clone())),
            Op::Write(_, _, done) => done(Err(stopped.clone().into())),
            Op::Merge(_, done) | Op::WipeBindings(_, done) => done(Err(stopped.clone().into())),
            Op::Heal(_, done) => done(Err(stopped.clone().into())),
            Op::Collect(_, done) | Op::Recount(_, _, done) => done(Err(stopped.clone().into())),
            Op::JudgeAges { done, .. } | Op::Reclaimed { done, .. } => {
                done(Err(stopped.clone().into()));
            }
            Op::Sweep { done, .. } => done(Err(stopped.clone().into())),
            Op::Hint(_, done) => done(Err(stopped.clone().into())),
            Op::HealBlock(_, done) => done(Err(stopped.clone().into())),
            Op::HintedWrite(_, _, _, done) => done(Err(stopped.clone().into())),
            Op::SettleHints(_, done) => done(Err(stopped.clone().into())),
        }
    }
}
