//! A read: of all homes that live, and of the stand-ins of those that are or were away.

use super::{Asked, Refused, check, stand_ins};
use crate::binding::Binding;
use crate::ids::NodeId;
use crate::preference::Preference;
use crate::tombstone::Stamp;

/// What a node holds of the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Its copy, or what its hints for the key merge to; the default if there is nothing.
    pub binding: Binding,
    /// Of when this is.
    pub stamp: Stamp,
}

/// A home that does not hold all that the others do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Repair {
    /// The home.
    pub node: NodeId,
    /// What it is to merge.
    pub binding: Binding,
    /// The oldest stamp among the answers that went into it: the repair carries this one, not the present one.
    pub stamp: Stamp,
}

/// What the owner of a [`Read`] is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReadEffect {
    /// Read the key at `node`, then say what came of it. A stand-in answers from its hints for any home.
    Ask(NodeId),
    /// Answer the client. Comes once; further answers may still come.
    Done(ReadOutcome),
    /// Repair a replica, in the background. Comes after `Done`, when no further answers are to come.
    Repair(Repair),
}

/// How a read ended for the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReadOutcome {
    /// As many distinct nodes answered as needed.
    Read {
        /// All that they hold.
        binding: Binding,
        /// The homes that answered, in the order of their answers.
        homes: Vec<NodeId>,
        /// The stand-ins that answered. Those that were needed in place of homes make it a read that may miss an acknowledged
        /// write; with as many homes as needed, only writes that were hinted can be missed.
        stand_ins: Vec<NodeId>,
    },
    /// Too few answered, and nobody is left to ask.
    TooFew {
        /// How many were needed.
        need: usize,
        /// How many answered.
        have: usize,
    },
}

struct Sent {
    node: NodeId,
    state: Asked,
    answer: Option<Answer>,
}

/// One read of a key, as its coordinator sees it.
///
/// A stand-in that has no hint for the key answers too, and says nothing. It therefore counts only in place of a home that does
/// not answer, and only once every home that was asked has answered, failed or is late: otherwise a read of
/// R nodes could pass by the W homes that hold the last write although all of them live.
pub struct Read {
    need: usize,
    homes: Vec<NodeId>,
    sent: Vec<Sent>,
    /// Live stand-ins that were not asked yet, the next one last.
    unused: Vec<NodeId>,
    expired: bool,
    done: bool,
    repaired: bool,
}

impl Read {
    /// Starts a read that `own` coordinates and that `need` nodes are to answer. Stand-ins are asked for homes that do
    /// not live, and for those that were away recently: hints for them may still be on their way.
    ///
    /// # Errors
    /// [`Refused`]: nobody was asked.
    pub fn new(
        preference: &Preference,
        own: NodeId,
        need: usize,
        live: impl Fn(NodeId) -> bool,
        was_away: impl Fn(NodeId) -> bool,
        out: &mut Vec<ReadEffect>,
    ) -> Result<Self, Refused> {
        check(preference, need)?;
        let live = |node: NodeId| node == own || live(node);
        let mut unused = stand_ins(preference, own, live);
        unused.reverse();
        let mut read = Self {
            need,
            homes: preference.homes.clone(),
            sent: Vec::new(),
            unused,
            expired: false,
            done: false,
            repaired: false,
        };
        for home in preference.homes.iter().copied() {
            if live(home) {
                read.ask(home, out);
            }
            if !live(home) || was_away(home) {
                read.stand_in(out);
            }
        }
        read.conclude(out);
        Ok(read)
    }

    /// The node has answered.
    pub fn answered(&mut self, node: NodeId, answer: Answer, out: &mut Vec<ReadEffect>) {
        if let Some(sent) = self.waiting_for(node) {
            sent.state = Asked::Answered;
            sent.answer = Some(answer);
        }
        self.conclude(out);
    }

    /// The node refused to answer, or cannot be reached.
    pub fn failed(&mut self, node: NodeId, out: &mut Vec<ReadEffect>) {
        self.lost(node, Asked::Failed, out);
    }

