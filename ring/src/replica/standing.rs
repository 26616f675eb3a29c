//! What a leader tells of the others: who has what, who lags, and which learner has caught up.

use super::core::Core;
use super::effect::{Effect, Report};
use super::leader::Leader;
use super::message::Weigh;
use super::progress::Progress;
use crate::ids::{Index, NodeId};

impl Leader {
    /// Reports a learner that has everything but what is on its way, once; or `again`.
    pub(super) fn report_caught_up<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        node: NodeId,
        again: bool,
        out: &mut Vec<Effect<P>>,
    ) {
        let is_learner = core
            .config
            .as_ref()
            .is_some_and(|config| config.learners.contains(&node));
        let Some(progress) = self.nodes.get_mut(&node) else {
            return;
        };
        let close = progress.matched >= self.barrier
            && progress.keeps_up(core.journal.last().index, core.limits.window_entries);
        if is_learner && close && !progress.suspect && (again || !progress.caught_up) {
            progress.caught_up = true;
            let epoch = self.epoch;
            out.push(Effect::Report(Report::CaughtUp { epoch, node }));
        }
    }

    /// Whether anything waits for time to pass.
    pub(super) fn wants_tick<P: Clone + Weigh>(&self, core: &Core<P>) -> bool {
        let mut nodes = self.nodes.iter();
        !self.activated
            || self.waits_ms.is_some()
            || nodes.any(|(node, progress)| progress.is_outstanding(core, *node, true))
    }

    /// The nodes known to have everything up to `index` durably, among `replicas`.
    pub(super) fn synced<P: Clone + Weigh>(&self, core: &Core<P>, index: Index) -> Vec<NodeId> {
        let replicas = core.config.iter().flat_map(|config| &config.replicas);
        let has = |node: &&NodeId| {
            if **node == core.me {
                core.disk.durable() >= index
            } else {
                self.nodes
                    .get(*node)
                    .is_some_and(|progress| progress.matched >= index)
            }
        };
        replicas.filter(has).copied().collect()
    }

    /// How many entries each node lacks.
    pub(super) fn lag<P: Clone + Weigh>(&self, core: &Core<P>) -> Vec<(NodeId, u64)> {
        let last = core.journal.last().index.0;
        let lag = |progress: &Progress| last.saturating_sub(progress.matched.0);
        self.nodes
            .iter()
            .map(|(node, progress)| (*node, lag(progress)))
            .collect()
    }
}
