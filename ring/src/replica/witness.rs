//! Voting without a journal, while another copy takes its place.
//!
//! A replica that lacks more than its leader's journal has drops its own and takes a copy. Until that is whole it holds and
//! acknowledges nothing, but it can still promise. What it had acknowledged ends at the last entry of the journal that went,
//! and by that position a leader to be judges it, as it judges any journal: one that reaches as far holds all of it. Where
//! nobody else does, nobody leads before somebody does: a witness has nothing to give.

use super::config::Config;
use super::message::{Message, Position};
use crate::ids::{Epoch, Index, NodeId};

/// What is left, durably, of a journal that went.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Left {
    /// The highest epoch promised.
    pub promised: Epoch,
    /// What was acknowledged is not known: promises count for nothing.
    pub suspect: bool,
    /// The last entry of the journal that went: nothing beyond it was ever acknowledged.
    pub last: Position,
}

/// What a [`Witness`] wants done, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WitnessEffect<P> {
    /// Write that this epoch is promised; then call [`Witness::promised`].
    Promise(Epoch),
    /// Send a message, or drop it: it is asked for again.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message<P>,
    },
}

/// A replica that votes and holds nothing.
#[derive(Clone, Debug)]
pub struct Witness {
    boot: u32,
    left: Left,
    config: Option<Config>,
    /// The highest epoch seen. Nothing of a lower one is answered.
    seen: Epoch,
    /// Who waits for a promise that is not durable yet.
    asked: Option<(NodeId, Epoch)>,
}

impl Witness {
    /// A witness that starts with what its disk says, in this start of its node. It takes no part before the first
    /// [`Witness::configure`].
    #[must_use]
    pub fn new(boot: u32, left: Left) -> Self {
        Self {
            boot,
            left,
            config: None,
            seen: left.promised.max(left.last.epoch),
            asked: None,
        }
    }

    /// The map's word on the partition.
    pub fn configure(&mut self, config: Config) {
        config.check();
        self.seen = self.seen.max(config.epoch);
        let known = self.config.as_ref();
        if known.is_none_or(|known| known.epoch <= config.epoch) {
            self.config = Some(config);
        }
    }

    /// Takes in a message: answers who wants a promise, and tells leaders of the past that they are.
    pub fn received<P>(
        &mut self,
        from: NodeId,
        message: &Message<P>,
        out: &mut Vec<WitnessEffect<P>>,
    ) {
        let Some(config) = &self.config else { return };
        let epoch = message.epoch();
        let asks = matches!(
            message,
            Message::Seal { .. } | Message::Append { .. } | Message::Fetch { .. }
        );
        if asks && epoch < self.seen {
            let message = Message::Rejected {
                epoch,
                boot: self.boot,
                prev: Position::ZERO,
                promised: self.seen,
                hint: Position::ZERO,
            };
            return out.push(WitnessEffect::Send { to: from, message });
        }
        let another = config.epoch == epoch && config.leader != from;
        if another || !matches!(message, Message::Seal { .. }) {
            return;
        }
        self.seen = epoch;
        self.asked = Some((from, epoch));
        if self.left.promised < epoch {
            out.push(WitnessEffect::Promise(epoch));
        } else {
            self.answer(out);
        }
    }

    /// The promise is durable.
    pub fn promised<P>(&mut self, epoch: Epoch, out: &mut Vec<WitnessEffect<P>>) {
        self.left.promised = self.left.promised.max(epoch);
        self.answer(out);
    }

    fn answer<P>(&mut self, out: &mut Vec<WitnessEffect<P>>) {
        let promised = self.left.promised;
        let due = |(_, epoch): &mut (NodeId, Epoch)| *epoch <= promised;
        let Some((to, epoch)) = self.asked.take_if(due) else {
            return;
        };
        if epoch < self.seen {
            return;
        }
        let message = Message::Sealed {
            epoch,
            boot: self.boot,
            suspect: self.left.suspect,
            first: self.left.last.index.next(),
            last: self.left.last,
            // What is known here of commits went with the journal; less is always true.
            commit: Index(0),
        };
        out.push(WitnessEffect::Send { to, message });
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Activation;
    use super::*;

    const ME: NodeId = NodeId([3; 16]);
    const LEADER: NodeId = NodeId([1; 16]);
    const OTHER: NodeId = NodeId([2; 16]);
    const LAST: Position = Position {
        epoch: Epoch(4),
        index: Index(70),
    };

    fn config(epoch: u64, leader: NodeId) -> Config {
        let replicas = vec![LEADER, OTHER, ME];
        Config {
            epoch: Epoch(epoch),
            leader,
            replicas: replicas.clone(),
            learners: Vec::new(),
            activated: Activation {
                epoch: Epoch(4),
                replicas,
            },
        }
    }

    fn witness(promised: u64) -> Witness {
        let left = Left {
            promised: Epoch(promised),
            suspect: false,
            last: LAST,
        };
        Witness::new(9, left)
    }

    fn hears(witness: &mut Witness, from: NodeId, epoch: u64) -> Vec<WitnessEffect<()>> {
        let mut out = Vec::new();
        let epoch = Epoch(epoch);
        witness.received(from, &Message::Seal { epoch }, &mut out);
        out
    }

    fn sealed(to: NodeId, epoch: u64) -> WitnessEffect<()> {
        let message = Message::Sealed {
            epoch: Epoch(epoch),
            boot: 9,
            suspect: false,
            first: Index(71),
            last: LAST,
            commit: Index(0),
        };
        WitnessEffect::Send { to, message }
    }

    #[test]
    fn a_promise_is_given_when_it_is_durable_and_names_the_end_of_the_journal_that_went() {
        let mut witness = witness(4);
        assert_eq!(hears(&mut witness, LEADER, 5), [], "no map yet");
        witness.configure(config(5, LEADER));
        let asked = hears(&mut witness, LEADER, 5);
        assert_eq!(asked, [WitnessEffect::Promise(Epoch(5))]);
        let mut out = Vec::new();
        witness.promised(Epoch(5), &mut out);
        assert_eq!(out, [sealed(LEADER, 5)]);
        assert_eq!(hears(&mut witness, LEADER, 5), [sealed(LEADER, 5)], "again");
    }

    #[test]
    fn nothing_is_promised_to_the_past_nor_to_who_does_not_lead() {
        let mut witness = witness(4);
        witness.configure(config(6, OTHER));
        assert_eq!(hears(&mut witness, LEADER, 6), []);
        let [WitnessEffect::Send { to, message }] = &hears(&mut witness, LEADER, 5)[..] else {
            panic!("no answer to a leader of the past");
        };
        assert_eq!(*to, LEADER);
        assert!(matches!(message, Message::Rejected { promised, .. } if *promised == Epoch(6)));
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_given() {
        let mut witness = witness(4);
        witness.configure(config(5, LEADER));
        hears(&mut witness, LEADER, 5);
        witness.configure(config(6, OTHER));
        let mut out: Vec<WitnessEffect<()>> = Vec::new();
        witness.promised(Epoch(5), &mut out);
        assert_eq!(out, []);
    }
}
