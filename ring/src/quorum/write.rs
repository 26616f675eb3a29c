//! A write: to all homes at once, and to stand-ins for those that are away.

use super::{Asked, Refused, check, stand_ins};
use crate::ids::NodeId;
use crate::preference::Preference;

/// As what a node keeps a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// As one of the key's replicas.
    Home,
    /// As a copy that counts for nothing.
    Copy,
    /// As a hint, until `home` has acknowledged it.
    StandIn {
        /// The replica that the hint is for.
        home: NodeId,
    },
}

/// What the owner of a [`Write`] is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WriteEffect {
    /// Send the write to `node`, or keep it if that is this node; then say what came of it.
    Ask {
        /// Whom to ask.
        node: NodeId,
        /// As what it is to keep the write.
        role: Role,
    },
    /// Answer the client. Comes once; the write may still be on its way to further nodes.
    Done(Outcome),
}

/// How a write ended for the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// As many distinct nodes as needed hold it durably.
    Written {
        /// Those nodes, in the order of their answers.
        acknowledged: Vec<NodeId>,
        /// Of those, who keeps it as a hint, and for whom: (stand-in, home).
        hinted: Vec<(NodeId, NodeId)>,
    },
    /// Too few nodes have it, and nobody is left to ask. Some may have it, so that it may yet appear.
    TooFew {
        /// How many were needed.
        need: usize,
        /// How many have it.
        have: usize,
    },
}

struct Sent {
    node: NodeId,
    role: Role,
    state: Asked,
}

/// One write of a key, as its coordinator sees it.
///
/// The coordinator is one of the nodes that keep it, and counts like any other. If it cannot keep what it minted, it has
/// forgotten it, see [`actor`](super::actor).
pub struct Write {
    need: usize,
    sent: Vec<Sent>,
    /// Live stand-ins that were not asked yet, the next one last.
    unused: Vec<NodeId>,
    acknowledged: Vec<NodeId>,
    expired: bool,
    done: bool,
}

impl Write {
    /// Starts a write that `own` coordinates and that `need` nodes are to acknowledge.
    ///
    /// A coordinator that is no home keeps a hint in any case, also where every home lives.
    ///
    /// # Errors
    /// [`Refused`]: nobody was asked.
    pub fn new(
        preference: &Preference,
        own: NodeId,
        need: usize,
        live: impl Fn(NodeId) -> bool,
        out: &mut Vec<WriteEffect>,
    ) -> Result<Self, Refused> {
        check(preference, need)?;
        let homes = &preference.homes;
        let is_home = homes.contains(&own);
        if !is_home && !preference.stand_ins.contains(&own) {
            return Err(Refused::NotResponsible);
        }
        let live = |node: NodeId| node == own || live(node);
        let mut unused = stand_ins(preference, own, live);
        unused.reverse();
        let mut write = Self {
            need,
            sent: Vec::new(),
            unused,
            acknowledged: Vec::new(),
            expired: false,
            done: false,
        };
        let (present, away): (Vec<NodeId>, Vec<NodeId>) = homes.iter().partition(|n| live(**n));
        // Its own copy first: it is the nearest.
        for home in present.iter().copied().filter(|home| *home == own) {
            write.ask(home, Role::Home, out);
        }
        if !is_home && away.is_empty() {
            write.stand_in(homes[0], out);
        }
        for home in &away {
            write.stand_in(*home, out);
        }
        for home in present.into_iter().filter(|home| *home != own) {
            write.ask(home, Role::Home, out);
        }
        for copy in preference.copies.iter().copied().filter(|copy| live(*copy)) {
            if !write.was_asked(copy) {
                write.ask(copy, Role::Copy, out);
            }
        }
        write.conclude(out);
        Ok(write)
    }

