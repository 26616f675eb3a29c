//! Replication of one partition's journal: leaders, followers, takeover. No I/O, no clock, no election.
//!
//! The cluster map says who leads in which epoch ([`Config`]); [`Replica`] makes of it a journal that is the same everywhere.
//! What is *committed* is durable on a majority and stays for ever. The caller feeds [`Input`]s and carries out
//! [`Effect`]s in their order: a write is confirmed when it is durable, a message is sent or dropped.
//!
//! - [`message`](Message), [`config`](Config), [`effect`](Effect), [`limits`](Limits): what crosses the doors
//! - `journal`, `disk`, `core`: what a replica knows, what of it is durable, and what outlives its roles
//! - `turn`: which role an input is for, and from one role to the next
//! - `follower`; `witness`, which only votes; `takeover`; `leader` with `progress` (one follower, seen from the leader), `standing` and `quorum`
//!
//! # What always holds
//!
//! Asserted here, and checked by the model in `model` over every schedule within its bounds:
//!
//! - *Log matching*: two journals with the same epoch at an index are the same up to it.
//! - What is committed is never truncated, and the commit index never moves back.
//! - A replica answers nothing of an epoch below one that it has durably promised, and acknowledges only what is durable
//!   and proven to match.
//! - An epoch has one leader, which leads in it once: after a restart it asks for another epoch, because what it had sent and
//!   not written is forgotten here and alive elsewhere.
//! - An epoch is activated when its first entry, the barrier, is committed by majorities of its replicas and of the last
//!   activated ones. At most one leader reports it.
//!
//! # Suspect replicas
//!
//! A disk that did not come back whole may have lost entries and promises. Its replica is *suspect*, and neither its promises
//! nor its acknowledgements count, unless everyone else has answered too. Lost promises are made good by the first [`Config`]
//! after the start, which comes from a map that knows of the start. Messages carry the boot count of the disk that they speak
//! of, so that nothing said before the damage counts after it. Suspicion ends when an activated leader that knows of the start
//! has proven the journal to hold all it had committed.

mod config;
mod core;
mod disk;
mod effect;
mod fault;
mod follower;
mod journal;
mod leader;
mod limits;
mod message;
#[cfg(test)]
mod model;
mod progress;
mod quorum;
mod standing;
mod takeover;
mod turn;
mod witness;

pub use config::{Activation, Config};
pub use effect::{Durable, Effect, Input, NotLeading, Report, ResignCause, Role};
pub use limits::Limits;
pub use message::{Entry, Lane, Message, Payload, Position, Weigh};
pub use witness::{Left, Witness, WitnessEffect};

use self::core::Core;
use self::follower::{Appended, Follower};
use self::leader::{Acked, Leader};
use self::takeover::{Answer, Takeover};
use crate::ids::{Epoch, Index, NodeId};

/// One replica of a partition's journal: a function of time and input.
///
/// The caller may take several steps and carry out their effects together. It calls [`Replica::flush`] when it has no
/// more input at hand.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Replica<P> {
    core: Core<P>,
    duty: Duty,
    /// The role that was last told.
    told: Role,
    /// A promise asked for that is not durable yet: the ticket that has to be, whom to answer, the epoch.
    sealing: Option<(u64, NodeId, Epoch)>,
    /// This replica may have led in epochs up to this one before it was restarted.
    spent: Epoch,
    /// When it last asked for another epoch than the one it may not lead in.
    resigned_ms: u64,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Duty {
    Following(Follower),
    TakingOver(Takeover),
    Leading(Leader),
}

impl Duty {
    const fn epoch(&self) -> Epoch {
        match self {
            Self::Following(follower) => follower.epoch,
            Self::TakingOver(takeover) => takeover.epoch,
            Self::Leading(leader) => leader.epoch,
        }
    }
}

impl<P: Clone + Weigh> Replica<P> {
    /// A replica that starts with what is on its disk. It takes no part before the first [`Input::Configure`].
    ///
    /// # Panics
    ///
    /// If `durable` contradicts itself.
    #[must_use]
    pub fn new(me: NodeId, durable: &Durable, limits: Limits) -> Self {
        let core = Core::new(me, durable, limits);
        Self {
            duty: Duty::Following(Follower::new(core.seen, None)),
            core,
            told: Role::Follower { leader: None },
            sealing: None,
            spent: durable.promised,
            resigned_ms: 0,
        }
    }

