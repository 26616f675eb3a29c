//! What the model checker's tests break on purpose, to show that it would notice. A real build has no such switch.

/// One rule left out.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Fault {
    /// A new leader waits for nobody's promise.
    NoSeal,
    /// An entry of an older epoch counts as committed by itself once a majority has it.
    OlderEpochAlone,
    /// Activation is reported before the barrier is committed.
    EarlyActivation,
    /// Before activation, promises of the new replicas alone are enough.
    OneSetSeals,
    /// Before activation, acknowledgements of the new replicas alone are enough.
    OneSetCommits,
    /// A follower takes over the leader's commit index without asking how far its journal is the same.
    CommitNotClamped,
    /// Whatever a suspect replica says counts.
    SuspectsCount,
}

/// The rule that this replica leaves out, if any.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Faults {
    #[cfg(test)]
    pub(super) broken: Option<Fault>,
}

impl Faults {
    #[cfg(test)]
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.broken == Some(fault)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "the tests' version looks into it")]
    pub(super) const fn has(&self, _: Fault) -> bool {
        false
    }
}
