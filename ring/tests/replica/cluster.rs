//! Replicas on simple disks, and a network that delivers in order when told to.

use std::collections::{BTreeMap, VecDeque};

use mesh_ring::ids::{Epoch, Index, NodeId};
use mesh_ring::replica::{
    Activation, Config, Durable, Effect, Entry, Input, Limits, Message, Payload, Position, Replica,
    Report, Role, Weigh,
};

/// A command of ten bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Command(pub(crate) u64);

impl Weigh for Command {
    fn bytes(&self) -> usize {
        10
    }
}

/// What an entry with a [`Command`] weighs.
pub(crate) fn entry_bytes() -> usize {
    entry(1, 1, Some(1)).bytes()
}

pub(crate) const fn node(of: u8) -> NodeId {
    NodeId([of; 16])
}

pub(crate) fn nodes(of: &[u8]) -> Vec<NodeId> {
    of.iter().map(|of| node(*of)).collect()
}

pub(crate) const fn at(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

/// An entry; a barrier without a command.
pub(crate) fn entry(epoch: u64, index: u64, command: Option<u64>) -> Entry<Command> {
    Entry {
        epoch: Epoch(epoch),
        index: Index(index),
        payload: command.map_or(Payload::Barrier, |id| Payload::Command(Command(id))),
    }
}

/// A journal: for each epoch how many entries, the first a barrier and the others commands numbered by their index.
pub(crate) fn journal(epochs: &[(u64, u64)]) -> Vec<Entry<Command>> {
    let mut entries = Vec::new();
    for (epoch, count) in epochs {
        for at in 0..*count {
            let index = entries.len() as u64 + 1;
            entries.push(entry(*epoch, index, (at > 0).then_some(index)));
        }
    }
    entries
}

/// What the map says: the first replica leads, and an earlier epoch 0 of the same replicas is activated.
pub(crate) fn config(epoch: u64, replicas: &[u8]) -> Config {
    Config {
        epoch: Epoch(epoch),
        leader: node(replicas[0]),
        replicas: nodes(replicas),
        learners: Vec::new(),
        activated: Activation {
            epoch: Epoch(0),
            replicas: nodes(replicas),
        },
    }
}

pub(crate) fn activated(mut config: Config) -> Config {
    config.activated = Activation {
        epoch: config.epoch,
        replicas: config.replicas.clone(),
    };
    config
}

pub(crate) type Effects = Vec<Effect<Command>>;

/// The messages among `effects`, and whom they are for.
pub(crate) fn sent(effects: &Effects) -> Vec<(NodeId, &Message<Command>)> {
    let messages = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message, .. } => Some((*to, message)),
        _ => None,
    });
    messages.collect()
}

/// One replica and its disk. Writes wait until they are synced.
pub(crate) struct Machine {
    pub(crate) replica: Replica<Command>,
    pub(crate) now_ms: u64,
    me: NodeId,
    limits: Limits,
    durable: Durable,
    /// What is on the disk, from index 1 on.
    pub(crate) disk: Vec<Entry<Command>>,
    writes: VecDeque<Effect<Command>>,
    pub(crate) reports: Vec<Report>,
    pub(crate) behind: Vec<NodeId>,
    pub(crate) applied: Index,
}

impl Machine {
    pub(crate) fn new(me: u8, disk: Vec<Entry<Command>>, durable: Durable, limits: Limits) -> Self {
        let mut machine = Self {
            replica: Replica::new(node(me), &Durable::empty(1), limits.clone()),
            now_ms: 1_000,
            me: node(me),
            limits,
            durable,
            disk,
            writes: VecDeque::new(),
            reports: Vec::new(),
            behind: Vec::new(),
            applied: Index(0),
        };
        machine.replica = Replica::new(machine.me, &machine.durable(), machine.limits.clone());
        machine
    }

    pub(crate) fn empty(me: u8) -> Self {
        Self::new(me, Vec::new(), Durable::empty(1), Limits::default())
    }

    /// With a journal of which all up to `commit` is known to be committed, promised as far as it goes.
    pub(crate) fn with_journal(me: u8, epochs: &[(u64, u64)], commit: u64) -> Self {
        let durable = Durable {
            commit: Index(commit),
            promised: Epoch(epochs.last().map_or(0, |(epoch, _)| *epoch)),
            ..Durable::empty(1)
        };
        Self::new(me, journal(epochs), durable, Limits::default())
    }

