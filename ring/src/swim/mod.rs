//! Who is alive: SWIM (Das, Gupta and Motivala, 2002) with suspicion, by the crate foca, as a function of time and
//! input.
//!
//! Every node asks another one in turn whether it is there, directly and then through others. One that does not answer
//! is suspected, everybody hears of it, and if it does not object in time it counts as dead. What is said here only
//! ever triggers something: no record depends on it.
//!
//! The time in which this node itself did not run does not count: when it wakes late, what waits for an answer waits
//! that much longer, because the answers may be in a queue that was not read yet. So a machine that stands still for
//! a while suspects nobody afterwards. One that is always late finds deaths later, but it finds them.

mod datagram;
mod dice;
mod identity;
mod tuning;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, Timer};
use thiserror::Error;

use crate::ids::NodeId;
use datagram::Datagrams;
pub use datagram::{CodecError, DATAGRAM_BYTES_MAX};
use dice::Dice;
use identity::Name;
pub use tuning::Tuning;

/// Longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Most contacts that are called at a time.
const CALLS_MAX: usize = 4;

/// How often in a row a wake that comes late puts off what waits. Without an end nothing would ever be due on a machine
/// that is always late.
const EXCUSES_MAX: u8 = 4;

/// A node that should be there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contact {
    /// The node.
    pub node: NodeId,
    /// Where it is reached, `HOST:PORT`.
    pub address: String,
}

/// What happens to gossip.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A datagram came in.
    Datagram(&'a [u8]),
    /// The time is [`Swim::wakes_at`], or later.
    Timer,
    /// These are the nodes of the cluster now; this node may be one of them.
    Contacts(Vec<Contact>),
    /// The node stops. Nothing happens after this.
    Leave,
}

/// What gossip wants done, or has found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Send a datagram. It may be lost.
    Send {
        /// To this node.
        to: NodeId,
        /// Where it says that it is reached.
        address: String,
        /// At most [`DATAGRAM_BYTES_MAX`] bytes.
        datagram: Bytes,
    },
    /// The node is alive.
    Up {
        /// The node.
        node: NodeId,
        /// Where it says that it is reached.
        address: String,
        /// Which start of it.
        boot: u32,
    },
    /// The node was alive and is dead.
    Down {
        /// The node.
        node: NodeId,
    },
    /// The node is alive, but in a later start than before.
    Restarted {
        /// The node.
        node: NodeId,
        /// Which start of it.
        boot: u32,
    },
}

/// Why a datagram was refused; nothing of it was believed.
#[derive(Debug, Error)]
pub enum RefusedDatagram {
    /// It is no gossip.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It is too long, has bytes after its end, or claims to be from this node.
    #[error("gossip is not in order: {0}")]
    Disorder(String),
}

/// Gossip of one node.
pub struct Swim {
    foca: Foca<Name, Datagrams, Dice, NoCustomBroadcast>,
    tuning: Tuning,
    /// What foca waits for, by time and then order.
    timers: BTreeMap<(u64, u64), Timer<Name>>,
    scheduled: u64,
    contacts: BTreeMap<NodeId, String>,
    calls_at: u64,
    /// Whom to call first next time.
    next_call: NodeId,
    lives: BTreeMap<NodeId, bool>,
    /// How often what waits was put off since something was last done in its time.
    excuses: u8,
    left: bool,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim")
            .field("me", self.foca.identity())
            .field("lives", &self.lives)
            .finish_non_exhaustive()
    }
}

impl Swim {
    /// A node that knows nobody yet. `boot` is the count of its start, and higher than in every earlier one; `seed`
    /// should differ from node to node. An address of more than [`ADDRESS_BYTES_MAX`] bytes is taken as none.
    #[must_use]
    pub fn new(now_ms: u64, me: &Contact, boot: u32, seed: u64, tuning: Tuning) -> Self {
        let tuning = tuning.sound();
        let name = name_of(me.node, &me.address, boot);
        Self {
            foca: Foca::new(name, tuning.config(), Dice::new(seed), Datagrams),
            tuning,
            timers: BTreeMap::new(),
            scheduled: 0,
            contacts: BTreeMap::new(),
            calls_at: now_ms,
            next_call: NodeId::default(),
            lives: BTreeMap::new(),
            excuses: 0,
            left: false,
        }
    }

    /// When [`Input::Timer`] is due, in milliseconds of the clock that the steps are given; `None`: never again.
    #[must_use]
    pub fn wakes_at(&self) -> Option<u64> {
        let timer = self.timers.keys().next().map(|(due, _)| *due);
        (!self.left).then(|| timer.map_or(self.calls_at, |due| due.min(self.calls_at)))
    }

    /// Every other node that was ever heard of, and whether it is alive.
    pub fn lives(&self) -> impl Iterator<Item = (NodeId, bool)> {
        self.lives.iter().map(|(node, alive)| (*node, *alive))
    }

    /// Takes one step. The clock must not go back, and should go on while the machine stands still.
    ///
    /// # Errors
    /// [`RefusedDatagram`]: only of a datagram.
    pub fn step(
        &mut self,
        now_ms: u64,
        input: Input<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), RefusedDatagram> {
        if self.left {
            return Ok(());
        }
        self.excuse_lateness(now_ms);
        let mut runtime = AccumulatingRuntime::new();
        let result = match input {
            Input::Datagram(bytes) => self.hear(bytes, &mut runtime),
            Input::Timer => {
                self.fire(now_ms, &mut runtime);
                Ok(())
            }
            Input::Contacts(contacts) => {
                self.meet(now_ms, contacts);
                Ok(())
            }
            Input::Leave => {
                self.left = true;
                self.foca.leave_cluster(&mut runtime)
            }
        };
        self.absorb(now_ms, &mut runtime, out);
        if !self.left && self.calls_at <= now_ms {
            self.call(now_ms, &mut runtime);
            self.absorb(now_ms, &mut runtime, out);
        }
        result.map_err(refusal)
    }

