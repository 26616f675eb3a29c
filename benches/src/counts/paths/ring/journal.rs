//! A journal of three replicas whose disks and network are queues.

use std::collections::VecDeque;

use bytes::Bytes;
use mesh_ring::ids::{Epoch, Index, NodeId};
use mesh_ring::replica::{
    Activation, Config, Durable, Effect, Input, Limits, Message, Replica, Report, Weigh,
};

use super::{expect, node};
use crate::Result;
use crate::counts::measured;

const TURNS: u64 = 1024;
const WARM: u64 = 64;
const NOW_MS: u64 = 1_000;
const COMMAND_BYTES: usize = 1024;

#[derive(Clone, Debug)]
struct Command(Bytes);

impl Weigh for Command {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// What has to happen next.
enum Due {
    Persisted(usize, u64),
    Applied(usize, Index),
    Received(usize, NodeId, Message<Command>),
}

struct Group {
    replicas: Vec<Replica<Command>>,
    due: VecDeque<Due>,
    activated: bool,
}

pub(in super::super) fn replica_turn() -> Result<u64> {
    let mut group = Group::leading()?;
    let command = Command(Bytes::from(vec![7; COMMAND_BYTES]));
    for _ in 0..WARM {
        group.turn(&command)?;
    }
    measured(&mut || (0..TURNS).try_for_each(|_| group.turn(&command)))?;
    Ok(TURNS)
}

impl Group {
    /// Three replicas, of which the first leads and serves.
    fn leading() -> Result<Group> {
        let replicas = (0..3)
            .map(|at| Replica::new(node(at), &Durable::empty(1), Limits::default()))
            .collect();
        let mut group = Group {
            replicas,
            due: VecDeque::new(),
            activated: false,
        };
        let mut config = Config {
            epoch: Epoch(1),
            leader: node(0),
            replicas: (0..3).map(node).collect(),
            learners: Vec::new(),
            activated: Activation {
                epoch: Epoch(0),
                replicas: (0..3).map(node).collect(),
            },
        };
        group.configure(&config);
        expect(group.activated)?;
        config.activated.epoch = config.epoch;
        group.configure(&config);
        Ok(group)
    }

    fn configure(&mut self, config: &Config) {
        for at in 0..self.replicas.len() {
            self.step(at, Input::Configure(config.clone()));
        }
        self.run();
    }

    /// Proposes a command and lets everything come to rest.
    fn turn(&mut self, command: &Command) -> Result<()> {
        let mut out = Vec::new();
        let index = self.replicas[0].propose(NOW_MS, vec![command.clone()], &mut out)?;
        self.note(0, out);
        self.run();
        let mut commits = self.replicas.iter().map(Replica::commit);
        expect(commits.all(|commit| commit == index))
    }

    fn run(&mut self) {
        loop {
            while let Some(due) = self.due.pop_front() {
                match due {
                    Due::Persisted(at, ticket) => self.step(at, Input::Persisted(ticket)),
                    Due::Applied(at, index) => self.step(at, Input::Applied(index)),
                    Due::Received(at, from, message) => {
                        self.step(at, Input::Received { from, message });
                    }
                }
            }
            let mut out = Vec::new();
            self.replicas[0].flush(NOW_MS, &mut out);
            if out.is_empty() {
                return;
            }
            self.note(0, out);
        }
    }

    fn step(&mut self, at: usize, input: Input<Command>) {
        let mut out = Vec::new();
        self.replicas[at].step(NOW_MS, input, &mut out);
        self.note(at, out);
    }

    fn note(&mut self, at: usize, effects: Vec<Effect<Command>>) {
        for effect in effects {
            match effect {
                Effect::Persist { ticket, .. } => self.due.push_back(Due::Persisted(at, ticket)),
                Effect::Commit(index) => self.due.push_back(Due::Applied(at, index)),
                Effect::Send { to, message, .. } => {
                    let to = usize::from(to.0[0]);
                    let due = Due::Received(to, node(at as u8), message);
                    self.due.push_back(due);
                }
                Effect::Report(Report::Activated(_)) => self.activated = true,
                // Nobody is behind, and nothing is read back.
                _ => {}
            }
        }
    }
}
