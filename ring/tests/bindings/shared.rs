//! What everything in a run shares: the clock, the queue of events, chance, the network, the oracle and the trace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;

use crate::chance::Chance;
use crate::message::Message;
use crate::oracle::Oracle;
use crate::wish::Told;

pub(crate) const MILLI_US: u64 = 1_000;
pub(crate) const SECOND_US: u64 = 1_000_000;

/// A rule that is not kept, to show that the checks notice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Breakage {
    /// Nodes take states whatever their stamp.
    StampsIgnored,
    /// A repair after a read carries the stamp of its sending, not of the reads.
    RepairsStampedAnew,
    /// A round passes nodes that keep hints.
    HintsNotAsked,
    /// A round is about the replicas alone.
    ReplicasAskedAlone,
    /// A node answers a round by what it has not yet synced.
    LookedBeforeSync,
    /// A hint is removed when it is sent.
    HintsGoneWhenSent,
    /// A node mints on under its old name after a crash.
    StartsNotCounted,
    /// A node mints on under its old name after it has forgotten something.
    GenerationKept,
    /// A node that becomes an owner again wipes its old copy.
    OldCopyWiped,
    /// A node that is no owner any more drops its copy at once.
    OldCopyDropped,
    /// A stand-in's answer counts as if it were a home's.
    StandInsCountAsHomes,
}

/// What happens, and to whom.
pub(crate) enum Event {
    Message {
        to: NodeId,
        from: NodeId,
        message: Box<Message>,
    },
    Synced {
        node: NodeId,
        run: u64,
    },
    Tick {
        node: NodeId,
        run: u64,
    },
    Late {
        node: NodeId,
        run: u64,
        request: u64,
    },
    Deadline {
        node: NodeId,
        run: u64,
        request: u64,
    },
    Map {
        node: NodeId,
        map: Box<ClusterMap>,
    },
    Start(NodeId),
    Crash(NodeId),
    Client(usize),
    ControlTick,
    Trouble,
}

struct Timed(u64, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How the network is at the moment.
#[derive(Default)]
pub(crate) struct Network {
    /// Ways on which nothing gets through: from, to.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes that do not hear of new maps.
    pub(crate) uncontrolled: BTreeSet<NodeId>,
    pub(crate) lost_per_mille: u64,
    pub(crate) doubled_per_mille: u64,
    /// How many of a thousand messages are on their way for seconds.
    pub(crate) stray_per_mille: u64,
    /// Longest ordinary way, in microseconds.
    pub(crate) delay_us: u64,
}

pub(crate) struct Shared {
    pub(crate) now_us: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<Timed>>,
    pub(crate) chance: Chance,
    pub(crate) network: Network,
    pub(crate) oracle: Oracle,
    /// What clients are told at this moment.
    pub(crate) told: Vec<Told>,
    pub(crate) proposals: Vec<ControlCommand>,
    pub(crate) breakage: Option<Breakage>,
    /// There is trouble still.
    pub(crate) is_troubled: bool,
    /// Nodes whose process runs: what gossip knows at best.
    pub(crate) running: BTreeSet<NodeId>,
    hash: u64,
    pub(crate) traced: bool,
    /// How often each kind of thing happened that a good run has.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Shared {
    pub(crate) fn new(seed: u64, breakage: Option<Breakage>, traced: bool) -> Self {
        Self {
            now_us: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            chance: Chance::new(seed),
            network: Network::default(),
            oracle: Oracle::default(),
            told: Vec::new(),
            proposals: Vec::new(),
            breakage,
            is_troubled: true,
            running: BTreeSet::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            traced,
            counts: BTreeMap::new(),
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn is_broken(&self, breakage: Breakage) -> bool {
        self.breakage == Some(breakage)
    }

    /// A number that nothing else in this run has.
    pub(crate) fn unique(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        let timed = Timed(self.now_us + delay_us, self.unique(), event);
        self.queue.push(Reverse(timed));
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(Timed(at_us, _, event)) = self.queue.pop()?;
        self.now_us = at_us;
        Some(event)
    }

    /// Adds to the hash of the run; a run that is traced says what happens.
    pub(crate) fn trace(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        for number in [self.now_us].iter().chain(numbers) {
            // FNV-1a, by words.
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
        if self.traced {
            println!("{:>10} {}", self.now_us, text());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether `from` takes `to` for alive: mostly as it is, as gossip does.
    pub(crate) fn seems_live(&mut self, from: NodeId, to: NodeId) -> bool {
        let cut = &self.network.cut;
        let reached = !cut.contains(&(from, to)) && !cut.contains(&(to, from));
        let is_live = self.running.contains(&to) && reached;
        is_live != self.chance.per_mille(20)
    }

    /// Sends something from node to node: it may be late, lost or doubled.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let run = short(to);
        self.trace(&[1, short(from), run, message.kind()], || {
            format!("n{} → n{run}: {message:?}", short(from))
        });
        if from == to {
            let message = Box::new(message.clone());
            self.after(0, Event::Message { to, from, message });
            return;
        }
        if self.network.cut.contains(&(from, to)) {
            return;
        }
        let copies = match self.chance.below(1_000) {
            luck if luck < self.network.lost_per_mille => 0,
            luck if luck < self.network.lost_per_mille + self.network.doubled_per_mille => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let mut delay_us = self.chance.between(100, self.network.delay_us);
            if self.chance.per_mille(self.network.stray_per_mille) {
                delay_us += self.chance.below(6 * SECOND_US);
                self.count("stray messages");
            }
            let message = Box::new(message.clone());
            self.after(delay_us, Event::Message { to, from, message });
        }
    }
}

/// A node's number.
pub(crate) fn short(node: NodeId) -> u64 {
    u64::from(u16::from_be_bytes([node.0[14], node.0[15]]))
}
