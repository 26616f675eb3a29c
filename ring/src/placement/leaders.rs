//! Which of its replicas should lead each partition: balanced, and as little changed as possible.

use super::flow::Network;

/// A node that could lead a partition, and what it costs that it does: 0 if it should already.
pub(super) struct Candidate {
    /// Its position among all nodes.
    pub(super) node: usize,
    pub(super) cost: i32,
}

/// Chooses one of each partition's candidates. The nodes lead alike many, to within one, as far as the candidates
/// allow; of all such ways, it is one of least cost. A partition without candidates gets none.
pub(super) fn choose(nodes: usize, candidates: &[Vec<Candidate>]) -> Vec<Option<usize>> {
    let partitions = candidates.iter().filter(|of| !of.is_empty()).count();
    let (source, sink, node_at) = (0, 1, 2 + candidates.len());
    let mut network = Network::new(node_at + nodes);
    let mut choices = Vec::new();
    for (partition, candidates) in candidates.iter().enumerate() {
        network.edge(source, 2 + partition, 1, 0);
        for candidate in candidates {
            let edge = network.edge(2 + partition, node_at + candidate.node, 1, candidate.cost);
            choices.push((partition, candidate.node, edge));
        }
    }
    let least = partitions / nodes.max(1);
    let doors: Vec<usize> = (0..nodes)
        .map(|node| network.edge(node_at + node, sink, least as u32, 0))
        .collect();
    let mut led = network.fill(source, sink);
    // Everybody has the least; the rest is given out one each at a time.
    while (led as usize) < partitions {
        for door in &doors {
            network.widen(*door, 1);
        }
        led += network.fill(source, sink);
    }
    let mut chosen = vec![None; candidates.len()];
    for (partition, node, edge) in choices {
        if network.flow(edge) == 1 {
            chosen[partition] = Some(node);
        }
    }
    chosen
}
