//! What a leader decides: offsets, duplicates, conditions and names; and what every replica remembers of producers.
//!
//! A [`Ledger`] belongs to one partition of one node. It decides against the applied state (a [`Source`]) plus what the
//! entries that are not *settled* will change: so a retry of an append under way is told to wait for that append, and a
//! topic whose creation is under way has its name taken. An entry is settled once it is committed, durable on this node
//! and applied to the source; until then it may be truncated, and then leaves no trace.
//!
//! The way of a leader: [`Ledger::lead`] once it may serve; then for each request a `decide_…`, whose
//! [`Decision::Propose`] is proposed to the replica in the order of the decisions, and gets the index that it names.
//! Before a round of them is proposed, [`Ledger::confirm`]
//! may add a barrier. Of an answer or refusal that rests upon unsettled entries, `after` names the last of these: it becomes true when that
//! index commits, and is to be withheld until then (if the entry is truncated instead, the request is to be decided anew
//! by the next leader). The way of everyone: [`Ledger::follow`] for each entry that another leader (or an earlier run)
//! wrote, [`Ledger::truncate`] when entries go, [`Ledger::settle`] when they are applied, [`Ledger::checkpoint`] now and
//! then. Everything is a function of the entries, so that all replicas remember the same.
//!
//! Memory: the unsettled entries, topics that they touch and as many others as [`Ledger::remembering`] says, and the
//! windows that moved since the last checkpoint. A topic or producer that is not used costs nothing.

mod append;
mod change;
mod checkpoint;
mod decision;
mod source;
mod topics;
mod trail;
mod windows;

use crate::command::Command;
use crate::ids::{Index, TopicId};

pub use append::{AppendFacts, AppendRefusal, Appended};
pub use change::{Created, TopicRefusal, Trimmed};
pub use checkpoint::{
    Checkpoint, Checkpointed, REPLAY_ENTRIES_MAX, SavedWindow, WINDOWS_UNSAVED_MAX,
};
pub use decision::{Decision, Moment};
pub use source::{Source, Tail, Window};
pub use topics::{TOPIC_BYTES, TOPICS_BYTES_MAX, topics_max};

use topics::Topics;
use trail::{Trace, Trail};
use windows::Windows;

/// The decisions of one partition. See the [module](self).
#[derive(Clone, Debug)]
pub struct Ledger {
    /// What the unsettled entries touch.
    trail: Trail,
    windows: Windows,
    /// Topics as this leader's own entries leave them; empty on a replica that does not lead.
    topics: Topics,
    leading: bool,
    /// A refusal waits for an entry with this index, whatever it is.
    confirming: Index,
    checkpoints: checkpoint::Progress,
}

impl Ledger {
    /// A ledger as of a checkpoint. All entries of the journal after it are to be [followed](Self::follow) next, and
    /// those of them that are applied [settled](Self::settle).
    #[must_use]
    pub fn new(checkpointed: Checkpointed) -> Self {
        Self {
            trail: Trail::new(checkpointed.upto),
            windows: Windows::new(checkpointed.forgotten_before_ms),
            topics: Topics::new(topics_max(1)),
            leading: false,
            confirming: Index(0),
            checkpoints: checkpoint::Progress::new(checkpointed.upto),
        }
    }

    /// Has it remember about so many topics that are idle, so that they need not be read again; see [`topics_max`]. What
    /// it decides is the same however many they are.
    #[must_use]
    pub fn remembering(mut self, topics: usize) -> Self {
        self.topics.set_max(topics);
        self
    }

    /// The last entry that the ledger knows.
    #[must_use]
    pub fn last(&self) -> Index {
        self.trail.last()
    }

    /// The last entry that is settled.
    #[must_use]
    pub fn settled(&self) -> Index {
        self.trail.settled()
    }

    /// Whether it decides: since [`lead`](Self::lead), until an entry is truncated or one of another leader comes.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// Takes note of an entry that this leader did not decide: one that another leader sent, one found in the journal at
    /// start, or a barrier.
    ///
    /// # Errors
    /// The source could not be read. Nothing was changed.
    ///
    /// # Panics
    /// If the entry does not follow [`last`](Self::last).
    pub fn follow<S: Source>(
        &mut self,
        source: &S,
        index: Index,
        command: &Command,
    ) -> Result<(), S::Error> {
        assert_eq!(index, self.last().next(), "entries come in order");
        self.windows.prepare(source, command)?;
        self.step_down();
        self.record(command, None);
        Ok(())
    }

    /// Takes back the entries at and after `from`: they leave no trace. A leader stops leading.
    ///
    /// # Panics
    /// If one of them is settled.
    pub fn truncate(&mut self, from: Index) {
        assert!(
            from > self.settled(),
            "entry {from} is committed and stays; {} are settled",
            self.settled()
        );
        self.step_down();
        while self.last() >= from {
            let index = self.last();
            if let Some(trace) = self.trail.pop_last() {
                self.windows.take_back(index, &trace);
            }
        }
    }

    /// Entries up to here are committed, durable on this node and applied to the source.
    ///
    /// # Panics
    /// If the ledger does not know them.
    pub fn settle(&mut self, upto: Index) {
        assert!(
            upto <= self.last(),
            "entry {upto} is not known, the last is {}",
            self.last()
        );
        while let Some((index, trace)) = self.trail.pop_settled(upto) {
            self.windows.settle(index, &trace);
            self.topics.settle(index, &trace);
        }
    }

    /// Begins to decide. From now on every entry is one of the decisions, until another leader's comes.
    ///
    /// # Panics
    /// If an entry is not settled: a leader serves only when the barrier of its epoch, and so all before it, is applied.
    pub fn lead(&mut self) {
        assert_eq!(
            self.settled(),
            self.last(),
            "a leader's barrier is applied before it serves"
        );
        self.topics.clear();
        self.leading = true;
    }

    /// Enters a barrier if a refusal waits for an entry and none was entered since. To be called before the decisions of
    /// a round are proposed; what it returns is to be proposed as the last of them.
    pub fn confirm(&mut self) -> Option<(Index, Command)> {
        (self.leading && self.confirming > self.last())
            .then(|| (self.record(&Command::Barrier, None), Command::Barrier))
    }

    /// Takes back the last entry, an append that was decided and cannot be proposed. The ledger goes on leading.
    ///
    /// # Panics
    /// If it is not the last entry, or no append.
    pub fn withdraw(&mut self, index: Index) {
        assert_eq!(index, self.last(), "only the last entry is withdrawn");
        let trace = self.trail.pop_last();
        let Some(trace @ Trace::Append(topic, _)) = trace else {
            panic!("only an append is withdrawn");
        };
        self.windows.take_back(index, &trace);
        self.topics.take_back(index, topic);
    }

    /// What a refusal waits for that a newer leader might not agree with: the next entry.
    fn confirmed(&mut self) -> Option<Index> {
        self.confirming = self.last().next();
        Some(self.confirming)
    }

    /// What a refusal waits for that says that there is no such topic. Of a topic that was created within the journal
    /// it is certain; a later one may have been created by a newer leader.
    fn absence(&mut self, topic: TopicId) -> Option<Index> {
        if topic.0 <= self.settled().0 {
            None
        } else {
            self.confirmed()
        }
    }

    fn step_down(&mut self) {
        if self.leading {
            self.leading = false;
            self.confirming = Index(0);
            self.topics.clear();
        }
    }

    /// Enters a command as the next entry. Its window, if it has one, has been prepared.
    fn record(&mut self, command: &Command, name: Option<String>) -> Index {
        let index = self.last().next();
        self.windows.record(index, command);
        self.trail.push(command, name);
        index
    }
}
