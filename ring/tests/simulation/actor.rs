//! One partition on one node: a replica and a ledger, and the disk and network under them.

use std::collections::{BTreeMap, VecDeque};

use mesh_ring::command::Command;
use mesh_ring::ids::{Index, NodeId, PartitionId};
use mesh_ring::ledger::{Checkpointed, Ledger};
use mesh_ring::map::Assignment;
use mesh_ring::replica::{Activation, Config, Effect, Entry, Input, Limits, Replica, Role};

use crate::disk::{Disk, What, Write};
use crate::requests::Answer;
use crate::shared::{Breakage, Claim, Event, Shared, Wanted, short};
use crate::store::{Cmd, Store, command_of, writes_when_applied};

/// Settled entries after which the simulated nodes make a checkpoint: few, so that there are many.
const CHECKPOINT_ENTRIES: u64 = 16;

/// Idle topics that a simulated leader remembers: so few that they come and go.
const TOPICS_REMEMBERED: usize = 2;

/// Whom an answer is for.
pub(crate) struct Waiter {
    pub(crate) client: usize,
    pub(crate) id: u64,
    pub(crate) answer: Answer,
}

pub(crate) struct Actor {
    pub(crate) me: NodeId,
    pub(crate) partition: PartitionId,
    pub(crate) generation: u64,
    pub(crate) replica: Replica<Cmd>,
    pub(crate) ledger: Ledger,
    pub(crate) config: Option<Config>,
    /// Entries that are not applied.
    entries: BTreeMap<Index, Entry<Cmd>>,
    pub(crate) applied: Index,
    /// Applies that the disk has not confirmed.
    applying: usize,
    pub(crate) waiting: BTreeMap<Index, Vec<Waiter>>,
    pub(crate) transfers: BTreeMap<NodeId, u64>,
    checkpointed: Index,
}

/// What an actor needs of its node while it works.
pub(crate) struct Hands<'a> {
    pub(crate) disk: &'a mut Disk,
    pub(crate) run: u64,
    pub(crate) steady_ms: u64,
    pub(crate) shared: &'a mut Shared,
}

pub(crate) fn limits() -> Limits {
    Limits {
        recent_bytes: 3_000,
        window_bytes: 2_500,
        window_entries: 12,
        message_bytes: 1_500,
        resend_ms: 100,
        resign_after_ms: 1_500,
        report_again_ms: 300,
    }
}

pub(crate) fn config_of(assignment: &Assignment) -> Config {
    Config {
        epoch: assignment.epoch,
        leader: assignment.leader,
        replicas: assignment.replicas.clone(),
        learners: assignment.learners.clone(),
        activated: Activation {
            epoch: assignment.activated.epoch,
            replicas: assignment.activated.replicas.clone(),
        },
    }
}

impl Actor {
    /// Loads what the disk holds.
    pub(crate) fn load(
        me: NodeId,
        partition: PartitionId,
        generation: u64,
        boot: u32,
        hands: &mut Hands<'_>,
    ) -> Self {
        let store = hands.disk.stores.entry(partition).or_default();
        let mut ledger = Ledger::new(store.checkpointed).remembering(TOPICS_REMEMBERED);
        let after = store.checkpointed.upto.next();
        for (index, entry) in store.entries.range(after..) {
            let command = command_of(&entry.payload);
            let Ok(()) = ledger.follow(store, *index, command);
        }
        ledger.settle(store.applied);
        let applied = store.applied;
        let kept = store.entries.range(..=applied).map(|(_, entry)| entry);
        hands.shared.oracle.committed(partition, me, kept);
        Self {
            me,
            partition,
            generation,
            replica: Replica::new(me, &store.durable(boot), limits()),
            ledger,
            config: None,
            entries: store
                .entries
                .range(applied.next()..)
                .map(|(i, e)| (*i, e.clone()))
                .collect(),
            applied,
            applying: 0,
            waiting: BTreeMap::new(),
            transfers: BTreeMap::new(),
            checkpointed: store.checkpointed.upto,
        }
    }

    pub(crate) fn store<'a>(&self, hands: &'a Hands<'_>) -> &'a Store {
        &hands.disk.stores[&self.partition]
    }

    pub(crate) fn is_leading(&self) -> bool {
        matches!(self.replica.role(), Role::Leading(_)) && self.ledger.is_leading()
    }

