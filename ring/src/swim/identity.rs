//! Who speaks: a node, in one start of its process.

use foca::Identity;

use crate::ids::NodeId;

/// One start of a node, as gossip tells it from the others of the same node: a later start replaces an earlier one at
/// once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Name {
    pub(super) node: NodeId,
    pub(super) boot: u32,
    /// How often this start was taken for dead, and has come back.
    pub(super) returns: u16,
    /// Where it is reached, `HOST:PORT`.
    pub(super) address: String,
}

impl Identity for Name {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let returns = self.returns.checked_add(1)?;
        Some(Self {
            returns,
            ..self.clone()
        })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        let rank = |name: &Self| (name.boot, name.returns, name.address.clone());
        rank(self) > rank(adversary)
    }
}
