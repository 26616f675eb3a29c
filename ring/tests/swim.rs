//! Gossip in a simulated network: how fast a death is found, and that nobody who lives is taken for dead.
//!
//! Time is virtual, and everything random comes from one seed that a failure prints.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_ring::ids::NodeId;
use mesh_ring::swim::{Contact, DATAGRAM_BYTES_MAX, Effect, Input, Swim, Tuning};

/// Microseconds, so that many datagrams fit in order into one millisecond.
type Micros = u64;

const MS: Micros = 1000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[derive(Debug)]
enum Event {
    Datagram(Bytes),
    Wake,
}

struct Node {
    swim: Option<Swim>,
    boot: u32,
    /// It stands still until then.
    paused_until: Micros,
}

/// What a node has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Found {
    at: Micros,
    by: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    Up(usize),
    Down(usize),
    Restarted(usize, u32),
}

struct World {
    now: Micros,
    order: u64,
    events: BTreeMap<(Micros, u64), (usize, Event)>,
    nodes: Vec<Node>,
    random: Random,
    loss_percent: u64,
    /// Datagrams between the first so many nodes and the others are lost.
    split_at: Option<usize>,
    found: Vec<Found>,
    sent: u64,
    /// Nodes may be heard of that do not exist.
    garbled: bool,
}

fn id(at: usize) -> NodeId {
    let mut id = [7; 16];
    id[..2].copy_from_slice(&(at as u16).to_be_bytes());
    NodeId(id)
}

fn index(node: NodeId) -> usize {
    usize::from(u16::from_be_bytes([node.0[0], node.0[1]]))
}

fn contact(at: usize) -> Contact {
    Contact {
        node: id(at),
        address: format!("node-{at}.mesh.example:7400"),
    }
}

impl World {
    fn new(nodes: usize, seed: u64) -> Self {
        let mut world = Self {
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            nodes: Vec::new(),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            loss_percent: 0,
            split_at: None,
            found: Vec::new(),
            sent: 0,
            garbled: false,
        };
        for _ in 0..nodes {
            world.nodes.push(Node {
                swim: None,
                boot: 0,
                paused_until: 0,
            });
        }
        for at in 0..nodes {
            world.start(at);
        }
        world
    }

    fn start(&mut self, at: usize) {
        let seed = self.random.next();
        let node = &mut self.nodes[at];
        node.boot += 1;
        node.swim = Some(Swim::new(
            self.now / MS,
            &contact(at),
            node.boot,
            seed,
            Tuning::default(),
        ));
        let contacts = (0..self.nodes.len()).map(contact).collect();
        self.step(at, Input::Contacts(contacts));
    }

    fn kill(&mut self, at: usize) {
        self.nodes[at].swim = None;
    }

    fn pause(&mut self, at: usize, time: Micros) {
        self.nodes[at].paused_until = self.now + time;
    }

    fn step(&mut self, at: usize, input: Input<'_>) {
        let Some(swim) = self.nodes[at].swim.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        swim.step(self.now / MS, input, &mut effects).unwrap();
        if let Some(wake) = swim.wakes_at() {
            // A timer is a little late, and never early.
            let late = self.random.below(2 * MS);
            self.schedule((wake * MS).max(self.now) + late, at, Event::Wake);
        }
        for effect in effects {
            self.carry_out(at, effect);
        }
    }

    fn carry_out(&mut self, by: usize, effect: Effect) {
        let what = match effect {
            Effect::Send {
                to,
                address,
                datagram,
            } => {
                assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
                let (node, to) = (to, index(to));
                if self.garbled && (node != id(to) || to >= self.nodes.len()) {
                    return;
                }
                assert!(self.garbled || address == contact(to).address);
                self.sent += 1;
                let split = self.split_at.is_some_and(|at| (by < at) != (to < at));
                if !split && self.random.below(100) >= self.loss_percent {
                    // Mostly a fifth of a millisecond, now and then ten.
                    let slow = self.random.below(20) == 0;
                    let spread = if slow { 10 * MS } else { MS / 5 };
                    let delay = MS / 10 + self.random.below(spread);
                    self.schedule(self.now + delay, to, Event::Datagram(datagram));
                }
                return;
            }
            Effect::Up { node, .. } => What::Up(index(node)),
            Effect::Down { node } => What::Down(index(node)),
            Effect::Restarted { node, boot } => What::Restarted(index(node), boot),
        };
        let at = self.now;
        self.found.push(Found { at, by, what });
    }

    fn schedule(&mut self, at: Micros, node: usize, event: Event) {
        self.order += 1;
        self.events.insert((at, self.order), (node, event));
    }

