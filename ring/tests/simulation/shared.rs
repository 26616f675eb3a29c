//! What everything in a run shares: the clock, the queue of events, chance, the network, the oracle and the trace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{Index, NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use mesh_ring::replica::{Entry, Message};

use crate::chance::Chance;
use crate::oracle::Oracle;
use crate::requests::{Answer, Request};
use crate::store::{Cmd, Store};

/// A wrong thing that the world around the cores does, to show that the checks notice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Breakage {
    /// A disk loses synced writes, and comes back as if it were whole.
    SyncedWritesLost,
    /// A node says that a write is durable when it is only queued.
    ConfirmedBeforeSync,
    /// A truncation takes all windows of producers with it.
    WindowsForgottenAtTruncation,
    /// Readers see what is not committed.
    UncommittedShown,
}

/// What happens, and to whom.
pub(crate) enum Event {
    Message {
        to: NodeId,
        from: NodeId,
        partition: PartitionId,
        message: Message<Cmd>,
    },
    Synced {
        node: NodeId,
        run: u64,
    },
    Read {
        node: NodeId,
        run: u64,
        partition: PartitionId,
        generation: u64,
        wanted: Wanted,
    },
    Tick {
        node: NodeId,
        run: u64,
    },
    Map {
        node: NodeId,
        map: Box<ClusterMap>,
    },
    Transfer {
        to: NodeId,
        from: NodeId,
        partition: PartitionId,
        export: Box<Store>,
    },
    /// All parts of a copy have come.
    Copied {
        node: NodeId,
        run: u64,
        partition: PartitionId,
        generation: u64,
    },
    /// A copy is asked for.
    Pull {
        to: NodeId,
        from: NodeId,
        partition: PartitionId,
    },
    TransferEnded {
        to: NodeId,
        from: NodeId,
        partition: PartitionId,
    },
    Request {
        to: NodeId,
        request: Request,
    },
    Start(NodeId),
    Resume(NodeId),
    /// The disk shows that it is damaged.
    Damage(NodeId),
    Propose(ControlCommand),
    ControlTick,
    Answer {
        client: usize,
        id: u64,
        answer: Answer,
    },
    Client(usize),
    Trouble,
    Heal,
}

/// What a replica wants to read for another.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) to: NodeId,
    pub(crate) epoch: mesh_ring::ids::Epoch,
    pub(crate) from: Index,
    pub(crate) bytes: usize,
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
    /// Nodes that the control plane does not reach, and that do not reach it.
    pub(crate) uncontrolled: BTreeSet<NodeId>,
    /// Ways that are slow, with what they add in microseconds.
    pub(crate) slow: BTreeMap<(NodeId, NodeId), u64>,
    pub(crate) lost_per_mille: u64,
    pub(crate) doubled_per_mille: u64,
    /// Longest ordinary way, in microseconds.
    pub(crate) delay_us: u64,
}

/// A leader's commit that is to be checked against the disks.
pub(crate) struct Claim {
    pub(crate) partition: PartitionId,
    pub(crate) entry: Entry<Cmd>,
    pub(crate) sets: Vec<Vec<NodeId>>,
}

pub(crate) struct Shared {
    pub(crate) now_us: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<Timed>>,
    pub(crate) chance: Chance,
    pub(crate) network: Network,
    pub(crate) oracle: Oracle,
    pub(crate) claims: Vec<Claim>,
    pub(crate) breakage: Option<Breakage>,
    /// Entries that a journal keeps at least.
    pub(crate) journal_kept: u64,
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
            claims: Vec::new(),
            breakage,
            journal_kept: 40,
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

    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.sequence += 1;
        let timed = Timed(self.now_us + delay_us, self.sequence, event);
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

    /// Sends something from node to node: it may be late, lost or doubled.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, event: impl Fn() -> Event) {
        if self.network.cut.contains(&(from, to)) {
            return;
        }
        let copies = match self.chance.below(1_000) {
            luck if luck < self.network.lost_per_mille => 0,
            luck if luck < self.network.lost_per_mille + self.network.doubled_per_mille => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let slow = self.network.slow.get(&(from, to)).copied().unwrap_or(0);
            let mut delay_us = slow + self.chance.between(100, self.network.delay_us);
            if self.chance.one_in(100) {
                delay_us += self.chance.below(300_000);
            }
            self.after(delay_us, event());
        }
    }

    /// Says something to the control plane.
    pub(crate) fn propose(&mut self, from: NodeId, command: &ControlCommand) {
        if self.network.uncontrolled.contains(&from) || self.chance.one_in(50) {
            return;
        }
        let copies = if self.chance.one_in(50) { 2 } else { 1 };
        for _ in 0..copies {
            let delay_us = self.chance.between(1_000, 30_000);
            self.after(delay_us, Event::Propose(command.clone()));
        }
    }
}

/// A short number for a node in traces.
pub(crate) fn short(node: NodeId) -> u64 {
    u64::from(node.0[15])
}
