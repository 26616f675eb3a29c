//! The cheapest largest flow through a network, by successive shortest paths (Ford and Fulkerson; Busacker and Gowen),
//! many paths of one length at a time, as Dinic does it.

use std::collections::VecDeque;

/// A network of nodes, numbered from 0, and directed edges with room and a cost for each unit.
pub(super) struct Network {
    edges: Vec<Edge>,
    /// The edges that leave each node; edge `e ^ 1` is the reverse of edge `e`.
    leaving: Vec<Vec<u32>>,
}

struct Edge {
    to: u32,
    room: u32,
    cost: i32,
}

const FAR: i32 = i32::MAX;

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            edges: Vec::new(),
            leaving: vec![Vec::new(); nodes],
        }
    }

    /// Adds a node.
    pub(super) fn node(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// Adds an edge that at first has no flow, and tells its number.
    pub(super) fn edge(&mut self, from: usize, to: usize, room: u32, cost: i32) -> usize {
        let edge = self.edges.len();
        for (from, to, room, cost) in [(from, to, room, cost), (to, from, 0, -cost)] {
            self.leaving[from].push(self.edges.len() as u32);
            self.edges.push(Edge {
                to: to as u32,
                room,
                cost,
            });
        }
        edge
    }

    /// Makes room on an edge.
    pub(super) fn widen(&mut self, edge: usize, room: u32) {
        self.edges[edge].room += room;
    }

    /// What flows over an edge.
    pub(super) fn flow(&self, edge: usize) -> u32 {
        self.edges[edge ^ 1].room
    }

    /// Lets as much more flow as there is room for, the cheapest way, and tells how much more.
    ///
    /// Room that was made on edges to the sink since the last call does not take flow away from another such edge.
    pub(super) fn fill(&mut self, source: usize, sink: usize) -> u32 {
        let mut total = 0;
        loop {
            let distance = self.distances(source, sink);
            if distance[sink] == FAR {
                return total;
            }
            total += self.fill_shortest(source, sink, &distance);
        }
    }

    /// What the cheapest way from the source costs. No way leads through the sink.
    fn distances(&self, source: usize, sink: usize) -> Vec<i32> {
        let mut distance = vec![FAR; self.leaving.len()];
        let mut waiting = vec![false; self.leaving.len()];
        let mut queue = VecDeque::from([source]);
        distance[source] = 0;
        while let Some(node) = queue.pop_front() {
            waiting[node] = false;
            if node == sink {
                continue;
            }
            for &edge in &self.leaving[node] {
                let Edge { to, room, cost } = self.edges[edge as usize];
                let to = to as usize;
                if room > 0 && distance[node] + cost < distance[to] {
                    distance[to] = distance[node] + cost;
                    if !waiting[to] {
                        waiting[to] = true;
                        queue.push_back(to);
                    }
                }
            }
        }
        distance
    }

    /// Fills ways of the shortest length, at least one, by depth-first search without recursion: a way may be long.
    fn fill_shortest(&mut self, source: usize, sink: usize, distance: &[i32]) -> u32 {
        let mut next = vec![0; self.leaving.len()];
        let mut on_way = vec![false; self.leaving.len()];
        let mut way: Vec<usize> = Vec::new();
        let mut node = source;
        let mut total = 0;
        on_way[source] = true;
        loop {
            if node == sink {
                total += self.push(&way);
                for edge in way.drain(..) {
                    on_way[self.edges[edge].to as usize] = false;
                }
                node = source;
            }
            match self.leaving[node].get(next[node]) {
                Some(&edge) => {
                    let edge = edge as usize;
                    let Edge { to, room, cost } = self.edges[edge];
                    let to = to as usize;
                    if room > 0
                        && !on_way[to]
                        && distance[to] == distance[node].saturating_add(cost)
                    {
                        way.push(edge);
                        on_way[to] = true;
                        node = to;
                    } else {
                        next[node] += 1;
                    }
                }
                None => {
                    let Some(edge) = way.pop() else { return total };
                    on_way[node] = false;
                    node = self.edges[edge ^ 1].to as usize;
                    next[node] += 1;
                }
            }
        }
    }

    fn push(&mut self, way: &[usize]) -> u32 {
        let room = way.iter().map(|edge| self.edges[*edge].room).min();
        let room = room.unwrap_or(0);
        for edge in way {
            self.edges[*edge].room -= room;
            self.edges[*edge ^ 1].room += room;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cheapest_flow_takes_back_what_was_in_its_way() {
        // 0 → {1, 2} → {3, 4} → 5. Node 1 goes to 3 for nothing, but so does only node 2.
        let mut network = Network::new(6);
        for node in [1, 2] {
            network.edge(0, node, 1, 0);
        }
        let kept = network.edge(1, 3, 1, 0);
        let other = network.edge(1, 4, 1, 5);
        let only = network.edge(2, 3, 1, 1);
        for node in [3, 4] {
            network.edge(node, 5, 1, 0);
        }
        assert_eq!(network.fill(0, 5), 2);
        assert_eq!(
            [kept, other, only].map(|edge| network.flow(edge)),
            [0, 1, 1]
        );
    }

    proptest! {
        /// Two rows of three nodes: every way of choosing among their nine edges is tried.
        #[test]
        fn no_other_flow_is_larger_or_as_large_and_cheaper(
            costs: [u8; 9],
            there: [bool; 9],
            supply in prop::array::uniform3(0u32..3),
            room in prop::array::uniform3(0u32..3),
        ) {
            let (source, sink) = (0, 1);
            let mut network = Network::new(8);
            for at in 0..3 {
                network.edge(source, 2 + at, supply[at], 0);
                network.edge(5 + at, sink, room[at], 0);
            }
            let edges: Vec<usize> = (0..9)
                .map(|at| network.edge(2 + at / 3, 5 + at % 3, u32::from(there[at]), costs[at].into()))
                .collect();
            let flow = network.fill(source, sink);
            let used = edges.iter().zip(costs).filter(|(edge, _)| network.flow(**edge) == 1);
            let cost: u32 = used.map(|(_, cost)| u32::from(cost)).sum();

            let best = (0..1u32 << 9).filter_map(|choice| {
                let chosen: Vec<usize> = (0..9).filter(|at| choice >> at & 1 == 1).collect();
                let row = |row| chosen.iter().filter(|at| **at / 3 == row).count() as u32;
                let column = |column| chosen.iter().filter(|at| **at % 3 == column).count() as u32;
                let fits = chosen.iter().all(|at| there[*at])
                    && (0..3).all(|at| row(at) <= supply[at] && column(at) <= room[at]);
                let cost: u32 = chosen.iter().map(|at| u32::from(costs[*at])).sum();
                fits.then_some((u32::MAX - chosen.len() as u32, cost))
            });
            prop_assert_eq!(Some((u32::MAX - flow, cost)), best.min());
        }
    }

    #[test]
    fn room_made_later_is_used() {
        let mut network = Network::new(3);
        network.edge(0, 1, 5, 0);
        let out = network.edge(1, 2, 2, 1);
        assert_eq!(network.fill(0, 2), 2);
        network.widen(out, 10);
        assert_eq!((network.fill(0, 2), network.flow(out)), (3, 5));
    }
}