    /// What a restart would find.
    pub(crate) fn durable(&self) -> Durable {
        let mut epochs: Vec<(Epoch, Index)> = Vec::new();
        for entry in &self.disk {
            if epochs.last().is_none_or(|(epoch, _)| *epoch < entry.epoch) {
                epochs.push((entry.epoch, entry.index));
            }
        }
        Durable {
            last: self.disk.last().map_or(Position::ZERO, Entry::position),
            epochs,
            ..self.durable.clone()
        }
    }

    pub(crate) fn step(&mut self, input: Input<Command>) -> Effects {
        let mut out = Vec::new();
        self.replica.step(self.now_ms, input, &mut out);
        self.keep(&out);
        out
    }

    pub(crate) fn flush(&mut self) -> Effects {
        let mut out = Vec::new();
        self.replica.flush(self.now_ms, &mut out);
        self.keep(&out);
        out
    }

    pub(crate) fn hear(&mut self, from: u8, message: Message<Command>) -> Effects {
        let from = node(from);
        self.step(Input::Received { from, message })
    }

    pub(crate) fn configure(&mut self, config: &Config) -> Effects {
        self.step(Input::Configure(config.clone()))
    }

    pub(crate) fn propose(&mut self, commands: impl IntoIterator<Item = u64>) -> (Index, Effects) {
        let mut out = Vec::new();
        let commands = commands.into_iter().map(Command).collect();
        let first = self
            .replica
            .propose(self.now_ms, commands, &mut out)
            .unwrap();
        self.keep(&out);
        (first, out)
    }

    pub(crate) fn tick_after(&mut self, ms: u64) -> Effects {
        self.now_ms += ms;
        self.step(Input::Tick)
    }

    fn keep(&mut self, out: &Effects) {
        for effect in out {
            match effect {
                Effect::Persist { .. } => self.writes.push_back(effect.clone()),
                Effect::Report(report) => self.reports.push(report.clone()),
                Effect::Behind { node } => self.behind.push(*node),
                _ => (),
            }
        }
    }

    /// Syncs everything that waits.
    pub(crate) fn sync(&mut self) -> Effects {
        let mut last = None;
        while let Some(write) = self.writes.pop_front() {
            let Effect::Persist {
                ticket,
                promise,
                suspect,
                truncate,
                entries,
            } = write
            else {
                continue;
            };
            self.durable.promised = promise.unwrap_or(self.durable.promised);
            self.durable.suspect = suspect.unwrap_or(self.durable.suspect);
            self.durable.commit = self.replica.commit();
            if let Some(from) = truncate {
                self.disk.retain(|entry| entry.index < from);
            }
            self.disk.extend(entries);
            last = Some(ticket);
        }
        last.map_or_else(Vec::new, |ticket| self.step(Input::Persisted(ticket)))
    }

    pub(crate) fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Carries out what waits for the machine itself: applies, and reads what was asked for.
    pub(crate) fn serve(&mut self, effects: &Effects) -> Effects {
        let mut out = Vec::new();
        for effect in effects {
            match effect {
                Effect::Commit(index) => {
                    self.applied = *index;
                    out.extend(self.step(Input::Applied(*index)));
                }
                Effect::Read {
                    to,
                    epoch,
                    from,
                    bytes,
                } => out.extend(self.read(*to, *epoch, *from, *bytes)),
                _ => (),
            }
        }
        out
    }

    fn read(&mut self, to: NodeId, epoch: Epoch, from: Index, bytes: usize) -> Effects {
        let mut room = bytes;
        let mut entries = Vec::new();
        for entry in self.disk.iter().filter(|entry| entry.index >= from) {
            if !entries.is_empty() && entry.bytes() > room {
                break;
            }
            room = room.saturating_sub(entry.bytes());
            entries.push(entry.clone());
        }
        self.step(if entries.is_empty() {
            Input::ReadFailed { to, epoch }
        } else {
            Input::Read { to, epoch, entries }
        })
    }

    /// The node dies, and starts again with what was synced.
    pub(crate) fn restart(&mut self) {
        self.writes.clear();
        self.reports.clear();
        self.durable.boot += 1;
        self.replica = Replica::new(self.me, &self.durable(), self.limits.clone());
    }

