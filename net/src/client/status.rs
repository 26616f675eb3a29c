//! What one node says of itself: its copies, what moves, what was compared and healed.

use std::time::Duration;

use mesh_ring::ids::{Epoch, NodeId, PartitionId};

use super::ClientError;
use super::cluster::{fixed, too_many};
use crate::wire::proto;

/// What one node says about itself and what it holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeStatus {
    /// The version of its map.
    pub map_version: u64,
    /// Who leads the control plane, as far as it knows.
    pub control_leader: Option<NodeId>,
    /// Whether it sees a majority of the control plane.
    pub control_quorum: bool,
    /// Binding writes that it keeps for others.
    pub pending_hints: u32,
    /// Every partition of which it keeps a copy.
    pub partitions: Vec<CopyStatus>,
    /// Copies under way, which it receives or sends.
    pub transfers: Vec<TransferStatus>,
    /// A sentence for each thing that someone should look at.
    pub warnings: Vec<String>,
    /// What comparing bindings with other copies has come to since it started.
    pub repair: RepairStatus,
    /// Copies that it still has to hand over to the nodes that keep their partitions now.
    pub leaving: u32,
    /// Deletions that wait to be forgotten.
    pub tombstones: TombstoneStatus,
}

/// Tombstones of bindings that wait until no node holds anything that they delete, and a node's part in finding that out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TombstoneStatus {
    /// At least so many are old enough to be forgotten, in partitions that the node sees to.
    pub waiting: u64,
    /// For how long some of them could not be, and why.
    pub held_up: Option<(Duration, String)>,
    /// How many the node has forgotten since it started.
    pub forgotten: u64,
}

/// What comparing copies of bindings and topics has come to at a node since it started, in what it began and in what others did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RepairStatus {
    /// Rounds by the clock.
    pub rounds: u64,
    /// Comparisons of a partition with another copy that it began.
    pub compared: u64,
    /// Leaves that differed in those.
    pub differing_leaves: u64,
    /// Bindings that others lacked.
    pub sent: u64,
    /// Bindings that it lacked.
    pub received: u64,
    /// Bytes on the wire in the comparisons that it began, both ways.
    pub bytes: u64,
    /// Bindings that could not be read, on either side, and were replaced by another copy.
    pub damaged: u64,
    /// How long ago anything was healed.
    pub healed_ago: Option<Duration>,
    /// Blocks of topics that it compared with another copy.
    pub blocks: u64,
    /// Times that a block was found to have other records there although both are valid: what must never be.
    pub blocks_differing: u64,
    /// Blocks of which it could not read something.
    pub blocks_damaged: u64,
    /// Blocks of which it has everything again, from another copy.
    pub blocks_healed: u64,
    /// Blocks of which it cannot read something now. They are not served.
    pub blocks_unreadable: u64,
    /// How long ago a block was healed.
    pub block_healed_ago: Option<Duration>,
}

/// A node's copy of a partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CopyStatus {
    /// Which partition.
    pub partition: PartitionId,
    /// The epoch in which the node holds it.
    pub epoch: Epoch,
    /// Whether it leads and serves.
    pub leads: bool,
    /// Whether the copy is suspect: damaged once, and not yet caught up.
    pub suspect: bool,
    /// The last entry of its journal.
    pub last: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// About how many bytes a copy of it has to carry.
    pub bytes: u64,
    /// How far its followers are behind; of a leader only.
    pub lag: Vec<FollowerLag>,
}

/// How far a follower is behind its leader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FollowerLag {
    /// Which node.
    pub node: NodeId,
    /// Entries that it has not acknowledged.
    pub entries: u64,
    /// Whether the leader has a connection to it.
    pub connected: bool,
}

/// A partition that is being copied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransferStatus {
    /// Which partition.
    pub partition: PartitionId,
    /// From which node.
    pub from: NodeId,
    /// To which node.
    pub to: NodeId,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// About how many there will be.
    pub bytes_total: u64,
    /// How fast it goes.
    pub bytes_per_second: u64,
    /// What it does just now, in a word.
    pub state: String,
}

pub(super) fn status(status: proto::NodeStatus) -> Result<NodeStatus, ClientError> {
    let id = |bytes: &[u8]| Ok::<_, ClientError>(NodeId(fixed(bytes)?));
    let partition = |number: u32| {
        u16::try_from(number)
            .map(PartitionId)
            .map_err(|_| too_many())
    };
    let lag = |lag: proto::ReplicaLag| {
        Ok(FollowerLag {
            node: id(&lag.node)?,
            entries: lag.entries,
            connected: lag.connected,
        })
    };
    let copy = |copy: proto::PartitionStatus| {
        Ok(CopyStatus {
            partition: partition(copy.partition)?,
            epoch: Epoch(copy.epoch),
            leads: copy.leads,
            suspect: copy.suspect,
            last: copy.last_index,
            committed: copy.commit_index,
            bytes: copy.bytes,
            lag: copy
                .lag
                .into_iter()
                .map(lag)
                .collect::<Result<_, ClientError>>()?,
        })
    };
    let transfer = |transfer: proto::TransferStatus| {
        Ok(TransferStatus {
            partition: partition(transfer.partition)?,
            from: id(&transfer.from)?,
            to: id(&transfer.to)?,
            bytes_done: transfer.bytes_done,
            bytes_total: transfer.bytes_total,
            bytes_per_second: transfer.bytes_per_second,
            state: transfer.state,
        })
    };
    let copies = status.partitions.into_iter().map(copy);
    let transfers = status.transfers.into_iter().map(transfer);
    Ok(NodeStatus {
        map_version: status.map_version,
        control_leader: match &status.control_leader[..] {
            [] => None,
            leader => Some(id(leader)?),
        },
        control_quorum: status.control_quorum,
        pending_hints: status.pending_hints,
        partitions: copies.collect::<Result<_, ClientError>>()?,
        transfers: transfers.collect::<Result<_, ClientError>>()?,
        warnings: status.warnings,
        repair: repair(status.repair.unwrap_or_default()),
        leaving: status.leaving,
        tombstones: tombstones(status.tombstones.unwrap_or_default()),
    })
}

fn repair(status: proto::RepairStatus) -> RepairStatus {
    RepairStatus {
        rounds: status.rounds,
        compared: status.compared,
        differing_leaves: status.differing_leaves,
        sent: status.sent,
        received: status.received,
        bytes: status.bytes,
        damaged: status.damaged,
        healed_ago: status.healed_ms_ago.map(Duration::from_millis),
        blocks: status.blocks,
        blocks_differing: status.blocks_differing,
        blocks_damaged: status.blocks_damaged,
        blocks_healed: status.blocks_healed,
        blocks_unreadable: status.blocks_unreadable,
        block_healed_ago: status.block_healed_ms_ago.map(Duration::from_millis),
    }
}

fn tombstones(status: proto::TombstoneStatus) -> TombstoneStatus {
    let cause = status.cause;
    let held_up = status.held_up_ms.map(Duration::from_millis);
    TombstoneStatus {
        waiting: status.waiting,
        held_up: held_up.map(|held_up| (held_up, cause)),
        forgotten: status.forgotten,
    }
}