    fn run_until(&mut self, end: Micros) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), (node, event)) = entry.remove_entry();
            self.now = at;
            let resumes = self.nodes[node].paused_until;
            if resumes > at {
                // After a pause, timers are looked at before the datagrams that wait: the worst case.
                let after = u64::from(matches!(event, Event::Datagram(_)));
                self.schedule(resumes + after, node, event);
                continue;
            }
            match event {
                Event::Datagram(bytes) => self.step(node, Input::Datagram(&bytes)),
                Event::Wake => {
                    let wakes = self.nodes[node].swim.as_ref().and_then(Swim::wakes_at);
                    if wakes.is_some_and(|due| due * MS <= at) {
                        self.step(node, Input::Timer);
                    }
                }
            }
        }
        self.now = end;
    }

    fn run_for(&mut self, time: Micros) {
        self.run_until(self.now + time);
    }

    /// Whether every running node says exactly this of all others that run or ran.
    fn agree(&self) -> bool {
        let runs = |at: usize| self.nodes[at].swim.is_some();
        let right = |(at, node): (usize, &Node)| {
            let Some(swim) = &node.swim else { return true };
            let lives: BTreeMap<usize, bool> = swim
                .lives()
                .map(|(node, alive)| (index(node), alive))
                .collect();
            (0..self.nodes.len())
                .filter(|other| *other != at)
                .all(|other| lives.get(&other).copied().unwrap_or(false) == runs(other))
        };
        self.nodes.iter().enumerate().all(right)
    }

    fn run_until_agreed(&mut self, within: Micros) -> Micros {
        let (start, end) = (self.now, self.now + within);
        while !self.agree() {
            assert!(self.now < end, "no agreement after {within} µs");
            self.run_for(10 * MS);
        }
        self.now - start
    }

    fn deaths(&self) -> Vec<Found> {
        let downs = self
            .found
            .iter()
            .filter(|f| matches!(f.what, What::Down(_)));
        downs.copied().collect()
    }
}

/// How long it takes until the first survivor, and until every one of them, has found the death of a node.
fn detection(nodes: usize, loss_percent: u64, seed: u64) -> (Micros, Micros) {
    let mut world = World::new(nodes, seed);
    world.loss_percent = loss_percent;
    world.run_until_agreed(10_000 * MS);
    let rest = world.random.below(1000 * MS);
    world.run_for(2000 * MS + rest);
    assert_eq!(world.deaths(), [], "seed {seed}");
    let victim = world.random.below(nodes as u64) as usize;
    let killed = world.now;
    world.kill(victim);
    let mut heard = vec![victim];
    while heard.len() < nodes {
        world.run_for(5 * MS);
        assert!(world.now < killed + 10_000 * MS, "seed {seed}: not found");
        for found in world.deaths() {
            assert_eq!(found.what, What::Down(victim), "seed {seed}");
            if !heard.contains(&found.by) {
                heard.push(found.by);
            }
        }
    }
    let times: Vec<Micros> = world
        .deaths()
        .iter()
        .map(|found| found.at - killed)
        .collect();
    (
        times.iter().copied().min().unwrap(),
        times.iter().copied().max().unwrap(),
    )
}

/// Median, 99th percentile and largest, in milliseconds.
fn spread(mut times: Vec<Micros>) -> (u64, u64, u64) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100] / MS;
    (at(50), at(99), at(100))
}

fn measure(nodes: usize, loss_percent: u64, runs: u64) -> [(u64, u64, u64); 2] {
    let times = (1..=runs).map(|seed| detection(nodes, loss_percent, seed));
    let (first, all): (Vec<Micros>, Vec<Micros>) = times.unzip();
    let (first, all) = (spread(first), spread(all));
    println!(
        "{nodes} nodes, {loss_percent} % loss, {runs} deaths (p50, p99, max ms): first {first:?}, all {all:?}"
    );
    [first, all]
}

#[test]
fn a_death_is_found_within_700_ms() {
    for nodes in [3, 5] {
        let [_, all] = measure(nodes, 0, 400);
        assert!(all.2 < 700, "{all:?}");
        let [_, all] = measure(nodes, 5, 200);
        assert!(all.1 < 700, "{all:?}");
    }
    let [first, all] = measure(100, 0, 12);
    assert!(first.2 < 700 && all.2 < 700, "{first:?} {all:?}");
}

#[test]
fn a_node_that_is_always_late_finds_a_death_too() {
    for late_ms in [10, 51, 60, 100, 500] {
        let mut world = World::new(2, late_ms);
        world.run_until_agreed(10_000 * MS);
        world.kill(1);
        let mut swim = world.nodes[0].swim.take().unwrap();
        let (start, mut now) = (world.now / MS, world.now / MS);
        let mut effects = Vec::new();
        while !effects.contains(&Effect::Down { node: id(1) }) {
            now = now.max(swim.wakes_at().unwrap()) + late_ms;
            assert!(now < start + 30_000, "late by {late_ms} ms: not found");
            swim.step(now, Input::Timer, &mut effects).unwrap();
        }
        println!(
            "always late by {late_ms} ms: found after {} ms",
            now - start
        );
    }
}

