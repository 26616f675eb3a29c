//! What is to be done with a request.

use crate::command::Command;
use crate::ids::Index;

/// When a request is decided, in unix milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// What the leader's clock says.
    pub now_ms: u64,
    /// The time by which ages were judged last: a producer that is old by it may have been forgotten.
    pub age_ms: u64,
}

impl Moment {
    /// The later of both.
    pub(super) fn latest_ms(self) -> u64 {
        self.now_ms.max(self.age_ms)
    }
}

/// What is to be done with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision<A, R> {
    /// Propose the command; the ledger has entered it already. When its entry commits, give the answer.
    Propose {
        /// The index that the entry gets. If it cannot be proposed, [truncate](super::Ledger::truncate) here.
        index: Index,
        /// What to propose.
        command: Command,
        /// What is true once the entry is committed.
        answer: A,
    },
    /// Nothing is to be proposed.
    Answer {
        /// What is true.
        answer: A,
        /// Where it rests upon an entry that is not settled: true only once that is committed.
        after: Option<Index>,
    },
    /// The request is refused, and nothing of it is done.
    Refuse {
        /// Why.
        refusal: R,
        /// As for an answer: a reason that rests upon an entry that may yet be truncated is not to be told before.
        ///
        /// A reason that a newer leader might know better (there may be records, topics and batches that this one has
        /// not heard of) is to be told once any entry that is entered after it commits, which proves that there was no
        /// newer leader; the index is then that of the next entry. [`Ledger::confirm`](super::Ledger::confirm) makes one
        /// where no other comes.
        after: Option<Index>,
    },
}

impl<A, R> Decision<A, R> {
    /// The same decision with another answer.
    pub fn map<B>(self, answered: impl FnOnce(A) -> B) -> Decision<B, R> {
        match self {
            Self::Propose {
                index,
                command,
                answer,
            } => Decision::Propose {
                index,
                command,
                answer: answered(answer),
            },
            Self::Answer { answer, after } => Decision::Answer {
                answer: answered(answer),
                after,
            },
            Self::Refuse { refusal, after } => Decision::Refuse { refusal, after },
        }
    }
}
