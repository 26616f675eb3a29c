//! Under which name a node mints dots, so that a causal context never covers a write that its minter had forgotten.

use crate::ids::NodeId;

/// How often a node may have forgotten what it minted for a partition's keys.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Generation {
    /// Starts of the node after which it may lack what it had sent to others before: all but those that follow a
    /// clean stop. Durable before the first write of the start.
    pub starts: u32,
    /// How often it has forgotten something of this partition while it ran. Durable together with the forgetting.
    pub forgotten: u32,
}

/// The name under which a node mints dots of a partition's keys: its id, with the generation folded into the first eight bytes.
///
/// A context names one dot of each minter and means all before it. That is true only as long as the minter still holds what it
/// minted earlier, or what superseded that. If it mints on under the same name after it has forgotten, the new write claims to have
/// seen the forgotten one, and every replica that merges the two drops a write that was acknowledged. A node forgets
///
/// - in a crash: a write may have reached others before it was durable here;
/// - when it cannot keep a write that it has minted;
/// - when it drops its copy of the partition, or becomes an owner and begins with an empty one;
/// - when it removes a hint that was delivered.
///
/// What a write supersedes, and what all replicas have collected together, is not forgotten in this sense.
/// The first generation is the node's id itself.
#[must_use]
pub fn actor(node: NodeId, generation: Generation) -> NodeId {
    let mut bytes = node.0;
    let starts = generation.starts.to_be_bytes();
    let folded = starts.into_iter().chain(generation.forgotten.to_be_bytes());
    for (byte, with) in bytes.iter_mut().zip(folded) {
        *byte ^= with;
    }
    NodeId(bytes)
}

/// The one of these nodes that minted under this name. Ids are random: their last 8 bytes tell them apart.
#[must_use]
pub fn node_of(actor: NodeId, mut nodes: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    nodes.find(|node| node.0[8..] == actor.0[8..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_names_another_actor_of_the_same_node() {
        let node = NodeId([0xa0; 16]);
        assert_eq!(actor(node, Generation::default()), node);
        let generation = Generation {
            starts: 0x0102_0304,
            forgotten: 5,
        };
        let later = actor(node, generation);
        let head = [0xa1, 0xa2, 0xa3, 0xa4, 0xa0, 0xa0, 0xa0, 0xa5, 0xa0];
        assert_eq!(later.0[..9], head);
        let nodes = [NodeId([0xb0; 16]), node];
        assert_eq!(node_of(later, nodes.into_iter()), Some(node));
        assert_eq!(node_of(NodeId([1; 16]), nodes.into_iter()), None);
    }
}