    /// As [`Machine::restart`], after the disk lost everything from `from` on, and all promises.
    pub(crate) fn restart_damaged(&mut self, from: u64) {
        self.disk.retain(|entry| entry.index < Index(from));
        let last = self.disk.last().map_or(Position::ZERO, Entry::position);
        self.durable.promised = last.epoch;
        self.durable.commit = self.durable.commit.min(last.index);
        self.durable.suspect = true;
        self.restart();
    }
}

/// Several machines, and what is on its way between them.
pub(crate) struct Cluster {
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    pub(crate) under_way: VecDeque<(NodeId, NodeId, Message<Command>)>,
    /// Nodes that no message reaches or leaves.
    pub(crate) cut: Vec<NodeId>,
    pub(crate) delivered: usize,
}

impl Cluster {
    pub(crate) fn new(machines: impl IntoIterator<Item = Machine>) -> Self {
        Self {
            machines: machines
                .into_iter()
                .map(|machine| (machine.me, machine))
                .collect(),
            under_way: VecDeque::new(),
            cut: Vec::new(),
            delivered: 0,
        }
    }

    /// Machines 0, 1 … with empty disks, of which 0 leads in epoch 1.
    pub(crate) fn serving(count: u8) -> Self {
        let all: Vec<_> = (0..count).collect();
        let mut cluster = Self::new((0..count).map(Machine::empty));
        cluster.lead(&config(1, &all));
        cluster
    }

    pub(crate) fn at(&mut self, of: u8) -> &mut Machine {
        self.machines.get_mut(&node(of)).unwrap()
    }

    /// Tells everyone of a config, and of its activation when it is reported; then everything comes to rest.
    pub(crate) fn lead(&mut self, config: &Config) {
        self.configure(config);
        let leader = &self.machines[&config.leader];
        assert!(
            leader.reports.contains(&Report::Activated(config.epoch)),
            "{:?}: {:?}",
            leader.replica.role(),
            leader.reports
        );
        self.configure(&activated(config.clone()));
        let leader = &self.machines[&config.leader];
        assert_eq!(leader.replica.role(), Role::Leading(config.epoch));
    }

    pub(crate) fn configure(&mut self, config: &Config) {
        for of in self.machines.keys().copied().collect::<Vec<_>>() {
            self.act(of, |machine| machine.configure(config));
        }
        self.run();
    }

    pub(crate) fn propose(&mut self, of: u8, commands: impl IntoIterator<Item = u64>) -> Index {
        let mut first = Index(0);
        self.act(node(of), |machine| {
            let (index, out) = machine.propose(commands);
            first = index;
            out
        });
        first
    }

    /// Does something with a machine, and takes the messages that come of it.
    pub(crate) fn act(&mut self, of: NodeId, act: impl FnOnce(&mut Machine) -> Effects) {
        let machine = self.machines.get_mut(&of).unwrap();
        let mut out = act(machine);
        while !out.is_empty() {
            let messages = sent(&out);
            let messages = messages
                .into_iter()
                .map(|(to, message)| (of, to, message.clone()));
            self.under_way.extend(messages);
            out = machine.serve(&out);
        }
    }

    /// Delivers and syncs until nothing is under way.
    pub(crate) fn run(&mut self) {
        loop {
            for of in self.machines.keys().copied().collect::<Vec<_>>() {
                self.act(of, Machine::sync);
                self.act(of, Machine::flush);
            }
            let Some((from, to, message)) = self.under_way.pop_front() else {
                if self.machines.values().all(|machine| machine.writes() == 0) {
                    return;
                }
                continue;
            };
            if self.cut.contains(&from) || self.cut.contains(&to) {
                continue;
            }
            self.delivered += 1;
            if self.machines.contains_key(&to) {
                self.act(to, |machine| {
                    machine.step(Input::Received { from, message })
                });
            }
        }
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        for of in self.machines.keys().copied().collect::<Vec<_>>() {
            self.act(of, |machine| machine.tick_after(ms));
        }
        self.run();
    }

    pub(crate) fn assert_same(&self) {
        let mut machines = self.machines.values();
        let first = machines.next().unwrap();
        for machine in machines {
            assert_eq!(machine.disk, first.disk);
            assert_eq!(machine.replica.commit(), first.replica.commit());
        }
    }
}
