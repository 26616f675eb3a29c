//! Commands: proposed anywhere, decided by the group, applied everywhere.

use std::sync::Arc;
use std::time::Duration;

use mesh_ring::control::{ControlCommand, ControlError, Outcome};
use mesh_ring::ids::NodeId;
use openraft::error::{ClientWriteError, RaftError};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::network::ask;
use super::raft::{Answer, Change};
use super::rpc::{Proposed, RPC_BYTES_MAX, Request};
use super::{Beginning, Control, Shared};

/// How long a proposal looks for a leader and waits for its answer.
pub(super) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one node may take to answer, before another is asked: a leader that has lost its majority does not know.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Between two attempts, unless the leader changes before.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);

/// Largest entry of the log, in bytes: the founding map of the largest cluster fits, and it fits into a message.
const ENTRY_BYTES_MAX: usize = RPC_BYTES_MAX - (64 << 10);

/// A command is not known to be in the map.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// It does not hold against the map, which is as it was.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// No majority of the voters answered in time. The command may take effect later; all commands may be proposed
    /// again.
    #[error("the control plane has no majority ({detail}); retry")]
    Unavailable {
        /// What the last attempt met.
        detail: String,
    },
}

impl Control {
    /// Has the group decide a command, wherever its leader is. When this returns, the leader has applied it, and this
    /// node soon will: wait for [`Control::map`] if that matters.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: ControlCommand) -> Result<Outcome, ProposeError> {
        self.shared.propose(command).await
    }
}

impl Shared {
    async fn propose(&self, command: ControlCommand) -> Result<Outcome, ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let mut hint = None;
        let mut detail = String::from("no leader is known");
        for attempt in 0.. {
            let leader_then = self.leader();
            let to = hint.take().or(leader_then);
            let to = to.unwrap_or_else(|| self.some_voter(attempt));
            let end = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            match timeout_at(end, self.propose_at(to, command.clone())).await {
                Ok(Ok(Proposed::Answered(answer))) => match answer {
                    Answer::Done(outcome) => return Ok(outcome),
                    Answer::Refused(error) => return Err(error.into()),
                    Answer::Nothing | Answer::NotFounded => detail = "there is no map yet".into(),
                },
                Ok(Ok(Proposed::NotLeader { leader })) => {
                    hint = leader.map(|id| id.0).filter(|leader| *leader != to);
                    detail = format!("{} does not lead", self.name(to));
                }
                Ok(Ok(Proposed::Unknown)) | Err(_) => {
                    detail = format!("{} did not hear of a majority in time", self.name(to));
                }
                Ok(Err(error)) => detail = format!("{}: {error}", self.name(to)),
            }
            if Instant::now() >= deadline {
                break;
            }
            if hint.is_none() {
                self.leader_changes(leader_then, Instant::now() + ATTEMPT_PAUSE)
                    .await;
            }
        }
        Err(ProposeError::Unavailable { detail })
    }

    async fn propose_at(
        &self,
        to: NodeId,
        command: ControlCommand,
    ) -> Result<Proposed, super::rpc::RpcError> {
        if to == self.me {
            return Ok(self.propose_here(command).await);
        }
        ask(&*self.carrier, to, Request::Propose(command)).await
    }

    /// Has the group decide a command, if this node leads it.
    pub(super) async fn propose_here(&self, command: ControlCommand) -> Proposed {
        let ready = match self.found_map().await {
            Proposed::Answered(_) => self.salvage().await,
            other => other,
        };
        match ready {
            Proposed::Answered(_) => self.write(Change::Command(command)).await,
            other => other,
        }
    }

    /// The founding map goes ahead of every command. Does nothing where it has been.
    pub(super) async fn found_map(&self) -> Proposed {
        match &self.beginning {
            Beginning::Founding(map) if self.machine.map().is_none() => {
                self.write(Change::Found(Box::new(map.clone()))).await
            }
            _ => Proposed::Answered(Answer::Nothing),
        }
    }

    pub(super) async fn write(&self, change: Change) -> Proposed {
        // What cannot be sent to the others must not get into the log.
        if serde_json::to_vec(&change).is_ok_and(|json| json.len() > ENTRY_BYTES_MAX) {
            return Proposed::Answered(Answer::Refused(ControlError::Batch));
        }
        match timeout(PROPOSE_TIMEOUT, self.raft.client_write(change)).await {
            Ok(Ok(written)) => Proposed::Answered(written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Proposed::NotLeader {
                    leader: forward.leader_id,
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a change of the cluster map was not written");
                Proposed::Unknown
            }
            Err(_) => Proposed::Unknown,
        }
    }

    /// One voter after the other, for a node that knows no leader.
    fn some_voter(&self, attempt: usize) -> NodeId {
        let map = Arc::clone(&self.map.borrow());
        let voters = map.voters();
        voters
            .get(attempt % voters.len().max(1))
            .copied()
            .unwrap_or(self.me)
    }

    pub(super) fn name(&self, node: NodeId) -> String {
        let map = self.map.borrow();
        map.node(node)
            .map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// Waits until another node leads, or the time has come.
    async fn leader_changes(&self, from: Option<NodeId>, until: Instant) {
        let mut leadership = self.leadership();
        let other = leadership.wait_for(|now| {
            let leader = now.current_leader.map(|id| id.0);
            leader.is_some() && leader != from
        });
        tokio::select! {
            _ = other => {}
            () = sleep_until(until) => {}
        }
    }
}
