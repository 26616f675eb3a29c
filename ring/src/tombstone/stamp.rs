//! Of when a state is that travels from node to node.

use thiserror::Error;

/// What its sender knew before it read the state that it sends.
///
/// Taken before the read, never after it; a state that was merged from several carries the [`oldest`](Self::oldest) of
/// their stamps. A node that sees a stamp with a higher fence than its own raises its own, durably: otherwise two that
/// differ might refuse each other's states for ever. A sender whose state was refused reads it anew, under a new stamp: it never stamps an old one again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// The version of its map.
    pub map_version: u64,
    /// Its fence of the partition.
    pub fence: u64,
}

impl Stamp {
    /// Newer than any: that of a state without any origin.
    pub const NEWEST: Self = Self {
        map_version: u64::MAX,
        fence: u64::MAX,
    };

    /// The stamp of what was merged from both.
    #[must_use]
    pub fn oldest(self, other: Self) -> Self {
        Self {
            map_version: self.map_version.min(other.map_version),
            fence: self.fence.min(other.fence),
        }
    }
}

/// What a node goes by when a state arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knowledge {
    /// The version of its map.
    pub map_version: u64,
    /// The first version in which it is registered, durable: it was asked in no round before.
    pub member_since: u64,
    /// Its fence of the partition, durable.
    pub fence: u64,
}

/// Why a node does not take a state. Nothing was merged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum Refusal {
    /// Tombstones may have been collected since it was read. Raise the own fence to this one, durably, read the
    /// state anew and send that.
    #[error("the state was read at fence {sent}, and this node is at {fence}; read it anew")]
    Fenced {
        /// The fence that it was read at.
        sent: u64,
        /// This node's fence.
        fence: u64,
    },
    /// It was read before this node was part of the cluster. Read it anew, by the present map, and send that.
    #[error(
        "the state was read by map {sent}, and this node is part of the cluster since {since}; read it anew"
    )]
    OldMap {
        /// The version that it was read by.
        sent: u64,
        /// The version that this node joined in.
        since: u64,
    },
    /// The sender knows a newer map, which may make this node something else. Send it the map, then the state again.
    #[error("the sender goes by map {sent}, this node by {known}; send the map first")]
    NewMap {
        /// The sender's version.
        sent: u64,
        /// The version known here.
        known: u64,
    },
}

impl Knowledge {
    /// Whether a state of this stamp may be merged here. Every state that comes from another node is checked, also a
    /// reply to a read that leads to a merge. That its sender was not removed from the cluster, and what this node
    /// is to the key, is for the caller to see to, by its map.
    ///
    /// # Errors
    /// [`Refusal`]: what the sender is to do.
    pub fn admit(self, stamp: Stamp) -> Result<(), Refusal> {
        let sent = stamp.map_version;
        if sent > self.map_version {
            let known = self.map_version;
            return Err(Refusal::NewMap { sent, known });
        }
        if sent < self.member_since {
            let since = self.member_since;
            return Err(Refusal::OldMap { sent, since });
        }
        if stamp.fence < self.fence {
            let (sent, fence) = (stamp.fence, self.fence);
            return Err(Refusal::Fenced { sent, fence });
        }
        Ok(())
    }
}