#[test]
fn nobody_who_stands_still_for_a_quarter_of_a_second_is_taken_for_dead() {
    for (nodes, seconds, seeds) in [(3, 120, 1..=6), (5, 60, 1..=6), (100, 10, 1..=2)] {
        for seed in seeds {
            let mut world = World::new(nodes, seed);
            world.loss_percent = 5;
            world.run_until_agreed(20_000 * MS);
            let end = world.now + seconds * 1000 * MS;
            while world.now < end {
                let (node, all) = (world.random.below(nodes as u64), world.random.below(8));
                let time = world.random.below(250 * MS);
                // Now and then the whole machine, with all nodes on it.
                let paused = if all == 0 {
                    0..nodes
                } else {
                    node as usize..node as usize + 1
                };
                for node in paused {
                    world.pause(node, time);
                }
                let rest = 300 * MS + world.random.below(700 * MS);
                world.run_for(time + rest);
            }
            assert_eq!(world.deaths(), [], "{nodes} nodes, seed {seed}");
        }
    }
}

#[test]
fn a_restart_replaces_the_earlier_start_at_once() {
    for seed in 1..=20 {
        let mut world = World::new(5, seed);
        world.run_until_agreed(5000 * MS);
        world.found.clear();
        world.kill(2);
        world.run_for(30 * MS);
        world.start(2);
        world.run_for(200 * MS);
        let told = |by| {
            let of = |found: &&Found| found.by == by && found.what == What::Restarted(2, 2);
            world.found.iter().filter(of).count()
        };
        assert_eq!(
            [0, 1, 3, 4].map(told),
            [1; 4],
            "seed {seed}: {:?}",
            world.found
        );
        assert_eq!(world.deaths(), [], "seed {seed}");
        world.run_for(3000 * MS);
        assert!(world.agree(), "seed {seed}");
    }
}

#[test]
fn a_node_that_stood_still_for_long_comes_back_by_itself() {
    for seed in 1..=20 {
        let mut world = World::new(3, seed);
        world.run_until_agreed(5000 * MS);
        world.pause(1, 5000 * MS);
        world.run_for(4900 * MS);
        let deaths = world.deaths();
        assert_eq!(deaths.len(), 2, "seed {seed}");
        assert!(deaths.iter().all(|found| found.what == What::Down(1)));
        world.run_for(200 * MS);
        let back = world.run_until_agreed(2000 * MS);
        assert!(back < 1500 * MS, "seed {seed}: back after {back} µs");
    }
}

#[test]
fn both_sides_of_a_split_find_each_other_again() {
    for seed in 1..=20 {
        let mut world = World::new(6, seed);
        world.run_until_agreed(5000 * MS);
        world.split_at = Some(1 + seed as usize % 5);
        world.run_for(5000 * MS);
        assert!(!world.agree());
        world.split_at = None;
        let back = world.run_until_agreed(10_000 * MS);
        assert!(back < 5000 * MS, "seed {seed}: back after {back} µs");
    }
}

#[test]
fn a_node_that_leaves_is_dead_at_once() {
    for seed in 1..=20 {
        let mut world = World::new(4, seed);
        world.run_until_agreed(5000 * MS);
        world.step(0, Input::Leave);
        world.run_for(100 * MS);
        assert_eq!(world.deaths().len(), 3, "seed {seed}");
        assert_eq!(world.nodes[0].swim.as_ref().unwrap().wakes_at(), None);
        world.kill(0);
        world.run_for(2000 * MS);
        assert!(world.agree(), "seed {seed}");
    }
}

#[test]
fn an_idle_cluster_says_little() {
    let mut world = World::new(3, 1);
    world.run_until_agreed(5000 * MS);
    world.run_for(5000 * MS);
    world.sent = 0;
    world.run_for(10_000 * MS);
    // Ten questions and ten answers a second from each of three nodes.
    // From each of three nodes, 13 questions and 13 answers a second.
    assert!((700..=850).contains(&world.sent), "{}", world.sent);
}

#[test]
fn the_same_seed_runs_the_same_way() {
    let trace = |seed| {
        let mut world = World::new(5, seed);
        world.loss_percent = 20;
        world.run_for(5000 * MS);
        world.kill(3);
        world.run_for(5000 * MS);
        (world.found, world.sent)
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn what_is_no_gossip_is_refused_and_changes_nothing() {
    let mut random = Random(99);
    let mut swim = Swim::new(0, &contact(0), 1, 5, Tuning::default());
    let mut effects = Vec::new();
    for length in 0..2 * DATAGRAM_BYTES_MAX {
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        assert!(swim.step(1, Input::Datagram(&bytes), &mut effects).is_err());
    }
    assert_eq!((effects, swim.lives().count()), (vec![], 0));
}

#[test]
fn garbled_gossip_does_no_harm() {
    for seed in 1..=5 {
        let mut world = World::new(3, seed);
        world.run_until_agreed(5000 * MS);
        world.garbled = true;
        for _ in 0..3000 {
            world.run_for(MS);
            let waiting = world
                .events
                .values_mut()
                .find_map(|(_, event)| match event {
                    Event::Datagram(bytes) => Some(bytes),
                    Event::Wake => None,
                });
            if let Some(datagram) = waiting {
                let mut bytes = datagram.to_vec();
                let at = world.random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << world.random.below(8);
                let mut effects = Vec::new();
                let swim = world.nodes[0].swim.as_mut().unwrap();
                // Refused or, where only a name or number was hit, believed: never a panic.
                let _ = swim.step(world.now / MS, Input::Datagram(&bytes), &mut effects);
            }
        }
    }
}
