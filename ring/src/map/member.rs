//! The nodes of a cluster.

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Admitted, but never registered: it holds nothing yet.
    Joining,
    /// It takes part.
    Up,
    /// It takes part until others hold what it holds; it leads nothing that another can lead.
    Draining,
    /// Drained: it holds nothing and may be stopped and removed.
    Drained,
    /// Gossip says that it is dead. It keeps its partitions, but leads none that another can lead.
    Down,
    /// Removed for good: its id never comes back. It is listed until others hold what it held.
    Removed,
}

impl NodeState {
    /// Whether the node is thought to be running.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Up | Self::Draining | Self::Drained)
    }
}

/// Why a node gets no partitions, and loses those that it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leaving {
    /// Somebody drains it: it stays so, also if it goes down and comes back.
    Drained,
    /// It was dead for too long. If it comes back, it is welcome.
    Replaced,
}

/// What tells one start of a node's process from every other: the count is durably raised before the start takes
/// part, the token is drawn at random.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// How many starts there have been; 0: none that registered.
    pub count: u32,
    /// Random bytes of this start.
    pub token: [u8; 16],
}

/// A node that is in the map.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, for as long as its data directory lives.
    pub id: NodeId,
    /// The name that its certificate carries; no two nodes that are not removed share one.
    pub name: String,
    /// Where it is reached, `HOST:PORT`.
    pub address: String,
    /// What fails together with it. All nodes that state none share one zone.
    pub zone: String,
    /// What it is to the cluster.
    pub state: NodeState,
    /// Whether its partitions move away.
    pub leaving: Option<Leaving>,
    /// Its last registered start.
    pub boot: Boot,
    /// Its disk has reached its reserve: it follows others, and leads nothing that another can lead.
    #[serde(default)]
    pub full: bool,
}

impl Member {
    /// A node that was admitted and has never started.
    #[must_use]
    pub fn new(id: NodeId, name: &str, address: &str, zone: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            address: address.to_owned(),
            zone: zone.to_owned(),
            state: NodeState::Joining,
            leaving: None,
            boot: Boot::default(),
            full: false,
        }
    }

    /// Whether it is thought to be running.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// Whether it is fit to lead: it takes part, stays, and has room.
    #[must_use]
    pub const fn is_fit_to_lead(&self) -> bool {
        matches!(self.state, NodeState::Up) && self.leaving.is_none() && !self.full
    }

    /// Whether it counts as a node that holds partitions: it takes part and stays.
    #[must_use]
    pub const fn is_staying(&self) -> bool {
        matches!(self.state, NodeState::Up | NodeState::Down) && self.leaving.is_none()
    }
}