    fn hear(
        &mut self,
        bytes: &[u8],
        runtime: &mut AccumulatingRuntime<Name>,
    ) -> Result<(), foca::Error> {
        self.foca.handle_data(bytes, &mut *runtime)?;
        // An objection goes to whoever still has the suspicion, as often as it is heard: the one that foca sends to
        // some nodes may be lost.
        match datagram::suspecter(bytes, self.foca.identity().node) {
            Some(sender) => self.foca.announce(sender, runtime),
            None => Ok(()),
        }
    }

    /// If this node has not run in time, everything that it waits for gets the time that it was away, and a little
    /// more, to read what has come in meanwhile.
    fn excuse_lateness(&mut self, now_ms: u64) {
        let Some((due, _)) = self.timers.keys().next().copied() else {
            return;
        };
        let late = now_ms.saturating_sub(due);
        if late <= self.tuning.late_ms || self.excuses >= EXCUSES_MAX {
            return;
        }
        self.excuses += 1;
        let away = late + self.tuning.late_ms / 2;
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers
            .into_iter()
            .map(|((due, order), timer)| ((due.saturating_add(away), order), timer))
            .collect();
    }

    fn fire(&mut self, now_ms: u64, runtime: &mut AccumulatingRuntime<Name>) {
        // What is scheduled by these comes later.
        let later = self.timers.split_off(&(now_ms.saturating_add(1), 0));
        let due = std::mem::replace(&mut self.timers, later);
        if !due.is_empty() {
            self.excuses = 0;
        }
        for timer in due.into_values() {
            // What foca reports here is a probe that did not run to its end, which it starts anew by itself.
            let _ = self.foca.handle_timer(timer, &mut *runtime);
        }
    }

    fn meet(&mut self, now_ms: u64, contacts: Vec<Contact>) {
        let me = self.foca.identity().node;
        let others = contacts.into_iter().filter(|contact| contact.node != me);
        let others: BTreeMap<NodeId, String> = others
            .map(|contact| (contact.node, contact.address))
            .collect();
        if others.keys().any(|node| !self.contacts.contains_key(node)) {
            self.calls_at = now_ms;
        }
        self.contacts = others;
    }

    /// Calls some of the contacts that are not alive, others each time.
    fn call(&mut self, now_ms: u64, runtime: &mut AccumulatingRuntime<Name>) {
        self.calls_at = now_ms.saturating_add(self.tuning.call_ms);
        let absent = |(node, _): &(&NodeId, &String)| self.lives.get(node) != Some(&true);
        let from = self.contacts.range(self.next_call..);
        let round = from.chain(self.contacts.range(..self.next_call));
        let called: VecDeque<Name> = round
            .filter(absent)
            .take(CALLS_MAX)
            .map(|(node, address)| name_of(*node, address, 0))
            .collect();
        if let Some(last) = called.back() {
            self.next_call = NodeId(
                u128::from_be_bytes(last.node.0)
                    .wrapping_add(1)
                    .to_be_bytes(),
            );
        }
        for name in called {
            // An announcement always fits: two names and a few bytes.
            let _ = self.foca.announce(name, &mut *runtime);
        }
    }

    fn absorb(
        &mut self,
        now_ms: u64,
        runtime: &mut AccumulatingRuntime<Name>,
        out: &mut Vec<Effect>,
    ) {
        while let Some((to, datagram)) = runtime.to_send() {
            out.push(Effect::Send {
                to: to.node,
                address: to.address,
                datagram,
            });
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            self.scheduled += 1;
            let due = now_ms.saturating_add(after);
            self.timers.insert((due, self.scheduled), timer);
        }
        while let Some(notification) = runtime.to_notify() {
            self.note(notification, out);
        }
    }

    fn note(&mut self, notification: OwnedNotification<Name>, out: &mut Vec<Effect>) {
        match notification {
            OwnedNotification::MemberUp(name) => {
                self.lives.insert(name.node, true);
                out.push(Effect::Up {
                    node: name.node,
                    address: name.address,
                    boot: name.boot,
                });
            }
            OwnedNotification::MemberDown(name) => {
                self.lives.insert(name.node, false);
                out.push(Effect::Down { node: name.node });
            }
            // Of one that was dead, only its return is told.
            OwnedNotification::Rename(old, new)
                if new.boot > old.boot && self.lives.get(&new.node) == Some(&true) =>
            {
                out.push(Effect::Restarted {
                    node: new.node,
                    boot: new.boot,
                });
            }
            _ => {}
        }
    }
}

fn name_of(node: NodeId, address: &str, boot: u32) -> Name {
    let fits = address.len() <= ADDRESS_BYTES_MAX;
    Name {
        node,
        boot,
        returns: 0,
        address: if fits {
            address.to_owned()
        } else {
            String::new()
        },
    }
}

fn refusal(error: foca::Error) -> RefusedDatagram {
    match error {
        foca::Error::Decode(cause) | foca::Error::Encode(cause) => {
            match cause.downcast_ref::<CodecError>() {
                Some(codec) => RefusedDatagram::Codec(*codec),
                None => RefusedDatagram::Disorder(cause.to_string()),
            }
        }
        other => RefusedDatagram::Disorder(other.to_string()),
    }
}
