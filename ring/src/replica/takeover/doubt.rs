//! Where a majority of a set is suspect, all of the set must answer, and learners are asked as well: what the voters have
//! lost, a learner may still have. Learners have no vote, so that they are not waited for longer than a while.

use super::Takeover;
use crate::replica::core::Core;
use crate::replica::effect::Effect;
use crate::replica::message::Weigh;

impl Takeover {
    /// Whether what the voters say is beyond doubt, or every learner has said what it knows, or had the time to.
    pub(super) fn has_heard_learners<P: Clone + Weigh>(
        &mut self,
        core: &Core<P>,
        now_ms: u64,
        out: &mut Vec<Effect<P>>,
    ) -> bool {
        let mut learners = core.config.iter().flat_map(|config| &config.learners);
        let heard = learners.all(|node| self.answers.contains_key(node));
        if heard || self.every_set(core, |set| self.is_vouched_for(core, set)) {
            return true;
        }
        let Some(since) = self.doubted_ms else {
            self.doubted_ms = Some(now_ms);
            self.moved_ms = now_ms;
            self.seal(core, out);
            return false;
        };
        now_ms.saturating_sub(since) >= core.limits.resign_after_ms / 2
    }

    /// Goes on without a learner that does not give what it knows. One that is there, and only keeps too little of its
    /// journal, is waited for: its copy would be lost for nothing.
    pub(super) fn give_up_learner<P: Clone + Weigh>(&mut self, core: &Core<P>, now_ms: u64) {
        let given_up = self.fetch.take_if(|fetch| {
            !core.has_vote(fetch.from) && (!fetch.forgotten || core.is_away(fetch.from))
        });
        if let Some(fetch) = given_up {
            self.answers.remove(&fetch.from);
            self.moved_ms = now_ms;
        }
    }
}
