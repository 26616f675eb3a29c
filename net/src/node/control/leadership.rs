//! Who leads and who votes, read from the one channel whose changes the tasks wait for.
//!
//! openraft tells of a change on one channel after the other. A task that is woken by the first and looks at the last may
//! still see what was before, and then it waits for a change that has already been: a leader that does not know of its
//! election decides nothing, for as long as nothing else happens.

use std::sync::Arc;

use mesh_ring::ids::NodeId;
use openraft::metrics::RaftServerMetrics;
use openraft::{EmptyNode, ServerState};
use tokio::sync::watch;

use super::Shared;
use super::raft::{Membership, RaftId};

pub(super) type Leadership = RaftServerMetrics<RaftId, EmptyNode>;

impl Shared {
    /// Changes with everything that the other functions here say, and before they say it.
    pub(super) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.raft.server_metrics()
    }

    /// The node that leads, as far as this one knows.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leader = self.leadership().borrow().current_leader;
        leader.filter(|_| self.runs()).map(|id| id.0)
    }

    /// Whether this node leads, as far as it knows.
    pub(super) fn is_leader(&self) -> bool {
        self.term_led().is_some()
    }

    /// The term in which this node leads, as far as it knows.
    pub(super) fn term_led(&self) -> Option<u64> {
        let term = {
            let leadership = self.leadership();
            let now = leadership.borrow();
            (now.state == ServerState::Leader).then(|| now.vote.leader_id().term)
        };
        term.filter(|_| self.runs())
    }

    /// Who votes and who only follows, be it committed or not.
    pub(super) fn membership(&self) -> Arc<Membership> {
        let leadership = self.leadership();
        Arc::clone(&leadership.borrow().membership_config)
    }

    /// A group that has ended goes on showing what was. No change of this is waited for.
    fn runs(&self) -> bool {
        self.raft.metrics().borrow().running_state.is_ok()
    }
}