    /// Takes in one input and adds to `out` what is to be done, in order. `now_ms` is any steady clock, in
    /// milliseconds.
    ///
    /// # Panics
    ///
    /// If an invariant is broken: going on could destroy what was acknowledged.
    pub fn step(&mut self, now_ms: u64, input: Input<P>, out: &mut Vec<Effect<P>>) {
        match input {
            Input::Configure(config) => self.on_configure(config, now_ms, out),
            Input::Received { from, message } => {
                if self.core.config.is_some() && from != self.core.me {
                    self.on_message(from, message, now_ms, out);
                }
            }
            Input::Persisted(ticket) => self.on_persisted(ticket, now_ms, out),
            Input::Read { to, epoch, entries } => self.on_read(to, epoch, entries, now_ms, out),
            Input::ReadFailed { to, epoch } => {
                if let Duty::Leading(leader) = &mut self.duty
                    && leader.epoch == epoch
                {
                    leader.on_read_failed(to);
                }
            }
            Input::Applied(index) => self.on_applied(index, now_ms, out),
            Input::Forgotten(first) => {
                assert!(first <= self.core.commit.next(), "{first} is not committed");
                self.core.journal.forget(first);
            }
            Input::Connected(node) => self.on_connected(node, now_ms, out),
            Input::Disconnected(node) => {
                self.core.away.insert(node);
            }
            Input::Tick => self.on_tick(now_ms, out),
        }
        self.tell_role(out);
    }

    /// Appends commands to the journal and returns the index of the first. Only in [`Role::Leading`]. They are committed
    /// when [`Effect::Commit`] says so, and may be lost before ([`Effect::Truncated`], perhaps by a restart).
    ///
    /// # Errors
    ///
    /// [`NotLeading`]: nothing was done.
    pub fn propose(
        &mut self,
        now_ms: u64,
        commands: Vec<P>,
        out: &mut Vec<Effect<P>>,
    ) -> Result<Index, NotLeading> {
        match &mut self.duty {
            Duty::Leading(leader) if leader.serves(&self.core) => {
                Ok(leader.propose(&mut self.core, commands, now_ms, out))
            }
            Duty::Following(follower) => Err(NotLeading {
                leader: follower.leader,
            }),
            Duty::TakingOver(_) | Duty::Leading(_) => Err(NotLeading { leader: None }),
        }
    }

    /// Says what is worth a message of its own only when no more input is at hand: to followers, how far everything is
    /// committed.
    pub fn flush(&mut self, now_ms: u64, out: &mut Vec<Effect<P>>) {
        if let Duty::Leading(leader) = &mut self.duty {
            leader.flush(&self.core, now_ms, out);
        }
    }

    /// What the replica is at the moment.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.duty {
            Duty::Following(follower) => Role::Follower {
                leader: follower.leader,
            },
            Duty::TakingOver(takeover) => Role::TakingOver(takeover.epoch),
            Duty::Leading(leader) if leader.serves(&self.core) => Role::Leading(leader.epoch),
            Duty::Leading(leader) => Role::TakingOver(leader.epoch),
        }
    }

    /// Who leads, if that is known: this replica while it does, also while it takes over.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.duty {
            Duty::Following(follower) => follower.leader,
            Duty::TakingOver(_) | Duty::Leading(_) => Some(self.core.me),
        }
    }

    /// Everything up to here is committed, and durable here.
    #[must_use]
    pub const fn commit(&self) -> Index {
        self.core.commit
    }

    /// The last entry, durable or not; [`Position::ZERO`] if there never was one.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.core.journal.last()
    }

    /// The highest epoch that this replica knows of.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.core.seen
    }

    /// The replicas known to have everything up to `index` durably, this leader included. Empty unless it leads.
    #[must_use]
    pub fn synced(&self, index: Index) -> Vec<NodeId> {
        match &self.duty {
            Duty::Leading(leader) => leader.synced(&self.core, index),
            Duty::Following(_) | Duty::TakingOver(_) => Vec::new(),
        }
    }

    /// How many entries each other node that this leader sends to lacks. Empty unless it leads.
    #[must_use]
    pub fn lag(&self) -> Vec<(NodeId, u64)> {
        match &self.duty {
            Duty::Leading(leader) => leader.lag(&self.core),
            Duty::Following(_) | Duty::TakingOver(_) => Vec::new(),
        }
    }

    /// Whether something waits for time to pass. A replica with nothing outstanding needs no ticks.
    #[must_use]
    pub fn wants_tick(&self) -> bool {
        match &self.duty {
            Duty::Following(_) => self.must_resign().is_some(),
            Duty::TakingOver(_) => true,
            Duty::Leading(leader) => leader.wants_tick(&self.core),
        }
    }

    /// Whether the disk did not come back whole and no leader has caught the replica up since.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.core.disk.suspect()
    }

    fn tell_role(&mut self, out: &mut Vec<Effect<P>>) {
        let role = self.role();
        if self.told != role {
            self.told = role;
            out.push(Effect::Role(role));
        }
    }
}