    /// The node, asked to keep the write as this, holds it durably.
    pub fn acknowledged(&mut self, node: NodeId, role: Role, out: &mut Vec<WriteEffect>) {
        let is_new = self.set(node, role, Asked::Answered);
        if is_new && role != Role::Copy && !self.acknowledged.contains(&node) {
            self.acknowledged.push(node);
        }
        self.conclude(out);
    }

    /// The node, asked to keep the write as this, refused it or cannot be reached; it may hold it all the same.
    pub fn failed(&mut self, node: NodeId, role: Role, out: &mut Vec<WriteEffect>) {
        if self.set(node, role, Asked::Failed) {
            self.replace(node, role, out);
        }
        self.conclude(out);
    }

    /// The node, asked to keep the write as this, has not answered for longer than usual. Its answer still counts when
    /// it comes.
    pub fn late(&mut self, node: NodeId, role: Role, out: &mut Vec<WriteEffect>) {
        if self.set(node, role, Asked::Late) {
            self.replace(node, role, out);
        }
    }

    /// The client waits no longer. Nobody else is asked after this.
    pub fn deadline(&mut self, out: &mut Vec<WriteEffect>) {
        self.expired = true;
        self.conclude(out);
    }

    /// Whether the client has its answer and nobody's answer is waited for any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let waiting = |sent: &Sent| matches!(sent.state, Asked::Waiting | Asked::Late);
        self.done && (self.expired || !self.sent.iter().any(waiting))
    }

    fn ask(&mut self, node: NodeId, role: Role, out: &mut Vec<WriteEffect>) {
        self.sent.push(Sent {
            node,
            role,
            state: Asked::Waiting,
        });
        out.push(WriteEffect::Ask { node, role });
    }

    fn stand_in(&mut self, home: NodeId, out: &mut Vec<WriteEffect>) {
        if self.expired {
            return;
        }
        if let Some(node) = self.unused.pop() {
            self.ask(node, Role::StandIn { home }, out);
        }
    }

    /// Notes what came of asking. True: it is the first that was heard of it, or an answer after all.
    fn set(&mut self, node: NodeId, role: Role, state: Asked) -> bool {
        let mut sent = self.sent.iter_mut();
        let Some(sent) = sent.find(|sent| sent.node == node && sent.role == role) else {
            return false;
        };
        let before = sent.state;
        if matches!(before, Asked::Waiting | Asked::Late) {
            sent.state = state;
        }
        // For a late one, somebody else was asked already.
        before == Asked::Waiting || (before == Asked::Late && state == Asked::Answered)
    }

    fn replace(&mut self, node: NodeId, role: Role, out: &mut Vec<WriteEffect>) {
        match role {
            Role::Home => self.stand_in(node, out),
            Role::StandIn { home } => self.stand_in(home, out),
            Role::Copy => {}
        }
    }

    fn was_asked(&self, node: NodeId) -> bool {
        self.sent.iter().any(|sent| sent.node == node)
    }

    fn conclude(&mut self, out: &mut Vec<WriteEffect>) {
        if self.done {
            return;
        }
        let have = self.acknowledged.len();
        let is_pending = |sent: &Sent| {
            sent.role != Role::Copy && matches!(sent.state, Asked::Waiting | Asked::Late)
        };
        let outcome = if have >= self.need {
            Outcome::Written {
                acknowledged: self.acknowledged.clone(),
                hinted: self.hinted(),
            }
        } else if !self.expired && self.sent.iter().any(is_pending) {
            return;
        } else {
            Outcome::TooFew {
                need: self.need,
                have,
            }
        };
        self.done = true;
        out.push(WriteEffect::Done(outcome));
    }

    fn hinted(&self) -> Vec<(NodeId, NodeId)> {
        let answered = self.sent.iter().filter(|s| s.state == Asked::Answered);
        answered
            .filter_map(|sent| match sent.role {
                Role::StandIn { home } => Some((sent.node, home)),
                Role::Home | Role::Copy => None,
            })
            .collect()
    }
}