    /// The node has not answered for longer than usual. Its answer still counts when it comes.
    pub fn late(&mut self, node: NodeId, out: &mut Vec<ReadEffect>) {
        self.lost(node, Asked::Late, out);
    }

    /// Nobody waits any longer: the client has its answer now, and what is known to be stale is repaired.
    pub fn deadline(&mut self, out: &mut Vec<ReadEffect>) {
        self.expired = true;
        self.conclude(out);
    }

    /// Whether the client has its answer and nobody else's is waited for any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.done && (self.expired || !self.is_any(&[Asked::Waiting, Asked::Late]))
    }

    fn ask(&mut self, node: NodeId, out: &mut Vec<ReadEffect>) {
        self.sent.push(Sent {
            node,
            state: Asked::Waiting,
            answer: None,
        });
        out.push(ReadEffect::Ask(node));
    }

    fn stand_in(&mut self, out: &mut Vec<ReadEffect>) {
        if self.expired || self.done {
            return;
        }
        if let Some(node) = self.unused.pop() {
            self.ask(node, out);
        }
    }

    fn waiting_for(&mut self, node: NodeId) -> Option<&mut Sent> {
        let mut sent = self.sent.iter_mut();
        sent.find(|s| s.node == node && matches!(s.state, Asked::Waiting | Asked::Late))
    }

    fn lost(&mut self, node: NodeId, state: Asked, out: &mut Vec<ReadEffect>) {
        if let Some(sent) = self.waiting_for(node) {
            let is_news = sent.state == Asked::Waiting;
            sent.state = state;
            if is_news {
                self.stand_in(out);
            }
        }
        self.conclude(out);
    }

    fn is_any(&self, states: &[Asked]) -> bool {
        self.sent.iter().any(|sent| states.contains(&sent.state))
    }

    /// Who has answered: homes, then stand-ins.
    fn answers(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let answered = self.sent.iter().filter(|sent| sent.answer.is_some());
        answered
            .map(|sent| sent.node)
            .partition(|node| self.homes.contains(node))
    }

    fn conclude(&mut self, out: &mut Vec<ReadEffect>) {
        if !self.done {
            self.finish(out);
        }
        if self.is_settled() && !self.repaired {
            self.repaired = true;
            self.repair(out);
        }
    }

    fn finish(&mut self, out: &mut Vec<ReadEffect>) {
        let (homes, stand_ins) = self.answers();
        let in_place = stand_ins.len().min(self.homes.len() - homes.len());
        let have = homes.len() + in_place;
        let is_home_waiting = self
            .sent
            .iter()
            .any(|sent| sent.state == Asked::Waiting && self.homes.contains(&sent.node));
        let is_enough =
            homes.len() >= self.need || (have >= self.need && (self.expired || !is_home_waiting));
        let outcome = if is_enough {
            let (binding, _) = self.merged();
            ReadOutcome::Read {
                binding,
                homes,
                stand_ins,
            }
        } else if !self.expired && self.is_any(&[Asked::Waiting, Asked::Late]) {
            return;
        } else {
            let need = self.need;
            ReadOutcome::TooFew { need, have }
        };
        self.done = true;
        out.push(ReadEffect::Done(outcome));
    }

    fn merged(&self) -> (Binding, Stamp) {
        let answers = self.sent.iter().filter_map(|sent| sent.answer.as_ref());
        answers.fold((Binding::default(), Stamp::NEWEST), |(all, oldest), one| {
            (all.merge(&one.binding), oldest.oldest(one.stamp))
        })
    }

    fn repair(&self, out: &mut Vec<ReadEffect>) {
        let (binding, stamp) = self.merged();
        for sent in &self.sent {
            let answer = sent.answer.as_ref();
            let is_stale = answer.is_some_and(|answer| answer.binding != binding);
            if is_stale && self.homes.contains(&sent.node) {
                out.push(ReadEffect::Repair(Repair {
                    node: sent.node,
                    binding: binding.clone(),
                    stamp,
                }));
            }
        }
    }
}