    /// Nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.applying == 0
            && self.entries.is_empty()
            && self.transfers.is_empty()
            && !self.replica.wants_tick()
    }

    pub(crate) fn configure(&mut self, assignment: &Assignment, hands: &mut Hands<'_>) {
        let config = config_of(assignment);
        if self.config.as_ref() != Some(&config) {
            self.config = Some(config.clone());
            self.input(Input::Configure(config), hands);
        }
    }

    pub(crate) fn input(&mut self, input: Input<Cmd>, hands: &mut Hands<'_>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if let Input::Applied(upto) = input {
                self.settle(upto, hands);
            }
            let mut effects = Vec::new();
            self.replica.step(hands.steady_ms, input, &mut effects);
            if inputs.is_empty() {
                self.replica.flush(hands.steady_ms, &mut effects);
            }
            self.carry_out(effects, &mut inputs, hands);
        }
    }

    /// Proposes a command that the ledger has entered at `index`.
    pub(crate) fn propose(
        &mut self,
        index: Index,
        command: Command,
        value: Option<u64>,
        hands: &mut Hands<'_>,
    ) {
        let mut effects = Vec::new();
        let cmd = Cmd { command, value };
        match self
            .replica
            .propose(hands.steady_ms, vec![cmd], &mut effects)
        {
            Ok(at) => assert_eq!(at, index, "ledger and replica count alike"),
            Err(_) => self.ledger.truncate(index),
        }
        let mut inputs = VecDeque::new();
        self.carry_out(effects, &mut inputs, hands);
        while let Some(input) = inputs.pop_front() {
            self.input(input, hands);
        }
    }

    fn carry_out(
        &mut self,
        effects: Vec<Effect<Cmd>>,
        inputs: &mut VecDeque<Input<Cmd>>,
        hands: &mut Hands<'_>,
    ) {
        for effect in effects {
            self.note(&effect, hands);
            match effect {
                Effect::Persist {
                    ticket,
                    promise,
                    suspect,
                    truncate,
                    entries,
                } => {
                    self.enter(&entries, hands);
                    self.write(
                        What::Persist {
                            ticket,
                            promise,
                            suspect,
                            truncate,
                            entries,
                            applied: self.applied,
                        },
                        hands,
                    );
                    if hands.shared.is_broken(Breakage::ConfirmedBeforeSync) {
                        inputs.push_back(Input::Persisted(ticket));
                    }
                }
                Effect::Send { to, message, .. } => {
                    let (from, partition) = (self.me, self.partition);
                    hands.shared.send(from, to, || Event::Message {
                        to,
                        from,
                        partition,
                        message: message.clone(),
                    });
                }
                Effect::Read {
                    to,
                    epoch,
                    from,
                    bytes,
                } => {
                    let event = Event::Read {
                        node: self.me,
                        run: hands.run,
                        partition: self.partition,
                        generation: self.generation,
                        wanted: Wanted {
                            to,
                            epoch,
                            from,
                            bytes,
                        },
                    };
                    let delay_us = hands.shared.chance.between(50, 3_000);
                    hands.shared.after(delay_us, event);
                }
                Effect::Commit(upto) => self.commit(upto, inputs, hands),
                Effect::Truncated(from) => {
                    hands.shared.count("truncations");
                    self.truncated(from, hands);
                }
                Effect::Role(Role::Leading(epoch)) => {
                    hands.shared.count("leaders");
                    hands.shared.oracle.leads(self.partition, epoch, self.me);
                    self.ledger.lead();
                }
                Effect::Role(_) => {}
                Effect::Report(report) => self.report(&report, hands),
                Effect::Behind { node } => self.transfer(node, hands),
            }
        }
    }

    fn note(&self, effect: &Effect<Cmd>, hands: &mut Hands<'_>) {
        let kind = match effect {
            Effect::Persist { ticket, .. } => [1, *ticket],
            Effect::Send { to, message, .. } => [2, short(*to) << 32 | message.epoch().0],
            Effect::Read { from, .. } => [3, from.0],
            Effect::Commit(index) => [4, index.0],
            Effect::Truncated(index) => [5, index.0],
            Effect::Role(_) => [6, 0],
            Effect::Report(_) => [7, 0],
            Effect::Behind { node } => [8, short(*node)],
        };
        let (me, partition) = (short(self.me), u64::from(self.partition.0));
        hands.shared.trace(&[me, partition, kind[0], kind[1]], || {
            format!("n{me} p{partition} does {effect:?}")
        });
    }

    /// The ledger follows what it has not decided itself.
    fn enter(&mut self, entries: &[Entry<Cmd>], hands: &Hands<'_>) {
        for entry in entries {
            if entry.index > self.ledger.last() {
                let store = &hands.disk.stores[&self.partition];
                let command = command_of(&entry.payload);
                let Ok(()) = self.ledger.follow(store, entry.index, command);
            }
            self.entries.insert(entry.index, entry.clone());
        }
    }

    pub(crate) fn write(&self, what: What, hands: &mut Hands<'_>) {
        let write = Write {
            partition: self.partition,
            generation: self.generation,
            what,
        };
        if hands.disk.submit(write) {
            let delay_us = hands.shared.chance.between(200, 4_000);
            let event = Event::Synced {
                node: self.me,
                run: hands.run,
            };
            hands.shared.after(delay_us, event);
        }
    }

    fn commit(&mut self, upto: Index, inputs: &mut VecDeque<Input<Cmd>>, hands: &mut Hands<'_>) {
        let new: Vec<&Entry<Cmd>> = self
            .entries
            .range(..=upto)
            .map(|(_, entry)| entry)
            .collect();
        hands
            .shared
            .oracle
            .committed(self.partition, self.me, new.iter().copied());
        if let Some(config) = self
            .config
            .as_ref()
            .filter(|config| config.leader == self.me)
            && !matches!(self.replica.role(), Role::Follower { .. })
        {
            let (current, old) = (&config.replicas, &config.activated.replicas);
            for entry in &new {
                // What was committed before the epoch is on a majority of those who were active then.
                let sets = match entry.epoch == config.epoch {
                    true if config.is_activated() => vec![current.clone()],
                    true => vec![current.clone(), old.clone()],
                    false => vec![old.clone()],
                };
                hands.shared.claims.push(Claim {
                    partition: self.partition,
                    entry: (*entry).clone(),
                    sets,
                });
            }
        }
        let writes = new.iter().any(|entry| writes_when_applied(&entry.payload));
        if writes || self.applying > 0 {
            self.applying += 1;
            self.write(What::Apply(upto), hands);
        } else {
            inputs.push_back(Input::Applied(upto));
        }
        let later = self.waiting.split_off(&upto.next());
        for waiter in std::mem::replace(&mut self.waiting, later)
            .into_values()
            .flatten()
        {
            self.answer(waiter, hands);
        }
    }

    pub(crate) fn answer(&self, waiter: Waiter, hands: &mut Hands<'_>) {
        let event = Event::Answer {
            client: waiter.client,
            id: waiter.id,
            answer: waiter.answer,
        };
        if !hands
            .shared
            .chance
            .per_mille(hands.shared.network.lost_per_mille)
        {
            let delay_us = hands
                .shared
                .chance
                .between(100, hands.shared.network.delay_us);
            hands.shared.after(delay_us, event);
        }
    }

    /// The disk has applied a commit.
    pub(crate) fn disk_applied(&mut self, upto: Index, hands: &mut Hands<'_>) {
        self.applying -= 1;
        self.input(Input::Applied(upto), hands);
    }

    fn settle(&mut self, upto: Index, hands: &mut Hands<'_>) {
        self.applied = upto;
        self.ledger.settle(upto);
        self.entries = self.entries.split_off(&upto.next());
        let due = upto.0 - self.checkpointed.0 >= CHECKPOINT_ENTRIES;
        if (due || self.ledger.checkpoint_due())
            && let Some(checkpoint) = self.ledger.checkpoint()
        {
            self.checkpointed = checkpoint.upto;
            self.write(What::Checkpoint(checkpoint), hands);
        }
    }

    /// Makes a checkpoint of all there is.
    pub(crate) fn checkpoint_all(&mut self, hands: &mut Hands<'_>) {
        if let Some(checkpoint) = self.ledger.checkpoint() {
            self.checkpointed = checkpoint.upto;
            self.write(What::Checkpoint(checkpoint), hands);
        }
    }

    fn truncated(&mut self, from: Index, hands: &mut Hands<'_>) {
        self.ledger.truncate(from);
        self.entries.split_off(&from);
        if hands
            .shared
            .is_broken(Breakage::WindowsForgottenAtTruncation)
        {
            let last = self.ledger.last();
            let mut forgetful = Ledger::new(Checkpointed {
                upto: self.applied,
                forgotten_before_ms: 0,
            });
            while forgetful.last() < last {
                let next = forgetful.last().next();
                let Ok(()) = forgetful.follow(self.store(hands), next, &Command::Barrier);
            }
            self.ledger = forgetful;
        }
        for waiter in self.waiting.split_off(&from).into_values().flatten() {
            let answer = Answer::NotLeader(None);
            self.answer(Waiter { answer, ..waiter }, hands);
        }
    }
}
