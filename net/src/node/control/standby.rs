//! Members without a vote that know more of the cluster map than all who vote: those who vote have lost it.
//!
//! Asked in time, such a member gives what it has applied, and nothing is lost. One that comes back later finds a leader
//! whose log contradicts what it knows to be committed. It cannot take entries of that log, because what it has applied
//! does not come apart again: it drops its log and its map and ends, and the next start takes both from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use mesh_engine::{RowChange, Stopped};
use mesh_ring::ids::NodeId;
use mesh_ring::map::NodeState;
use openraft::raft::AppendEntriesRequest;
use openraft::{CommittedLeaderId, EmptyNode, Membership, Snapshot, StoredMembership};
use tokio::time::timeout;

use super::Shared;
use super::network::ask;
use super::propose::PROPOSE_TIMEOUT;
use super::raft::{Group, LogId, RaftId, SnapshotMeta, Vote, raft_ids};
use super::rows::{self, SnapshotRow};
use super::rpc::Request;

impl Shared {
    /// All members of the group, whether or not they vote, as far as this node knows.
    pub(super) fn members(&self) -> BTreeSet<NodeId> {
        let map = self.map.borrow();
        let listed = map.nodes().iter();
        let listed = listed.filter(|member| member.state != NodeState::Removed);
        let mut members: BTreeSet<NodeId> = listed.map(|member| member.id).collect();
        let membership = self.membership();
        members.extend(membership.nodes().map(|(id, _)| id.0));
        members.remove(&self.me);
        members
    }

    /// Takes over all that a member has applied.
    pub(super) async fn learn_from(&self, id: NodeId) -> Result<(), String> {
        let asked = ask(&*self.carrier, id, Request::State);
        let state: SnapshotRow = timeout(PROPOSE_TIMEOUT, asked)
            .await
            .map_err(|_| String::from("it does not answer"))?
            .map_err(|error| error.to_string())?;
        tracing::warn!(from = %self.name(id), applied = ?state.meta.last_log_id, "a member knows more of the cluster map than the voters have kept: it is taken over");
        let vote = Vote::new(self.log.term() + 1, RaftId(id));
        self.take_over(vote, state).await
    }

    /// Goes on with nothing but the founding voters.
    pub(super) async fn begin_anew(
        &self,
        term: u64,
        sets: &[BTreeSet<NodeId>],
    ) -> Result<(), String> {
        let me = RaftId(self.me);
        let last = LogId::new(CommittedLeaderId::new(term + 1, me), 0);
        let voters = sets.iter().map(|set| raft_ids(set.iter().copied()));
        let nodes: BTreeMap<RaftId, EmptyNode> = raft_ids(sets.iter().flatten().copied())
            .into_iter()
            .map(|id| (id, EmptyNode {}))
            .collect();
        let membership = Membership::new(voters.collect(), nodes);
        let state = SnapshotRow {
            meta: SnapshotMeta {
                last_log_id: Some(last),
                last_membership: StoredMembership::new(Some(last), membership),
                snapshot_id: last.to_string(),
            },
            map: None,
        };
        self.take_over(Vote::new(term + 1, me), state).await
    }

    async fn take_over(&self, vote: Vote, state: SnapshotRow) -> Result<(), String> {
        let bytes = rows::encode(&state).map_err(|error| error.to_string())?;
        let snapshot = Snapshot {
            meta: state.meta,
            snapshot: Box::new(Cursor::new(bytes)),
        };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        installed.map(drop).map_err(|error| error.to_string())
    }

    /// Whether a leader has other entries where this node knows them to be committed.
    pub(super) fn is_contradicted(&self, append: &AppendEntriesRequest<Group>) -> bool {
        self.machine
            .known()
            .is_some_and(|known| contradicts(append, known))
    }

    /// Ends this node, which knows what a leader contradicts. Without a vote it drops that first, so that its next start
    /// takes over what the voters know. What it has only been told of by another member is gone without that.
    pub(super) async fn end_refuted(&self, append: &AppendEntriesRequest<Group>) {
        let applied = self.machine.applied();
        let by_log = applied.is_some_and(|applied| contradicts(append, applied));
        let votes = self.membership().voter_ids().any(|id| id.0 == self.me);
        // It only fails if a task of the group panicked, which is logged there.
        let _ = self.raft.shutdown().await;
        let cause = if !by_log {
            "the voters of the control plane have lost changes of the cluster map that another node told this one of, and were salvaged without them: start this node again, and it goes by theirs".to_owned()
        } else if votes {
            "the leader of the control plane contradicts what this voter knows to be committed: this node stops before it does harm, and the others go on without it: keep its disk, and join under another name with `meshctl node new` and `meshctl node join`".to_owned()
        } else {
            match self.drop_log_and_map().await {
                Ok(()) => "the voters of the control plane have lost changes of the cluster map that this node knows, and were salvaged without them: it has dropped its copy of the map: start this node again, and it takes over theirs".to_owned(),
                Err(stopped) => stopped.to_string(),
            }
        };
        self.refuted.send_replace(Some(cause));
    }

    async fn drop_log_and_map(&self) -> Result<(), Stopped> {
        let delete = |key: &[u8]| RowChange::Delete { key: key.to_vec() };
        let entries = RowChange::DeleteRange {
            from: rows::entry_key(0),
            to: rows::entries_end(),
        };
        // Its vote stays: it must not found the group a second time.
        let known = [rows::COMMITTED, rows::PURGED, rows::SNAPSHOT].map(delete);
        rows::write(&self.engine, known.into_iter().chain([entries]).collect()).await
    }
}

/// Whether a leader has other entries than those that are committed up to this one.
fn contradicts(append: &AppendEntriesRequest<Group>, committed: LogId) -> bool {
    let entries = append.entries.iter().map(|entry| entry.log_id);
    let mut ids = append.prev_log_id.into_iter().chain(entries);
    // Of the leaders that an index has seen, the one whose entry was committed there was the last.
    ids.any(|id| id.index <= committed.index && id.leader_id > committed.leader_id)
}
